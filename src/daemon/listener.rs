//! A further way to ask the daemon, which it starts and does not know more about.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::control::Asker;
use super::control::DaemonStatus;

/// A further way to ask the daemon, beside its socket.
pub trait Listener {
    /// Reads its settings and listens as they say, on the runtime that this is called on; the same
    /// again when settings are read again. Returns where it listens, which may be nowhere.
    ///
    /// # Errors
    /// When the settings are refused, or that address cannot be had; all is then as before.
    fn listen(&mut self, daemon: &Handle) -> anyhow::Result<Option<SocketAddr>>;
}

/// What a listener may see and ask of the daemon.
#[derive(Debug, Clone)]
pub struct Handle {
    /// Asks the daemon's loop.
    pub asker: Asker,
    /// What the loop showed last.
    pub seen: watch::Receiver<Seen>,
}

/// The daemon as it was when its loop last went round.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// When that was; none before the first time.
    pub at: Option<Instant>,
    /// What it was doing.
    pub status: DaemonStatus,
}

impl Seen {
    /// How long ago the loop last went round; none when it never has.
    pub fn age(&self) -> Option<Duration> {
        self.at.map(|at| at.elapsed())
    }
}
