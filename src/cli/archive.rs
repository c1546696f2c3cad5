//! `nightschool archive`: check the archive, back it up, restore it, make it smaller.

mod backup;
mod check;

use std::sync::Arc;

use clap::Args;
use clap::Subcommand;
use serde_json::json;

use self::backup::BackupArgs;
use self::backup::RestoreArgs;
use self::check::CheckArgs;
use super::Global;
use super::Json;
use super::Output;
use super::places;
use crate::archive::Archive;
use crate::archive::ArchiveError;
use crate::clock::SystemClock;
use crate::durable::HomeLock;
use crate::phase::home::Home;

#[derive(Debug, Subcommand)]
pub(super) enum ArchiveCommand {
    /// Check every page, reference and promise of the archive, and the weights it speaks of
    Check(CheckArgs),
    /// Back up archive, adapters, settings and prompts, also while a night is at work
    Backup(BackupArgs),
    /// Put a backup in the place of the home
    Restore(RestoreArgs),
    /// Give the space of removed rows back to the disk
    Vacuum(VacuumArgs),
}

#[derive(Debug, Args)]
pub(super) struct VacuumArgs {
    #[command(flatten)]
    json: Json,
}

pub(super) fn run(global: &Global, command: &ArchiveCommand) -> anyhow::Result<()> {
    let home = places::home(global)?;
    match command {
        ArchiveCommand::Check(args) => check::run(&home, args),
        ArchiveCommand::Backup(args) => backup::back_up(global, &home, args),
        ArchiveCommand::Restore(args) => backup::restore(&home, args),
        ArchiveCommand::Vacuum(args) => vacuum(&home, args),
    }
}

/// Fails where there is no archive, before anything is made.
fn require_archive(home: &Home) -> Result<(), ArchiveError> {
    match home.archive().exists() {
        true => Ok(()),
        false => Err(ArchiveError::Missing { path: home.archive() }),
    }
}

fn vacuum(home: &Home, args: &VacuumArgs) -> anyhow::Result<()> {
    require_archive(home)?;
    let _lock = HomeLock::acquire(home.dir())?;
    let archive = Archive::open(&home.archive(), Arc::new(SystemClock))?;
    let (before, after) = archive.vacuum()?;
    let value = json!({ "archive": home.archive(), "bytes_before": before, "bytes_after": after });
    Output::new(args.json.json).show(&value, || {
        format!("{before} bytes before, {after} bytes after: {}", home.archive().display())
    })
}
