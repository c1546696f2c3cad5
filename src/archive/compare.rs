//! What changed between two nights, and between two model versions.

use std::collections::BTreeMap;

use rusqlite::OptionalExtension;
use rusqlite::Transaction;
use rusqlite::params;
use serde::Serialize;
use serde_json::Value;

use super::ArchiveReader;
use super::error::ArchiveError;
use super::error::Failure;
use super::model;
use super::model::ModelVersion;
use super::value;

/// Tasks that are named among those that changed most.
const NAMED: usize = 20;

/// What one night did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NightSummary {
    /// Its number.
    pub night: u32,
    /// Drafts put forward.
    pub drafts: u64,
    /// Those that became tasks.
    pub accepted: u64,
    /// Those turned away, by reason.
    pub rejections: BTreeMap<String, u64>,
    /// Rollouts made.
    pub rollouts: u64,
    /// Those that matched exactly.
    pub solved: u64,
    /// Optimiser steps taken.
    pub train_steps: u64,
    /// What was decided about its candidate: live or not, and why.
    pub promotion: Option<(bool, String)>,
}

/// A task that was played in both of two nights, or by both of two versions.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PlayedTwice {
    /// Its id.
    pub task_id: String,
    /// Its question.
    pub question: String,
    /// Solved and attempted on the first side.
    pub before: [u64; 2],
    /// Solved and attempted on the second side.
    pub after: [u64; 2],
}

impl PlayedTwice {
    /// By how much the share of solved attempts rose.
    fn gain(&self) -> f64 {
        let share = |[solved, attempts]: [u64; 2]| solved as f64 / attempts.max(1) as f64;
        share(self.after) - share(self.before)
    }
}

/// How the tasks that were played on both sides went.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct PlayDifference {
    /// How many there are.
    pub tasks: u64,
    /// How many were solved more often on the second side.
    pub better: u64,
    /// How many less often.
    pub worse: u64,
    /// The mean of the differences of the shares of solved attempts.
    pub mean_gain: f64,
    /// Those that changed most, up to 20.
    pub most_changed: Vec<PlayedTwice>,
}

/// What changed between two nights.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NightDifference {
    /// The two nights.
    pub nights: [NightSummary; 2],
    /// Tasks that were accepted after the first, up to the second.
    pub tasks_added: u64,
    /// How the tasks went that both played.
    pub plays: PlayDifference,
}

/// A version with what it was trained on, how it was measured, and what became of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelDetail {
    /// The version itself.
    #[serde(flatten)]
    pub version: ModelVersion,
    /// Whether it plays and answers now.
    pub live: bool,
    /// The versions that it came from, the latest first.
    pub ancestors: Vec<String>,
    /// Different tasks that it, or one of those, was trained on.
    pub trained_on: u64,
    /// Optimiser steps that led from its parent to it.
    pub train_steps: u64,
    /// Its figures on each suite.
    pub evaluations: Vec<(String, Option<Value>)>,
    /// Solved and attempted rollouts that it made.
    pub plays: [u64; 2],
    /// What was decided about it: in which night, live or not, why.
    pub promotions: Vec<(u32, bool, String)>,
}

/// What two versions differ in.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelDifference {
    /// The two.
    pub versions: [ModelDetail; 2],
    /// Tasks that the second was trained on and the first was not.
    pub trained_on_more: u64,
    /// Tasks that the first was trained on and the second was not.
    pub trained_on_less: u64,
    /// How the tasks went that both played.
    pub plays: PlayDifference,
}

impl ArchiveReader {
    /// What a night did.
    ///
    /// # Errors
    /// [`ArchiveError::NotFound`] when there is no such night.
    pub fn night_summary(&self, night: u32) -> Result<NightSummary, ArchiveError> {
        self.read(|tx| summary(tx, night))
    }

