//! The corpus as the archive knows it: files, documents, passages, and which of them went away.

use std::collections::BTreeSet;

use blake3::Hasher;
use rusqlite::Row;
use rusqlite::Transaction;
use rusqlite::params;
use serde::Deserialize;
use serde::Serialize;

use super::Archive;
use super::ArchiveReader;
use super::error::ArchiveError;
use super::error::Failure;
use super::value;
use crate::task::Passage;
use crate::task::Split;

/// What became of a source file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileState {
    /// Its documents are in the corpus.
    Read,
    /// It could not be read, or is of a kind that is not read.
    Skipped,
    /// It was there once and is gone.
    Vanished,
}

/// A source file as last seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SourceFile {
    /// Path or other lasting name of the file. Compared between archives, so best relative.
    pub path: String,
    /// Hash of its bytes when it was last read.
    pub content_hash: String,
    /// What became of it.
    pub state: FileState,
    /// Why it was skipped.
    pub reason: Option<String>,
}

/// A new or changed source file with what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFileContent {
    /// Path or other lasting name of the file.
    pub path: String,
    /// Hash of its bytes.
    pub content_hash: String,
    /// Why it could not be read; `documents` is then empty.
    pub skipped: Option<String>,
    /// Its documents, all of them.
    pub documents: Vec<DocumentContent>,
}

/// A document of a new or changed source file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentContent {
    /// Stable id. Two files may hold the same document.
    pub id: String,
    /// Its title.
    pub title: String,
    /// The side it is put on if the archive does not know it; a known document keeps its side.
    pub split: Split,
    /// Its passages, all of them; each names this document.
    pub passages: Vec<Passage>,
}

/// A document of the corpus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Document {
    /// Stable id.
    pub id: String,
    /// Its title.
    pub title: String,
    /// The side of the split that it was put on when first seen.
    pub split: Split,
    /// Whether no file holds it any more.
    pub retired: bool,
}

/// What one change of the corpus did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct CorpusSummary {
    /// Documents never seen before.
    pub documents_added: u64,
    /// Documents that no file holds any more.
    pub documents_retired: u64,
    /// Documents that came back.
    pub documents_restored: u64,
    /// Passages never seen before.
    pub passages_added: u64,
    /// Passages that stand in no document any more; their words are kept.
    pub passages_retired: u64,
    /// Passages that came back.
    pub passages_restored: u64,
    /// Tasks set aside because a document of their evidence went away.
    pub tasks_retired: u64,
    /// Tasks set aside, to be verified again, because a passage of their evidence changed.
    pub tasks_stale: u64,
    /// Tasks that play again because their evidence came back.
    pub tasks_restored: u64,
}

impl ArchiveReader {
    /// All source files ever seen, in order of path. A file whose state is `Read` and whose hash
    /// is the same need not be given to [`Archive::sync_corpus`] again.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn source_files(&self) -> Result<Vec<SourceFile>, ArchiveError> {
        self.read(|tx| {
            let mut statement = tx.prepare(
                "SELECT path, content_hash, state, reason FROM source_file ORDER BY path",
            )?;
            let files = statement.query_map([], |row| {
                Ok(SourceFile {
                    path: row.get(0)?,
                    content_hash: row.get(1)?,
                    state: value::named(row, 2)?,
                    reason: row.get(3)?,
                })
            })?;
            Ok(files.collect::<Result<_, _>>()?)
        })
    }

    /// All documents, retired ones included, in order of id.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn documents(&self) -> Result<Vec<Document>, ArchiveError> {
        self.read(|tx| {
            let mut statement =
                tx.prepare("SELECT id, title, split, retired FROM document ORDER BY id")?;
            let documents = statement.query_map([], |row| {
                Ok(Document {
                    id: row.get(0)?,
                    title: row.get(1)?,
                    split: value::named(row, 2)?,
                    retired: row.get(3)?,
                })
            })?;
            Ok(documents.collect::<Result<_, _>>()?)
        })
    }

    /// The passages of the present corpus, by document and position. One that stands in several
    /// documents is given once; a held-out document comes first among them, so that its words are
    /// never trained on.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn passages(&self) -> Result<Vec<Passage>, ArchiveError> {
        self.read(|tx| {
            let mut statement = tx.prepare(
                "SELECT p.id, d.id, p.title, p.text, dp.ordinal
                 FROM passage p
                 JOIN document_passage dp ON dp.passage_id = p.id AND dp.retired = 0
                 JOIN document d ON d.id = dp.document_id AND d.retired = 0
                 ORDER BY d.split = 'train', d.id, dp.ordinal, p.id",
            )?;
            let mut seen = BTreeSet::new();
            let mut passages = Vec::new();
            for passage in statement.query_map([], passage_of)? {
                let passage = passage?;
                if seen.insert(passage.id.clone()) {
                    passages.push(passage);
                }
            }
            passages.sort_by(|a, b| {
                (&a.document_id, a.ordinal, &a.id).cmp(&(&b.document_id, b.ordinal, &b.id))
            });
            Ok(passages)
        })
    }
}

