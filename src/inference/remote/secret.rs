//! The servers' key: read from the environment or a credential, and never shown.

use std::path::Path;

use super::RemoteError;

/// What stands for a key in messages.
const HIDDEN: &str = "[key]";

/// A key. Nothing prints it, not even in debugging.
#[derive(Clone)]
pub struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl Secret {
    /// The key in the environment variable `name`, else in the file of that name in the folder
    /// where systemd puts a service's credentials.
    ///
    /// # Errors
    /// When neither is there, or it cannot be sent in a header.
    pub fn find(name: &str) -> Result<Self, RemoteError> {
        let variable = std::env::var(name).ok();
        let file = || {
            let folder = std::env::var_os("CREDENTIALS_DIRECTORY")?;
            std::fs::read_to_string(Path::new(&folder).join(name)).ok()
        };
        let found = variable.filter(|value| !value.trim().is_empty()).or_else(file);
        let key = found.ok_or_else(|| RemoteError::NoKey(name.to_string()))?;
        Self::new(&key, name)
    }

    /// The key `text`, without white space around it; `name` says where it came from.
    ///
    /// # Errors
    /// When it is empty or cannot be sent in a header.
    pub fn new(text: &str, name: &str) -> Result<Self, RemoteError> {
        let key = text.trim();
        if key.is_empty() {
            return Err(RemoteError::NoKey(name.to_string()));
        }
        match key.chars().all(|c| c.is_ascii_graphic()) {
            true => Ok(Self(key.to_string())),
            false => Err(RemoteError::BadKey(name.to_string())),
        }
    }

    /// The value of an `authorization` header.
    pub fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// The text without the key in it: servers may repeat what they were sent.
    pub fn hide_in(&self, text: &str) -> String {
        text.replace(&self.0, HIDDEN)
    }
}
