//! Optimiser steps, each with what was measured of it.

use std::collections::HashSet;

use rusqlite::Transaction;
use rusqlite::params;
use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;

use super::Archive;
use super::ArchiveReader;
use super::error::ArchiveError;
use super::error::Failure;
use super::night::Unit;
use super::value;
use crate::config::AdapterSlot;
use crate::config::ObjectiveName;

/// Which training a step belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrainPhase {
    /// Masked likelihood on tasks, before the first game and mixed into it.
    WarmStart,
    /// Training the solver on rollouts.
    Policy,
    /// Training the proposer on its drafts.
    Proposer,
}

impl TrainPhase {
    /// The name used in the archive, in JSON and in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::WarmStart => "warm_start",
            Self::Policy => "policy",
            Self::Proposer => "proposer",
        }
    }
}

/// One optimiser step.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrainStep {
    /// Which training it belongs to.
    pub phase: TrainPhase,
    /// The adapter that it trained.
    pub adapter: AdapterSlot,
    /// Its number within night, phase and adapter.
    pub step: u32,
    /// What it minimised.
    pub objective: ObjectiveName,
    /// The version in the making.
    pub model_version: String,
    /// Loss, gradient norm, tokens, KL, entropy and whatever else the trainer measures.
    pub metrics: Value,
    /// What it learnt from.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<TrainItem>,
}

/// A piece of what an optimiser step learnt from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TrainItem {
    /// A task, as a demonstration.
    Task {
        /// The task.
        task_id: String,
    },
    /// A rollout.
    Rollout {
        /// The task that it attempts.
        task_id: String,
        /// Its round.
        round: u32,
        /// Its place in the group.
        index: u32,
    },
    /// A draft, which may have been turned away.
    Draft {
        /// The draft.
        draft_id: String,
    },
}

impl ArchiveReader {
    /// The optimiser steps of a night, by phase (warm start first), adapter and number; without
    /// what they learnt from.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn train_steps(&self, night: u32) -> Result<Vec<TrainStep>, ArchiveError> {
        self.read(|tx| {
            let mut statement = tx.prepare(
                "SELECT phase, adapter, step, objective, model_version, metrics_json
                 FROM train_step WHERE night = ?1
                 ORDER BY phase <> 'warm_start', phase = 'policy', adapter = 'proposer', step",
            )?;
            let steps = statement.query_map([night], |row| {
                Ok(TrainStep {
                    phase: value::named(row, 0)?,
                    adapter: value::named(row, 1)?,
                    step: row.get(2)?,
                    objective: value::named(row, 3)?,
                    model_version: row.get(4)?,
                    metrics: value::json(row, 5)?,
                    items: Vec::new(),
                })
            })?;
            Ok(steps.collect::<Result<_, _>>()?)
        })
    }

    /// The tasks that a night's steps on demonstrations below this number have shown.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn demonstrated(&self, night: u32, below: u32) -> Result<HashSet<String>, ArchiveError> {
        self.read(|tx| {
            let mut statement = tx.prepare(
                "SELECT DISTINCT task_id FROM train_item
                 WHERE night = ?1 AND phase = 'warm_start' AND step < ?2",
            )?;
            let ids = statement.query_map([night, below], |row| row.get(0))?;
            Ok(ids.collect::<Result<_, _>>()?)
        })
    }
}

impl Archive {
    /// Stores optimiser steps. Returns false, and changes nothing, when the unit is already there.
    ///
    /// # Errors
    /// [`ArchiveError::Inconsistent`] when a step is already there from another unit.
    pub fn record_train_steps(
        &self,
        unit: &Unit<'_>,
        steps: &[TrainStep],
    ) -> Result<bool, ArchiveError> {
        self.write_unit(unit, |tx| {
            let mut statement = tx.prepare_cached(
                "INSERT INTO train_step (night, phase, adapter, step, objective, model_version,
                                         metrics_json)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?;
            for step in steps {
                statement.execute(params![
                    unit.night,
                    step.phase.as_str(),
                    step.adapter.as_str(),
                    step.step,
                    step.objective.as_str(),
                    step.model_version,
                    step.metrics.to_string(),
                ])?;
                put_items(tx, unit.night, step)?;
            }
            Ok(())
        })
    }
}

fn put_items(tx: &Transaction<'_>, night: u32, step: &TrainStep) -> Result<(), Failure> {
    let mut of_task = tx.prepare_cached(
        "INSERT INTO train_item (night, phase, adapter, step, ordinal, task_id, round, rollout)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?;
    let mut of_draft = tx.prepare_cached(
        "INSERT INTO train_draft (night, phase, adapter, step, ordinal, draft_id)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    let (phase, adapter, number) = (step.phase.as_str(), step.adapter.as_str(), step.step);
    for (ordinal, item) in step.items.iter().enumerate() {
        let ordinal = ordinal as i64;
        let (task_id, rollout) = match item {
            TrainItem::Task { task_id } => (task_id, None),
            TrainItem::Rollout { task_id, round, index } => (task_id, Some((round, index))),
            TrainItem::Draft { draft_id } => {
                of_draft.execute(params![night, phase, adapter, number, ordinal, draft_id])?;
                continue;
            }
        };
        let (round, index) = rollout.unzip();
        of_task.execute(params![night, phase, adapter, number, ordinal, task_id, round, index])?;
    }
    Ok(())
}