/// Reads id, document, title, text, ordinal.
pub(super) fn passage_of(row: &Row<'_>) -> rusqlite::Result<Passage> {
    Ok(Passage {
        id: row.get(0)?,
        document_id: row.get(1)?,
        title: row.get(2)?,
        text: row.get(3)?,
        ordinal: row.get(4)?,
    })
}

impl Archive {
    /// Takes new and changed files, and the paths of those that vanished, into the archive. Files
    /// in neither list stay as they are. The same call again changes nothing.
    ///
    /// # Errors
    /// [`ArchiveError::Inconsistent`] when a passage id is known with other words, or a passage
    /// names another document than the one it is given with.
    pub fn sync_corpus(
        &self,
        changed: &[SourceFileContent],
        vanished: &[String],
    ) -> Result<CorpusSummary, ArchiveError> {
        let now = self.now();
        self.write(|tx| {
            let mut summary = CorpusSummary::default();
            for path in vanished {
                tx.prepare_cached(
                    "UPDATE source_file SET state = 'vanished', reason = NULL WHERE path = ?1",
                )?
                .execute([path])?;
                detach_file(tx, path)?;
            }
            for file in changed {
                put_file(tx, file, &now, &mut summary)?;
            }
            settle_documents_and_passages(tx, &mut summary)?;
            settle_tasks(tx, &mut summary)?;
            note_version(tx, &now)?;
            Ok(summary)
        })
    }
}

fn detach_file(tx: &Transaction<'_>, path: &str) -> Result<(), Failure> {
    tx.prepare_cached("UPDATE source_document SET retired = 1 WHERE path = ?1")?.execute([path])?;
    Ok(())
}

fn put_file(
    tx: &Transaction<'_>,
    file: &SourceFileContent,
    now: &str,
    summary: &mut CorpusSummary,
) -> Result<(), Failure> {
    let state = if file.skipped.is_some() { "skipped" } else { "read" };
    tx.prepare_cached(
        "INSERT INTO source_file (path, content_hash, state, reason) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (path) DO UPDATE SET content_hash = excluded.content_hash,
             state = excluded.state, reason = excluded.reason",
    )?
    .execute(params![file.path, file.content_hash, state, file.skipped])?;
    detach_file(tx, &file.path)?;
    for document in &file.documents {
        // What a person took out stays out, whatever its file says.
        let removed = "SELECT 1 FROM removal WHERE document_id = ?1";
        if tx.prepare_cached(removed)?.exists([&document.id])? {
            continue;
        }
        put_document(tx, document, now, summary)?;
        tx.prepare_cached(
            "INSERT INTO source_document (path, document_id, retired) VALUES (?1, ?2, 0)
             ON CONFLICT (path, document_id) DO UPDATE SET retired = 0",
        )?
        .execute(params![file.path, document.id])?;
    }
    Ok(())
}

fn put_document(
    tx: &Transaction<'_>,
    document: &DocumentContent,
    now: &str,
    summary: &mut CorpusSummary,
) -> Result<(), Failure> {
    // The split is not updated: moving a document would train on held-out words.
    let known = tx
        .prepare_cached("UPDATE document SET title = ?2 WHERE id = ?1")?
        .execute(params![document.id, document.title])?;
    if known == 0 {
        tx.prepare_cached(
            "INSERT INTO document (id, title, split, retired, first_seen_at)
             VALUES (?1, ?2, ?3, 0, ?4)",
        )?
        .execute(params![document.id, document.title, document.split.as_str(), now])?;
        summary.documents_added += 1;
    }
    tx.prepare_cached("UPDATE document_passage SET retired = 1 WHERE document_id = ?1")?
        .execute([&document.id])?;
    // Last to first, so that of two equal passages in one document the first place is kept.
    for passage in document.passages.iter().rev() {
        put_passage(tx, document, passage, summary)?;
    }
    Ok(())
}

fn put_passage(
    tx: &Transaction<'_>,
    document: &DocumentContent,
    passage: &Passage,
    summary: &mut CorpusSummary,
) -> Result<(), Failure> {
    if passage.document_id != document.id {
        return Err(Failure::inconsistent(format!(
            "passage {} given with document {} but cut from {}",
            passage.id, document.id, passage.document_id
        )));
    }
    let added = tx
        .prepare_cached(
            "INSERT INTO passage (id, title, text, retired) VALUES (?1, ?2, ?3, 0)
             ON CONFLICT (id) DO NOTHING",
        )?
        .execute(params![passage.id, passage.title, passage.text])?;
    summary.passages_added += added as u64;
    // One whose words were taken out with another document has them again.
    tx.prepare_cached("UPDATE passage SET title = ?2, text = ?3 WHERE id = ?1 AND text = ''")?
        .execute(params![passage.id, passage.title, passage.text])?;
    let same = "SELECT 1 FROM passage WHERE id = ?1 AND title = ?2 AND text = ?3";
    if added == 0
        && !tx.prepare_cached(same)?.exists(params![passage.id, passage.title, passage.text])?
    {
        return Err(Failure::inconsistent(format!("other words for passage {}", passage.id)));
    }
    tx.prepare_cached(
        "INSERT INTO document_passage (document_id, passage_id, ordinal, retired)
         VALUES (?1, ?2, ?3, 0)
         ON CONFLICT (document_id, passage_id) DO UPDATE SET ordinal = excluded.ordinal,
             retired = 0",
    )?
    .execute(params![document.id, passage.id, passage.ordinal])?;
    Ok(())
}

