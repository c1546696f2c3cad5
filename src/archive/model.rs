//! Model versions: which there are, which one is live, which have their weights.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rusqlite::OptionalExtension;
use rusqlite::Row;
use rusqlite::Transaction;
use rusqlite::params;
use serde::Deserialize;
use serde::Serialize;

use super::Archive;
use super::ArchiveReader;
use super::error::ArchiveError;
use super::error::Failure;
use super::night::Unit;
use super::value;
use crate::config::Adapters;

/// What a model version consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelKind {
    /// The weights as they were fetched.
    Base,
    /// A LoRA adapter over a base.
    Adapter,
}

impl ModelKind {
    /// The name used in the archive, in JSON and in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Adapter => "adapter",
        }
    }
}

/// A set of weights that something was sampled from, or will be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModelVersion {
    /// Stable id.
    pub id: String,
    /// The version training started from; none for a base.
    pub parent: Option<String>,
    /// Base or adapter.
    pub kind: ModelKind,
    /// Whether its roles share one adapter; none for a base.
    pub adapters: Option<Adapters>,
    /// Where its files lie. Not part of its content: it may move.
    pub path: String,
    /// Hash of its files.
    pub content_hash: String,
    /// The night that made it; none for a base.
    pub night: Option<u32>,
    /// What a person should know about it, such as `warm start`.
    pub note: String,
}

/// The decision a night ends with.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Promotion {
    /// The night.
    pub night: u32,
    /// The version it made.
    pub candidate: String,
    /// The version that was live.
    pub incumbent: String,
    /// Whether the candidate is live from now on.
    pub promoted: bool,
    /// Why, in words.
    pub reason: String,
    /// Candidate less incumbent on the suite; none when it did not come to a comparison.
    pub delta: Option<f64>,
    /// The 95 % interval of `delta`.
    pub ci: Option<(f64, f64)>,
}

const VERSION: &str = "SELECT id, parent, kind, path, content_hash, night, note, adapters,
    created_at FROM model_version";

fn version_of(row: &Row<'_>) -> rusqlite::Result<ModelVersion> {
    Ok(ModelVersion {
        id: row.get(0)?,
        parent: row.get(1)?,
        kind: value::named(row, 2)?,
        path: row.get(3)?,
        content_hash: row.get(4)?,
        night: row.get(5)?,
        note: row.get(6)?,
        adapters: value::named_or_none(row, 7)?,
    })
}

/// The version of that id, if there is one.
pub(super) fn find(tx: &Transaction<'_>, id: &str) -> Result<Option<ModelVersion>, Failure> {
    let mut statement = tx.prepare_cached(&format!("{VERSION} WHERE id = ?1"))?;
    Ok(statement.query_row([id], version_of).optional()?)
}

impl ArchiveReader {
    /// All model versions with the time they were stored, first to last.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn model_versions(&self) -> Result<Vec<(ModelVersion, Timestamp)>, ArchiveError> {
        self.read(|tx| {
            let sql = format!("{VERSION} ORDER BY coalesce(night, 0), created_at, id");
            let mut statement = tx.prepare(&sql)?;
            let versions =
                statement.query_map([], |row| Ok((version_of(row)?, value::time(row, 8)?)))?;
            Ok(versions.collect::<Result<_, _>>()?)
        })
    }

    /// The model version of that id, if there is one.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn model_version(&self, id: &str) -> Result<Option<ModelVersion>, ArchiveError> {
        self.read(|tx| find(tx, id))
    }

    /// The version that plays and answers; none before the first is set.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn live_model(&self) -> Result<Option<ModelVersion>, ArchiveError> {
        self.read(|tx| {
            let mut statement = tx
                .prepare(&format!("{VERSION} WHERE id = (SELECT model_version FROM live_model)"))?;
            Ok(statement.query_row([], version_of).optional()?)
        })
    }

    /// The versions whose weights were removed, with the night at whose end that was.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn removed_versions(&self) -> Result<BTreeMap<String, u32>, ArchiveError> {
        self.read(|tx| {
            let mut statement = tx.prepare(
                "SELECT id, removed_night FROM model_version WHERE removed_night IS NOT NULL",
            )?;
            let removed = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok(removed.collect::<Result<_, _>>()?)
        })
    }

    /// The decisions of all nights that came to one, first to last.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn promotions(&self) -> Result<Vec<Promotion>, ArchiveError> {
        self.read(|tx| {
            let mut statement = tx.prepare(
                "SELECT night, candidate, incumbent, promoted, reason, delta, ci_low, ci_high
                 FROM promotion ORDER BY night",
            )?;
            let promotions = statement.query_map([], |row| {
                let (low, high): (Option<f64>, Option<f64>) = (row.get(6)?, row.get(7)?);
                Ok(Promotion {
                    night: row.get(0)?,
                    candidate: row.get(1)?,
                    incumbent: row.get(2)?,
                    promoted: row.get(3)?,
                    reason: row.get(4)?,
                    delta: row.get(5)?,
                    ci: low.zip(high),
                })
            })?;
            Ok(promotions.collect::<Result<_, _>>()?)
        })
    }
}

