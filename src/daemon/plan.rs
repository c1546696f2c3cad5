//! What the daemon does next: decided from the schedules, what was done before, and the time alone.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use jiff::SignedDuration;
use jiff::Timestamp;
use serde::Deserialize;
use serde::Serialize;

use crate::durable;
use crate::schedule::Pending;
use crate::schedule::Schedule;

/// Failures in a window after which its night is given up.
const FAILURES: u32 = 3;

/// How long after its first failure a night is tried again; doubled with each further one.
const BACKOFF: SignedDuration = SignedDuration::from_mins(1);

/// What is remembered of a schedule across restarts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Remembered {
    /// When the last window was due that something was done about.
    pub handled: Timestamp,
    /// What was done about it last.
    pub last: Option<Happened>,
}

/// Something that was done about a window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Happened {
    /// When.
    pub at: Timestamp,
    /// What, for people.
    pub what: String,
}

/// What outlives the daemon's process.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// Whether nothing begins until a person says so.
    #[serde(default)]
    pub paused: bool,
    /// The night that is under way or waits to be tried again: a daemon that comes back goes on
    /// with it.
    #[serde(default)]
    pub current: Option<Attempt>,
    /// By the schedule's name.
    #[serde(default)]
    pub schedules: BTreeMap<String, Remembered>,
}

impl Memory {
    /// What was written to `path`; nothing where there is no such file.
    ///
    /// # Errors
    /// When it cannot be read, or is something else.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        match std::fs::read(path) {
            Ok(text) => serde_json::from_slice(&text)
                .with_context(|| format!("{} is damaged; remove it to begin anew", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Writes it to `path`, whole or not at all.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        Ok(durable::write_file(path, &serde_json::to_vec_pretty(self)?)?)
    }
}

/// A night that is to be, or is under way, or waits to be tried again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// The schedule that asked for it.
    pub schedule: String,
    /// When it must have ended.
    pub end: Timestamp,
    /// How often it failed.
    failures: u32,
    /// When it is tried again.
    again: Option<Timestamp>,
}

/// How a night's process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The night is over.
    Done,
    /// It was stopped, and goes on where it was the next time.
    Stopped,
    /// It failed.
    Failed(String),
    /// It failed in a way that trying again does not help.
    Refused(String),
}

/// What the daemon is to do now.
#[derive(Debug, Clone, PartialEq)]
pub enum Order {
    /// Start a night.
    Begin(Attempt),
    /// Ask the night to stop: its window is over.
    Stop,
}

/// The daemon's schedules and what it knows of them.
pub struct Plan {
    schedules: BTreeMap<String, Schedule>,
    memory: Memory,
}

impl Plan {
    /// A plan for these schedules. Of those that are new, only windows from `now` on count. A night
    /// that was under way when the memory was written is begun again at once.
    pub fn new(schedules: BTreeMap<String, Schedule>, memory: Memory, now: Timestamp) -> Self {
        let mut plan = Self { schedules: BTreeMap::new(), memory };
        plan.memory.current.take_if(|attempt| !schedules.contains_key(&attempt.schedule));
        if let Some(attempt) = &mut plan.memory.current {
            attempt.again.get_or_insert(now);
        }
        plan.replace(schedules, now);
        plan
    }

    /// Follows other schedules from now on; what is under way goes on.
    pub fn replace(&mut self, schedules: BTreeMap<String, Schedule>, now: Timestamp) {
        for name in schedules.keys() {
            let new = || Remembered { handled: now, last: None };
            self.memory.schedules.entry(name.clone()).or_insert_with(new);
        }
        self.schedules = schedules;
    }

    /// The schedules by name.
    pub fn schedules(&self) -> &BTreeMap<String, Schedule> {
        &self.schedules
    }

    /// What is to be kept.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The night that is under way or waits to be tried again.
    pub fn current(&self) -> Option<&Attempt> {
        self.memory.current.as_ref()
    }

    /// Lets nothing begin, or lets it again.
    pub fn pause(&mut self, paused: bool) {
        self.memory.paused = paused;
    }

