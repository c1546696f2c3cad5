//! Tasks that were verified again, after the corpus changed under them.

use rusqlite::Transaction;
use rusqlite::params;
use serde::Serialize;
use serde_json::Value;

use super::Archive;
use super::error::ArchiveError;
use super::error::Failure;
use super::lineage;
use super::night::Unit;
use super::value;
use crate::task::Verdict;

/// What came of verifying a task again.
#[derive(Debug, Clone, PartialEq)]
pub struct Verified {
    /// The task.
    pub task_id: String,
    /// The passages that it was verified against, first hop first.
    pub evidence: Vec<String>,
    /// What the checks said, in the order of the gate.
    pub verdicts: Vec<Verdict>,
}

impl Verified {
    /// Whether the task is played again: no required check rejected it.
    pub fn stands(&self) -> bool {
        self.verdicts.iter().all(|verdict| !verdict.required || verdict.rejection.is_none())
    }
}

/// A time that a task went through the gate again, as stored.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verification {
    /// The night that verified it.
    pub night: u32,
    /// Which passages stood where then.
    pub corpus_version: Option<String>,
    /// Whether it stood, and is played.
    pub accepted: bool,
    /// Ids of the passages that it was verified against, first hop first.
    pub evidence: Vec<String>,
    /// What the checks said, in the order of the gate.
    pub verdicts: Vec<Verdict>,
}

/// The times that a task went through the gate again, in order.
pub(super) fn verifications(
    tx: &Transaction<'_>,
    task: &str,
) -> Result<Vec<Verification>, Failure> {
    let mut statement = tx.prepare_cached(
        "SELECT night, corpus_version, accepted, evidence_json, verdicts_json
         FROM verification WHERE task_id = ?1 ORDER BY ordinal",
    )?;
    let all = statement.query_map([task], |row| {
        Ok(Verification {
            night: row.get(0)?,
            corpus_version: row.get(1)?,
            accepted: row.get(2)?,
            evidence: value::json(row, 3)?,
            verdicts: value::json(row, 4)?,
        })
    })?;
    Ok(all.collect::<Result<_, _>>()?)
}

impl Archive {
    /// Stores what came of verifying tasks again. One that stands rests on its new evidence and is
    /// played; another is retired. Returns false, and changes nothing, when the unit is already
    /// there.
    ///
    /// # Errors
    /// [`ArchiveError::Inconsistent`] when a task or passage is unknown, or one that stands rests
    /// on nothing.
    pub fn record_verifications(
        &self,
        unit: &Unit<'_>,
        all: &[Verified],
    ) -> Result<bool, ArchiveError> {
        self.write_unit(unit, |tx| all.iter().try_for_each(|one| put(tx, unit.night, one)))
    }
}

fn put(tx: &Transaction<'_>, night: u32, verified: &Verified) -> Result<(), Failure> {
    let id = &verified.task_id;
    tx.prepare_cached(
        "INSERT INTO verification (task_id, ordinal, night, corpus_version, accepted,
                                   evidence_json, verdicts_json)
         SELECT ?1, count(*), ?2, (SELECT value FROM meta WHERE key = 'corpus_version'), ?3, ?4, ?5
         FROM verification WHERE task_id = ?1",
    )?
    .execute(params![
        id,
        night,
        verified.stands(),
        Value::from(verified.evidence.clone()).to_string(),
        serde_json::to_string(&verified.verdicts).unwrap_or_default(),
    ])?;
    if !verified.stands() {
        tx.prepare_cached(
            "UPDATE task SET state = 'retired', state_reason = 'unverified' WHERE id = ?1",
        )?
        .execute([id])?;
        return Ok(());
    }
    let Some(first) = verified.evidence.first() else {
        return Err(Failure::inconsistent(format!("task {id} to stand on nothing")));
    };
    let document = lineage::document_of(tx, first)?;
    tx.prepare_cached(
        "UPDATE task SET state = 'active', state_reason = NULL, document_id = ?2, hops = ?3
         WHERE id = ?1",
    )?
    .execute(params![id, document, verified.evidence.len() as i64])?;
    tx.prepare_cached("DELETE FROM task_evidence WHERE task_id = ?1")?.execute([id])?;
    let mut insert = tx.prepare_cached(
        "INSERT INTO task_evidence (task_id, ordinal, passage_id) VALUES (?1, ?2, ?3)",
    )?;
    for (ordinal, passage) in verified.evidence.iter().enumerate() {
        insert.execute(params![id, ordinal as i64, passage])?;
    }
    Ok(())
}
