//! What keeps decisions honest: losses on general text, readings of the sealed suite, demotions.

use rusqlite::OptionalExtension;
use rusqlite::params;
use serde::Deserialize;
use serde::Serialize;

use super::Archive;
use super::ArchiveReader;
use super::error::ArchiveError;
use super::error::Failure;
use super::model;
use super::night::Unit;

/// How well a version predicts a text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TextLoss {
    /// The version.
    pub model_version: String,
    /// Hash of the text.
    pub text: String,
    /// Its tokens that were predicted.
    pub tokens: u64,
    /// Mean negative log-probability, nats per token.
    pub loss: f64,
}

/// A reading of the sealed suite. Gains are differences of mean F1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SealedReading {
    /// The night.
    pub night: u32,
    /// Id of the suite that decides promotions.
    pub suite_id: String,
    /// Id of the sealed suite.
    pub sealed_id: String,
    /// The version that was live when the night's decision was taken.
    pub model_version: String,
    /// The version it is held against: the base model.
    pub reference: String,
    /// Its gain over the reference on the suite that decides.
    pub gain: f64,
    /// Its gain over the reference on the sealed suite.
    pub sealed_gain: f64,
    /// 95 % interval of `gain - sealed_gain`.
    pub drift_ci: (f64, f64),
    /// Whether that interval lies above zero: the suite that decides is worn out.
    pub drifted: bool,
}

/// A live version that proved worse than the one before it, which took its place again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Demotion {
    /// The night.
    pub night: u32,
    /// Id of the suite that showed it.
    pub suite_id: String,
    /// The version that was live.
    pub model_version: String,
    /// The version that is.
    pub successor: String,
    /// Mean paired difference in F1, the former less the latter.
    pub delta: f64,
    /// Its 95 % interval; below zero.
    pub ci: (f64, f64),
}

impl ArchiveReader {
    /// What a version's loss on a text was, if that was measured.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn text_loss(&self, version: &str, text: &str) -> Result<Option<TextLoss>, ArchiveError> {
        self.read(|tx| {
            let mut statement = tx.prepare(
                "SELECT tokens, loss FROM text_loss WHERE model_version = ?1 AND text = ?2",
            )?;
            let found = statement.query_row([version, text], |row| {
                Ok(TextLoss {
                    model_version: version.to_string(),
                    text: text.to_string(),
                    tokens: row.get::<_, i64>(0)?.cast_unsigned(),
                    loss: row.get(1)?,
                })
            });
            Ok(found.optional()?)
        })
    }

    /// All readings of sealed suites, first to last.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn sealed_readings(&self) -> Result<Vec<SealedReading>, ArchiveError> {
        self.read(|tx| {
            let mut statement = tx.prepare(
                "SELECT night, suite_id, sealed_id, model_version, reference, gain, sealed_gain,
                        drift_low, drift_high, drifted FROM sealed_reading ORDER BY night",
            )?;
            let readings = statement.query_map([], |row| {
                Ok(SealedReading {
                    night: row.get(0)?,
                    suite_id: row.get(1)?,
                    sealed_id: row.get(2)?,
                    model_version: row.get(3)?,
                    reference: row.get(4)?,
                    gain: row.get(5)?,
                    sealed_gain: row.get(6)?,
                    drift_ci: (row.get(7)?, row.get(8)?),
                    drifted: row.get(9)?,
                })
            })?;
            Ok(readings.collect::<Result<_, _>>()?)
        })
    }

    /// All demotions, first to last.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn demotions(&self) -> Result<Vec<Demotion>, ArchiveError> {
        self.read(|tx| {
            let mut statement = tx.prepare(
                "SELECT night, suite_id, model_version, successor, delta, ci_low, ci_high
                 FROM demotion ORDER BY night, decided_at",
            )?;
            let demotions = statement.query_map([], |row| {
                Ok(Demotion {
                    night: row.get(0)?,
                    suite_id: row.get(1)?,
                    model_version: row.get(2)?,
                    successor: row.get(3)?,
                    delta: row.get(4)?,
                    ci: (row.get(5)?, row.get(6)?),
                })
            })?;
            Ok(demotions.collect::<Result<_, _>>()?)
        })
    }

    /// The version that was live before the present one, if there was one and its weights are
    /// there.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn predecessor(&self) -> Result<Option<model::ModelVersion>, ArchiveError> {
        self.read(|tx| {
            let history = model::live_history(tx)?;
            let [.., before, _] = history.as_slice() else { return Ok(None) };
            let gone = "SELECT 1 FROM model_version WHERE id = ?1 AND removed_night IS NOT NULL";
            match tx.prepare(gone)?.exists([before])? {
                true => Ok(None),
                false => model::find(tx, before),
            }
        })
    }
}

impl Archive {
    /// Stores a loss on a text. The same version and text again change nothing.
    ///
    /// # Errors
    /// [`ArchiveError::NotFound`] when there is no such version.
    pub fn record_text_loss(&self, loss: &TextLoss) -> Result<(), ArchiveError> {
        self.write(|tx| {
            if model::find(tx, &loss.model_version)?.is_none() {
                return Err(Failure::not_found("model version", &loss.model_version));
            }
            tx.execute(
                "INSERT OR IGNORE INTO text_loss (model_version, text, tokens, loss)
                 VALUES (?1, ?2, ?3, ?4)",
                params![loss.model_version, loss.text, loss.tokens.cast_signed(), loss.loss],
            )?;
            Ok(())
        })
    }

    /// Stores a reading of the sealed suite. Returns false, and changes nothing, when the unit is
    /// already there.
    ///
    /// # Errors
    /// [`ArchiveError`] when a suite or version is not there.
    pub fn record_sealed_reading(
        &self,
        unit: &Unit<'_>,
        reading: &SealedReading,
    ) -> Result<bool, ArchiveError> {
        self.write_unit(unit, |tx| {
            tx.execute(
                "INSERT INTO sealed_reading (night, suite_id, sealed_id, model_version, reference,
                     gain, sealed_gain, drift_low, drift_high, drifted)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
                params![
                    reading.night,
                    reading.suite_id,
                    reading.sealed_id,
                    reading.model_version,
                    reading.reference,
                    reading.gain,
                    reading.sealed_gain,
                    reading.drift_ci.0,
                    reading.drift_ci.1,
                    reading.drifted,
                ],
            )?;
            Ok(())
        })
    }

    /// Puts the version that was live before in the place of one that proved worse, as one
    /// transaction. Returns false, and changes nothing, when the unit is already there.
    ///
    /// # Errors
    /// [`ArchiveError::Inconsistent`] when another version is live, or was so before it.
    pub fn record_demotion(
        &self,
        unit: &Unit<'_>,
        demotion: &Demotion,
    ) -> Result<bool, ArchiveError> {
        let now = self.now();
        self.write_unit(unit, |tx| {
            let history = model::live_history(tx)?;
            let Demotion { night, model_version, successor, delta, ci, .. } = demotion;
            if !history.ends_with(&[successor.clone(), model_version.clone()]) {
                let what = format!("{model_version} to be live, and {successor} before it");
                return Err(Failure::inconsistent(what));
            }
            tx.execute(
                "INSERT INTO demotion (night, suite_id, model_version, successor, delta, ci_low,
                     ci_high, decided_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                params![night, demotion.suite_id, model_version, successor, delta, ci.0, ci.1, now],
            )?;
            let reason = format!("{model_version} proved worse in night {night}");
            model::set_live(tx, successor, &reason, &now)
        })
    }
}