    /// What changed from one night to another.
    ///
    /// # Errors
    /// [`ArchiveError::NotFound`] when there is no such night.
    pub fn night_difference(&self, a: u32, b: u32) -> Result<NightDifference, ArchiveError> {
        self.read(|tx| {
            let nights = [summary(tx, a)?, summary(tx, b)?];
            let added = "SELECT count(*) FROM task WHERE night > ?1 AND night <= ?2";
            let tasks_added = count(tx, added, params![a.min(b), a.max(b)])?;
            let of_night = "SELECT task_id, sum(exact_match >= 0.5) AS solved, count(*) AS attempts
                            FROM rollout WHERE night = ? GROUP BY task_id";
            Ok(NightDifference { nights, tasks_added, plays: plays(tx, of_night, params![a, b])? })
        })
    }

    /// A version with all that is known of it.
    ///
    /// # Errors
    /// [`ArchiveError::NotFound`] when there is no such version.
    pub fn model_detail(&self, id: &str) -> Result<ModelDetail, ArchiveError> {
        self.read(|tx| detail(tx, id))
    }

    /// What two versions differ in.
    ///
    /// # Errors
    /// [`ArchiveError::NotFound`] when there is no such version.
    pub fn model_difference(&self, a: &str, b: &str) -> Result<ModelDifference, ArchiveError> {
        self.read(|tx| {
            let versions = [detail(tx, a)?, detail(tx, b)?];
            let less = format!("SELECT count(*) FROM ({TRAINED_ON} EXCEPT {TRAINED_ON})");
            let of_version =
                "SELECT task_id, solved, attempts FROM task_play WHERE model_version = ?";
            Ok(ModelDifference {
                versions,
                trained_on_more: count(tx, &less, params![b, a])?,
                trained_on_less: count(tx, &less, params![a, b])?,
                plays: plays(tx, of_version, params![a, b])?,
            })
        })
    }
}

/// The tasks that a version, or one that it came from, was trained on. Steps are noted with the
/// version that they started from, in the night of the version that they led to.
pub(super) const TRAINED_ON: &str = "SELECT i.task_id FROM (
        WITH RECURSIVE line (id, parent, night) AS (
            SELECT id, parent, night FROM model_version WHERE id = ?
            UNION
            SELECT m.id, m.parent, m.night FROM model_version m JOIN line ON m.id = line.parent)
        SELECT parent, night FROM line) l
    JOIN train_step s ON s.night = l.night AND s.model_version = l.parent
    JOIN train_item i ON i.night = s.night AND i.phase = s.phase AND i.adapter = s.adapter
        AND i.step = s.step";

fn count(
    tx: &Transaction<'_>,
    sql: &str,
    arguments: impl rusqlite::Params,
) -> Result<u64, Failure> {
    Ok(tx.query_row(sql, arguments, |row| row.get::<_, i64>(0))?.cast_unsigned())
}

fn summary(tx: &Transaction<'_>, night: u32) -> Result<NightSummary, Failure> {
    if !tx.prepare("SELECT 1 FROM night WHERE number = ?1")?.exists([night])? {
        return Err(Failure::not_found("night", night.to_string()));
    }
    let mut summary = NightSummary {
        night,
        drafts: 0,
        accepted: 0,
        rejections: BTreeMap::new(),
        rollouts: 0,
        solved: 0,
        train_steps: count(tx, "SELECT count(*) FROM train_step WHERE night = ?1", [night])?,
        promotion: tx
            .prepare("SELECT promoted, reason FROM promotion WHERE night = ?1")?
            .query_row([night], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?,
    };
    let mut drafts =
        tx.prepare("SELECT rejection, count(*) FROM draft WHERE night = ?1 GROUP BY 1")?;
    let mut rows = drafts.query([night])?;
    while let Some(row) = rows.next()? {
        let (rejection, n): (Option<String>, i64) = (row.get(0)?, row.get(1)?);
        summary.drafts += n.cast_unsigned();
        match rejection {
            None => summary.accepted += n.cast_unsigned(),
            Some(reason) => {
                summary.rejections.insert(reason, n.cast_unsigned());
            }
        }
    }
    let rollouts = "SELECT count(*), coalesce(sum(exact_match >= 0.5), 0) FROM rollout
                    WHERE night = ?1";
    let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?));
    let (rollouts, solved) = tx.query_row(rollouts, [night], read)?;
    (summary.rollouts, summary.solved) = (rollouts.cast_unsigned(), solved.cast_unsigned());
    Ok(summary)
}

