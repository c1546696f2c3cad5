//! Tasks as they stand in the archive, and taking them out of play.

use rusqlite::Row;
use rusqlite::Transaction;
use rusqlite::params;
use serde::Deserialize;
use serde::Serialize;

use super::Archive;
use super::error::ArchiveError;
use super::error::Failure;
use super::value;
use crate::task::Task;

/// Whether a task is still played.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// May be picked.
    Active,
    /// Not picked until it is verified again: a passage of its evidence changed.
    Stale,
    /// Kept with all its history, not picked.
    Retired,
}

impl TaskState {
    /// All states.
    pub const ALL: [Self; 3] = [Self::Active, Self::Stale, Self::Retired];

    /// The name used in the archive, in JSON and in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Stale => "stale",
            Self::Retired => "retired",
        }
    }
}

/// How hard play has shown a task to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Band {
    /// Never attempted.
    Untried,
    /// Solved in every attempt.
    Always,
    /// Solved in more than two thirds of the attempts.
    Easy,
    /// Solved in a third to two thirds of the attempts.
    Medium,
    /// Solved in less than a third of the attempts.
    Hard,
    /// Attempted and never solved.
    Never,
}

impl Band {
    /// All bands, easy to hard, those not known yet first.
    pub const ALL: [Self; 6] =
        [Self::Untried, Self::Always, Self::Easy, Self::Medium, Self::Hard, Self::Never];

    /// The name used in the archive, in JSON and in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Untried => "untried",
            Self::Always => "always",
            Self::Easy => "easy",
            Self::Medium => "medium",
            Self::Hard => "hard",
            Self::Never => "never",
        }
    }

    /// The band of so many attempts, of which so many were solved, as the archive has it.
    pub fn of(attempts: u64, solved: u64) -> Self {
        match (attempts, solved) {
            (0, _) => Self::Untried,
            (_, 0) => Self::Never,
            _ if solved == attempts => Self::Always,
            _ if solved * 3 < attempts => Self::Hard,
            _ if solved * 3 > attempts * 2 => Self::Easy,
            _ => Self::Medium,
        }
    }

    /// The least and the largest difficulty in it, as the archive has it.
    pub(super) fn difficulty(self) -> (f64, f64) {
        const THIRD: f64 = 1.0 / 3.0;
        // Of the many that are always or never solved none is to be gone through.
        const APART: f64 = 1e-8;
        match self {
            Self::Untried => (-1.0, -1.0),
            Self::Always => (0.0, 0.0),
            Self::Easy => (APART, THIRD),
            Self::Medium => (THIRD, 2.0 * THIRD),
            Self::Hard => (2.0 * THIRD, 1.0 - APART),
            Self::Never => (1.0, 1.0),
        }
    }
}

/// A task with what play has shown of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StoredTask {
    /// The task itself.
    #[serde(flatten)]
    pub task: Task,
    /// The document that its first passage stands in, or stood in when it was made.
    pub document_id: String,
    /// That document's title.
    pub topic: String,
    /// The model version that wrote it; `code` or `person` for other hands.
    pub proposed_by: String,
    /// The version of its latest rollout.
    pub played_by: Option<String>,
    /// Whether it is still played.
    pub state: TaskState,
    /// Why it is not; `evidence` when a passage it rests on left the corpus.
    pub state_reason: Option<String>,
    /// Rollouts made.
    pub attempts: u64,
    /// Rollouts whose answer matched exactly.
    pub solved: u64,
    /// How hard that makes it.
    pub band: Band,
}

/// A query for tasks, whose rows [`task_of`] reads. `first` is a table to begin with, joined by the
/// task's number, or empty; `rest` says which rows and in what order.
pub(super) fn select(first: &str, rest: &str) -> String {
    format!(
        "SELECT t.id, t.origin, d.question, s.answer, t.kind, t.split, t.night, t.document_id,
             doc.title, t.proposed_by, t.played_by, t.state, t.state_reason, t.attempts, t.solved,
             t.band, t.number, t.difficulty
         FROM {first} task t CROSS JOIN draft d ON d.number = t.number
         CROSS JOIN seed s ON s.id = d.seed_id CROSS JOIN document doc ON doc.id = t.document_id
         {rest}"
    )
}

/// Reads a row of [`select`] and the task's evidence.
pub(super) fn task_of(tx: &Transaction<'_>, row: &Row<'_>) -> rusqlite::Result<StoredTask> {
    let id: String = row.get(0)?;
    let evidence = tx
        .prepare_cached("SELECT passage_id FROM task_evidence WHERE task_id = ?1 ORDER BY ordinal")?
        .query_map([&id], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    let task = Task {
        id,
        origin: value::named(row, 1)?,
        question: row.get(2)?,
        answer: row.get(3)?,
        kind: value::named(row, 4)?,
        evidence,
        split: value::named(row, 5)?,
        night: row.get(6)?,
    };
    Ok(StoredTask {
        task,
        document_id: row.get(7)?,
        topic: row.get(8)?,
        proposed_by: row.get(9)?,
        played_by: row.get(10)?,
        state: value::named(row, 11)?,
        state_reason: row.get(12)?,
        attempts: row.get::<_, i64>(13)?.cast_unsigned(),
        solved: row.get::<_, i64>(14)?.cast_unsigned(),
        band: value::named(row, 15)?,
    })
}

impl Archive {
    /// Takes a task out of play for good, with the reason. Doing so again changes nothing.
    ///
    /// # Errors
    /// [`ArchiveError::NotFound`] when there is no such task; [`ArchiveError::Inconsistent`] for
    /// the reason `evidence`, which belongs to [`Archive::sync_corpus`].
    pub fn retire_task(&self, id: &str, reason: &str) -> Result<bool, ArchiveError> {
        self.write(|tx| {
            if reason == "evidence" {
                return Err(Failure::inconsistent("the reason \"evidence\" from outside"));
            }
            let changed = tx.execute(
                "UPDATE task SET state = 'retired', state_reason = ?2
                 WHERE id = ?1 AND (state <> 'retired' OR state_reason = 'evidence')",
                params![id, reason],
            )?;
            let known = "SELECT 1 FROM task WHERE id = ?1";
            if changed == 0 && !tx.prepare(known)?.exists([id])? {
                return Err(Failure::not_found("task", id));
            }
            Ok(changed > 0)
        })
    }
}
