//! Putting a backup in the place of a home: all of it, or nothing.

use std::path::Path;
use std::path::PathBuf;

use serde::Serialize;

use super::MANIFEST_FILE;
use super::Manifest;
use super::verify;
use crate::archive::ARCHIVE_FILE;
use crate::archive::Archive;
use crate::durable;
use crate::durable::HomeLock;
use crate::durable::Move;
use crate::durable::SEAL_FILE;
use crate::phase::home::Home;

/// What is kept of a home's past while a backup takes its place.
const KEPT_PREFIX: &str = "before-restore-";

/// Where a backup is laid out before it takes the home's place.
const STAGE: &str = "restore.partial";

/// What of a home goes when a backup comes: what a backup has, what belongs to the old archive,
/// and what is made from it.
const OLD: [&str; 9] = [
    "archive.db",
    "archive.db-wal",
    "archive.db-shm",
    "adapters",
    "nightschool.toml",
    "prompts",
    "checkpoints",
    "index",
    "metrics.prom",
];

/// A backup that took a home's place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Restored {
    /// The home.
    pub home: PathBuf,
    /// The backup.
    pub backup: PathBuf,
    /// Where the home's earlier contents are, if there were any.
    pub kept: Option<PathBuf>,
    /// What the backup is.
    #[serde(flatten)]
    pub manifest: Manifest,
}

/// Puts the backup at `backup` in the place of what is in `home`, after every file of it was
/// checked. A crash in the middle leaves the old home, or the new one from the next command on.
/// What was there is kept in a folder beside it.
///
/// # Errors
/// When the backup is not whole, the home is in use, or it is not empty and `force` is not set.
pub fn restore(home: &Home, backup: &Path, force: bool) -> anyhow::Result<Restored> {
    let manifest = verify(backup)?;
    let _lock = HomeLock::acquire(home.dir())?;
    let dir = home.dir();
    let old: Vec<&str> = OLD.into_iter().filter(|name| dir.join(name).exists()).collect();
    if !old.is_empty() && !force {
        anyhow::bail!(
            "{} is not empty ({}); with --force the backup takes its place, and what is there is \
             kept in a folder beside it",
            dir.display(),
            old.join(", ")
        );
    }
    Archive::take_out_of_use(&home.archive())?;
    let stage = dir.join(STAGE);
    // Of a restore that a crash cut off before anything was moved.
    durable::remove_directory(&stage)?;
    let new = lay_out(backup, &stage)?;
    let kept = (!old.is_empty()).then(|| free_name(dir));
    let mut moves = Vec::new();
    if let Some(kept) = &kept {
        std::fs::create_dir_all(dir.join(kept))?;
        moves.extend(OLD.iter().map(|name| Move::new(*name, format!("{kept}/{name}"))));
        // Files of the backup that a home does not always have.
        let others = new.iter().filter(|name| !OLD.contains(&name.as_str()));
        moves.extend(others.map(|name| Move::new(name.as_str(), format!("{kept}/{name}"))));
    }
    // The archive last: while it is not there, readers see a home without one.
    let place = |name: &String| Move::new(format!("{STAGE}/{name}"), name.as_str());
    moves.extend(new.iter().filter(|name| *name != ARCHIVE_FILE).map(place));
    moves.push(Move::new(format!("{STAGE}/{ARCHIVE_FILE}"), ARCHIVE_FILE));
    durable::replace(dir, &moves)?;
    durable::remove_directory(&stage)?;
    let kept = kept.map(|name| dir.join(name));
    Ok(Restored { home: dir.to_path_buf(), backup: backup.to_path_buf(), kept, manifest })
}

/// Copies the backup's files to `stage`. Returns the names at its top.
fn lay_out(backup: &Path, stage: &Path) -> anyhow::Result<Vec<String>> {
    std::fs::create_dir_all(stage)?;
    let mut names = Vec::new();
    for entry in std::fs::read_dir(backup)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == MANIFEST_FILE || name == SEAL_FILE {
            continue;
        }
        let to = stage.join(&name);
        match entry.file_type()?.is_dir() {
            // Adapters are never written again; everything else is.
            true => durable::copy_directory(&entry.path(), &to, name == "adapters")?,
            false => durable::copy_file(&entry.path(), &to, false)?,
        }
        names.push(name);
    }
    names.sort();
    durable::sync_directory(stage)?;
    Ok(names)
}

fn free_name(dir: &Path) -> String {
    let name = |number: u32| format!("{KEPT_PREFIX}{number}");
    (1..).map(name).find(|name| !dir.join(name).exists()).unwrap_or_else(|| name(0))
}
