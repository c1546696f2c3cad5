//! Where a task came from and what was done with it: all of it, in one piece.

use std::collections::BTreeSet;

use rusqlite::OptionalExtension;
use rusqlite::Transaction;
use rusqlite::params;
use serde::Serialize;

use super::ArchiveReader;
use super::corpus;
use super::error::ArchiveError;
use super::error::Failure;
use super::import;
use super::import::Imported;
use super::model;
use super::model::ModelVersion;
use super::rollout;
use super::rollout::StoredRollout;
use super::standing;
use super::standing::StandingChange;
use super::task;
use super::task::StoredTask;
use super::value;
use super::verification;
use super::verification::Verification;
use crate::task::Draft;
use crate::task::Passage;
use crate::task::Seed;
use crate::task::Verdict;

/// A passage that a task rests on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PassageDetail {
    /// The passage, with the document that holds it or last held it.
    #[serde(flatten)]
    pub passage: Passage,
    /// Whether it left the corpus.
    pub retired: bool,
    /// The files that hold, or last held, its document.
    pub sources: Vec<String>,
}

/// The lineage of a task.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TaskDetail {
    /// The task with its counts.
    #[serde(flatten)]
    pub task: StoredTask,
    /// Its evidence, first hop first.
    pub passages: Vec<PassageDetail>,
    /// The draft it was.
    pub draft: Draft,
    /// What the checks said, in the order of the gate.
    pub verdicts: Vec<Verdict>,
    /// The times that it went through the gate again, after its evidence had changed.
    pub verifications: Vec<Verification>,
    /// The times that its standing in the curriculum changed, first to last.
    pub standings: Vec<StandingChange>,
    /// Every attempt, by night, round and place in the group.
    pub rollouts: Vec<StoredRollout>,
    /// The versions that wrote or attempted it and the versions those came from, by id.
    pub model_versions: Vec<ModelVersion>,
    /// Tasks it was made from.
    pub parents: Vec<String>,
    /// Tasks made from it, by id.
    pub children: Vec<String>,
    /// What it was before an import brought it.
    pub imported: Option<Imported>,
}

impl ArchiveReader {
    /// The lineage of the task whose id is, or begins with, `prefix`.
    ///
    /// # Errors
    /// [`ArchiveError::NotFound`] or [`ArchiveError::Ambiguous`].
    pub fn task_detail(&self, prefix: &str) -> Result<TaskDetail, ArchiveError> {
        self.read(|tx| {
            let id = resolve(tx, prefix)?;
            let sql = task::select("", "WHERE t.id = ?1");
            let task = tx.query_row(&sql, [&id], |row| task::task_of(tx, row))?;
            let draft = draft(tx, &id)?;
            let rollouts = rollout::select(tx, "r.task_id = ?1", [&id])?;
            let passages = task.task.evidence.iter().map(|passage| passage_detail(tx, passage));
            let passages = passages.collect::<Result<_, _>>()?;
            let sampled = rollouts.iter().map(|stored| stored.rollout.model_version.clone());
            let imported = import::imported(tx, &id)?;
            // The version that wrote an imported one is another archive's, whatever its name.
            let writer = imported.is_none().then(|| draft.model_version.clone());
            let used = sampled.chain(writer).collect();
            Ok(TaskDetail {
                passages,
                verdicts: verdicts(tx, &id)?,
                verifications: verification::verifications(tx, &id)?,
                standings: standing::changes(tx, &id)?,
                model_versions: with_ancestors(tx, used)?,
                parents: ids(
                    tx,
                    "SELECT parent_id FROM task_parent WHERE task_id = ?1 ORDER BY ordinal",
                    &id,
                )?,
                children: ids(
                    tx,
                    "SELECT task_id FROM task_parent WHERE parent_id = ?1 ORDER BY task_id",
                    &id,
                )?,
                task,
                draft,
                rollouts,
                imported,
            })
        })
    }
}

