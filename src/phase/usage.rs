//! What takes space in a home and in the model cache, and what of it may go.

use std::collections::BTreeSet;
use std::collections::HashSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::path::PathBuf;

use indicatif::DecimalBytes;
use serde::Serialize;
use walkdir::WalkDir;

use super::health;
use super::home::Home;
use super::retention;
use crate::archive::ARCHIVE_FILE;
use crate::archive::ArchiveError;
use crate::archive::ArchiveReader;
use crate::durable;
use crate::durable::DurableError;
use crate::durable::HomeLock;

/// What takes space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// The archive's file.
    Archive,
    /// What was written to the archive and is not in its file yet.
    ArchiveLog,
    /// Copies of the archive that a migration or a repair made first.
    ArchiveCopies,
    /// The search index.
    Index,
    /// Weights of the live version, and of the one before it.
    AdaptersLive,
    /// Weights of other versions.
    AdaptersKept,
    /// Weights of versions that the archive does not have, or that were removed.
    AdaptersUnreferenced,
    /// Checkpoints that the night under way goes on from.
    CheckpointsNeeded,
    /// Checkpoints that nothing goes on from.
    CheckpointsSuperseded,
    /// Morning reports as pages.
    Reports,
    /// Backups in the home.
    Backups,
    /// What a restored backup took the place of.
    BeforeRestore,
    /// Homes of experiments and of the demo.
    OtherHomes,
    /// What a process that was cut off wrote aside.
    LeftBehind,
    /// Settings, schedules, prompts, metrics.
    Other,
    /// A model in the cache.
    Model,
}

impl What {
    /// The name for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Archive => "archive",
            Self::ArchiveLog => "archive, its log",
            Self::ArchiveCopies => "archive, copies",
            Self::Index => "search index",
            Self::AdaptersLive => "adapters, live",
            Self::AdaptersKept => "adapters, kept",
            Self::AdaptersUnreferenced => "adapters, unreferenced",
            Self::CheckpointsNeeded => "checkpoints, needed",
            Self::CheckpointsSuperseded => "checkpoints, superseded",
            Self::Reports => "reports",
            Self::Backups => "backups",
            Self::BeforeRestore => "before a restore",
            Self::OtherHomes => "experiments and demo",
            Self::LeftBehind => "left behind",
            Self::Other => "settings and the rest",
            Self::Model => "model",
        }
    }
}

/// How space is given back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Means {
    /// It is needed.
    None,
    /// By this command of the program.
    Command(&'static str),
    /// By deleting these.
    Delete(Vec<PathBuf>),
    /// By a setting, from the next night on.
    Setting(&'static str),
}

/// One of the things that take space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// What it is.
    pub what: What,
    /// Where it lies: a file, or a folder with all or some of what is in it.
    pub path: PathBuf,
    /// Files.
    pub files: u64,
    /// Bytes of them. A file with several names counts where it is found first.
    pub bytes: u64,
    /// Bytes that can be given back.
    pub reclaimable: u64,
    /// How.
    pub means: Means,
    /// What is to be known of it.
    pub note: &'static str,
}

/// All that takes space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// Bytes that are free where the home lies.
    pub free: u64,
    /// Whether a process is at work in the home: what it may be using is then not to be deleted.
    pub busy: bool,
    /// The parts, in the order of [`What`].
    pub parts: Vec<Part>,
}

