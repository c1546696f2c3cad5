//! Who is told of a night's end.

use std::path::Path;

use serde::Deserialize;
use serde::Serialize;

use super::ConfigError;
use super::check;
use super::remote;

/// What became of a night.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is over, and its candidate is live.
    Promoted,
    /// It is over, and the version before it stays live.
    Kept,
    /// It was stopped, and goes on later.
    Stopped,
    /// It failed; the daemon tries it again.
    Failed,
    /// It failed too often in its window.
    GivenUp,
    /// Its settings or its command line were refused.
    Refused,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Promoted, Self::Kept, Self::Stopped, Self::Failed, Self::GivenUp, Self::Refused];

    /// The name in settings, JSON and the environment of a command.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Promoted => "promoted",
            Self::Kept => "kept",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::GivenUp => "given_up",
            Self::Refused => "refused",
        }
    }
}

/// Who is told of a night's end. Not stored with a night: an address may be a secret itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Notify {
    /// Of which outcomes.
    pub outcomes: Vec<Outcome>,
    /// A program with its arguments, run without a shell; none where it is empty.
    pub command: Vec<String>,
    /// An address that JSON is sent to.
    pub webhook: Option<String>,
    /// What the webhook is shown: a file, or the name of an environment variable or of a file of
    /// `$CREDENTIALS_DIRECTORY`.
    pub webhook_secret: Option<String>,
    /// Longest time for one try, in seconds.
    pub timeout_s: u64,
}

impl Default for Notify {
    /// As in `schedules/nightly.toml`.
    fn default() -> Self {
        Self {
            outcomes: Outcome::ALL.to_vec(),
            command: Vec::new(),
            webhook: None,
            webhook_secret: None,
            timeout_s: 20,
        }
    }
}

impl Notify {
    /// Whether anybody is told.
    pub fn is_on(&self) -> bool {
        !self.command.is_empty() || self.webhook.is_some()
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let wrong = |key, reason: &str| Err(ConfigError::Range { key, reason: reason.to_string() });
        if let Some(program) = self.command.first()
            && !Path::new(program).is_absolute()
        {
            return wrong("notify.command", "must begin with the whole path of a program");
        }
        if self.command.iter().any(|argument| argument.contains('\0')) {
            return wrong("notify.command", "must not hold a NUL character");
        }
        // Not repeated in what is said: it may be a secret.
        if let Some(webhook) = &self.webhook
            && let Err(why) = remote::check_address(webhook)
        {
            return wrong("notify.webhook", &format!("is no address to send to: {why}"));
        }
        if let Some(name) = &self.webhook_secret
            && !Path::new(name).is_absolute()
            && !remote::is_name_of_secret(name)
        {
            let reason = "must be the path of a file, or the name of an environment variable or \
                          credential, not the secret";
            return wrong("notify.webhook_secret", reason);
        }
        // A daemon that ends waits for two tries; systemd waits for the daemon.
        check::within("notify.timeout_s", self.timeout_s, 1, 50)
    }
}
