//! Telling people of a night's end: by a program, and by a POST to an address.
//!
//! A message that cannot be delivered is a warning and nothing else: it never harms a night.

mod command;
mod webhook;

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::home::Home;
use crate::archive::ArchiveReader;
use crate::archive::NightState;
use crate::config::ConfigError;
use crate::config::Notify;
use crate::config::Outcome;

/// Version of the message's shape: new members may appear under the same version.
const SCHEMA_VERSION: u32 = 1;
/// Longest reason that is told, in characters.
const REASON_CHARS: usize = 500;
/// The time between the two tries.
const PAUSE: Duration = Duration::from_secs(1);
/// What a message says that tells of nothing.
const TEST: &str = "a test message";

/// What is told of a night.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Message {
    schema_version: u32,
    /// What became of it; none in a test.
    outcome: Option<Outcome>,
    /// All of it in a line.
    text: String,
    home: String,
    host: Option<String>,
    /// The schedule that asked for the night; none where a person did.
    schedule: Option<String>,
    /// None where it had not begun.
    night: Option<u32>,
    /// Why, in a line.
    reason: String,
    /// The version that is live now.
    live_model: Option<String>,
    at: Timestamp,
    program_version: &'static str,
}

/// Why a message was not delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// In a line.
    pub why: String,
    /// Whether another try may help.
    again: bool,
}

impl Failure {
    fn new(why: impl AsRef<str>) -> Self {
        Self { why: one_line(why.as_ref(), REASON_CHARS), again: true }
    }
}

/// How a message fared with one of those who are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The setting that names them.
    pub to: &'static str,
    /// Why it was not delivered; none where it was.
    pub failure: Option<Failure>,
}

impl Message {
    /// What is told of the latest night of a home.
    pub fn of_night(
        home: &Home,
        schedule: Option<&str>,
        outcome: Outcome,
        reason: &str,
        at: Timestamp,
    ) -> Self {
        // What cannot be read is left out: the outcome is what matters.
        let archive = ArchiveReader::open(&home.archive()).ok();
        let night = archive.as_ref().and_then(|archive| latest(archive, outcome));
        let reason = one_line(reason, REASON_CHARS);
        let which = match (night, schedule) {
            (Some(night), Some(schedule)) => format!("night {night} of {schedule}"),
            (Some(night), None) => format!("night {night}"),
            (None, Some(schedule)) => format!("a night of {schedule}"),
            (None, None) => "a night".to_string(),
        };
        let what = match outcome {
            Outcome::Promoted => "promoted its candidate",
            Outcome::Kept => "is over and kept the old model",
            Outcome::Stopped => "was stopped and goes on later",
            Outcome::Failed => "failed",
            Outcome::GivenUp => "was given up",
            Outcome::Refused => "was refused",
        };
        let live = archive.and_then(|archive| archive.live_model().ok().flatten());
        Self {
            outcome: Some(outcome),
            schedule: schedule.map(str::to_string),
            night,
            live_model: live.map(|version| version.id),
            ..Self::new(home, &format!("{which} {what}"), reason, at)
        }
    }

    /// The message of a night that is over, as the archive tells it.
    pub fn of_finished(home: &Home, schedule: Option<&str>, at: Timestamp) -> Self {
        let decided = || -> Option<(Outcome, String)> {
            let archive = ArchiveReader::open(&home.archive()).ok()?;
            let night = latest(&archive, Outcome::Kept)?;
            let promotions = archive.promotions().ok()?;
            let promotion = promotions.into_iter().find(|promotion| promotion.night == night)?;
            let outcome = if promotion.promoted { Outcome::Promoted } else { Outcome::Kept };
            Some((outcome, promotion.reason))
        };
        let (outcome, reason) = decided().unwrap_or((Outcome::Kept, String::new()));
        Self::of_night(home, schedule, outcome, &reason, at)
    }

    /// A message that tells of nothing.
    pub fn test(home: &Home, at: Timestamp) -> Self {
        Self::new(home, "would tell of its nights", TEST.to_string(), at)
    }