/// Brings the `retired` marks in line with which files hold which documents hold which passages.
fn settle_documents_and_passages(
    tx: &Transaction<'_>,
    summary: &mut CorpusSummary,
) -> Result<(), Failure> {
    let held = "EXISTS (SELECT 1 FROM source_document s
                        WHERE s.document_id = document.id AND s.retired = 0)";
    summary.documents_retired = settle(tx, "document", 1, &format!("NOT {held}"))?;
    summary.documents_restored = settle(tx, "document", 0, held)?;
    let stands = "EXISTS (SELECT 1 FROM document_passage dp
                          JOIN document d ON d.id = dp.document_id AND d.retired = 0
                          WHERE dp.passage_id = passage.id AND dp.retired = 0)";
    summary.passages_retired = settle(tx, "passage", 1, &format!("NOT {stands}"))?;
    summary.passages_restored = settle(tx, "passage", 0, stands)?;
    Ok(())
}

fn settle(tx: &Transaction<'_>, table: &str, retired: u8, condition: &str) -> Result<u64, Failure> {
    let sql = format!(
        "UPDATE {table} SET retired = {retired} WHERE retired <> {retired} AND {condition}"
    );
    Ok(tx.execute(&sql, [])? as u64)
}

/// Sets tasks aside whose evidence cannot be found by search any more: those of which a document
/// went away are retired, those of which one only changed are stale. They come back with their
/// evidence.
fn settle_tasks(tx: &Transaction<'_>, summary: &mut CorpusSummary) -> Result<(), Failure> {
    const GONE: &str = "EXISTS (
        SELECT 1 FROM task_evidence e JOIN passage p ON p.id = e.passage_id
        WHERE e.task_id = task.id AND p.retired = 1)";
    const WITHOUT_DOCUMENT: &str = "EXISTS (
        SELECT 1 FROM task_evidence e JOIN passage p ON p.id = e.passage_id
        WHERE e.task_id = task.id AND p.retired = 1 AND NOT EXISTS (
            SELECT 1 FROM document_passage dp JOIN document d ON d.id = dp.document_id
            WHERE dp.passage_id = p.id AND d.retired = 0))";
    let set = |state: &str, condition: String| -> Result<u64, Failure> {
        let reason = if state == "active" { "NULL" } else { "'evidence'" };
        let sql =
            format!("UPDATE task SET state = '{state}', state_reason = {reason} WHERE {condition}");
        Ok(tx.execute(&sql, [])? as u64)
    };
    summary.tasks_retired =
        set("retired", format!("state IN ('active', 'stale') AND {WITHOUT_DOCUMENT}"))?;
    summary.tasks_stale = set(
        "stale",
        format!(
            "(state = 'active' OR (state = 'retired' AND state_reason = 'evidence'))
             AND {GONE} AND NOT {WITHOUT_DOCUMENT}"
        ),
    )?;
    summary.tasks_restored = set("active", format!("state_reason = 'evidence' AND NOT {GONE}"))?;
    Ok(())
}

/// Notes which passages stand where now: the version of the corpus that drafts are made from.
pub(super) fn note_version(tx: &Transaction<'_>, now: &str) -> Result<(), Failure> {
    let mut hasher = Hasher::new();
    let (mut documents, mut passages, mut last) = (0_u64, 0_u64, String::new());
    let mut statement = tx.prepare(
        "SELECT dp.document_id, dp.ordinal, dp.passage_id FROM document_passage dp
         JOIN document d ON d.id = dp.document_id AND d.retired = 0
         WHERE dp.retired = 0 ORDER BY dp.document_id, dp.ordinal, dp.passage_id",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (document, ordinal, passage): (String, u32, String) =
            (row.get(0)?, row.get(1)?, row.get(2)?);
        hasher.update(format!("{document} {ordinal} {passage}\n").as_bytes());
        passages += 1;
        documents += u64::from(document != last);
        last = document;
    }
    let id = hasher.finalize().to_hex()[..16].to_string();
    tx.execute(
        "INSERT INTO corpus_version (id, documents, passages, first_seen_at)
         VALUES (?1, ?2, ?3, ?4) ON CONFLICT (id) DO NOTHING",
        params![id, documents as i64, passages as i64, now],
    )?;
    tx.execute(
        "INSERT INTO meta (key, value) VALUES ('corpus_version', ?1)
         ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        [id],
    )?;
    Ok(())
}
