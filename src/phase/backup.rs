//! Backups of a home: one consistent snapshot of the archive, with the adapters that it speaks of,
//! the settings and the prompts. Suites and the corpus are in the archive.
//!
//! A backup is a sealed folder: `seal.json` has the size and BLAKE3 hash of every file,
//! `manifest.json` says what it is. It is written aside, checked, and renamed. Adapters are never
//! written again, so on the same file system a backup shares their files.

mod restore;

use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::Deserialize;
use serde::Serialize;

use super::health;
use super::home::Home;
use crate::archive::ARCHIVE_FILE;
use crate::archive::ArchiveReader;
use crate::archive::TaskGrouping;
use crate::archive::verify_copy;
use crate::durable;
use crate::durable::HomeLock;
use crate::durable::PendingDirectory;
use crate::progress::Progress;

pub use self::restore::Restored;
pub use self::restore::restore;

/// The file that says what a backup is.
const MANIFEST_FILE: &str = "manifest.json";

/// Version of the layout of a backup.
const FORMAT: u32 = 1;

/// What a backup is; the contents of `manifest.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the layout.
    pub format: u32,
    /// The home that it was made of.
    pub home: PathBuf,
    /// When.
    pub created_at: Timestamp,
    /// The program that made it.
    pub program_version: String,
    /// The archive's schema.
    pub archive_version: u32,
    /// Nights in the archive.
    pub nights: usize,
    /// Tasks in the archive.
    pub tasks: u64,
    /// The live version.
    pub live_model: Option<String>,
    /// Adapter versions whose weights are in it.
    pub adapters: BTreeSet<String>,
    /// Versions whose weights should have been there and were not whole.
    pub missing: BTreeSet<String>,
}

/// A backup that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Backup {
    /// Its folder.
    pub path: PathBuf,
    /// Bytes of all its files.
    pub bytes: u64,
    /// What it is.
    #[serde(flatten)]
    pub manifest: Manifest,
    /// Older backups that were removed.
    pub removed: Vec<PathBuf>,
}

/// What to back up, and where to.
#[derive(Debug, Clone)]
pub struct BackupOptions {
    /// The folder of backups.
    pub folder: PathBuf,
    /// How many backups of this home to keep there; none for all.
    pub keep: Option<usize>,
    /// Further files of the home, relative to it, such as the person's own suite.
    pub files: Vec<PathBuf>,
    /// The present time.
    pub now: Timestamp,
}

/// Backs a home up, also while a night is at work in it: the archive as it was at one moment. The
/// oldest backups go only after the new one was checked.
///
/// # Errors
/// When the home has no archive or the disk is full: nothing is left then. When what was written
/// does not read back: nothing is removed then.
pub fn create(home: &Home, options: &BackupOptions) -> anyhow::Result<Backup> {
    let archive = ArchiveReader::open(&home.archive())?;
    // Before the first folder is made: a misspelt home leaves none behind.
    let _lock = HomeLock::acquire(&options.folder)?;
    durable::remove_stale(&options.folder)?;
    let path = free_name(&options.folder, options.now);
    let pending = PendingDirectory::create(&path)?;
    let manifest = write(home, &archive, options, pending.path())?;
    let sealed = pending.seal()?;
    let bytes = sealed.files().values().map(|file| file.bytes).sum();
    verify(&path)?;
    let removed = match options.keep {
        Some(keep) => remove_old(home, &options.folder, keep.max(1))?,
        None => Vec::new(),
    };
    Ok(Backup { path, bytes, manifest, removed })
}

/// A name from the clock that is not taken; names are in the order of time.
fn free_name(folder: &Path, now: Timestamp) -> PathBuf {
    let stem = now.strftime("%Y-%m-%dT%H%M%S%.3fZ").to_string();
    let numbered = (2..).map(|number| folder.join(format!("{stem}-{number}")));
    let mut names = std::iter::once(folder.join(&stem)).chain(numbered);
    names.find(|name| !name.exists()).unwrap_or_else(|| folder.join(stem))
}

fn write(
    home: &Home,
    archive: &ArchiveReader,
    options: &BackupOptions,
    to: &Path,
) -> anyhow::Result<Manifest> {
    let adapters = to.join("adapters");
    // Before and after the snapshot: a version may lose its weights in between, and one may come.
    copy_adapters(home, archive, &adapters)?;
    let copy = to.join(ARCHIVE_FILE);
    let progress = Progress::start("copying the archive", pages(&home.archive()));
    let mut told = 0;
    archive.copy_to_with(&copy, &mut |done, _| {
        progress.advance(done.saturating_sub(told));
        told = done.max(told);
    })?;
    drop(progress);
    let snapshot = ArchiveReader::open_copy(&copy)?;
    copy_adapters(home, &snapshot, &adapters)?;
    let (present, missing) = only_those_of(&snapshot, home, &adapters)?;
    for name in ["nightschool.toml", "prompts"].map(PathBuf::from).iter().chain(&options.files) {
        copy_if_there(&home.dir().join(name), &to.join(name))?;
    }
    let tasks = snapshot.task_stats(TaskGrouping::Origin)?;
    let manifest = Manifest {
        format: FORMAT,
        home: std::path::absolute(home.dir())?,
        created_at: options.now,
        program_version: env!("CARGO_PKG_VERSION").to_string(),
        archive_version: verify_copy(&copy)?,
        nights: snapshot.nights()?.len(),
        tasks: tasks.iter().map(|group| group.active + group.stale + group.retired).sum(),
        live_model: snapshot.live_model()?.map(|version| version.id),
        adapters: present,
        missing,
    };
    durable::write_file(&to.join(MANIFEST_FILE), &serde_json::to_vec_pretty(&manifest)?)?;
    Ok(manifest)
}

