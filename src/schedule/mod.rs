//! When nights are: schedules, written as TOML, and the windows that follow from them.

mod expression;
mod times;
mod weekday;

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;

use jiff::tz::TimeZone;
use serde::Deserialize;

pub use self::expression::Expression;
pub use self::times::Pending;
pub use self::times::Quiet;
pub use self::times::Until;
pub use self::times::Window;
use crate::config;
use crate::config::ConfigError;

/// The schedules that come with the program, by name.
pub const BUILT_IN: [(&str, &str); 4] = [
    ("overnight", include_str!("../../schedules/overnight.toml")),
    ("weekend", include_str!("../../schedules/weekend.toml")),
    ("continuous", include_str!("../../schedules/continuous.toml")),
    ("smoke", include_str!("../../schedules/smoke.toml")),
];

/// Why a schedule was refused.
#[derive(Debug, thiserror::Error)]
pub enum ScheduleError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not TOML, an unknown key, or a value that makes no schedule.
    #[error("{origin}: {reason}\nEvery key is described in schedules/overnight.toml.")]
    Invalid {
        /// The file, or the name of a built-in schedule.
        origin: String,
        /// What is wrong, with the line where that is known.
        reason: String,
    },
    /// Its settings of the night were refused.
    #[error(transparent)]
    Settings(#[from] ConfigError),
}

/// A time zone by its name in the IANA database, or the machine's own.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub struct Zone(TimeZone);

impl Zone {
    /// The rules of the zone.
    pub fn rules(&self) -> &TimeZone {
        &self.0
    }
}

impl TryFrom<String> for Zone {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        if name == "system" {
            return Ok(Self(TimeZone::system()));
        }
        TimeZone::get(&name).map(Self).map_err(|_| {
            format!(
                "\"{name}\" is no time zone; write one of the IANA database, such as \
                 \"Europe/Berlin\", or \"system\""
            )
        })
    }
}

/// What becomes of a start at a local time that a clock change leaves out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClockChange {
    /// It comes as much later as the clock is put forward.
    #[default]
    Compatible,
    /// It does not come on that day.
    Skip,
}

/// What becomes of a start at which nothing could run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MissedPolicy {
    /// It is made up for once, as long as its window is open.
    #[default]
    RunOnce,
    /// It is left out.
    Skip,
}

/// When nights begin and when they must end.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// What it is for, in a line.
    pub about: String,
    /// When nights begin, in local time.
    pub cron: Expression,
    /// The zone of all its times.
    pub zone: Zone,
    /// The local time at which a night must have ended; either this or `minutes`.
    pub until: Option<Until>,
    /// How long a night may last, in minutes; either this or `until`.
    pub minutes: Option<u32>,
    /// What a clock change does to starts in the hour that it leaves out.
    #[serde(default)]
    pub clock_change: ClockChange,
    /// What becomes of starts at which nothing could run.
    #[serde(default)]
    pub missed: MissedPolicy,
    /// Hours in which nothing runs.
    #[serde(default)]
    pub quiet: Vec<Quiet>,
    /// Settings of its nights, over those of the home.
    #[serde(default)]
    pub settings: toml::Table,
}

/// Longest window: a week, in minutes.
const LONGEST_MINUTES: u32 = 7 * 24 * 60;

impl Schedule {
    /// Reads a schedule from TOML; `origin` names it in messages.
    ///
    /// # Errors
    /// [`ScheduleError`] when it is not TOML of this shape, its expression never comes, its window
    /// has no end, or its settings are refused.
    pub fn parse(origin: &str, text: &str) -> Result<Self, ScheduleError> {
        let wrong = |reason: String| ScheduleError::Invalid { origin: origin.to_string(), reason };
        let schedule: Self = toml::from_str(text)
            .map_err(|error| wrong(error.to_string().trim_end().to_string()))?;
        match (schedule.until, schedule.minutes) {
            (Some(_), None) => {}
            (None, Some(1..=LONGEST_MINUTES)) => {}
            (None, Some(minutes)) => {
                return Err(wrong(format!(
                    "`minutes` is {minutes}, and must be from 1 to {LONGEST_MINUTES}, a week"
                )));
            }
            _ => return Err(wrong("give either `until` or `minutes`, when a night ends".into())),
        }
        if schedule.settings.contains_key("http") {
            let why = "`settings.http` is of no night; it belongs in the home's nightschool.toml";
            return Err(wrong(why.into()));
        }
        let layer = format!("{origin}, [settings]");
        config::load(&[(&layer, &schedule.settings.to_string())], &[])?;
        Ok(schedule)
    }

    /// Reads the schedules of a folder: its files NAME.toml, by name; none where there is no such
    /// folder.
    ///
    /// # Errors
    /// What [`Schedule::read`] says of the first that is refused.
    pub fn read_all(folder: &Path) -> Result<BTreeMap<String, Self>, ScheduleError> {
        let failed = |source| ScheduleError::Read { path: folder.to_path_buf(), source };
        let mut all = BTreeMap::new();
        if !folder.exists() {
            return Ok(all);
        }
        for entry in std::fs::read_dir(folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                all.insert(name, Self::read(&path)?);
            }
        }
        Ok(all)
    }

    /// Reads a schedule file.
    ///
    /// # Errors
    /// [`ScheduleError::Read`], and what [`Schedule::parse`] says.
    pub fn read(path: &Path) -> Result<Self, ScheduleError> {
        let read = std::fs::read_to_string(path);
        let text =
            read.map_err(|source| ScheduleError::Read { path: path.to_path_buf(), source })?;
        Self::parse(&path.display().to_string(), &text)
    }
}
