//! Backups of a home: the archive, the adapters and the settings as they were at one moment.
//!
//! Suites and the corpus's manifest stand in the archive. A backup is a sealed folder: whole and
//! verified, or not there. Restoring it replaces all of that as one step, which a crash does not
//! halve.

use std::path::Path;
use std::path::PathBuf;

use anyhow::Context as _;
use jiff::Timestamp;
use serde::Deserialize;
use serde::Serialize;

use super::home::Home;
use crate::archive::ARCHIVE_FILE;
use crate::archive::ArchiveReader;
use crate::archive::ModelKind;
use crate::durable;
use crate::durable::Move;
use crate::durable::PendingDirectory;
use crate::durable::open_sealed;

/// What a backup says of itself.
const MANIFEST_FILE: &str = "manifest.json";
/// The folder of a home's own backups.
const FOLDER: &str = "backups";

/// What a backup says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this form.
    pub schema_version: u32,
    /// The program that made it.
    pub program: String,
    /// When.
    pub made_at: Timestamp,
    /// The version that was live.
    pub live_model: Option<String>,
    /// Tasks in the archive.
    pub tasks: u64,
    /// Nights in the archive.
    pub nights: u64,
    /// Documents of the corpus.
    pub documents: u64,
    /// Versions whose adapters are in it.
    pub adapters: Vec<String>,
}

/// A backup, and those that made room for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Backup {
    /// Where it lies.
    pub path: PathBuf,
    /// Bytes of its files.
    pub bytes: u64,
    /// What it says of itself.
    pub manifest: Manifest,
    /// Older ones that were removed.
    pub removed: Vec<PathBuf>,
}

/// Makes a backup in `to`, or in the home's own folder, also while a night runs. Then the oldest
/// ones beside it are removed, so that `keep` are left.
///
/// # Errors
/// When the archive is damaged, or the copy cannot be written or does not check.
pub fn back_up(
    home: &Home,
    to: Option<&Path>,
    keep: Option<usize>,
    now: Timestamp,
) -> anyhow::Result<Backup> {
    let folder = to.map_or_else(|| home.dir().join(FOLDER), Path::to_path_buf);
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let name = now.strftime("%Y-%m-%dT%H%M%S%.3fZ").to_string();
    let path = folder.join(name);
    let pending = PendingDirectory::create(&path)?;
    let reader = ArchiveReader::open(&home.archive())?;
    let copy = pending.path().join(ARCHIVE_FILE);
    reader.copy_to(&copy)?;
    // The copy says which adapters belong to it; those of later versions are none of its business.
    let archive = ArchiveReader::open(&copy)?;
    let manifest = manifest_of(&archive, now)?;
    for id in &manifest.adapters {
        let version = archive.model_version(id)?.context("a version is missing")?;
        let (from, to) = (home.dir().join(&version.path), pending.path().join(&version.path));
        if let Some(parent) = to.parent() {
            std::fs::create_dir_all(parent)?;
        }
        // Adapters are sealed and never written again.
        durable::copy_directory(&from, &to, true)?;
    }
    if home.config().exists() {
        let name = home.config().file_name().map(PathBuf::from).unwrap_or_default();
        durable::copy_file(&home.config(), &pending.path().join(name), false)?;
    }
    let text = serde_json::to_vec_pretty(&manifest)?;
    durable::write_file(&pending.path().join(MANIFEST_FILE), &text)?;
    if let Some(finding) = archive.findings()?.first() {
        anyhow::bail!(
            "the archive is damaged, so no backup of it was kept: {} ({}); run `nightschool \
             archive check`",
            finding.what,
            finding.affects
        );
    }
    drop(archive);
    // The copy's own log is empty, and no part of it.
    for suffix in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(pending.path().join(format!("{ARCHIVE_FILE}{suffix}")));
    }
    let sealed = pending.seal()?;
    let bytes = sealed.files().values().map(|file| file.bytes).sum();
    let removed = keep.map(|keep| remove_old(&folder, keep)).transpose()?.unwrap_or_default();
    Ok(Backup { path, bytes, manifest, removed })
}

