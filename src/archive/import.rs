//! Taking in what came from outside: tasks of another archive, questions of a person.

use rusqlite::Transaction;
use rusqlite::params;

use super::Archive;
use super::ArchiveReader;
use super::corpus;
use super::draft;
use super::draft::GatedDraft;
use super::error::ArchiveError;
use super::error::Failure;
use super::task::TaskState;
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

/// A draft from outside that went through the gate, here or where it came from.
#[derive(Debug, Clone, PartialEq)]
pub struct ImportedDraft {
    /// The draft; its task, if it became one, is of no night.
    pub gated: GatedDraft,
    /// The state of the task where it came from, with the reason.
    pub state: Option<(TaskState, String)>,
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
