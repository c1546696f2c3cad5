//! Nights, and the intent log that says which units of a night's work are done.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use jiff::Timestamp;
use rusqlite::OptionalExtension;
use rusqlite::Row;
use rusqlite::Transaction;
use rusqlite::params;
use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;

use super::Archive;
use super::ArchiveReader;
use super::error::ArchiveError;
use super::error::Failure;
use super::value;

/// A piece of work that is done once: a draft, a group of rollouts, a stretch of training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Unit<'a> {
    /// The night it belongs to; must have begun.
    pub night: u32,
    /// The phase, such as `propose` or `rollouts`.
    pub phase: &'a str,
    /// Tells it from the phase's other units; the same after a restart.
    pub key: &'a str,
}

/// Whether a night is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NightState {
    /// Begun, perhaps interrupted.
    Running,
    /// Its report is written.
    Finished,
}

/// One night.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Night {
    /// From 1, without gaps.
    pub number: u32,
    /// What its random streams are drawn from.
    pub seed: u64,
    /// The settings it began with; it is continued with the same.
    pub settings: Value,
    /// Whether it is over.
    pub state: NightState,
    /// The morning report, once it is over.
    pub report: Option<Value>,
    /// When it began.
    pub started_at: Timestamp,
    /// When its report was written.
    pub finished_at: Option<Timestamp>,
}

const NIGHT: &str =
    "SELECT number, seed, settings_json, state, report_json, started_at, finished_at FROM night";

fn night_of(row: &Row<'_>) -> rusqlite::Result<Night> {
    Ok(Night {
        number: row.get(0)?,
        seed: row.get::<_, i64>(1)?.cast_unsigned(),
        settings: value::json(row, 2)?,
        state: value::named(row, 3)?,
        report: value::json_or_none(row, 4)?,
        started_at: value::time(row, 5)?,
        finished_at: value::time_or_none(row, 6)?,
    })
}

/// Whether the unit's results are in the archive.
pub(super) fn is_done(tx: &Transaction<'_>, unit: &Unit<'_>) -> Result<bool, Failure> {
    let mut statement =
        tx.prepare_cached("SELECT 1 FROM unit WHERE night = ?1 AND phase = ?2 AND key = ?3")?;
    Ok(statement.exists(params![unit.night, unit.phase, unit.key])?)
}

/// Writes the unit's row.
pub(super) fn mark_done(
    tx: &Transaction<'_>,
    unit: &Unit<'_>,
    generated: u64,
    now: &str,
) -> Result<(), Failure> {
    tx.prepare_cached(
        "INSERT INTO unit (night, phase, key, done_at, generated) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute(params![unit.night, unit.phase, unit.key, now, generated.cast_signed()])?;
    Ok(())
}

/// Fails unless the night has begun and is not over.
pub(super) fn require_running(tx: &Transaction<'_>, number: u32) -> Result<(), Failure> {
    let state: Option<NightState> = tx
        .prepare_cached("SELECT state FROM night WHERE number = ?1")?
        .query_row([number], |row| value::named(row, 0))
        .optional()?;
    match state {
        Some(NightState::Running) => Ok(()),
        Some(NightState::Finished) => {
            Err(Failure::inconsistent(format!("work for night {number}, which is finished")))
        }
        None => Err(Failure::not_found("night", number)),
    }
}

impl ArchiveReader {
    /// The night that has begun and not ended, if there is one.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn current_unfinished_night(&self) -> Result<Option<Night>, ArchiveError> {
        self.read(|tx| {
            let mut statement = tx.prepare(&format!("{NIGHT} WHERE state = 'running'"))?;
            Ok(statement.query_row([], night_of).optional()?)
        })
    }

    /// All nights, first to last.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn nights(&self) -> Result<Vec<Night>, ArchiveError> {
        self.read(|tx| {
            let mut statement = tx.prepare(&format!("{NIGHT} ORDER BY number"))?;
            Ok(statement.query_map([], night_of)?.collect::<Result<_, _>>()?)
        })
    }

    /// Whether the results of this unit are in the archive.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn unit_done(&self, unit: &Unit<'_>) -> Result<bool, ArchiveError> {
        self.read(|tx| is_done(tx, unit))
    }

    /// Tokens that the model wrote for a night's units, those of evaluations left out.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn generated_tokens(&self, night: u32) -> Result<u64, ArchiveError> {
        self.read(|tx| {
            let sum: i64 = tx
                .prepare_cached(
                    "SELECT coalesce(sum(generated), 0) FROM unit
                     WHERE night = ?1 AND phase NOT LIKE 'evaluate/%'",
                )?
                .query_row([night], |row| row.get(0))?;
            Ok(sum.cast_unsigned())
        })
    }

    /// The keys of a phase's finished units, in order of key.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn units_done(&self, night: u32, phase: &str) -> Result<Vec<String>, ArchiveError> {
        self.read(|tx| {
            let mut statement =
                tx.prepare("SELECT key FROM unit WHERE night = ?1 AND phase = ?2 ORDER BY key")?;
            let keys = statement.query_map(params![night, phase], |row| row.get(0))?;
            Ok(keys.collect::<Result<_, _>>()?)
        })
    }
}

impl Archive {
    /// Begins the next night.
    ///
    /// # Errors
    /// [`ArchiveError::NightUnfinished`] when the last one is not over.
    pub fn begin_night(&self, seed: u64, settings: &Value) -> Result<Night, ArchiveError> {
        self.write(|tx| {
            let running: Option<u32> = tx
                .prepare("SELECT number FROM night WHERE state = 'running'")?
                .query_row([], |row| row.get(0))
                .optional()?;
            if let Some(number) = running {
                return Err(ArchiveError::NightUnfinished { number }.into());
            }
            tx.execute(
                "INSERT INTO night (number, seed, settings_json, state, started_at)
                 SELECT coalesce(max(number), 0) + 1, ?1, ?2, 'running', ?3 FROM night",
                params![seed.cast_signed(), settings.to_string(), self.now()],
            )?;
            let sql = format!("{NIGHT} WHERE state = 'running'");
            Ok(tx.query_row(&sql, [], night_of)?)
        })
    }

    /// Ends a night with its report. Ending it again changes nothing and returns false.
    ///
    /// # Errors
    /// [`ArchiveError::NotFound`] when it never began.
    pub fn finish_night(&self, number: u32, report: &Value) -> Result<bool, ArchiveError> {
        self.write(|tx| {
            let changed = tx.execute(
                "UPDATE night SET state = 'finished', report_json = ?2, finished_at = ?3
                 WHERE number = ?1 AND state = 'running'",
                params![number, report.to_string(), self.now()],
            )?;
            let sql = "SELECT 1 FROM night WHERE number = ?1";
            if changed == 0 && !tx.prepare(sql)?.exists([number])? {
                return Err(Failure::not_found("night", number));
            }
            Ok(changed > 0)
        })
    }

    /// Counts the tokens that the model writes for the unit that is stored next.
    pub fn generated(&self) -> Arc<AtomicU64> {
        self.generated.clone()
    }

    /// Marks a unit whose results lie elsewhere (a checkpoint, an index) as done. Returns false
    /// when it already was.
    ///
    /// # Errors
    /// [`ArchiveError`] when the night is not under way or the row could not be written.
    pub fn record_unit(&self, unit: &Unit<'_>) -> Result<bool, ArchiveError> {
        self.write_unit(unit, |_| Ok(()))
    }
}
