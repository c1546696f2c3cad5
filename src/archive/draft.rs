//! Drafts, what the gate said about them, and the tasks that passed.

use std::collections::BTreeMap;

use rusqlite::Transaction;
use rusqlite::params;
use serde::Serialize;
use unicode_normalization::UnicodeNormalization;

use super::Archive;
use super::ArchiveReader;
use super::error::ArchiveError;
use super::error::Failure;
use super::night::Unit;
use super::value;
use crate::rng::content_id;
use crate::task::Draft;
use crate::task::Origin;
use crate::task::Rejection;
use crate::task::Seed;
use crate::task::Task;
use crate::task::Verdict;

/// A draft that went through the gate.
#[derive(Debug, Clone, PartialEq)]
pub struct GatedDraft {
    /// What was proposed.
    pub draft: Draft,
    /// What the checks said, in the order of the gate.
    pub verdicts: Vec<Verdict>,
    /// The task it became: exactly when no required check rejected it.
    pub task: Option<Task>,
    /// Tasks it was made from, none for one made from documents alone.
    pub parents: Vec<String>,
}

/// How the drafts of one origin fared. `drafts` is `accepted` plus all rejections.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct GateCounts {
    /// Drafts put forward.
    pub drafts: u64,
    /// Drafts that became tasks.
    pub accepted: u64,
    /// Drafts turned away, by the first required check that did so.
    pub rejections: BTreeMap<Rejection, u64>,
}

/// A question reduced to its words: compatibility forms unified, lower case, no punctuation.
fn question_key(question: &str) -> String {
    let folded: String = question.nfkc().flat_map(char::to_lowercase).collect();
    let words: Vec<&str> =
        folded.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    words.join(" ")
}

/// The id under which a seed is stored.
fn seed_id(seed: &Seed) -> String {
    let mut parts = vec!["seed", seed.answer.as_str(), seed.kind.as_str()];
    parts.extend(seed.path.iter().map(String::as_str));
    content_id(&parts)
}

impl ArchiveReader {
    /// Whether a task asks this question, in these words or with other case and punctuation.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn has_question(&self, question: &str) -> Result<bool, ArchiveError> {
        self.read(|tx| {
            let mut statement = tx.prepare_cached("SELECT 1 FROM task WHERE question_key = ?1")?;
            Ok(statement.exists([question_key(question)])?)
        })
    }

    /// The questions of all tasks, retired ones included, in order of task id.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn questions(&self) -> Result<Vec<String>, ArchiveError> {
        self.read(|tx| {
            let mut statement = tx.prepare("SELECT question FROM task ORDER BY id")?;
            Ok(statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?)
        })
    }

    /// How the drafts of one night, or of all, fared at the gate. Every origin has an entry.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn gate_counts(
        &self,
        night: Option<u32>,
    ) -> Result<BTreeMap<Origin, GateCounts>, ArchiveError> {
        self.read(|tx| {
            // The first required rejection decides, as in the gate itself.
            let mut statement = tx.prepare(
                "SELECT d.origin, t.id IS NOT NULL,
                        (SELECT v.rejection FROM verdict v
                         WHERE v.draft_id = d.id AND v.required = 1 AND v.rejection IS NOT NULL
                         ORDER BY v.ordinal LIMIT 1) AS reason,
                        count(*)
                 FROM draft d LEFT JOIN task t ON t.id = d.id
                 WHERE ?1 IS NULL OR d.night = ?1
                 GROUP BY 1, 2, 3",
            )?;
            let mut counts: BTreeMap<Origin, GateCounts> =
                Origin::ALL.into_iter().map(|origin| (origin, GateCounts::default())).collect();
            let mut rows = statement.query([night])?;
            while let Some(row) = rows.next()? {
                let counts = counts.entry(value::named(row, 0)?).or_default();
                let accepted: bool = row.get(1)?;
                let reason: Option<Rejection> = value::named_or_none(row, 2)?;
                let n = row.get::<_, i64>(3)?.cast_unsigned();
                counts.drafts += n;
                if accepted {
                    counts.accepted += n;
                }
                if let Some(reason) = reason {
                    *counts.rejections.entry(reason).or_default() += n;
                }
            }
            Ok(counts)
        })
    }
}

