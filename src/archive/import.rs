//! Taking in what came from outside: tasks of another archive, questions of a person.

use rusqlite::OptionalExtension;
use rusqlite::Transaction;
use rusqlite::params;
use serde::Deserialize;
use serde::Serialize;
use serde_json::json;

use super::Archive;
use super::ArchiveReader;
use super::corpus;
use super::draft;
use super::draft::GatedDraft;
use super::error::ArchiveError;
use super::error::Failure;
use super::task::TaskState;
use super::value;
use crate::task::Passage;

/// What the paths of source files begin with that an import brought: they lie in no folder, so
/// that no look at the folders may say that they vanished.
pub const IMPORTED: &str = "import:";

/// How an archive holds a document of some id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DocumentStanding {
    /// Not at all.
    Unknown,
    /// Imports brought it, with these passages.
    Imported(Vec<Passage>),
    /// Files of the corpus hold it, or held it: they alone say what is in it.
    OfFiles,
}

/// What a model version made of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Play {
    /// Its id in the archive that it belongs to.
    pub model_version: String,
    /// Hash of its weights, by which it is the same in every archive.
    pub content_hash: String,
    /// Rollouts made.
    pub attempts: u64,
    /// Rollouts whose answer matched exactly.
    pub solved: u64,
}

/// What a task was before an import brought it. Nights and versions are those of the archive that
/// made or played it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Imported {
    /// Name of the export's folder, or of the file.
    pub source: String,
    /// Hash of the export's seal; none where the rows lay in no sealed folder.
    pub export_hash: Option<String>,
    /// The night that accepted it; none where a person did.
    pub night: Option<u32>,
    /// The version of its latest rollout.
    pub played_by: Option<String>,
    /// Rollouts made.
    pub attempts: u64,
    /// Rollouts whose answer matched exactly.
    pub solved: u64,
    /// The same by version.
    pub plays: Vec<Play>,
    /// Tasks that it was made from, whether they are here or not.
    pub parents: Vec<String>,
    /// The files of the passages that it rests on.
    pub sources: Vec<Option<String>>,
}

/// A draft from outside that went through the gate, here or where it came from.
#[derive(Debug, Clone, PartialEq)]
pub struct ImportedDraft {
    /// The draft; its task, if it became one, is of no night.
    pub gated: GatedDraft,
    /// The state of the task where it came from, with the reason.
    pub state: Option<(TaskState, String)>,
    /// What it was there, if another archive accepted it.
    pub imported: Option<Imported>,
}

impl ArchiveReader {
    /// Which of these passages are not in the present corpus.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn lacking_passages(&self, ids: &[String]) -> Result<Vec<String>, ArchiveError> {
        self.read(|tx| {
            let sql = "SELECT 1 FROM passage WHERE id = ?1 AND retired = 0";
            let mut statement = tx.prepare_cached(sql)?;
            let mut lacking = Vec::new();
            for id in ids {
                if !statement.exists([id])? {
                    lacking.push(id.clone());
                }
            }
            Ok(lacking)
        })
    }

    /// How the archive holds the document of this id.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn document_standing(&self, id: &str) -> Result<DocumentStanding, ArchiveError> {
        self.read(|tx| {
            if !tx.prepare_cached("SELECT 1 FROM document WHERE id = ?1")?.exists([id])? {
                return Ok(DocumentStanding::Unknown);
            }
            let other = "SELECT 1 FROM source_document
                         WHERE document_id = ?1 AND substr(path, 1, length(?2)) <> ?2";
            if tx.prepare_cached(other)?.exists([id, IMPORTED])? {
                return Ok(DocumentStanding::OfFiles);
            }
            let mut statement = tx.prepare_cached(
                "SELECT p.id, dp.document_id, p.title, p.text, dp.ordinal
                 FROM document_passage dp JOIN passage p ON p.id = dp.passage_id
                 WHERE dp.document_id = ?1 AND dp.retired = 0 ORDER BY dp.ordinal, p.id",
            )?;
            let passages = statement.query_map([id], corpus::passage_of)?;
            Ok(DocumentStanding::Imported(passages.collect::<Result<_, _>>()?))
        })
    }

    /// Whether there is a draft of this id.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn has_draft(&self, id: &str) -> Result<bool, ArchiveError> {
        self.read(|tx| Ok(tx.prepare_cached("SELECT 1 FROM draft WHERE id = ?1")?.exists([id])?))
    }
}