/// The one task id that is, or begins with, `prefix`.
fn resolve(tx: &Transaction<'_>, prefix: &str) -> Result<String, Failure> {
    if tx.prepare("SELECT 1 FROM task WHERE id = ?1")?.exists([prefix])? {
        return Ok(prefix.to_string());
    }
    // A range, so that the index is used: ids are of ASCII, and no character of theirs is above.
    let (matches, id): (i64, Option<String>) = tx.query_row(
        "SELECT count(*), min(id) FROM task WHERE id >= ?1 AND id < ?1 || char(127)",
        [prefix],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    match (matches, id) {
        (1, Some(id)) => Ok(id),
        (0, _) => Err(Failure::not_found("task", prefix)),
        _ => {
            let (prefix, matches) = (prefix.to_string(), matches.cast_unsigned());
            Err(ArchiveError::Ambiguous { prefix, matches }.into())
        }
    }
}

pub(super) fn ids(tx: &Transaction<'_>, sql: &str, id: &str) -> Result<Vec<String>, Failure> {
    let mut statement = tx.prepare_cached(sql)?;
    Ok(statement.query_map([id], |row| row.get(0))?.collect::<Result<_, _>>()?)
}

/// The document that a passage stands in, or last stood in.
pub(super) fn document_of(tx: &Transaction<'_>, passage: &str) -> Result<Option<String>, Failure> {
    let mut statement = tx.prepare_cached(
        "SELECT d.id FROM document_passage dp JOIN document d ON d.id = dp.document_id
         WHERE dp.passage_id = ?1
         ORDER BY dp.retired OR d.retired, d.split = 'train', d.id LIMIT 1",
    )?;
    Ok(statement.query_row([passage], |row| row.get(0)).optional()?)
}

/// The corpus that a draft was made from, with its documents and passages; none where that was not
/// noted.
pub(super) fn corpus_version_of(
    tx: &Transaction<'_>,
    draft: &str,
) -> Result<Option<(String, i64, i64)>, Failure> {
    let mut statement = tx.prepare_cached(
        "SELECT c.id, c.documents, c.passages FROM draft d
         JOIN corpus_version c ON c.id = d.corpus_version WHERE d.id = ?1",
    )?;
    let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
    Ok(statement.query_row([draft], read).optional()?)
}

pub(super) fn passage_detail(tx: &Transaction<'_>, id: &str) -> Result<PassageDetail, Failure> {
    // A place that still stands before one that does not, then as `passages` chooses.
    let (passage, retired) = tx.query_row(
        "SELECT p.id, d.id, p.title, p.text, dp.ordinal, p.retired
         FROM passage p
         JOIN document_passage dp ON dp.passage_id = p.id
         JOIN document d ON d.id = dp.document_id
         WHERE p.id = ?1
         ORDER BY dp.retired OR d.retired, d.split = 'train', d.id LIMIT 1",
        [id],
        |row| Ok((corpus::passage_of(row)?, row.get(5)?)),
    )?;
    let mut statement = tx.prepare(
        "SELECT path FROM source_document WHERE document_id = ?1
         AND retired = (SELECT min(retired) FROM source_document WHERE document_id = ?1)
         ORDER BY path",
    )?;
    let sources = statement.query_map([&passage.document_id], |row| row.get(0))?;
    let sources = sources.collect::<Result<_, _>>()?;
    Ok(PassageDetail { passage, retired, sources })
}

pub(super) fn draft(tx: &Transaction<'_>, id: &str) -> Result<Draft, Failure> {
    let mut statement = tx.prepare_cached(
        "SELECT d.seed_id, d.id, d.origin, s.answer, s.kind, d.question, d.transcript,
                d.model_version
         FROM draft d JOIN seed s ON s.id = d.seed_id WHERE d.id = ?1",
    )?;
    let (seed_id, mut draft) = statement.query_row([id], |row| {
        let draft = Draft {
            id: row.get(1)?,
            origin: value::named(row, 2)?,
            seed: Seed { answer: row.get(3)?, kind: value::named(row, 4)?, path: Vec::new() },
            question: row.get(5)?,
            transcript: row.get(6)?,
            model_version: row.get(7)?,
        };
        Ok((row.get::<_, String>(0)?, draft))
    })?;
    let path = "SELECT passage_id FROM seed_passage WHERE seed_id = ?1 ORDER BY ordinal";
    draft.seed.path = ids(tx, path, &seed_id)?;
    Ok(draft)
}

pub(super) fn verdicts(tx: &Transaction<'_>, id: &str) -> Result<Vec<Verdict>, Failure> {
    let mut statement = tx.prepare_cached(
        "SELECT name, rejection, required, evidence_json FROM verdict
         WHERE draft_id = ?1 ORDER BY ordinal",
    )?;
    let verdicts = statement.query_map(params![id], |row| {
        Ok(Verdict {
            check: row.get(0)?,
            rejection: value::named_or_none(row, 1)?,
            required: row.get(2)?,
            evidence: value::json(row, 3)?,
        })
    })?;
    Ok(verdicts.collect::<Result<_, _>>()?)
}

/// The versions in `used` that the archive has, and all they came from.
fn with_ancestors(
    tx: &Transaction<'_>,
    used: BTreeSet<String>,
) -> Result<Vec<ModelVersion>, Failure> {
    let mut statement = tx.prepare(
        "WITH RECURSIVE line (id) AS (
             SELECT id FROM model_version WHERE id = ?1
             UNION
             SELECT m.parent FROM model_version m JOIN line ON m.id = line.id
             WHERE m.parent IS NOT NULL)
         SELECT id FROM line",
    )?;
    let mut all = BTreeSet::new();
    for id in used {
        for ancestor in statement.query_map([id], |row| row.get::<_, String>(0))? {
            all.insert(ancestor?);
        }
    }
    let mut versions = Vec::new();
    for id in all {
        versions.extend(model::find(tx, &id)?);
    }
    Ok(versions)
}

impl ArchiveReader {
    /// The draft of that id with its verdicts, whether or not it became a task.
    ///
    /// # Errors
    /// [`ArchiveError::NotFound`] when there is no such draft.
    pub fn draft(&self, id: &str) -> Result<(Draft, Vec<Verdict>), ArchiveError> {
        self.read(|tx| {
            let known =
                tx.query_row("SELECT 1 FROM draft WHERE id = ?1", [id], |_| Ok(())).optional()?;
            if known.is_none() {
                return Err(Failure::not_found("draft", id));
            }
            Ok((draft(tx, id)?, verdicts(tx, id)?))
        })
    }
}
