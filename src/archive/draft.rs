//! Drafts, what the gate said about them, and the tasks that passed.

use std::collections::BTreeMap;
use std::collections::HashSet;

use rusqlite::Transaction;
use rusqlite::params;
use serde::Deserialize;
use serde::Serialize;

use super::Archive;
use super::ArchiveReader;
use super::error::ArchiveError;
use super::error::Failure;
use super::lineage;
use super::minhash;
use super::night::Unit;
use super::value;
use crate::answer;
use crate::rng;
use crate::rng::content_id;
use crate::task::Draft;
use crate::task::Origin;
use crate::task::Rejection;
use crate::task::Seed;
use crate::task::Task;
use crate::task::Verdict;
use crate::verifier::CHECKS;

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

/// How drafts fared at one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckCounts {
    /// The check.
    pub check: String,
    /// Drafts that came to it.
    pub drafts: u64,
    /// Drafts that it turned away.
    pub rejected: u64,
    /// Drafts that it would have turned away, had it not only been recorded.
    pub recorded: u64,
}

/// A hash of a question's words: 64 bits, so that a false match among a million questions is a one
/// in 10⁸ event.
pub(super) fn question_hash(question: &str) -> i64 {
    rng::derive(0, &[&answer::question_key(question)]).cast_signed()
}

/// The id under which a seed is stored.
fn seed_id(seed: &Seed) -> String {
    let mut parts = vec!["seed", seed.answer.as_str(), seed.kind.as_str()];
    parts.extend(seed.path.iter().map(String::as_str));
    content_id(&parts)
}

impl ArchiveReader {
    /// Whether a task, or a suite, asks this question, in these words or with other case and
    /// punctuation: a draft must not.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn has_question(&self, question: &str) -> Result<bool, ArchiveError> {
        self.read(|tx| {
            let mut statement = tx.prepare_cached(
                "SELECT 1 FROM task WHERE question_hash = ?1
                 UNION ALL SELECT 1 FROM suite_item WHERE question_hash = ?1",
            )?;
            Ok(statement.exists([question_hash(question)])?)
        })
    }

    /// Ids of the tasks of the training side that ask what a suite asks: they are not to be
    /// trained on.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn tasks_of_suites(&self) -> Result<HashSet<String>, ArchiveError> {
        self.read(|tx| {
            let mut statement = tx.prepare_cached(
                "SELECT t.id FROM suite_item i CROSS JOIN task t
                 ON t.question_hash = i.question_hash WHERE t.split = 'train'",
            )?;
            Ok(statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?)
        })
    }

    /// The questions of all tasks, retired ones included, in order of task id.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn questions(&self) -> Result<Vec<String>, ArchiveError> {
        self.read(|tx| {
            let mut statement = tx.prepare("SELECT question FROM task_view ORDER BY id")?;
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
            let mut statement = tx.prepare(
                "SELECT origin, rejection, count(*) FROM draft
                 WHERE ?1 IS NULL OR night = ?1 GROUP BY 1, 2",
            )?;
            let mut counts: BTreeMap<Origin, GateCounts> =
                Origin::ALL.into_iter().map(|origin| (origin, GateCounts::default())).collect();
            let mut rows = statement.query([night])?;
            while let Some(row) = rows.next()? {
                let counts = counts.entry(value::named(row, 0)?).or_default();
                let n = row.get::<_, i64>(2)?.cast_unsigned();
                counts.drafts += n;
                match value::named_or_none(row, 1)? {
                    None => counts.accepted += n,
                    Some(reason) => *counts.rejections.entry(reason).or_default() += n,
                }
            }
            Ok(counts)
        })
    }
}

impl ArchiveReader {
    /// How many drafts of a night became tasks although a check rejected them that was only
    /// recorded, by origin.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn accepted_unverified(&self, night: u32) -> Result<BTreeMap<Origin, u64>, ArchiveError> {
        self.read(|tx| {
            let mut statement = tx.prepare(
                "SELECT origin, count(*) FROM draft d WHERE night = ?1 AND rejection IS NULL
                 AND EXISTS (SELECT 1 FROM verdict v
                             WHERE v.draft_id = d.id AND v.rejection IS NOT NULL)
                 GROUP BY 1",
            )?;
            let counts = statement.query_map([night], |row| {
                Ok((value::named(row, 0)?, row.get::<_, i64>(1)?.cast_unsigned()))
            })?;
            Ok(counts.collect::<Result<_, _>>()?)
        })
    }

    /// How the drafts of one night, or of all, fared at each check that they came to, by origin and
    /// in the order of the gate.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn check_counts(
        &self,
        night: Option<u32>,
    ) -> Result<BTreeMap<Origin, Vec<CheckCounts>>, ArchiveError> {
        self.read(|tx| {
            let mut statement = tx.prepare(
                "SELECT d.origin, v.name, count(*), sum(v.rejection IS NOT NULL AND v.required),
                        sum(v.rejection IS NOT NULL AND NOT v.required)
                 FROM draft d JOIN verdict v ON v.draft_id = d.id
                 WHERE ?1 IS NULL OR d.night = ?1 GROUP BY 1, 2 ORDER BY 1, 2",
            )?;
            let mut counts: BTreeMap<Origin, Vec<CheckCounts>> = BTreeMap::new();
            let mut rows = statement.query([night])?;
            while let Some(row) = rows.next()? {
                let count = |column| row.get::<_, i64>(column).map(i64::cast_unsigned);
                let of_check = CheckCounts {
                    check: row.get(1)?,
                    drafts: count(2)?,
                    rejected: count(3)?,
                    recorded: count(4)?,
                };
                counts.entry(value::named(row, 0)?).or_default().push(of_check);
            }
            // Those that this program does not know come last.
            let place = |check: &str| CHECKS.iter().position(|name| *name == check);
            for checks in counts.values_mut() {
                checks.sort_by_key(|counts| place(&counts.check).unwrap_or(CHECKS.len()));
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
            drafts.iter().try_for_each(|gated| put_gated(tx, Some(unit.night), gated))
        })
    }
}