fn manifest_of(archive: &ArchiveReader, now: Timestamp) -> anyhow::Result<Manifest> {
    let removed = archive.removed_versions()?;
    let versions = archive.model_versions()?;
    let kept = versions.into_iter().filter(|(version, _)| {
        version.kind == ModelKind::Adapter && !removed.contains_key(&version.id)
    });
    let groups = archive.task_stats(crate::archive::TaskGrouping::State)?;
    Ok(Manifest {
        schema_version: 1,
        program: format!("nightschool {}", env!("CARGO_PKG_VERSION")),
        made_at: now,
        live_model: archive.live_model()?.map(|version| version.id),
        tasks: groups.iter().map(|group| group.active + group.stale + group.retired).sum(),
        nights: archive.nights()?.len() as u64,
        documents: archive.documents()?.iter().filter(|document| !document.retired).count() as u64,
        adapters: kept.map(|(version, _)| version.id).collect(),
    })
}

/// Removes the oldest backups in a folder until `keep` are left. Other folders are left alone.
fn remove_old(folder: &Path, keep: usize) -> anyhow::Result<Vec<PathBuf>> {
    let mut backups = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if let Ok(manifest) = read_manifest(&path) {
            backups.push((manifest.made_at, path));
        }
    }
    backups.sort();
    let old = backups.len().saturating_sub(keep.max(1));
    let mut removed = Vec::new();
    for (_, path) in backups.into_iter().take(old) {
        durable::remove_directory(&path)?;
        removed.push(path);
    }
    Ok(removed)
}

fn read_manifest(path: &Path) -> anyhow::Result<Manifest> {
    let text = std::fs::read(path.join(MANIFEST_FILE))?;
    Ok(serde_json::from_slice(&text)?)
}

/// What a restore did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Restored {
    /// What the backup says of itself.
    pub manifest: Manifest,
    /// Where what was in the home before lies now, if there was anything.
    pub before: Option<PathBuf>,
}

/// Puts a backup in the place of what the home has, which is kept beside it. Call it only while
/// holding the home's lock.
///
/// # Errors
/// When the backup is not whole, or the home has an archive and `force` is not set.
pub fn restore(
    home: &Home,
    backup: &Path,
    force: bool,
    now: Timestamp,
) -> anyhow::Result<Restored> {
    let sealed =
        open_sealed(backup).with_context(|| format!("{} is no whole backup", backup.display()))?;
    let manifest = read_manifest(sealed.path())
        .with_context(|| format!("{} has no manifest that can be read", backup.display()))?;
    if home.archive().exists() && !force {
        anyhow::bail!(
            "{} has an archive; --force puts the backup in its place and keeps it beside",
            home.dir().display()
        );
    }
    let aside = format!("restore-{}", now.strftime("%Y-%m-%dT%H%M%S%.3fZ"));
    let incoming = home.dir().join(&aside);
    durable::copy_directory(sealed.path(), &incoming, false)?;
    let before = format!("before-{aside}");
    let config = home.config().file_name().map(|name| name.to_string_lossy().into_owned());
    let names = [
        ARCHIVE_FILE.to_string(),
        format!("{ARCHIVE_FILE}-wal"),
        format!("{ARCHIVE_FILE}-shm"),
        "adapters".into(),
        config.unwrap_or_default(),
    ];
    let kept = names.iter().any(|name| home.dir().join(name).exists());
    if kept {
        std::fs::create_dir_all(home.dir().join(&before))?;
    }
    let out = names.iter().map(|name| Move::new(name.clone(), format!("{before}/{name}")));
    let inward = names.iter().map(|name| Move::new(format!("{aside}/{name}"), name.clone()));
    let moves: Vec<Move> = out.chain(inward).collect();
    durable::replace(home.dir(), &moves)?;
    durable::remove_directory(&incoming)?;
    // The search index belongs to another corpus now; it is built again.
    if home.index().exists() {
        std::fs::remove_dir_all(home.index())?;
    }
    Ok(Restored { manifest, before: kept.then(|| home.dir().join(before)) })
}
