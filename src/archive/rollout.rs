//! Rollouts token by token, and their scores.

use rusqlite::Params;
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
use crate::rollout::Owner;
use crate::rollout::Rollout;
use crate::rollout::Score;
use crate::rollout::Step;

/// A rollout with its place in the game and its score.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StoredRollout {
    /// The night it was made in.
    pub night: u32,
    /// The round of that night, from 0.
    pub round: u32,
    /// The rollout itself.
    #[serde(flatten)]
    pub rollout: Rollout,
    /// How it was judged.
    pub score: Score,
}

const ROLLOUT: &str = "SELECT r.id, r.night, r.round, r.task_id, r.ordinal, r.model_version,
    r.answer, r.stop, r.queries_json, r.retrieved_json, s.exact_match, s.f1, s.reward
    FROM rollout r JOIN score s ON s.rollout_id = r.id";

fn rollout_of(tx: &Transaction<'_>, row: &Row<'_>) -> rusqlite::Result<StoredRollout> {
    let id: String = row.get(0)?;
    let steps = tx
        .prepare_cached(
            "SELECT owner, tokens, logprobs FROM step WHERE rollout_id = ?1 ORDER BY ordinal",
        )?
        .query_map([&id], |row| {
            Ok(Step {
                owner: value::named(row, 0)?,
                tokens: value::tokens(row, 1)?,
                logprobs: value::logprobs(row, 2)?,
            })
        })?
        .collect::<Result<_, _>>()?;
    let rollout = Rollout {
        id,
        task_id: row.get(3)?,
        index: row.get(4)?,
        model_version: row.get(5)?,
        steps,
        queries: value::json(row, 8)?,
        retrieved: value::json(row, 9)?,
        answer: row.get(6)?,
        stop: value::named(row, 7)?,
    };
    let score = Score { exact_match: row.get(10)?, f1: row.get(11)?, reward: row.get(12)? };
    Ok(StoredRollout { night: row.get(1)?, round: row.get(2)?, rollout, score })
}

/// The rollouts that `condition` selects, by night, round, task and place in the group.
pub(super) fn select(
    tx: &Transaction<'_>,
    condition: &str,
    arguments: impl Params,
) -> Result<Vec<StoredRollout>, Failure> {
    let sql =
        format!("{ROLLOUT} WHERE {condition} ORDER BY r.night, r.round, r.task_id, r.ordinal");
    let mut statement = tx.prepare_cached(&sql)?;
    let rollouts = statement.query_map(arguments, |row| rollout_of(tx, row))?;
    Ok(rollouts.collect::<Result<_, _>>()?)
}

impl ArchiveReader {
    /// All rollouts of one task, by night, round and place in the group.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn rollouts_of(&self, task_id: &str) -> Result<Vec<StoredRollout>, ArchiveError> {
        self.read(|tx| select(tx, "r.task_id = ?1", [task_id]))
    }

    /// The rollouts of one round of a night, by task and place in the group: what a trainer that
    /// was interrupted goes on from.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn rollouts_in(&self, night: u32, round: u32) -> Result<Vec<StoredRollout>, ArchiveError> {
        self.read(|tx| select(tx, "r.night = ?1 AND r.round = ?2", [night, round]))
    }
}

impl Archive {
    /// Stores scored rollouts of one round and adds them to their tasks' counts. Returns false,
    /// and changes nothing, when the unit is already there.
    ///
    /// # Errors
    /// [`ArchiveError::Inconsistent`] when a task or model version is unknown, a model token lacks
    /// its log-probability, or a score is not a number.
    pub fn record_rollouts(
        &self,
        unit: &Unit<'_>,
        round: u32,
        rollouts: &[(Rollout, Score)],
    ) -> Result<bool, ArchiveError> {
        self.write_unit(unit, |tx| {
            for (rollout, score) in rollouts {
                put_rollout(tx, unit.night, round, rollout)?;
                put_steps(tx, rollout)?;
                put_score(tx, rollout, score)?;
            }
            Ok(())
        })
    }
}

fn put_rollout(
    tx: &Transaction<'_>,
    night: u32,
    round: u32,
    rollout: &Rollout,
) -> Result<(), Failure> {
    tx.prepare_cached(
        "INSERT INTO rollout (id, night, round, task_id, ordinal, model_version, answer, stop,
                              queries_json, retrieved_json)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?
    .execute(params![
        rollout.id,
        night,
        round,
        rollout.task_id,
        rollout.index,
        rollout.model_version,
        rollout.answer,
        rollout.stop.as_str(),
        value::json_list(&rollout.queries),
        value::json_list(&rollout.retrieved),
    ])?;
    Ok(())
}

fn put_steps(tx: &Transaction<'_>, rollout: &Rollout) -> Result<(), Failure> {
    let mut statement = tx.prepare_cached(
        "INSERT INTO step (rollout_id, ordinal, owner, tokens, logprobs)
         VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    for (ordinal, step) in rollout.steps.iter().enumerate() {
        let (owner, expected) = match step.owner {
            Owner::Model => ("model", step.tokens.len()),
            Owner::Tool => ("tool", 0),
        };
        if step.logprobs.len() != expected {
            return Err(Failure::inconsistent(format!(
                "rollout {}: step {ordinal} has {} {owner} tokens and {} log-probabilities",
                rollout.id,
                step.tokens.len(),
                step.logprobs.len()
            )));
        }
        statement.execute(params![
            rollout.id,
            ordinal as i64,
            owner,
            value::pack_tokens(&step.tokens),
            value::pack_logprobs(&step.logprobs),
        ])?;
    }
    Ok(())
}

fn put_score(tx: &Transaction<'_>, rollout: &Rollout, score: &Score) -> Result<(), Failure> {
    tx.prepare_cached(
        "INSERT INTO score (rollout_id, exact_match, f1, reward) VALUES (?1, ?2, ?3, ?4)",
    )?
    .execute(params![rollout.id, score.exact_match, score.f1, score.reward])?;
    // Exact match is 0 or 1; the half tells them apart without comparing floats for equality.
    tx.prepare_cached(
        "UPDATE task SET attempts = attempts + 1, solved = solved + ?2 WHERE id = ?1",
    )?
    .execute(params![rollout.task_id, score.exact_match >= 0.5])?;
    Ok(())
}
