//! The daemon's pages and figures over HTTP.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;

use super::ConfigError;

/// The daemon over HTTP. No part of what a night does: it is not stored with one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// The loopback address and port to listen at; empty for none.
    pub listen: String,
    /// The file with the token that whoever changes something must send.
    pub token_file: Option<PathBuf>,
}

impl Http {
    /// Where to listen; none where it is turned off.
    ///
    /// # Errors
    /// When it is no address, or others than this machine could reach it.
    pub fn address(&self) -> Result<Option<SocketAddr>, ConfigError> {
        let wrong = |reason: &str| {
            let reason = format!("is {:?}: {reason}", self.listen);
            Err(ConfigError::Range { key: "http.listen", reason })
        };
        if self.listen.is_empty() {
            return Ok(None);
        }
        match self.listen.parse::<SocketAddr>() {
            Ok(address) if address.ip().is_loopback() => Ok(Some(address)),
            Ok(_) => wrong(
                "it must be a loopback address, since there is no encryption and reading needs no \
                 token; use 127.0.0.1 or [::1], and `ssh -L` from other machines",
            ),
            Err(_) => {
                wrong("it must be an address with a port, such as 127.0.0.1:7411, or \"\" for none")
            }
        }
    }
}
