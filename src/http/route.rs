//! What a path asks for.

use percent_encoding::percent_decode_str;

use crate::daemon::control::Request;

/// What can be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route {
    /// The page.
    Dashboard,
    /// Whether the daemon lives.
    Health,
    /// Whether it could begin a night.
    Ready,
    /// All that is known, as JSON.
    Status,
    /// Figures for Prometheus.
    Metrics,
    /// The morning report of a night.
    Report(u32),
    /// What the daemon is to do.
    Control(Request),
}

impl Route {
    /// The route of a path; none where there is nothing.
    pub(super) fn of(path: &str) -> Option<Self> {
        let parts: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
        Some(match parts.as_slice() {
            [""] => Self::Dashboard,
            ["healthz"] => Self::Health,
            ["readyz"] => Self::Ready,
            ["status"] => Self::Status,
            ["metrics"] => Self::Metrics,
            ["reports", night] => Self::Report(night.parse().ok()?),
            ["control", "pause"] => Self::Control(Request::Pause),
            ["control", "resume"] => Self::Control(Request::Resume),
            ["control", "stop"] => Self::Control(Request::Stop),
            ["control", "trigger", name] => {
                let schedule = percent_decode_str(name).decode_utf8().ok()?.into_owned();
                Self::Control(Request::Trigger { schedule })
            }
            _ => return None,
        })
    }

    /// The methods that it has.
    pub(super) fn methods(&self) -> &'static str {
        match self {
            Self::Control(_) => "POST",
            _ => "GET, HEAD",
        }
    }
}
