//! Tasks with all that an export tells of them, one task at a time.

use rusqlite::OptionalExtension;
use rusqlite::Transaction;

use super::ArchiveReader;
use super::corpus::Document;
use super::error::ArchiveError;
use super::error::Failure;
use super::import;
use super::import::Imported;
use super::import::Play;
use super::lineage;
use super::listing::Cursor;
use super::listing::TaskFilter;
use super::task::StoredTask;
use super::tokens;
use super::value;
use crate::rollout::Owner;
use crate::rollout::Score;
use crate::rollout::StopReason;
use crate::task::Draft;
use crate::task::Passage;
use crate::task::Verdict;

/// A passage with every document that it stands in, or once stood in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedPassage {
    /// The passage, with the document that holds it or last held it.
    pub passage: Passage,
    /// All its documents; that one first.
    pub documents: Vec<Document>,
    /// A file that holds, or last held, the first of them.
    pub source: Option<String>,
}

/// A rollout without its tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct Attempt {
    /// The night it was made in.
    pub night: u32,
    /// The round of that night.
    pub round: u32,
    /// Its place in the group.
    pub index: u32,
    /// The policy that sampled it.
    pub model_version: String,
    /// The answer read from it.
    pub answer: Option<String>,
    /// How often the model wrote: more than once where it searched by itself.
    pub turns: usize,
    /// Why it ended.
    pub stop: StopReason,
    /// Whether its tokens were removed.
    pub tokens_removed: bool,
    /// Ids of the passages it was shown, best first.
    pub retrieved: Vec<String>,
    /// How it was judged.
    pub score: Score,
}

/// A task with what an export tells of it.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskRecord {
    /// The task with its counts.
    pub task: StoredTask,
    /// Its evidence, first hop first.
    pub evidence: Vec<PlacedPassage>,
    /// The draft it was.
    pub draft: Draft,
    /// What the checks said, in the order of the gate.
    pub verdicts: Vec<Verdict>,
    /// Tasks it was made from.
    pub parents: Vec<String>,
    /// Every attempt, by night, round and place in the group.
    pub attempts: Vec<Attempt>,
    /// What each version made of it.
    pub plays: Vec<Play>,
    /// What it was before an import brought it.
    pub imported: Option<Imported>,
}

impl ArchiveReader {
    /// A page of the tasks that `filter` lets through, and where the next begins. Each task is
    /// read in a transaction of its own, so that an export of a large archive holds up nobody; one
    /// that was removed in between, or whose evidence a person took out, is left out.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn task_records(
        &self,
        filter: &TaskFilter,
    ) -> Result<(Vec<TaskRecord>, Option<Cursor>), ArchiveError> {
        let page = self.task_page(filter)?;
        let mut records = Vec::with_capacity(page.tasks.len());
        for task in page.tasks {
            records.extend(self.read(|tx| record(tx, task))?);
        }
        Ok((records, page.next))
    }

    /// The passages of these ids with the documents they stand in, in the same order; those that
    /// the archive does not have, or not the words of, are left out.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn placed_passages(&self, ids: &[String]) -> Result<Vec<PlacedPassage>, ArchiveError> {
        self.read(|tx| ids.iter().filter_map(|id| placed(tx, id).transpose()).collect())
    }
}

/// None when the task, or a passage of its evidence, is there no more.
fn record(tx: &Transaction<'_>, task: StoredTask) -> Result<Option<TaskRecord>, Failure> {
    let id = task.task.id.clone();
    let known = "SELECT 1 FROM task WHERE id = ?1";
    if !tx.prepare_cached(known)?.exists([&id])? {
        return Ok(None);
    }
    let mut evidence = Vec::with_capacity(task.task.evidence.len());
    for passage in &task.task.evidence {
        let Some(placed) = placed(tx, passage)? else { return Ok(None) };
        evidence.push(placed);
    }
    let parents = "SELECT parent_id FROM task_parent WHERE task_id = ?1 ORDER BY ordinal";
    Ok(Some(TaskRecord {
        evidence,
        draft: lineage::draft(tx, &id)?,
        verdicts: lineage::verdicts(tx, &id)?,
        parents: lineage::ids(tx, parents, &id)?,
        attempts: attempts(tx, &id)?,
        plays: import::plays(tx, &id)?,
        imported: import::imported(tx, &id)?,
        task,
    }))
}

fn placed(tx: &Transaction<'_>, id: &str) -> Result<Option<PlacedPassage>, Failure> {
    let mut statement = tx.prepare_cached(
        "SELECT p.title, p.text, dp.ordinal, d.id, d.title, d.split, d.retired
         FROM passage p
         JOIN document_passage dp ON dp.passage_id = p.id
         JOIN document d ON d.id = dp.document_id
         WHERE p.id = ?1 AND p.text <> '' -- taken out
         ORDER BY dp.retired OR d.retired, d.split = 'train', d.id",
    )?;
    let mut rows = statement.query([id])?;
    let (mut passage, mut documents) = (None, Vec::new());
    while let Some(row) = rows.next()? {
        let document = Document {
            id: row.get(3)?,
            title: row.get(4)?,
            split: value::named(row, 5)?,
            retired: row.get(6)?,
        };
        if passage.is_none() {
            passage = Some(Passage {
                id: id.to_string(),
                document_id: document.id.clone(),
                title: row.get(0)?,
                text: row.get(1)?,
                ordinal: row.get(2)?,
            });
        }
        documents.push(document);
    }
    let Some(passage) = passage else { return Ok(None) };
    let source = "SELECT path FROM source_document WHERE document_id = ?1
                  ORDER BY retired, path LIMIT 1";
    let source = tx
        .prepare_cached(source)?
        .query_row([&passage.document_id], |row| row.get(0))
        .optional()?;
    Ok(Some(PlacedPassage { passage, documents, source }))
}

fn turns(steps: &[(Owner, usize)]) -> usize {
    steps.iter().filter(|(owner, _)| *owner == Owner::Model).count()
}

/// Those that answer the question alone: what went on from an earlier answer was asked otherwise.
fn attempts(tx: &Transaction<'_>, task: &str) -> Result<Vec<Attempt>, Failure> {
    let mut statement = tx.prepare_cached(&format!(
        "SELECT night, round, ordinal, model_version, answer, stop, retrieved_json, exact_match,
                f1, reward, steps_json, {}
         FROM rollout r WHERE task_id = ?1 AND NOT EXISTS (
             SELECT 1 FROM group_start g
             WHERE g.task_id = r.task_id AND g.night = r.night AND g.round = r.round)
         ORDER BY night, round, ordinal",
        tokens::are_removed("r.night")
    ))?;
    let attempts = statement.query_map([task], |row| {
        Ok(Attempt {
            night: row.get(0)?,
            round: row.get(1)?,
            index: row.get(2)?,
            model_version: row.get(3)?,
            answer: row.get(4)?,
            stop: value::named(row, 5)?,
            retrieved: value::json(row, 6)?,
            score: Score { exact_match: row.get(7)?, f1: row.get(8)?, reward: row.get(9)? },
            tokens_removed: row.get(11)?,
            turns: turns(&value::json::<Vec<(Owner, usize)>>(row, 10)?),
        })
    })?;
    Ok(attempts.collect::<Result<_, _>>()?)
}
