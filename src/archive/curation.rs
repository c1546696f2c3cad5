//! What a person decides about tasks.

use rusqlite::OptionalExtension;
use rusqlite::Transaction;
use rusqlite::params;
use serde::Serialize;

use super::Archive;
use super::ArchiveReader;
use super::draft;
use super::draft::GatedDraft;
use super::error::ArchiveError;
use super::error::Failure;
use super::task;
use super::task::StoredTask;
use super::task::TaskState;
use super::value;

/// A decision of a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// It is right as it is: it stays in play, or comes back into it.
    Accept,
    /// It is wrong: it leaves play for good.
    Reject,
    /// It is taken out of play, right or wrong.
    Retire,
    /// It comes back into play.
    Restore,
}

impl Decision {
    /// The name used in the archive, in JSON and in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Reject => "reject",
            Self::Retire => "retire",
            Self::Restore => "restore",
        }
    }
}

impl ArchiveReader {
    /// Whether a person has decided about a task, or made it of another by an edit.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn is_curated(&self, id: &str) -> Result<bool, ArchiveError> {
        let known = "SELECT 1 FROM curation WHERE task_id = ?1 OR replaced_by = ?1";
        self.read(|tx| Ok(tx.prepare_cached(known)?.exists([id])?))
    }
}

impl Archive {
    /// Stores a person's decision and does what it says; returns the task as it is then.
    ///
    /// # Errors
    /// [`ArchiveError::NotFound`] when there is no such task; [`ArchiveError::Inconsistent`] when
    /// it shall be played although a passage that it rests on is not in the corpus.
    pub fn curate(
        &self,
        id: &str,
        decision: Decision,
        note: &str,
    ) -> Result<StoredTask, ArchiveError> {
        let now = self.now();
        self.write(|tx| {
            let (state, reason) = match decision {
                Decision::Accept | Decision::Restore => (TaskState::Active, None),
                Decision::Reject => (TaskState::Retired, Some("rejected")),
                Decision::Retire => (TaskState::Retired, Some("by_hand")),
            };
            if state == TaskState::Active {
                require_evidence(tx, id)?;
            }
            let set = "UPDATE task SET state = ?2, state_reason = ?3 WHERE id = ?1";
            if tx.execute(set, params![id, state.as_str(), reason])? == 0 {
                return Err(Failure::not_found("task", id));
            }
            note_decision(tx, id, decision.as_str(), note, None, &now)?;
            let sql = task::select("", "WHERE t.id = ?1");
            Ok(tx.query_row(&sql, [id], |row| task::task_of(tx, row))?)
        })
    }

    /// Stores what a person made of a task, with what the gate said of it. The old task leaves
    /// play if the new one is accepted; nothing but the draft is stored if it is not. Returns
    /// whether it is.
    ///
    /// # Errors
    /// [`ArchiveError::NotFound`] when there is no such task; [`ArchiveError::Inconsistent`] when
    /// verdicts and outcome contradict one another, or the same edit is there already.
    pub fn replace_task(
        &self,
        id: &str,
        edited: &GatedDraft,
        note: &str,
    ) -> Result<bool, ArchiveError> {
        let now = self.now();
        self.write(|tx| {
            let set = "UPDATE task SET state = 'retired', state_reason = 'edited' WHERE id = ?1";
            draft::put_gated(tx, None, edited)?;
            let Some(new) = &edited.task else { return Ok(false) };
            if tx.execute(set, [id])? == 0 {
                return Err(Failure::not_found("task", id));
            }
            note_decision(tx, id, "edit", note, Some(&new.id), &now)?;
            Ok(true)
        })
    }
}

fn require_evidence(tx: &Transaction<'_>, id: &str) -> Result<(), Failure> {
    let gone: Option<String> = tx
        .prepare(
            "SELECT p.id FROM task_evidence e JOIN passage p ON p.id = e.passage_id
             WHERE e.task_id = ?1 AND p.retired = 1 LIMIT 1",
        )?
        .query_row([id], |row| row.get(0))
        .optional()?;
    match gone {
        None => Ok(()),
        Some(passage) => Err(Failure::inconsistent(format!(
            "to play task {id}, whose passage {passage} is not in the corpus"
        ))),
    }
}

fn note_decision(
    tx: &Transaction<'_>,
    id: &str,
    action: &str,
    note: &str,
    replaced_by: Option<&str>,
    now: &str,
) -> Result<(), Failure> {
    tx.execute(
        "INSERT INTO curation (task_id, ordinal, action, note, replaced_by, decided_at)
         SELECT ?1, count(*), ?2, ?3, ?4, ?5 FROM curation WHERE task_id = ?1",
        params![id, action, note, replaced_by, now],
    )?;
    Ok(())
}

/// A task's latest decision, for lists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Curation {
    /// The task.
    pub task_id: String,
    /// What was decided.
    pub action: String,
    /// Why.
    pub note: String,
    /// The task that an edit made of it.
    pub replaced_by: Option<String>,
    /// When.
    pub decided_at: jiff::Timestamp,
}

impl ArchiveReader {
    /// What was decided about a task, first to last.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn curations(&self, id: &str) -> Result<Vec<Curation>, ArchiveError> {
        self.read(|tx| {
            let mut statement = tx.prepare(
                "SELECT task_id, action, note, replaced_by, decided_at FROM curation
                 WHERE task_id = ?1 ORDER BY ordinal",
            )?;
            let all = statement.query_map([id], |row| {
                Ok(Curation {
                    task_id: row.get(0)?,
                    action: row.get(1)?,
                    note: row.get(2)?,
                    replaced_by: row.get(3)?,
                    decided_at: value::time(row, 4)?,
                })
            })?;
            Ok(all.collect::<Result<_, _>>()?)
        })
    }
}