    /// What is to be done at `now`, while a night runs or not.
    pub fn order(&mut self, now: Timestamp, at_work: bool) -> Option<Order> {
        let over = self.memory.current.as_ref().is_some_and(|attempt| attempt.end <= now);
        if at_work {
            self.leave_out_what_overlaps(now);
            return over.then_some(Order::Stop);
        }
        if over {
            self.memory.current = None;
        }
        if self.memory.paused {
            return None;
        }
        match &mut self.memory.current {
            Some(attempt) => {
                attempt.again.take_if(|again| *again <= now)?;
                Some(Order::Begin(attempt.clone()))
            }
            None => self.begin_what_is_due(now),
        }
    }

    fn begin_what_is_due(&mut self, now: Timestamp) -> Option<Order> {
        let names: Vec<String> = self.schedules.keys().cloned().collect();
        for name in names {
            match self.pending(&name, now) {
                Some(Pending::Open(window)) => {
                    self.note(&name, window.due.timestamp(), now, "begun".to_string());
                    return Some(self.begin(&name, window.end.timestamp()));
                }
                Some(Pending::Missed { window, reason }) => {
                    self.note(&name, window.due.timestamp(), now, format!("left out: {reason}"));
                }
                None => {}
            }
        }
        None
    }

    /// Windows of other schedules that open while a night is under way wait as long as they are
    /// open; later ones of its own are left out.
    fn leave_out_what_overlaps(&mut self, now: Timestamp) {
        let Some(name) = self.memory.current.as_ref().map(|attempt| attempt.schedule.clone())
        else {
            return;
        };
        if let Some(Pending::Open(window)) = self.pending(&name, now) {
            let what = "left out: the night before it was still under way".to_string();
            self.note(&name, window.due.timestamp(), now, what);
        }
    }

    /// Begins a night of a schedule at once, whatever its times are; none where there is no such
    /// schedule, or something is under way.
    pub fn trigger(&mut self, name: &str, now: Timestamp) -> Option<Order> {
        let window = self.schedules.get(name)?.window_at(now)?;
        if self.memory.current.is_some() {
            return None;
        }
        if let Some(remembered) = self.memory.schedules.get_mut(name) {
            remembered.last = Some(Happened { at: now, what: "begun by hand".to_string() });
        }
        Some(self.begin(name, window.end.timestamp()))
    }

    /// Says how the night's process ended; what is then to be done about its night is decided by
    /// this.
    pub fn ended(&mut self, how: &Ended, now: Timestamp) {
        let Some(mut attempt) = self.memory.current.take() else { return };
        let what = match how {
            Ended::Done => "done".to_string(),
            Ended::Stopped => "stopped; it goes on the next time".to_string(),
            Ended::Refused(why) => format!("refused: {why}"),
            Ended::Failed(why) => {
                attempt.failures += 1;
                let wait = BACKOFF * (1 << (attempt.failures - 1).min(10));
                let again = now.checked_add(wait).unwrap_or(Timestamp::MAX);
                if attempt.failures < FAILURES && again < attempt.end {
                    attempt.again = Some(again);
                    let schedule = attempt.schedule.clone();
                    self.memory.current = Some(attempt);
                    let what = format!("failed, tried again at {again:.0}: {why}");
                    return self.tell(&schedule, now, what);
                }
                format!("given up after {} failures: {why}", attempt.failures)
            }
        };
        self.tell(&attempt.schedule, now, what);
    }

    fn pending(&self, name: &str, now: Timestamp) -> Option<Pending> {
        let handled = self.memory.schedules.get(name)?.handled;
        self.schedules.get(name)?.pending(handled, now)
    }

    fn begin(&mut self, name: &str, end: Timestamp) -> Order {
        let attempt = Attempt { schedule: name.to_string(), end, failures: 0, again: None };
        self.memory.current = Some(attempt.clone());
        Order::Begin(attempt)
    }

    fn note(&mut self, name: &str, handled: Timestamp, at: Timestamp, what: String) {
        tracing::info!(schedule = name, due = %handled, what, "window");
        let last = Some(Happened { at, what });
        self.memory.schedules.insert(name.to_string(), Remembered { handled, last });
    }

    fn tell(&mut self, name: &str, at: Timestamp, what: String) {
        tracing::info!(schedule = name, what, "night");
        if let Some(remembered) = self.memory.schedules.get_mut(name) {
            remembered.last = Some(Happened { at, what });
        }
    }
}