impl Archive {
    /// Stores a model version. The same again changes nothing, except that it may say where the
    /// files lie now.
    ///
    /// # Errors
    /// [`ArchiveError::Frozen`] when the id is there with other content.
    pub fn put_model_version(&self, version: &ModelVersion) -> Result<(), ArchiveError> {
        let now = self.now();
        self.write(|tx| {
            let Some(known) = find(tx, &version.id)? else {
                tx.execute(
                    "INSERT INTO model_version
                         (id, parent, kind, path, content_hash, night, note, adapters, created_at)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                    params![
                        version.id,
                        version.parent,
                        version.kind.as_str(),
                        version.path,
                        version.content_hash,
                        version.night,
                        version.note,
                        version.adapters.map(Adapters::as_str),
                        now,
                    ],
                )?;
                return Ok(());
            };
            if (ModelVersion { path: version.path.clone(), ..known }) != *version {
                let id = version.id.clone();
                return Err(ArchiveError::Frozen { kind: "model version", id }.into());
            }
            let sql = "UPDATE model_version SET path = ?2 WHERE id = ?1 AND path <> ?2";
            tx.execute(sql, params![version.id, version.path])?;
            Ok(())
        })
    }

    /// Notes that the weights of these versions are removed at the end of the unit's night; their
    /// rows stay. Returns false, and changes nothing, when the unit is already there.
    ///
    /// # Errors
    /// [`ArchiveError::Inconsistent`] for the live version, which must keep its weights;
    /// [`ArchiveError::NotFound`] when there is no such version.
    pub fn record_removed_versions(
        &self,
        unit: &Unit<'_>,
        ids: &[String],
    ) -> Result<bool, ArchiveError> {
        self.write_unit(unit, |tx| {
            let mut live = tx.prepare("SELECT 1 FROM live_model WHERE model_version = ?1")?;
            let mut mark =
                tx.prepare("UPDATE model_version SET removed_night = ?2 WHERE id = ?1")?;
            for id in ids {
                if live.exists([id])? {
                    let what = format!("to mark the weights of {id}, which is live, as removed");
                    return Err(Failure::inconsistent(what));
                }
                if mark.execute(params![id, unit.night])? == 0 {
                    return Err(Failure::not_found("model version", id));
                }
            }
            Ok(())
        })
    }

    /// Makes a version live without a comparison: the base at the start, or by a person's wish.
    ///
    /// # Errors
    /// [`ArchiveError::NotFound`] when there is no such version, [`ArchiveError::Inconsistent`]
    /// when its weights were removed.
    pub fn set_live_model(&self, id: &str, reason: &str) -> Result<(), ArchiveError> {
        let now = self.now();
        self.write(|tx| set_live(tx, id, reason, &now))
    }