/// Stores a draft of a night, or of a person, with its verdicts and the task that it became.
pub(super) fn put_gated(
    tx: &Transaction<'_>,
    night: Option<u32>,
    gated: &GatedDraft,
) -> Result<(), Failure> {
    refuse_contradictions(night, gated)?;
    let number = put_draft(tx, night, gated)?;
    put_verdicts(tx, gated)?;
    match &gated.task {
        Some(task) => put_task(tx, number, task, gated),
        None => Ok(()),
    }
}

impl GatedDraft {
    /// The first required check that turned it away: it decides, as in the gate itself.
    fn rejected_by(&self) -> Option<&Verdict> {
        self.verdicts.iter().find(|verdict| verdict.required && verdict.rejection.is_some())
    }
}

/// The gate fails closed; the archive does not take its word for it.
fn refuse_contradictions(night: Option<u32>, gated: &GatedDraft) -> Result<(), Failure> {
    let GatedDraft { draft, task, .. } = gated;
    let rejected = gated.rejected_by();
    let problem = match (task, rejected) {
        (Some(_), Some(verdict)) => format!("a task although check {} rejected it", verdict.check),
        (None, None) => "neither a task nor a rejection".to_string(),
        (None, Some(_)) => return Ok(()),
        (Some(task), None) => {
            if task.id != draft.id {
                format!("a task with another id, {}", task.id)
            } else if task.origin != draft.origin {
                "a task of another origin".to_string()
            } else if task.night != night {
                format!("a task of night {:?} in a unit of night {night:?}", task.night)
            } else if draft.question.as_ref() != Some(&task.question)
                || draft.seed.answer != task.answer
            {
                "a task with another question or answer".to_string()
            } else if task.evidence.is_empty() {
                "a task without evidence".to_string()
            } else {
                return Ok(());
            }
        }
    };
    Err(Failure::inconsistent(format!("draft {}: it has {problem}", draft.id)))
}

/// Returns the draft's number.
fn put_draft(tx: &Transaction<'_>, night: Option<u32>, gated: &GatedDraft) -> Result<i64, Failure> {
    let draft = &gated.draft;
    let seed_id = put_seed(tx, &draft.seed)?;
    tx.prepare_cached(
        "INSERT INTO draft (id, night, origin, seed_id, question, transcript, model_version,
                            rejection, corpus_version)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8,
                 (SELECT value FROM meta WHERE key = 'corpus_version'))",
    )?
    .execute(params![
        draft.id,
        night,
        draft.origin.as_str(),
        seed_id,
        draft.question,
        draft.transcript,
        draft.model_version,
        gated.rejected_by().and_then(|verdict| verdict.rejection).map(Rejection::as_str),
    ])?;
    Ok(tx.last_insert_rowid())
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

fn put_task(
    tx: &Transaction<'_>,
    number: i64,
    task: &Task,
    gated: &GatedDraft,
) -> Result<(), Failure> {
    let document =
        task.evidence.first().map(|first| lineage::document_of(tx, first)).transpose()?;
    tx.prepare_cached(
        "INSERT INTO task (number, id, origin, question_hash, kind, hops, split, night,
                           document_id, proposed_by, state)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, 'active')",
    )?
    .execute(params![
        number,
        task.id,
        task.origin.as_str(),
        question_hash(&task.question),
        task.kind.as_str(),
        task.evidence.len() as i64,
        task.split.as_str(),
        task.night,
        document.flatten(),
        gated.draft.model_version,
    ])?;
    tx.prepare_cached("INSERT INTO task_words (rowid, question, answer) VALUES (?1, ?2, ?3)")?
        .execute(params![number, task.question, task.answer])?;
    minhash::put(tx, number, &task.question)?;
    let mut evidence = tx.prepare_cached(
        "INSERT INTO task_evidence (task_id, ordinal, passage_id) VALUES (?1, ?2, ?3)",
    )?;
    for (ordinal, passage) in task.evidence.iter().enumerate() {
        evidence.execute(params![task.id, ordinal as i64, passage])?;
    }
    let mut lineage = tx.prepare_cached(
        "INSERT INTO task_parent (task_id, ordinal, parent_id) VALUES (?1, ?2, ?3)",
    )?;
    for (ordinal, parent) in gated.parents.iter().enumerate() {
        lineage.execute(params![task.id, ordinal as i64, parent])?;
    }
    Ok(())
}
