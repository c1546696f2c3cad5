//! Why the curriculum leaves tasks out: every change of their standing, with what decided it.

use std::collections::BTreeMap;

use rusqlite::Row;
use rusqlite::Transaction;
use rusqlite::params;
use serde::Serialize;

use super::Archive;
use super::ArchiveReader;
use super::error::ArchiveError;
use super::error::Failure;
use super::night::Unit;
use super::value;
use crate::task::Standing;
use crate::task::StandingReason;

/// A change of a task's standing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StandingChange {
    /// The task.
    pub task_id: String,
    /// The night in which it changed.
    pub night: u32,
    /// The round before which it changed.
    pub round: u32,
    /// What it is from then on.
    pub standing: Standing,
    /// Why.
    pub reason: StandingReason,
    /// Attempts that it was decided by.
    pub attempts: u64,
    /// Those of them that solved it.
    pub solved: u64,
}

const CHANGE: &str =
    "SELECT s.task_id, s.night, s.round, s.standing, s.reason, s.attempts, s.solved
    FROM standing s";

fn change_of(row: &Row<'_>) -> rusqlite::Result<StandingChange> {
    Ok(StandingChange {
        task_id: row.get(0)?,
        night: row.get(1)?,
        round: row.get(2)?,
        standing: value::named(row, 3)?,
        reason: value::named(row, 4)?,
        attempts: row.get::<_, i64>(5)?.cast_unsigned(),
        solved: row.get::<_, i64>(6)?.cast_unsigned(),
    })
}

/// A task's changes, first to last.
pub(super) fn changes(tx: &Transaction<'_>, task: &str) -> Result<Vec<StandingChange>, Failure> {
    let sql = format!("{CHANGE} WHERE s.task_id = ?1 ORDER BY s.ordinal");
    let mut statement = tx.prepare_cached(&sql)?;
    Ok(statement.query_map([task], change_of)?.collect::<Result<_, _>>()?)
}

impl ArchiveReader {
    /// The last change of every task that has one, by the task's id.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn standings(&self) -> Result<BTreeMap<String, StandingChange>, ArchiveError> {
        self.read(|tx| {
            let mut statement =
                tx.prepare_cached(&format!("{CHANGE} ORDER BY s.task_id, s.ordinal"))?;
            let changes = statement.query_map([], change_of)?;
            // The later of two replaces the earlier.
            let last = changes.map(|change| change.map(|one| (one.task_id.clone(), one)));
            Ok(last.collect::<Result<_, _>>()?)
        })
    }
}

impl Archive {
    /// Stores changes of standings. Returns false, and changes nothing, when the unit is already
    /// there.
    ///
    /// # Errors
    /// [`ArchiveError::Inconsistent`] when a task is unknown.
    pub fn record_standings(
        &self,
        unit: &Unit<'_>,
        changes: &[StandingChange],
    ) -> Result<bool, ArchiveError> {
        self.write_unit(unit, |tx| {
            let mut insert = tx.prepare_cached(
                "INSERT INTO standing (task_id, ordinal, night, round, standing, reason, attempts,
                                       solved)
                 VALUES (?1, (SELECT count(*) FROM standing WHERE task_id = ?1), ?2, ?3, ?4, ?5,
                         ?6, ?7)",
            )?;
            for change in changes {
                insert.execute(params![
                    change.task_id,
                    change.night,
                    change.round,
                    change.standing.as_str(),
                    change.reason.as_str(),
                    change.attempts.cast_signed(),
                    change.solved.cast_signed(),
                ])?;
            }
            Ok(())
        })
    }
}