/// Looks at a home, also while a night is at work in it, and at the models in `cache`.
///
/// # Errors
/// When the archive cannot be read, or the system does not say what is free.
pub fn of(home: &Home, cache: Option<&Path>) -> anyhow::Result<Usage> {
    let busy = home.dir().exists()
        && matches!(HomeLock::acquire(home.dir()), Err(DurableError::Busy { .. }));
    let archive = match ArchiveReader::open(&home.archive()) {
        Ok(archive) => Some(archive),
        Err(ArchiveError::Missing { .. } | ArchiveError::Older { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let mut look = Look { home, busy, seen: HashSet::new(), taken: BTreeSet::new(), parts: vec![] };
    look.archive(archive.as_ref())?;
    look.adapters(archive.as_ref())?;
    look.checkpoints(archive.as_ref())?;
    look.folders();
    look.rest();
    if let Some(cache) = cache {
        look.models(cache);
    }
    let mut parts = look.parts;
    parts.sort_by_key(|part| part.what);
    Ok(Usage { free: durable::free_bytes(home.dir())?, busy, parts })
}

/// Bytes as people read them.
pub fn readable(bytes: u64) -> String {
    DecimalBytes(bytes).to_string()
}

/// Bytes of all files below a path; nothing where there is none.
pub(super) fn bytes_below(path: &Path) -> u64 {
    measure(&mut HashSet::new(), path).1
}

/// Files and bytes below a path. What goes away meanwhile is not counted, nor what was seen.
fn measure(seen: &mut HashSet<(u64, u64)>, path: &Path) -> (u64, u64) {
    let (mut files, mut bytes) = (0, 0);
    for entry in WalkDir::new(path).into_iter().flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        let again = metadata.nlink() > 1 && !seen.insert((metadata.dev(), metadata.ino()));
        if metadata.is_file() && !again {
            (files, bytes) = (files + 1, bytes + metadata.len());
        }
    }
    (files, bytes)
}

/// The entries of a folder, in order; none where it cannot be listed.
fn entries(dir: &Path) -> Vec<PathBuf> {
    let listed = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = listed.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

struct Look<'a> {
    home: &'a Home,
    busy: bool,
    /// Files with several names that were counted.
    seen: HashSet<(u64, u64)>,
    /// Entries of the home that have a part.
    taken: BTreeSet<PathBuf>,
    parts: Vec<Part>,
}

impl Look<'_> {
    /// Adds a part of these paths, unless nothing is there.
    fn add(&mut self, what: What, path: PathBuf, of: &[PathBuf], means: Means, note: &'static str) {
        self.taken.extend(of.iter().cloned());
        let (mut files, mut bytes) = (0, 0);
        for path in of {
            let (more, of_them) = measure(&mut self.seen, path);
            (files, bytes) = (files + more, bytes + of_them);
        }
        if bytes > 0 {
            let reclaimable = if means == Means::None { 0 } else { bytes };
            self.parts.push(Part { what, path, files, bytes, reclaimable, means, note });
        }
    }

    /// Deleting what a process at work may be using; not now where there is one.
    fn delete_when_idle(&self, of: &[PathBuf]) -> Means {
        if self.busy { Means::None } else { Means::Delete(of.to_vec()) }
    }

    fn archive(&mut self, archive: Option<&ArchiveReader>) -> anyhow::Result<()> {
        let path = self.home.archive();
        let unused = archive.map(ArchiveReader::unused_bytes).transpose()?.unwrap_or(0);
        let note = "all that was learnt; what holds nothing can be given back";
        self.add(What::Archive, path.clone(), std::slice::from_ref(&path), Means::None, note);
        if let Some(part) = self.parts.last_mut().filter(|_| unused > 0) {
            (part.reclaimable, part.means) = (unused, Means::Command("archive vacuum"));
        }
        let dir = self.home.dir();
        let log = ["-wal", "-shm"].map(|end| dir.join(format!("{ARCHIVE_FILE}{end}")));
        let note = "part of the archive: it goes back by itself";
        self.add(What::ArchiveLog, log[0].clone(), &log, Means::None, note);
        let prefix = format!("{ARCHIVE_FILE}.");
        let copies = self.named(|name| name.starts_with(&prefix));
        let note = "the archive as it was before a migration or a repair";
        let means = Means::Delete(copies.clone());
        self.add(What::ArchiveCopies, dir.to_path_buf(), &copies, means, note);
        Ok(())
    }

    /// Entries of the home with such names.
    fn named(&self, is: impl Fn(&str) -> bool) -> Vec<PathBuf> {
        entries(self.home.dir()).into_iter().filter(|path| is(&name_of(path))).collect()
    }

    fn adapters(&mut self, archive: Option<&ArchiveReader>) -> anyhow::Result<()> {
        let dir = self.home.adapters();
        let all = entries(&dir);
        self.taken.insert(dir.clone());
        let Some(archive) = archive else {
            self.add(What::AdaptersKept, dir, &all, Means::None, "there is no archive to ask");
            return Ok(());
        };
        let always = retention::always_kept(archive)?;
        let (mut live, mut kept) = (Vec::new(), Vec::new());
        for version in health::versions_with_weights(archive)? {
            let folder = self.home.dir().join(&version.path);
            if always.contains(&version.id) { &mut live } else { &mut kept }.push(folder);
        }
        let known = |path: &&PathBuf| live.contains(path) || kept.contains(path);
        let others: Vec<PathBuf> = all.iter().filter(|path| !known(path)).cloned().collect();
        self.add(
            What::AdaptersLive,
            dir.clone(),
            &live,
            Means::None,
            "what answers, and its way back",
        );
        let note = "the next night removes the oldest of them; their rows stay";
        let means = Means::Setting("retention.adapters");
        self.add(What::AdaptersKept, dir.clone(), &kept, means, note);
        let means = self.delete_when_idle(&others);
        let note = "no version of the archive: a night that was cut off stored them again";
        self.add(What::AdaptersUnreferenced, dir, &others, means, note);
        Ok(())
    }

    fn checkpoints(&mut self, archive: Option<&ArchiveReader>) -> anyhow::Result<()> {
        let dir = self.home.checkpoints();
        self.taken.insert(dir.clone());
        let night = match archive {
            Some(archive) => archive.current_unfinished_night()?.map(|night| night.number),
            None => None,
        };
        let (needed, superseded): (Vec<PathBuf>, Vec<PathBuf>) = entries(&dir)
            .into_iter()
            .partition(|path| night.is_some_and(|night| retention::is_of(&name_of(path), night)));
        let note = "the night that has not ended goes on from them";
        self.add(What::CheckpointsNeeded, dir.clone(), &needed, Means::None, note);
        let means = self.delete_when_idle(&superseded);
        let note = "of nights that are over; `retention.checkpoints` keeps them";
        self.add(What::CheckpointsSuperseded, dir, &superseded, means, note);
        Ok(())
    }

    fn folders(&mut self) {
        let (index, backups) = (self.home.index(), self.home.backups());
        let means = self.delete_when_idle(std::slice::from_ref(&index));
        let note = "made again by whoever next searches";
        self.add(What::Index, index.clone(), std::slice::from_ref(&index), means, note);
        let reports = self.home.reports();
        let note = "`run report N` makes each again; `retention.reports` keeps the newest";
        let means = Means::Delete(vec![reports.clone()]);
        self.add(What::Reports, reports.clone(), std::slice::from_ref(&reports), means, note);
        let all: Vec<PathBuf> =
            entries(&backups).into_iter().filter(|path| path.is_dir()).collect();
        let newest = all.last().map_or(0, |newest| bytes_below(newest));
        let means = match all.len() {
            0 | 1 => Means::None,
            _ => Means::Command("archive backup --keep 1"),
        };
        let note = "a new one takes the place of all; weights are shared with the home";
        self.add(What::Backups, backups.clone(), std::slice::from_ref(&backups), means, note);
        if let Some(part) = self.parts.last_mut().filter(|part| part.what == What::Backups) {
            part.reclaimable = part.reclaimable.saturating_sub(newest);
        }
    }

    fn rest(&mut self) {
        let dir = self.home.dir().to_path_buf();
        let before = self.named(|name| name.starts_with("before-restore-"));
        let note = "the home as it was before `archive restore`";
        let means = Means::Delete(before.clone());
        self.add(What::BeforeRestore, dir.clone(), &before, means, note);
        let homes = self.named(|name| name == "experiments" || name == "demo");
        let note = "homes of their own; delete one when its figures are needed no more";
        self.add(What::OtherHomes, dir.clone(), &homes, Means::None, note);
        let aside = self.named(|name| name.starts_with(".partial-") || name == "restore.partial");
        let means = self.delete_when_idle(&aside);
        let note = "by a process that was cut off";
        self.add(What::LeftBehind, dir.clone(), &aside, means, note);
        let other: Vec<PathBuf> =
            entries(&dir).into_iter().filter(|path| !self.taken.contains(path)).collect();
        self.add(What::Other, dir, &other, Means::None, "");
    }

    /// Each model by itself; of hub ids, each revision.
    fn models(&mut self, cache: &Path) {
        let mut all = entries(&cache.join("models"));
        let hub = all.iter().position(|path| name_of(path) == "hub").map(|hub| all.remove(hub));
        let ids = hub.iter().flat_map(|hub| entries(hub));
        all.extend(ids.flat_map(|id| entries(&id)).collect::<Vec<_>>());
        for path in all {
            let note = "fetched again by the next command that needs it";
            let means = Means::Delete(vec![path.clone()]);
            self.add(What::Model, path.clone(), std::slice::from_ref(&path), means, note);
        }
    }
}