/// Compares two sides of plays, each a query for task, solved and attempts.
fn plays(
    tx: &Transaction<'_>,
    side: &str,
    arguments: impl rusqlite::Params,
) -> Result<PlayDifference, Failure> {
    let sql = format!(
        "SELECT a.task_id, d.question, a.solved, a.attempts, b.solved, b.attempts
         FROM ({side}) a JOIN ({side}) b ON b.task_id = a.task_id
         JOIN draft d ON d.id = a.task_id ORDER BY a.task_id"
    );
    let mut statement = tx.prepare(&sql)?;
    let both = statement.query_map(arguments, |row| {
        let n = |column| row.get::<_, i64>(column).map(i64::cast_unsigned);
        Ok(PlayedTwice {
            task_id: row.get(0)?,
            question: row.get::<_, Option<String>>(1)?.unwrap_or_default(),
            before: [n(2)?, n(3)?],
            after: [n(4)?, n(5)?],
        })
    })?;
    let mut both: Vec<PlayedTwice> = both.collect::<Result<_, _>>()?;
    let gains: Vec<f64> = both.iter().map(PlayedTwice::gain).collect();
    let mut difference = PlayDifference {
        tasks: both.len() as u64,
        better: gains.iter().filter(|gain| **gain > 0.0).count() as u64,
        worse: gains.iter().filter(|gain| **gain < 0.0).count() as u64,
        mean_gain: gains.iter().sum::<f64>() / gains.len().max(1) as f64,
        most_changed: Vec::new(),
    };
    both.retain(|played| played.gain() != 0.0);
    both.sort_by(|a, b| {
        b.gain().abs().total_cmp(&a.gain().abs()).then_with(|| a.task_id.cmp(&b.task_id))
    });
    both.truncate(NAMED);
    difference.most_changed = both;
    Ok(difference)
}

fn detail(tx: &Transaction<'_>, id: &str) -> Result<ModelDetail, Failure> {
    let Some(version) = model::find(tx, id)? else {
        return Err(Failure::not_found("model version", id));
    };
    let mut ancestors = Vec::new();
    let mut parent = version.parent.clone();
    while let Some(id) = parent {
        parent = model::find(tx, &id)?.and_then(|version| version.parent);
        ancestors.push(id);
    }
    let steps = "SELECT count(*) FROM train_step WHERE night = ?1 AND model_version = ?2";
    let mut evaluations = tx.prepare(
        "SELECT s.name, e.metrics_json FROM evaluation e JOIN suite s ON s.id = e.suite_id
         WHERE e.model_version = ?1 ORDER BY s.name, e.night",
    )?;
    let evaluations = evaluations
        .query_map([id], |row| Ok((row.get(0)?, value::json_or_none(row, 1)?)))?
        .collect::<Result<_, _>>()?;
    let plays = "SELECT coalesce(sum(solved), 0), coalesce(sum(attempts), 0) FROM task_play
                 WHERE model_version = ?1";
    let plays = tx.query_row(plays, [id], |row| {
        Ok([row.get::<_, i64>(0)?.cast_unsigned(), row.get::<_, i64>(1)?.cast_unsigned()])
    })?;
    let mut promotions = tx.prepare(
        "SELECT night, promoted, reason FROM promotion WHERE candidate = ?1 ORDER BY night",
    )?;
    let promotions = promotions
        .query_map([id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<Result<_, _>>()?;
    let trained = format!("SELECT count(DISTINCT task_id) FROM ({TRAINED_ON})");
    Ok(ModelDetail {
        live: tx.prepare("SELECT 1 FROM live_model WHERE model_version = ?1")?.exists([id])?,
        trained_on: count(tx, &trained, [id])?,
        train_steps: count(tx, steps, params![version.night, version.parent])?,
        ancestors,
        evaluations,
        plays,
        promotions,
        version,
    })
}
