//! What temperatures and thresholds were chosen from, and which were.

use rusqlite::OptionalExtension;
use rusqlite::params;
use serde::Serialize;
use serde_json::Value;

use super::Archive;
use super::ArchiveReader;
use super::error::ArchiveError;
use super::night::Unit;
use super::value;

/// A rollout that was drawn to choose a temperature: what the choice needs of it.
#[derive(Debug, Clone, PartialEq)]
pub struct BalanceSample {
    /// The task attempted.
    pub task_id: String,
    /// At which temperature.
    pub temperature: f64,
    /// Which of those at this temperature, from 0.
    pub index: u32,
    /// Its reward.
    pub reward: f32,
    /// Whether the answer matched, 0 or 1.
    pub exact_match: f32,
    /// Hash of what the model wrote.
    pub trajectory: String,
}

/// What a round was played with, and why.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BalanceDecision {
    /// The night.
    pub night: u32,
    /// The round of that night, from 0.
    pub round: u32,
    /// The version that was tried.
    pub model_version: String,
    /// Temperature of the round's rollouts.
    pub temperature: f64,
    /// Reward that suffices to be learnt.
    pub threshold: f64,
    /// Balance score of the two, in [0, 1].
    pub score: f64,
    /// Whether the scores were shuffled first.
    pub permuted: bool,
    /// All that the choice was made from.
    pub figures: Value,
}

impl ArchiveReader {
    /// The rollouts from which a round's temperature is chosen, by task, temperature and place.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn balance_samples(
        &self,
        night: u32,
        round: u32,
    ) -> Result<Vec<BalanceSample>, ArchiveError> {
        self.read(|tx| {
            let mut statement = tx.prepare_cached(
                "SELECT task_id, temperature, ordinal, reward, exact_match, trajectory
                 FROM balance_sample WHERE night = ?1 AND round = ?2
                 ORDER BY task_id, temperature, ordinal",
            )?;
            let samples = statement.query_map(params![night, round], |row| {
                Ok(BalanceSample {
                    task_id: row.get(0)?,
                    temperature: row.get(1)?,
                    index: row.get(2)?,
                    reward: row.get(3)?,
                    exact_match: row.get(4)?,
                    trajectory: row.get(5)?,
                })
            })?;
            Ok(samples.collect::<Result<_, _>>()?)
        })
    }

    /// What was chosen for a round, if anything was.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn balance_decision(
        &self,
        night: u32,
        round: u32,
    ) -> Result<Option<BalanceDecision>, ArchiveError> {
        self.read(|tx| {
            let mut statement = tx.prepare_cached(
                "SELECT night, round, model_version, temperature, threshold, score, permuted,
                        figures_json
                 FROM balance_decision WHERE night = ?1 AND round = ?2",
            )?;
            let decision = statement.query_row(params![night, round], |row| {
                Ok(BalanceDecision {
                    night: row.get(0)?,
                    round: row.get(1)?,
                    model_version: row.get(2)?,
                    temperature: row.get(3)?,
                    threshold: row.get(4)?,
                    score: row.get(5)?,
                    permuted: row.get(6)?,
                    figures: value::json(row, 7)?,
                })
            });
            Ok(decision.optional()?)
        })
    }
}

impl Archive {
    /// Stores rollouts from which a round's temperature is chosen. Returns false, and changes
    /// nothing, when the unit is already there.
    ///
    /// # Errors
    /// [`ArchiveError::Inconsistent`] when a task is unknown.
    pub fn record_balance_samples(
        &self,
        unit: &Unit<'_>,
        round: u32,
        samples: &[BalanceSample],
    ) -> Result<bool, ArchiveError> {
        self.write_unit(unit, |tx| {
            let mut insert = tx.prepare_cached(
                "INSERT INTO balance_sample (night, round, task_id, temperature, ordinal, reward,
                                             exact_match, trajectory)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?;
            for sample in samples {
                insert.execute(params![
                    unit.night,
                    round,
                    sample.task_id,
                    sample.temperature,
                    sample.index,
                    sample.reward,
                    sample.exact_match,
                    sample.trajectory,
                ])?;
            }
            Ok(())
        })
    }

    /// Stores what was chosen for a round. Returns false, and changes nothing, when the unit is
    /// already there.
    ///
    /// # Errors
    /// [`ArchiveError::Inconsistent`] when the version is unknown.
    pub fn record_balance_decision(
        &self,
        unit: &Unit<'_>,
        decision: &BalanceDecision,
    ) -> Result<bool, ArchiveError> {
        self.write_unit(unit, |tx| {
            tx.prepare_cached(
                "INSERT INTO balance_decision (night, round, model_version, temperature, threshold,
                                               score, permuted, figures_json)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?
            .execute(params![
                decision.night,
                decision.round,
                decision.model_version,
                decision.temperature,
                decision.threshold,
                decision.score,
                decision.permuted,
                decision.figures.to_string(),
            ])?;
            Ok(())
        })
    }
}