impl Archive {
    /// Stores drafts with their verdicts and the tasks they became. Returns false, and changes
    /// nothing, when the unit is already there.
    ///
    /// # Errors
    /// [`ArchiveError::Inconsistent`] when a draft has a task although a required check rejected
    /// it, has neither, or refers to a passage the archive does not have.
    pub fn record_drafts(
        &self,
        unit: &Unit<'_>,
        drafts: &[GatedDraft],
    ) -> Result<bool, ArchiveError> {
        self.write_unit(unit, |tx| {
            for gated in drafts {
                refuse_contradictions(unit, gated)?;
                put_draft(tx, unit.night, &gated.draft)?;
                put_verdicts(tx, gated)?;
                if let Some(task) = &gated.task {
                    put_task(tx, task, &gated.parents)?;
                }
            }
            Ok(())
        })
    }
}

/// The gate fails closed; the archive does not take its word for it.
fn refuse_contradictions(unit: &Unit<'_>, gated: &GatedDraft) -> Result<(), Failure> {
    let GatedDraft { draft, verdicts, task, .. } = gated;
    let rejected = verdicts.iter().find(|v| v.required && v.rejection.is_some());
    let problem = match (task, rejected) {
        (Some(_), Some(verdict)) => format!("a task although check {} rejected it", verdict.check),
        (None, None) => "neither a task nor a rejection".to_string(),
        (None, Some(_)) => return Ok(()),
        (Some(task), None) => {
            if task.id != draft.id {
                format!("a task with another id, {}", task.id)
            } else if task.origin != draft.origin {
                "a task of another origin".to_string()
            } else if task.night != unit.night {
                format!("a task of night {} in a unit of night {}", task.night, unit.night)
            } else if task.evidence.is_empty() {
                "a task without evidence".to_string()
            } else {
                return Ok(());
            }
        }
    };
    Err(Failure::inconsistent(format!("draft {}: it has {problem}", draft.id)))
}

fn put_draft(tx: &Transaction<'_>, night: u32, draft: &Draft) -> Result<(), Failure> {
    let seed_id = put_seed(tx, &draft.seed)?;
    tx.prepare_cached(
        "INSERT INTO draft (id, night, origin, seed_id, question, transcript, model_version)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![
        draft.id,
        night,
        draft.origin.as_str(),
        seed_id,
        draft.question,
        draft.transcript,
        draft.model_version,
    ])?;
    Ok(())
}

fn put_seed(tx: &Transaction<'_>, seed: &Seed) -> Result<String, Failure> {
    let id = seed_id(seed);
    let added = tx
        .prepare_cached(
            "INSERT INTO seed (id, answer, kind) VALUES (?1, ?2, ?3) ON CONFLICT (id) DO NOTHING",
        )?
        .execute(params![id, seed.answer, seed.kind.as_str()])?;
    if added > 0 {
        let mut statement = tx.prepare_cached(
            "INSERT INTO seed_passage (seed_id, ordinal, passage_id) VALUES (?1, ?2, ?3)",
        )?;
        for (ordinal, passage) in seed.path.iter().enumerate() {
            statement.execute(params![id, ordinal as i64, passage])?;
        }
    }
    Ok(id)
}

fn put_verdicts(tx: &Transaction<'_>, gated: &GatedDraft) -> Result<(), Failure> {
    let mut statement = tx.prepare_cached(
        "INSERT INTO verdict (draft_id, ordinal, name, rejection, required, evidence_json)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    for (ordinal, verdict) in gated.verdicts.iter().enumerate() {
        statement.execute(params![
            gated.draft.id,
            ordinal as i64,
            verdict.check,
            verdict.rejection.map(Rejection::as_str),
            verdict.required,
            verdict.evidence.to_string(),
        ])?;
    }
    Ok(())
}

fn put_task(tx: &Transaction<'_>, task: &Task, parents: &[String]) -> Result<(), Failure> {
    tx.prepare_cached(
        "INSERT INTO task (id, origin, question, question_key, answer, kind, split, night, state)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 'active')",
    )?
    .execute(params![
        task.id,
        task.origin.as_str(),
        task.question,
        question_key(&task.question),
        task.answer,
        task.kind.as_str(),
        task.split.as_str(),
        task.night,
    ])?;
    let mut evidence = tx.prepare_cached(
        "INSERT INTO task_evidence (task_id, ordinal, passage_id) VALUES (?1, ?2, ?3)",
    )?;
    for (ordinal, passage) in task.evidence.iter().enumerate() {
        evidence.execute(params![task.id, ordinal as i64, passage])?;
    }
    let mut lineage = tx.prepare_cached(
        "INSERT INTO task_parent (task_id, ordinal, parent_id) VALUES (?1, ?2, ?3)",
    )?;
    for (ordinal, parent) in parents.iter().enumerate() {
        lineage.execute(params![task.id, ordinal as i64, parent])?;
    }
    Ok(())
}
