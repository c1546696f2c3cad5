//! How the program ends: one table from what went wrong to the exit status, and one message.

use std::io::Write;
use std::process::ExitCode;

use crate::archive::ArchiveError;
use crate::config::ConfigError;
use crate::durable::DurableError;
use crate::inference::GenerateError;
use crate::machine;
use crate::model::fetch::FetchError;
use crate::phase::disk::NoSpace;
use crate::schedule::ScheduleError;
use crate::worker::HostError;

/// Exit statuses: `--help`, the man pages and docs/cli-json.md say the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done; also when whoever read the output closed the pipe.
    Ok,
    /// The operation failed.
    Failed,
    /// The command line makes no sense.
    Usage,
    /// Nothing has the id or name that was given, or the home has no archive.
    NoSuchObject,
    /// Too little room on the disk.
    NoSpace,
    /// Another process uses the home; safe to try again.
    Busy,
    /// The settings were refused.
    Config,
    /// Stopped by Ctrl-C or a signal; the same command continues.
    Interrupted,
}

impl Exit {
    /// All of them, by their numbers.
    pub const ALL: [Self; 8] = [
        Self::Ok,
        Self::Failed,
        Self::Usage,
        Self::NoSuchObject,
        Self::NoSpace,
        Self::Busy,
        Self::Config,
        Self::Interrupted,
    ];

    /// The number given to the system; those from 64 to 78 are those of sysexits.
    pub fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NoSuchObject => 3,
            Self::NoSpace => 74,
            Self::Busy => 75,
            Self::Config => 78,
            Self::Interrupted => 130,
        }
    }

    /// What it says to a person.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Ok => "done; also when whoever read the output closed the pipe",
            Self::Failed => {
                "failed, or a check found something; the message says what, why and what to do"
            }
            Self::Usage => {
                "wrong usage: unknown option, missing argument, an id with several matches"
            }
            Self::NoSuchObject => {
                "no such object: no task, night, model version, backup or archive of that name"
            }
            Self::NoSpace => {
                "too little room on the disk; free some, and the same command continues"
            }
            Self::Busy => "another process uses the home; safe to try again",
            Self::Config => "the settings were refused; the message names file, line and key",
            Self::Interrupted => "stopped by Ctrl-C or a signal; the same command continues",
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// The command line asks for something that makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// Nothing has the name that was given.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NoSuchObject(pub String);

/// Standard output could not be written to.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output: {0}")]
pub struct OutputError(#[from] pub std::io::Error);

/// The exit status for an error: the first of its causes that has one of its own decides.
pub fn exit_of(error: &anyhow::Error) -> Exit {
    error.chain().find_map(exit_of_cause).unwrap_or(Exit::Failed)
}

fn exit_of_cause(cause: &(dyn std::error::Error + 'static)) -> Option<Exit> {
    if cause.is::<UsageError>() {
        return Some(Exit::Usage);
    }
    if cause.is::<NoSuchObject>() {
        return Some(Exit::NoSuchObject);
    }
    if cause.is::<ConfigError>() || cause.is::<ScheduleError>() {
        return Some(Exit::Config);
    }
    if let Some(OutputError(error)) = cause.downcast_ref() {
        return (error.kind() == std::io::ErrorKind::BrokenPipe).then_some(Exit::Ok);
    }
    if cause.is::<NoSpace>() {
        return Some(Exit::NoSpace);
    }
    if let Some(FetchError::DiskFull { .. }) = cause.downcast_ref() {
        return Some(Exit::NoSpace);
    }
    if let Some(error) = cause.downcast_ref::<DurableError>() {
        return exit_of_durable(error);
    }
    let of_host = cause.downcast_ref().and_then(|error| match error {
        HostError::Generate(error) => Some(error),
        _ => None,
    });
    if let Some(GenerateError::Interrupted) = cause.downcast_ref().or(of_host) {
        return Some(Exit::Interrupted);
    }
    match cause.downcast_ref::<ArchiveError>()? {
        ArchiveError::NotFound { .. } | ArchiveError::Missing { .. } => Some(Exit::NoSuchObject),
        ArchiveError::Ambiguous { .. } | ArchiveError::Query { .. } => Some(Exit::Usage),
        ArchiveError::Busy { .. } => Some(Exit::Busy),
        ArchiveError::DiskFull { .. } => Some(Exit::NoSpace),
        ArchiveError::Copy(error) => exit_of_durable(error),
        _ => None,
    }
}

fn exit_of_durable(error: &DurableError) -> Option<Exit> {
    match error {
        DurableError::Busy { .. } => Some(Exit::Busy),
        DurableError::DiskFull { .. } | DurableError::TooLittleSpace { .. } => Some(Exit::NoSpace),
        _ => None,
    }
}

/// The message for a person: what failed and why, each cause once, then what to do.
pub fn message(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        // Many messages already hold their cause.
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    match error.chain().find_map(advice) {
        Some(advice) => format!("{text}; {advice}"),
        None => text,
    }
}

/// What to do about an error whose own message cannot know.
fn advice(cause: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    if let Some(GenerateError::Interrupted) = cause.downcast_ref() {
        return Some("the same command goes on from there");
    }
    match cause.downcast_ref::<FetchError>()? {
        FetchError::NotFound { .. } | FetchError::Incomplete { .. } => {
            Some("check --model or `model` in nightschool.toml")
        }
        FetchError::Damaged { .. } => Some("if it is a file of your own, replace it"),
        _ => None,
    }
}

/// Tells the person what went wrong, if anything did, and says how to exit.
pub(super) fn report(error: &anyhow::Error) -> Exit {
    let exit = exit_of(error);
    if exit != Exit::Ok {
        // The journal reads a priority off the beginning of a line. Nothing is left to tell a
        // person whose stderr is closed too.
        let priority = if machine::has_journal() { "<3>" } else { "" };
        let text = message(error);
        let _ = writeln!(anstream::stderr(), "{priority}\x1b[1;31merror\x1b[0m: {text}");
    }
    exit
}