impl Archive {
    /// Stores drafts from outside with their verdicts and the tasks they became; all of them or
    /// none. One whose id is known stays as it is.
    ///
    /// # Errors
    /// As [`Archive::record_drafts`].
    pub fn import_drafts(&self, drafts: &[ImportedDraft]) -> Result<(), ArchiveError> {
        self.write(|tx| {
            let mut known = tx.prepare_cached("SELECT 1 FROM draft WHERE id = ?1")?;
            for imported in drafts {
                let id = &imported.gated.draft.id;
                if known.exists([id])? {
                    continue;
                }
                draft::put_gated(tx, None, &imported.gated)?;
                put_state(tx, id, imported.state.as_ref())?;
                if let (Some(before), Some(_)) = (&imported.imported, &imported.gated.task) {
                    put_imported(tx, id, before)?;
                }
            }
            Ok(())
        })
    }

    /// Notes which tasks others were made from, as (task, place, parent); pairs of which the
    /// archive lacks one are left out.
    ///
    /// # Errors
    /// [`ArchiveError`] when it could not be written.
    pub fn import_parents(&self, links: &[(String, u32, String)]) -> Result<(), ArchiveError> {
        self.write(|tx| {
            let mut statement = tx.prepare_cached(
                "INSERT OR IGNORE INTO task_parent (task_id, ordinal, parent_id)
                 SELECT ?1, ?2, ?3 WHERE EXISTS (SELECT 1 FROM task WHERE id = ?1)
                     AND EXISTS (SELECT 1 FROM task WHERE id = ?3)",
            )?;
            for (task, ordinal, parent) in links {
                statement.execute(params![task, ordinal, parent])?;
            }
            Ok(())
        })
    }
}

fn put_imported(tx: &Transaction<'_>, id: &str, imported: &Imported) -> Result<(), Failure> {
    tx.prepare_cached(
        "INSERT INTO imported (task_id, source, export_hash, night, played_by, attempts, solved,
                               plays_json, parents_json, sources_json)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?
    .execute(params![
        id,
        imported.source,
        imported.export_hash,
        imported.night,
        imported.played_by,
        imported.attempts.cast_signed(),
        imported.solved.cast_signed(),
        json!(imported.plays).to_string(),
        json!(imported.parents).to_string(),
        json!(imported.sources).to_string(),
    ])?;
    Ok(())
}

/// What a task was before it was imported, if it was.
pub(super) fn imported(tx: &Transaction<'_>, id: &str) -> Result<Option<Imported>, Failure> {
    let mut statement = tx.prepare_cached(
        "SELECT source, export_hash, night, played_by, attempts, solved, plays_json, parents_json,
                sources_json
         FROM imported WHERE task_id = ?1",
    )?;
    let imported = statement.query_row([id], |row| {
        Ok(Imported {
            source: row.get(0)?,
            export_hash: row.get(1)?,
            night: row.get(2)?,
            played_by: row.get(3)?,
            attempts: row.get::<_, i64>(4)?.cast_unsigned(),
            solved: row.get::<_, i64>(5)?.cast_unsigned(),
            plays: value::json(row, 6)?,
            parents: value::json(row, 7)?,
            sources: value::json(row, 8)?,
        })
    });
    Ok(imported.optional()?)
}

/// What each version of this archive made of a task, by its id.
pub(super) fn plays(tx: &Transaction<'_>, id: &str) -> Result<Vec<Play>, Failure> {
    let mut statement = tx.prepare_cached(
        "SELECT p.model_version, m.content_hash, p.attempts, p.solved
         FROM task_play p JOIN model_version m ON m.id = p.model_version
         WHERE p.task_id = ?1 ORDER BY p.model_version",
    )?;
    let plays = statement.query_map([id], |row| {
        Ok(Play {
            model_version: row.get(0)?,
            content_hash: row.get(1)?,
            attempts: row.get::<_, i64>(2)?.cast_unsigned(),
            solved: row.get::<_, i64>(3)?.cast_unsigned(),
        })
    })?;
    Ok(plays.collect::<Result<_, _>>()?)
}

/// Sets a new task's state to the one that it had; `evidence` is decided here.
fn put_state(
    tx: &Transaction<'_>,
    id: &str,
    state: Option<&(TaskState, String)>,
) -> Result<(), Failure> {
    if let Some((state, reason)) = state
        && *state != TaskState::Active
        && reason != "evidence"
    {
        tx.prepare_cached("UPDATE task SET state = ?2, state_reason = ?3 WHERE id = ?1")?
            .execute(params![id, state.as_str(), reason])?;
    }
    Ok(())
}
