//! Checking, backing up, restoring and compacting.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::super::Global;
use super::super::Json;
use super::super::Output;
use super::super::output::table;
use super::super::places;
use crate::archive::Archive;
use crate::archive::ArchiveReader;
use crate::archive::Finding;
use crate::clock::Clock as _;
use crate::clock::SystemClock;
use crate::durable::HomeLock;
use crate::phase::backup;

#[derive(Debug, Args)]
pub(in crate::cli) struct CheckArgs {
    /// Make again what follows from the rest: indexes, counts, the index of words
    #[arg(long)]
    repair: bool,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  nightschool archive backup                     into HOME/backups, also while a night runs
  nightschool archive backup /mnt/disk --keep 7")]
pub(in crate::cli) struct BackupArgs {
    /// The folder of backups [default: HOME/backups]
    dir: Option<PathBuf>,
    /// Remove the oldest until so many are left
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    keep: Option<u32>,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct RestoreArgs {
    /// A backup
    backup: PathBuf,
    /// Also where the home has an archive, which is kept beside
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct VacuumArgs {
    #[command(flatten)]
    json: Json,
}

pub(super) fn check(global: &Global, args: &CheckArgs) -> anyhow::Result<()> {
    let home = places::home(global)?;
    let reader = ArchiveReader::open(&home.archive())?;
    let mut findings = reader.findings()?;
    let mut repaired = None;
    if args.repair && findings.iter().any(|finding| finding.derivable) {
        let _lock = HomeLock::acquire(home.dir())?;
        let name = format!("archive.db.before-repair-{}", SystemClock.now().as_second());
        let copy = home.dir().join(name);
        reader.copy_to(&copy)?;
        drop(reader);
        Archive::open_damaged(&home.archive())?.repair()?;
        findings = ArchiveReader::open(&home.archive())?.findings()?;
        repaired = Some(copy);
    }
    let value = json!({ "findings": findings, "copy_before_repair": repaired });
    Output::new(args.json.json).show(&value, || rendered(&findings, repaired.as_ref()))?;
    match findings.is_empty() {
        true => Ok(()),
        false => anyhow::bail!(
            "{} things are wrong with {}; {}",
            findings.len(),
            home.archive().display(),
            match findings.iter().all(|finding| finding.derivable) {
                true => "`nightschool archive check --repair` mends them",
                false => "restore a backup: `nightschool archive restore`",
            }
        ),
    }
}

fn rendered(findings: &[Finding], repaired: Option<&PathBuf>) -> String {
    let mut text = match findings {
        [] => "The archive is whole.".to_string(),
        findings => {
            let row = |finding: &Finding| vec![finding.what.clone(), finding.affects.clone()];
            table(&["what is wrong", "what that affects"], findings.iter().map(row))
        }
    };
    if let Some(copy) = repaired {
        text += &format!("\nIt was repaired; as it was before it is {}", copy.display());
    }
    text
}

pub(super) fn back_up(global: &Global, args: &BackupArgs) -> anyhow::Result<()> {
    let home = places::home(global)?;
    let keep = args.keep.map(|keep| keep as usize);
    let backup = backup::back_up(&home, args.dir.as_deref(), keep, SystemClock.now())?;
    Output::new(args.json.json).show(&backup, || {
        let manifest = &backup.manifest;
        format!(
            "{}: {} tasks, {} nights, {} adapters, {} MB, verified; {} older ones removed",
            backup.path.display(),
            manifest.tasks,
            manifest.nights,
            manifest.adapters.len(),
            backup.bytes.div_ceil(1 << 20),
            backup.removed.len()
        )
    })
}

pub(super) fn restore(global: &Global, args: &RestoreArgs) -> anyhow::Result<()> {
    let home = places::home(global)?;
    let _lock = HomeLock::acquire(home.dir())?;
    let restored = backup::restore(&home, &args.backup, args.force, SystemClock.now())?;
    Output::new(args.json.json).show(&restored, || {
        let from =
            format!("{} is as it was at {:.0}", home.dir().display(), restored.manifest.made_at);
        match &restored.before {
            Some(before) => format!("{from}; what it had is in {}", before.display()),
            None => from,
        }
    })
}

pub(super) fn vacuum(global: &Global, args: &VacuumArgs) -> anyhow::Result<()> {
    let (_lock, archive) = places::writable(global)?;
    let [before, after] = archive.vacuum()?;
    let value = json!({ "bytes_before": before, "bytes_after": after });
    Output::new(args.json.json).show(&value, || format!("{before} bytes, {after} now"))
}
