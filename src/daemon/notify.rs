//! What systemd is told, where the daemon runs under it.

use std::time::Duration;
use std::time::Instant;

use sd_notify::NotifyState;

/// Talks to systemd; does nothing where there is none.
pub(super) struct Notifier {
    /// How often the watchdog is fed: twice as often as it wants.
    interval: Option<Duration>,
    fed: Instant,
    status: String,
}

impl Notifier {
    pub(super) fn new() -> Self {
        let interval = sd_notify::watchdog_enabled().map(|wanted| wanted / 2);
        Self { interval, fed: Instant::now(), status: String::new() }
    }

    pub(super) fn ready(&self) {
        tell(&[NotifyState::Ready]);
    }

    /// That settings are read again; [`Notifier::ready`] says when that is over. systemd wants the
    /// time by its own clock.
    pub(super) fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => tell(&[NotifyState::Reloading, now]),
            Err(error) => tracing::warn!(%error, "systemd cannot be told of a reload"),
        }
    }

    /// That the daemon stops, and may take so long from now on.
    pub(super) fn stopping(&self, within: Duration) {
        let micros = u32::try_from(within.as_micros()).unwrap_or(u32::MAX);
        tell(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(micros)]);
    }

    /// A line for `systemctl status`.
    pub(super) fn status(&mut self, status: String) {
        if status != self.status {
            tell(&[NotifyState::Status(&status)]);
            self.status = status;
        }
    }

    /// Feeds the watchdog. To be called where the daemon has just gone on, and nowhere else.
    pub(super) fn gone_on(&mut self) {
        if self.interval.is_some_and(|interval| self.fed.elapsed() >= interval) {
            tell(&[NotifyState::Watchdog]);
            self.fed = Instant::now();
        }
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "systemd cannot be told of the daemon's state");
    }
}
