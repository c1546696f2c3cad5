//! The token without which nothing is changed.

use std::path::Path;
use std::path::PathBuf;

use crate::config::ConfigError;
use crate::config::Http;
use crate::phase::home::Home;

/// Shortest token, in characters: it is not to be guessed.
const SHORTEST: usize = 16;

/// The name of systemd's credential.
const CREDENTIAL: &str = "http-token";

/// A token, of which only the hash is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Token(blake3::Hash);

impl Token {
    /// The token in the file that the settings name, else in systemd's credential; none where there
    /// is neither.
    ///
    /// # Errors
    /// When the file that was named cannot be read, or what it holds is no token.
    pub(super) fn find(settings: &Http, home: &Home) -> Result<Option<Self>, ConfigError> {
        let credential = || {
            let folder = std::env::var_os("CREDENTIALS_DIRECTORY")?;
            Some(PathBuf::from(folder).join(CREDENTIAL)).filter(|file| file.exists())
        };
        match &settings.token_file {
            Some(file) => Self::read(&home.dir().join(file)).map(Some),
            None => credential().map(|file| Self::read(&file)).transpose(),
        }
    }

    fn read(file: &Path) -> Result<Self, ConfigError> {
        let wrong = |reason: String| {
            let reason = format!("is {}: {reason}", file.display());
            ConfigError::Range { key: "http.token_file", reason }
        };
        let text = std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
        let token = text.trim();
        if token.len() < SHORTEST || !token.chars().all(|c| c.is_ascii_graphic()) {
            let make = "`openssl rand -hex 32` makes one";
            return Err(wrong(format!(
                "a token is one word of {SHORTEST} or more printable ASCII characters; {make}"
            )));
        }
        Ok(Self(blake3::hash(token.as_bytes())))
    }

    /// Whether the value of an `authorization` header holds it. Hashes are compared, in constant
    /// time.
    pub(super) fn is_in(self, header: &[u8]) -> bool {
        let Some((scheme, given)) = header.split_at_checked(b"Bearer ".len()) else { return false };
        scheme.eq_ignore_ascii_case(b"Bearer ") && blake3::hash(given.trim_ascii()) == self.0
    }
}