fn pages(archive: &Path) -> u64 {
    std::fs::metadata(archive).map_or(0, |file| file.len() / 4096)
}

fn copy_if_there(from: &Path, to: &Path) -> anyhow::Result<()> {
    if from.is_dir() {
        durable::copy_directory(from, to, false)?;
    } else if from.is_file() {
        if let Some(parent) = to.parent() {
            std::fs::create_dir_all(parent)?;
        }
        durable::copy_file(from, to, false)?;
    }
    Ok(())
}

/// Copies the weights of the archive's versions that are not in `to` yet.
fn copy_adapters(home: &Home, archive: &ArchiveReader, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for version in health::versions_with_weights(archive)? {
        let from = home.dir().join(&version.path);
        let Some(name) = from.file_name() else { continue };
        let copy = to.join(name);
        if copy.exists() || !from.is_dir() {
            continue;
        }
        // One that goes away meanwhile is no longer of the snapshot, or is missed below.
        if let Err(error) = durable::copy_directory(&from, &copy, true) {
            durable::remove_directory(&copy)?;
            if from.is_dir() {
                return Err(error.into());
            }
        }
    }
    Ok(())
}

/// Removes the weights in `dir` that the snapshot does not speak of, or that are not whole. Returns
/// the versions that are there and those that are not.
fn only_those_of(
    snapshot: &ArchiveReader,
    home: &Home,
    dir: &Path,
) -> anyhow::Result<(BTreeSet<String>, BTreeSet<String>)> {
    let (mut present, mut missing, mut names) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for version in health::versions_with_weights(snapshot)? {
        let from = home.dir().join(&version.path);
        let whole = from.file_name().is_some_and(|name| {
            let sealed = durable::open_sealed(&dir.join(name));
            sealed.is_ok_and(|sealed| sealed.content_hash() == version.content_hash)
        });
        if whole {
            names.extend(from.file_name().map(std::ffi::OsStr::to_os_string));
            present.insert(version.id);
        } else {
            tracing::warn!(
                "the weights of {} are not whole in {}: the backup is made without them; \
                 `archive check` says more",
                version.id,
                from.display()
            );
            missing.insert(version.id);
        }
    }
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if !names.contains(&entry.file_name()) {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok((present, missing))
}

/// Checks every file of a backup, and the archive in it: pages and references.
///
/// # Errors
/// When it is not a backup, not whole, or of a later program.
pub fn verify(path: &Path) -> anyhow::Result<Manifest> {
    durable::open_sealed(path)?;
    let manifest = manifest(path)?;
    verify_copy(&path.join(ARCHIVE_FILE))?;
    Ok(manifest)
}

fn manifest(path: &Path) -> anyhow::Result<Manifest> {
    let file = path.join(MANIFEST_FILE);
    let text = std::fs::read(&file)
        .map_err(|error| anyhow::anyhow!("{} is no backup: {error}", path.display()))?;
    let manifest: Manifest = serde_json::from_slice(&text).map_err(|error| {
        anyhow::anyhow!("{} is no backup: {MANIFEST_FILE}: {error}", path.display())
    })?;
    if manifest.format > FORMAT {
        anyhow::bail!(
            "{} is a backup of layout {}, this program knows layouts up to {FORMAT}; install \
             nightschool {}",
            path.display(),
            manifest.format,
            manifest.program_version
        );
    }
    Ok(manifest)
}

/// The complete backups of a home in `folder`, oldest first. A folder appears there only when it
/// is complete.
///
/// # Errors
/// When the folder cannot be listed.
pub fn list(home: &Home, folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let home = std::path::absolute(home.dir())?;
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let sealed = path.join(durable::SEAL_FILE).is_file();
        if let (true, Ok(manifest)) = (sealed, manifest(&path))
            && manifest.home == home
        {
            found.push((manifest.created_at, path));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

fn remove_old(home: &Home, folder: &Path, keep: usize) -> anyhow::Result<Vec<PathBuf>> {
    let all = list(home, folder)?;
    let superfluous = all.len().saturating_sub(keep);
    let mut removed = Vec::new();
    for path in all.into_iter().take(superfluous) {
        durable::remove_directory(&path)?;
        removed.push(path);
    }
    Ok(removed)
}