    fn new(home: &Home, what: &str, reason: String, at: Timestamp) -> Self {
        let host = host();
        let on = host.as_ref().map(|host| format!(" on {host}")).unwrap_or_default();
        let because = if reason.is_empty() { String::new() } else { format!(": {reason}") };
        Self {
            schema_version: SCHEMA_VERSION,
            outcome: None,
            text: format!("nightschool{on}: {what}{because}"),
            home: one_line(&home.dir().display().to_string(), REASON_CHARS),
            host,
            schedule: None,
            night: None,
            reason,
            live_model: None,
            at,
            program_version: env!("CARGO_PKG_VERSION"),
        }
    }

    /// The name of the outcome.
    fn outcome(&self) -> &'static str {
        self.outcome.map_or("test", Outcome::as_str)
    }
}

/// The number of the night that an outcome is about.
fn latest(archive: &ArchiveReader, outcome: Outcome) -> Option<u32> {
    let over = matches!(outcome, Outcome::Promoted | Outcome::Kept);
    let state = if over { NightState::Finished } else { NightState::Running };
    let nights = archive.nights().ok()?;
    nights.into_iter().rfind(|night| night.state == state).map(|night| night.number)
}

fn host() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(one_line(&name, 100)).filter(|name| !name.is_empty())
}

/// A text that came from elsewhere as one line of at most `limit` characters, none of which
/// commands a terminal.
fn one_line(text: &str, limit: usize) -> String {
    let visible: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let line = visible.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(limit) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// Whether a night's outcome is told at all.
pub fn is_told(settings: &Notify, outcome: Outcome) -> bool {
    settings.is_on() && settings.outcomes.contains(&outcome)
}

/// Tells everybody whom the settings name, and warns of what was not delivered. Takes no longer
/// than two tries do.
pub fn tell(settings: &Notify, message: &Message) {
    if message.outcome.is_some_and(|outcome| !is_told(settings, outcome)) {
        return;
    }
    for Delivery { to, failure } in deliver(settings, message) {
        match failure {
            Some(failure) => tracing::warn!(to, why = failure.why, "a message was not delivered"),
            None => tracing::info!(to, outcome = message.outcome(), "a message was delivered"),
        }
    }
}

/// Sends a message to everybody whom the settings name, at once, with one more try where that may
/// help.
pub fn deliver(settings: &Notify, message: &Message) -> Vec<Delivery> {
    let timeout = Duration::from_secs(settings.timeout_s);
    std::thread::scope(|scope| {
        let mut sending = Vec::new();
        if let Some((program, arguments)) = settings.command.split_first() {
            let try_once = move || command::run(program, arguments, message, timeout);
            sending.push(("notify.command", scope.spawn(move || twice(try_once))));
        }
        if let Some(url) = &settings.webhook {
            let secret = settings.webhook_secret.as_deref();
            let try_once = move || webhook::post(url, secret, message, timeout);
            sending.push(("notify.webhook", scope.spawn(move || twice(try_once))));
        }
        let ended = |(to, thread): (_, std::thread::ScopedJoinHandle<'_, _>)| {
            let failed = thread.join().unwrap_or_else(|_| Err(Failure::new("it panicked")));
            Delivery { to, failure: failed.err() }
        };
        sending.into_iter().map(ended).collect()
    })
}

fn twice(try_once: impl Fn() -> Result<(), Failure>) -> Result<(), Failure> {
    match try_once() {
        Err(failure) if failure.again => {
            std::thread::sleep(PAUSE);
            try_once()
        }
        told => told,
    }
}

/// Fails when the settings name a program or a secret that is not there.
///
/// # Errors
/// [`ConfigError::Range`].
pub fn check(settings: &Notify) -> Result<(), ConfigError> {
    let wrong = |key: &'static str, reason: String| Err(ConfigError::Range { key, reason });
    if let Some(program) = settings.command.first()
        && let Err(why) = command::check(program)
    {
        return wrong("notify.command", format!("names {program}: {why}"));
    }
    if let Some(name) = &settings.webhook_secret
        && let Err(failure) = webhook::secret(name)
    {
        return wrong("notify.webhook_secret", format!("cannot be used: {}", failure.why));
    }
    Ok(())
}
