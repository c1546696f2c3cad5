//! Keeps the archive's corpus in step with the files and folders that were added to it.
//!
//! What was added (the roots) is remembered with the archive, so that a night brings all of it up
//! to date without being told where it lies. In the archive a file goes by a lasting name: the
//! name of its root and its path below it. Moving a root and adding it again changes nothing.

mod roots;
mod sides;

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::collections::HashSet;
use std::path::Path;
use std::path::PathBuf;
use std::sync::OnceLock;

use serde::Serialize;

use self::roots::Place;
use self::roots::Roots;
use self::sides::Before;
use self::sides::choose_sides;
use self::sides::count_duplicates;
use crate::archive::Archive;
use crate::archive::ArchiveError;
use crate::archive::ArchiveReader;
use crate::archive::DocumentContent;
use crate::archive::FileState;
use crate::archive::IMPORTED;
use crate::archive::SourceFileContent;
use crate::corpus;
use crate::corpus::Reading;
use crate::corpus::SkipReason;
use crate::corpus::Skipped;
use crate::phase::home::Home;
use crate::progress::Progress;
use crate::retrieval::LexicalIndex;
use crate::rng::content_id;
use crate::task::Passage;
use crate::task::Split;

pub use self::roots::Root;

/// What an ingest did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct IngestReport {
    /// New and changed files that were read.
    pub files_read: u64,
    /// Files that are as they were.
    pub unchanged: u64,
    /// Files that are gone.
    pub vanished: u64,
    /// Documents never seen before.
    pub documents_added: u64,
    /// Documents that no file holds any more; they and their tasks' evidence are kept.
    pub documents_retired: u64,
    /// Documents that came back.
    pub documents_restored: u64,
    /// Passages never seen before.
    pub passages_added: u64,
    /// Passages that stand in no document any more.
    pub passages_retired: u64,
    /// Passages that came back.
    pub passages_restored: u64,
    /// Passages of the present corpus.
    pub passages_active: u64,
    /// Passages of new and changed files that stand elsewhere in the same words: kept once.
    pub duplicates: u64,
    /// Tasks set aside because their evidence went away.
    pub tasks_retired: u64,
    /// Tasks set aside, to be verified again in the next night, because their evidence changed.
    pub tasks_stale: u64,
    /// Tasks that play again because their evidence came back.
    pub tasks_restored: u64,
    /// Files and lines that were left out. Paths are lasting names.
    pub skipped: Vec<Skipped>,
}

/// Adds `paths`, files or folders, to what the archive's corpus is made from and brings all of it
/// up to date. `heldout_share`, in [0, 1], is the share of new documents that are set aside for
/// evaluation; which ones follows from `seed` and the documents' ids.
///
/// # Errors
/// When a path does not exist (nothing is changed then), or the archive cannot be written.
pub fn ingest(
    archive: &Archive,
    paths: &[PathBuf],
    heldout_share: f64,
    seed: u64,
) -> anyhow::Result<IngestReport> {
    let mut roots = Roots::load(archive)?;
    for path in paths {
        roots.add(path)?;
    }
    // Remembered first: were it done last, a crash in between would leave documents whose files
    // nobody looks after.
    roots.store(archive)?;
    bring_up_to_date(archive, &roots, heldout_share, seed)
}

/// Brings the corpus up to date with the remembered files and folders. One that is gone is warned
/// of and its documents are retired; they come back with it.
///
/// # Errors
/// When the archive cannot be read or written.
pub fn sync(archive: &Archive, heldout_share: f64, seed: u64) -> anyhow::Result<IngestReport> {
    bring_up_to_date(archive, &Roots::load(archive)?, heldout_share, seed)
}

/// What was added to the corpus, in the order it was added.
///
/// # Errors
/// When the archive cannot be read.
pub fn roots(archive: &ArchiveReader) -> Result<Vec<Root>, ArchiveError> {
    Ok(Roots::load(archive)?.into_vec())
}

/// Opens the search index of a home, building it if the corpus changed since it was built.
///
/// # Errors
/// When the archive cannot be read or the index cannot be built.
pub fn open_index(home: &Home, archive: &ArchiveReader) -> anyhow::Result<LexicalIndex> {
    let passages = archive.passages()?;
    let version = corpus_version(&passages);
    Ok(LexicalIndex::open_or_build(&home.index(), passages, &version)?)
}

/// A hash of which passages stand where; their words follow from their ids.
fn corpus_version(passages: &[Passage]) -> String {
    let parts = passages.iter().flat_map(|p| [p.id.as_str(), p.document_id.as_str()]);
    content_id(&parts.collect::<Vec<_>>())
}

