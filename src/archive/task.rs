//! Reading tasks: lists and totals.

use rusqlite::Row;
use rusqlite::ToSql;
use rusqlite::Transaction;
use rusqlite::params;
use serde::Deserialize;
use serde::Serialize;

use super::Archive;
use super::ArchiveReader;
use super::error::ArchiveError;
use super::error::Failure;
use super::value;
use crate::task::Origin;
use crate::task::Split;
use crate::task::Task;

/// Whether a task is still played.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// May be picked.
    Active,
    /// Kept with all its history, not picked.
    Retired,
}

impl TaskState {
    /// The name used in the archive, in JSON and in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Retired => "retired",
        }
    }
}

/// A task with what play has shown of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StoredTask {
    /// The task itself.
    #[serde(flatten)]
    pub task: Task,
    /// Whether it is still played.
    pub state: TaskState,
    /// Why it is not; `evidence` when a passage it rests on left the corpus.
    pub retired_reason: Option<String>,
    /// Rollouts made.
    pub attempts: u64,
    /// Rollouts whose answer matched exactly.
    pub solved: u64,
}

/// The order of a list of tasks. Ties are broken by id, so every order is total.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TaskOrder {
    /// By id: arbitrary, but always the same.
    #[default]
    Id,
    /// Latest night first.
    Newest,
    /// Lowest share of solved attempts first; untried tasks before all others.
    Hardest,
    /// Most attempts first.
    MostPlayed,
}

/// Which tasks to list; the default is all of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TaskFilter {
    /// Only those of this hand.
    pub origin: Option<Origin>,
    /// Only those on this side of the split.
    pub split: Option<Split>,
    /// Only those accepted in this night.
    pub night: Option<u32>,
    /// Only those in this state.
    pub state: Option<TaskState>,
    /// At most so many.
    pub limit: Option<u32>,
    /// In this order.
    pub order: TaskOrder,
}

/// Totals over the tasks of one origin and side of the split.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TaskGroup {
    /// Who wrote them.
    pub origin: Origin,
    /// Side of the split.
    pub split: Split,
    /// Tasks that may be picked.
    pub active: u64,
    /// Tasks that may not.
    pub retired: u64,
    /// Tasks never attempted.
    pub untried: u64,
    /// Tasks attempted and never solved.
    pub never_solved: u64,
    /// Tasks solved in some attempts and not in others: those that can teach.
    pub sometimes_solved: u64,
    /// Tasks solved in every attempt.
    pub always_solved: u64,
    /// Rollouts made.
    pub attempts: u64,
    /// Rollouts whose answer matched exactly.
    pub solved: u64,
}

pub(super) const TASK: &str = "SELECT id, origin, question, answer, kind, split, night, state,
    retired_reason, attempts, solved FROM task";

/// Reads a row of [`TASK`] and the task's evidence.
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
        state: value::named(row, 7)?,
        retired_reason: row.get(8)?,
        attempts: row.get::<_, i64>(9)?.cast_unsigned(),
        solved: row.get::<_, i64>(10)?.cast_unsigned(),
    })
}

impl ArchiveReader {
    /// The tasks that `filter` lets through.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn tasks(&self, filter: &TaskFilter) -> Result<Vec<StoredTask>, ArchiveError> {
        let order = match filter.order {
            TaskOrder::Id => "id",
            TaskOrder::Newest => "night DESC, id",
            TaskOrder::Hardest => "attempts > 0, CAST(solved AS REAL) / max(attempts, 1), id",
            TaskOrder::MostPlayed => "attempts DESC, id",
        };
        let sql = format!(
            "{TASK} WHERE (?1 IS NULL OR origin = ?1) AND (?2 IS NULL OR split = ?2)
             AND (?3 IS NULL OR night = ?3) AND (?4 IS NULL OR state = ?4)
             ORDER BY {order} LIMIT ?5"
        );
        self.read(|tx| {
            let limit = filter.limit.map_or(-1, i64::from);
            let arguments: [&dyn ToSql; 5] = [
                &filter.origin.map(Origin::as_str),
                &filter.split.map(Split::as_str),
                &filter.night,
                &filter.state.map(TaskState::as_str),
                &limit,
            ];
            let mut statement = tx.prepare_cached(&sql)?;
            let tasks = statement.query_map(&arguments[..], |row| task_of(tx, row))?;
            Ok(tasks.collect::<Result<_, _>>()?)
        })
    }

    /// Totals by origin and side of the split, for those that have tasks.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn task_stats(&self) -> Result<Vec<TaskGroup>, ArchiveError> {
        self.read(|tx| {
            let mut statement = tx.prepare(
                "SELECT origin, split, sum(state = 'active'), sum(state = 'retired'),
                        sum(attempts = 0), sum(attempts > 0 AND solved = 0),
                        sum(solved > 0 AND solved < attempts),
                        sum(attempts > 0 AND solved = attempts), sum(attempts), sum(solved)
                 FROM task GROUP BY origin, split ORDER BY origin, split DESC",
            )?;
            let groups = statement.query_map([], |row| {
                let count = |column| row.get::<_, i64>(column).map(i64::cast_unsigned);
                Ok(TaskGroup {
                    origin: value::named(row, 0)?,
                    split: value::named(row, 1)?,
                    active: count(2)?,
                    retired: count(3)?,
                    untried: count(4)?,
                    never_solved: count(5)?,
                    sometimes_solved: count(6)?,
                    always_solved: count(7)?,
                    attempts: count(8)?,
                    solved: count(9)?,
                })
            })?;
            Ok(groups.collect::<Result<_, _>>()?)
        })
    }
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
                "UPDATE task SET state = 'retired', retired_reason = ?2
                 WHERE id = ?1 AND (state = 'active' OR retired_reason = 'evidence')",
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