    /// Makes the version live that was so before the present one; returns its id. Doing so again
    /// goes one further back.
    ///
    /// # Errors
    /// [`ArchiveError::Inconsistent`] when there is none, or its weights were removed.
    pub fn roll_back(&self, reason: &str) -> Result<String, ArchiveError> {
        let now = self.now();
        self.write(|tx| {
            let history = live_history(tx)?;
            let [.., before, _] = history.as_slice() else {
                return Err(Failure::inconsistent("to go back behind the first live version"));
            };
            set_live(tx, before, reason, &now)?;
            Ok(before.clone())
        })
    }

    /// Stores a night's decision and, if the candidate was promoted, makes it live, as one
    /// transaction. Returns false, and changes nothing, when the unit is already there.
    ///
    /// # Errors
    /// [`ArchiveError::Inconsistent`] when the incumbent is not the live version, or the night
    /// has a decision from another unit.
    pub fn record_promotion(
        &self,
        unit: &Unit<'_>,
        promotion: &Promotion,
    ) -> Result<bool, ArchiveError> {
        let now = self.now();
        self.write_unit(unit, |tx| {
            let live: Option<String> = tx
                .prepare("SELECT model_version FROM live_model")?
                .query_row([], |row| row.get(0))
                .optional()?;
            if live.as_ref() != Some(&promotion.incumbent) || unit.night != promotion.night {
                return Err(Failure::inconsistent(format!(
                    "a decision of night {} over {}, while night {} runs with {}",
                    promotion.night,
                    promotion.incumbent,
                    unit.night,
                    live.as_deref().unwrap_or("no model")
                )));
            }
            tx.execute(
                "INSERT INTO promotion (night, candidate, incumbent, promoted, reason, delta,
                                        ci_low, ci_high, decided_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                params![
                    promotion.night,
                    promotion.candidate,
                    promotion.incumbent,
                    promotion.promoted,
                    promotion.reason,
                    promotion.delta,
                    promotion.ci.map(|(low, _)| low),
                    promotion.ci.map(|(_, high)| high),
                    now,
                ],
            )?;
            let reason = format!("promoted in night {}", promotion.night);
            match promotion.promoted {
                true => set_live(tx, &promotion.candidate, &reason, &now),
                false => Ok(()),
            }
        })
    }
}

/// The versions that were live, without those that were taken back; the last one is live.
pub(super) fn live_history(tx: &Transaction<'_>) -> Result<Vec<String>, Failure> {
    let mut statement = tx.prepare("SELECT model_version FROM live_change ORDER BY number")?;
    let mut history: Vec<String> = Vec::new();
    for id in statement.query_map([], |row| row.get(0))? {
        let id: String = id?;
        // Going back to a version takes back what came after it.
        match history.iter().position(|earlier| *earlier == id) {
            Some(at) => history.truncate(at + 1),
            None => history.push(id),
        }
    }
    Ok(history)
}

pub(super) fn set_live(
    tx: &Transaction<'_>,
    id: &str,
    reason: &str,
    now: &str,
) -> Result<(), Failure> {
    if find(tx, id)?.is_none() {
        return Err(Failure::not_found("model version", id));
    }
    let gone = "SELECT 1 FROM model_version WHERE id = ?1 AND removed_night IS NOT NULL";
    if tx.prepare(gone)?.exists([id])? {
        let what = format!("to make {id} live, whose weights were removed");
        return Err(Failure::inconsistent(what));
    }
    let live = "SELECT 1 FROM live_model WHERE model_version = ?1";
    if tx.prepare(live)?.exists([id])? {
        return Ok(());
    }
    tx.execute(
        "INSERT INTO live_model (one, model_version) VALUES (1, ?1)
         ON CONFLICT (one) DO UPDATE SET model_version = excluded.model_version",
        [id],
    )?;
    tx.execute(
        "INSERT INTO live_change (model_version, reason, changed_at) VALUES (?1, ?2, ?3)",
        params![id, reason, now],
    )?;
    Ok(())
}