fn bring_up_to_date(
    archive: &Archive,
    roots: &Roots,
    heldout_share: f64,
    seed: u64,
) -> anyhow::Result<IngestReport> {
    let places = roots.look();
    let stored = StoredFiles::load(archive, &places)?;
    let progress = OnceLock::new();
    let reading = corpus::read_paths(&places.to_read(), &stored.known, &|_, total| {
        progress.get_or_init(|| Progress::start("reading files", total)).advance(1);
    })?;
    drop(progress);
    let before = Before::load(archive)?;
    let mut documents = documents_of(&reading, &places);
    choose_sides(&mut documents, &before, heldout_share, seed);
    let duplicates = count_duplicates(&documents, &before);
    let skipped = renamed(&reading.skipped, &places);
    let vanished = stored.vanished(&reading, &skipped, &places);
    let changed = changed_files(&reading, documents, &skipped, &places);
    let summary = archive.sync_corpus(&changed, &vanished.all)?;
    Ok(IngestReport {
        files_read: reading.files.len() as u64,
        unchanged: reading.unchanged.len() as u64,
        vanished: vanished.gone,
        documents_added: summary.documents_added,
        documents_retired: summary.documents_retired,
        documents_restored: summary.documents_restored,
        passages_added: summary.passages_added,
        passages_retired: summary.passages_retired,
        passages_restored: summary.passages_restored,
        passages_active: archive.passages()?.len() as u64,
        duplicates,
        tasks_retired: summary.tasks_retired,
        tasks_stale: summary.tasks_stale,
        tasks_restored: summary.tasks_restored,
        skipped,
    })
}

/// The files that the archive has, seen from the present places.
struct StoredFiles {
    /// Hash by absolute path, of those that can be compared with what is there now.
    known: HashMap<String, String>,
    /// Lasting names of files that were read but belong to no root now, or to another one.
    left: Vec<String>,
    /// Lasting names of files that were skipped.
    skipped: Vec<String>,
}

/// Lasting names of files that are no longer where they were.
struct Vanished {
    all: Vec<String>,
    /// How many of them had been read and are not there under another name.
    gone: u64,
}

impl StoredFiles {
    fn load(archive: &Archive, places: &Place) -> Result<Self, ArchiveError> {
        let mut stored = Self { known: HashMap::new(), left: Vec::new(), skipped: Vec::new() };
        for file in archive.source_files()? {
            // What an import brought lies in no folder that could be looked at.
            let imported = file.path.starts_with(IMPORTED);
            if file.state == FileState::Vanished || imported || places.is_out_of_sight(&file.path) {
                continue;
            }
            if file.state == FileState::Skipped {
                stored.skipped.push(file.path);
                continue;
            }
            match places.path_of(&file.path) {
                Some(path) if places.name_of(&path) == file.path => {
                    stored.known.insert(path, file.content_hash);
                }
                _ => stored.left.push(file.path),
            }
        }
        Ok(stored)
    }

    fn vanished(&self, reading: &Reading, skipped: &[Skipped], places: &Place) -> Vanished {
        let here: HashSet<String> = skipped.iter().map(|skipped| skipped.path.clone()).collect();
        let read: HashSet<String> =
            reading.files.iter().map(|file| places.name_of(&file.path)).collect();
        let moved = self
            .left
            .iter()
            .filter(|name| places.path_of(name).is_some_and(|path| Path::new(&path).exists()));
        let gone = reading.vanished.len() + self.left.len() - moved.count();
        let mut all: BTreeSet<String> =
            reading.vanished.iter().map(|path| places.name_of(path)).collect();
        all.extend(self.left.iter().cloned());
        let not_seen = |name: &&String| !here.contains(*name) && !read.contains(*name);
        all.extend(self.skipped.iter().filter(not_seen).cloned());
        Vanished { all: all.into_iter().collect(), gone: gone as u64 }
    }
}

/// The documents of the files read now, by lasting name of their file, all on the train side yet.
fn documents_of(reading: &Reading, places: &Place) -> Vec<(String, DocumentContent)> {
    let content = |document: &corpus::Document| {
        let name = places.name_of(&document.source);
        // A reader's id is unique below one root; two roots may hold files of the same name.
        let id = content_id(&["document", places.label_of(&name), &document.id]);
        let mut passages = corpus::split(document);
        for passage in &mut passages {
            passage.document_id.clone_from(&id);
        }
        let title = document.title.clone();
        (name, DocumentContent { id, title, split: Split::Train, passages })
    };
    reading.documents.iter().map(content).collect()
}

fn renamed(skipped: &[Skipped], places: &Place) -> Vec<Skipped> {
    skipped
        .iter()
        .map(|skipped| Skipped { path: places.name_of(&skipped.path), ..skipped.clone() })
        .collect()
}

/// The files to store: those read, and those of which nothing could be read.
fn changed_files(
    reading: &Reading,
    documents: Vec<(String, DocumentContent)>,
    skipped: &[Skipped],
    places: &Place,
) -> Vec<SourceFileContent> {
    let mut by_file: HashMap<String, Vec<DocumentContent>> = HashMap::new();
    for (name, document) in documents {
        by_file.entry(name).or_default().push(document);
    }
    let mut changed = Vec::new();
    for file in &reading.files {
        let path = places.name_of(&file.path);
        let documents = by_file.remove(&path).unwrap_or_default();
        let content_hash = file.hash.clone();
        changed.push(SourceFileContent { path, content_hash, skipped: None, documents });
    }
    let mut listed: HashSet<String> = changed.iter().map(|file| file.path.clone()).collect();
    for skipped in skipped {
        // What the system does not show now may still be there: it stays as it was.
        if skipped.reason == SkipReason::Unreadable || !listed.insert(skipped.path.clone()) {
            continue;
        }
        changed.push(SourceFileContent {
            path: skipped.path.clone(),
            content_hash: String::new(),
            skipped: Some(skipped.reason.as_str().to_string()),
            documents: Vec::new(),
        });
    }
    changed
}
