//! `nightschool archive backup`, `restore` and `vacuum`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::cli::Global;
use crate::cli::Json;
use crate::cli::Output;
use crate::cli::errors::NoSuchObject;
use crate::cli::output::or_dash;
use crate::cli::places;
use crate::clock::Clock;
use crate::clock::SystemClock;
use crate::phase::backup;
use crate::phase::backup::BackupOptions;

#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  nightschool archive backup          # into HOME/backups, also while a night runs
  nightschool archive backup /mnt/disk --keep 7")]
pub(in crate::cli) struct BackupArgs {
    /// Folder of backups (default: `backups` in the home); the backup is a folder in it, named by
    /// the time
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
    /// Keep so many backups of this home in the folder, the new one included; older ones are
    /// removed once it was checked
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    keep: Option<u32>,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  nightschool archive restore 2026-01-31T220000.000Z
  nightschool --home /srv/school archive restore /mnt/disk/2026-01-31T220000.000Z --force")]
pub(in crate::cli) struct RestoreArgs {
    /// The backup's folder, or its name in the home's `backups`
    backup: PathBuf,
    /// Also into a home that is not empty; what is there is kept in a folder beside it
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  nightschool archive vacuum")]
pub(in crate::cli) struct VacuumArgs {
    #[command(flatten)]
    json: Json,
}

pub(super) fn back_up(global: &Global, args: &BackupArgs) -> anyhow::Result<()> {
    let home = &places::home(global)?;
    let settings = places::settings(global, home, &[], &[])?;
    // A suite that lies in the home itself; in the archive it is whole in any case.
    let own = settings
        .heldout
        .suite
        .filter(|path| path.components().count() == 1 && home.dir().join(path).is_file());
    let options = BackupOptions {
        folder: args.folder.clone().unwrap_or_else(|| home.backups()),
        keep: args.keep.map(|keep| keep as usize),
        files: own.into_iter().collect(),
        now: SystemClock.now(),
    };
    let backup = backup::create(home, &options)?;
    Output::new(args.json.json).show(&backup, || {
        let manifest = &backup.manifest;
        let mut text = format!(
            "{}\n{} bytes, checked: {} nights, {} tasks, {} adapters, live {}",
            backup.path.display(),
            backup.bytes,
            manifest.nights,
            manifest.tasks,
            manifest.adapters.len(),
            or_dash(manifest.live_model.as_ref())
        );
        for removed in &backup.removed {
            text += &format!("\nremoved {}", removed.display());
        }
        text
    })
}

pub(super) fn restore(global: &Global, args: &RestoreArgs) -> anyhow::Result<()> {
    let home = &places::home(global)?;
    let named = home.backups().join(&args.backup);
    let path = if args.backup.is_dir() { args.backup.clone() } else { named };
    if !path.is_dir() {
        let message = format!(
            "there is no backup {}; give the folder that `archive backup` wrote",
            args.backup.display()
        );
        return Err(NoSuchObject(message).into());
    }
    let restored = backup::restore(home, &path, args.force)?;
    Output::new(args.json.json).show(&restored, || {
        let manifest = &restored.manifest;
        let mut text = format!(
            "{} is as it was at {:.0}: {} nights, {} tasks, live {}",
            restored.home.display(),
            manifest.created_at,
            manifest.nights,
            manifest.tasks,
            or_dash(manifest.live_model.as_ref())
        );
        if let Some(kept) = &restored.kept {
            text += &format!("\nWhat was there: {}", kept.display());
        }
        if !manifest.missing.is_empty() {
            let missing: Vec<&str> = manifest.missing.iter().map(String::as_str).collect();
            text += &format!("\nWithout the weights of {}", missing.join(", "));
        }
        text
    })
}

pub(super) fn vacuum(global: &Global, args: &VacuumArgs) -> anyhow::Result<()> {
    let (_lock, archive) = places::writable(global)?;
    let [before, after] = archive.vacuum()?;
    let value = json!({ "bytes_before": before, "bytes_after": after });
    Output::new(args.json.json).show(&value, || format!("{before} bytes before, {after} now"))
}
