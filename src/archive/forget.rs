//! Taking out a document, and what was made of it.
//!
//! What is taken out is overwritten in the file and its log. Weights that learnt from it cannot be
//! unlearnt: the versions are named.

use rusqlite::Transaction;
use rusqlite::params;
use serde::Serialize;

use super::Archive;
use super::error::ArchiveError;
use super::error::Failure;

/// What was taken out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Removal {
    /// The document.
    pub document_id: String,
    /// Passages whose words are gone; those that other documents hold stay.
    pub passages: u64,
    /// Drafts, those that became tasks included.
    pub drafts: u64,
    /// Tasks.
    pub tasks: u64,
    /// Rollouts: those of these tasks, and those that were shown one of the passages.
    pub rollouts: u64,
    /// Questions of suites whose words are gone.
    pub suite_questions: u64,
    /// Tasks that stay, out of play: what they rest on is gone.
    pub tasks_retired: u64,
    /// Model versions that were trained on what was taken out, or came from one that was.
    pub versions: Vec<String>,
}

/// The sets that a removal is about.
const SETS: &str = "
    CREATE TEMP TABLE gone_passage (id TEXT NOT NULL PRIMARY KEY);
    CREATE TEMP TABLE gone_draft (id TEXT NOT NULL PRIMARY KEY, number INTEGER NOT NULL);
    CREATE TEMP TABLE gone_rollout (number INTEGER NOT NULL PRIMARY KEY);";
const NO_SETS: &str = "DROP TABLE IF EXISTS gone_passage; DROP TABLE IF EXISTS gone_draft;
    DROP TABLE IF EXISTS gone_rollout;";

/// The passages that no other document holds.
const PASSAGES: &str = "INSERT INTO gone_passage
    SELECT dp.passage_id FROM document_passage dp WHERE dp.document_id = ?1
    AND NOT EXISTS (SELECT 1 FROM document_passage other
                    WHERE other.passage_id = dp.passage_id AND other.document_id <> ?1)";

/// Drafts over one of them, and, from task to task, those made from these.
const DRAFTS: &str = "INSERT INTO gone_draft
    WITH RECURSIVE derived (id) AS (
        SELECT d.id FROM gone_passage p JOIN seed_passage sp ON sp.passage_id = p.id
        JOIN draft d ON d.seed_id = sp.seed_id
        UNION
        SELECT e.task_id FROM gone_passage p JOIN task_evidence e ON e.passage_id = p.id
        UNION
        SELECT t.task_id FROM derived JOIN task_parent t ON t.parent_id = derived.id)
    SELECT d.id, d.number FROM derived JOIN draft d ON d.id = derived.id";

/// Rollouts of these tasks, those that read one of the passages, and those that went on from one
/// of them.
const ROLLOUTS: &str = "INSERT INTO gone_rollout
    WITH RECURSIVE gone (number, task_id, night, round, ordinal) AS (
        SELECT r.rowid, r.task_id, r.night, r.round, r.ordinal FROM rollout r
        WHERE r.task_id IN (SELECT id FROM gone_draft)
        OR EXISTS (SELECT 1 FROM json_each(r.retrieved_json) j
                   JOIN gone_passage p ON p.id = j.value)
        UNION
        SELECT r.rowid, r.task_id, r.night, r.round, r.ordinal
        FROM gone JOIN group_start g ON g.task_id = gone.task_id AND g.from_night = gone.night
            AND g.from_round = gone.round AND g.from_ordinal = gone.ordinal
        JOIN rollout r ON r.task_id = g.task_id AND r.night = g.night AND r.round = g.round)
    SELECT number FROM gone";

/// Versions whose training used one of these tasks, and all that came from them.
const VERSIONS: &str = "
    WITH RECURSIVE tainted (id) AS (
        SELECT m.id FROM train_draft i
        JOIN train_step s ON s.night = i.night AND s.phase = i.phase AND s.adapter = i.adapter
            AND s.step = i.step
        JOIN model_version m ON m.night = s.night AND m.parent = s.model_version
        WHERE i.draft_id IN (SELECT id FROM gone_draft)
        UNION
        SELECT m.id FROM train_item i
        JOIN train_step s ON s.night = i.night AND s.phase = i.phase AND s.adapter = i.adapter
            AND s.step = i.step
        JOIN model_version m ON m.night = s.night AND m.parent = s.model_version
        WHERE i.task_id IN (SELECT id FROM gone_draft)
            OR EXISTS (SELECT 1 FROM rollout r JOIN gone_rollout g ON g.number = r.rowid
                       WHERE r.task_id = i.task_id AND r.night = i.night AND r.round = i.round
                           AND r.ordinal = i.rollout)
        UNION
        SELECT m.id FROM tainted JOIN model_version m ON m.parent = tainted.id)
    SELECT id FROM tainted ORDER BY id";

/// What is deleted with the drafts, in an order that leaves no reference behind.
const DELETIONS: [&str; 21] = [
    "DELETE FROM verification WHERE task_id IN (SELECT id FROM gone_draft)",
    "DELETE FROM train_item WHERE task_id IN (SELECT id FROM gone_draft)",
    "DELETE FROM train_draft WHERE draft_id IN (SELECT id FROM gone_draft)",
    "DELETE FROM standing WHERE task_id IN (SELECT id FROM gone_draft)",
    "DELETE FROM balance_sample WHERE task_id IN (SELECT id FROM gone_draft)",
    "DELETE FROM group_start WHERE task_id IN (SELECT id FROM gone_draft) OR EXISTS (
         SELECT 1 FROM rollout r JOIN gone_rollout g ON g.number = r.rowid
         WHERE r.task_id = group_start.task_id AND r.night = group_start.from_night
             AND r.round = group_start.from_round AND r.ordinal = group_start.from_ordinal)",
    "DELETE FROM rollout WHERE rowid IN (SELECT number FROM gone_rollout)",
    "DELETE FROM group_start WHERE NOT EXISTS (
         SELECT 1 FROM rollout r WHERE r.task_id = group_start.task_id
             AND r.night = group_start.night AND r.round = group_start.round)",
    "DELETE FROM proposal WHERE draft_id IN (SELECT id FROM gone_draft)",
    "DELETE FROM prompt WHERE id NOT IN (SELECT prompt_id FROM rollout WHERE prompt_id NOT NULL
         UNION SELECT prompt_id FROM proposal WHERE prompt_id NOT NULL)",
    "DELETE FROM task_play WHERE task_id IN (SELECT id FROM gone_draft)",
    "UPDATE curation SET replaced_by = NULL WHERE replaced_by IN (SELECT id FROM gone_draft)",
    "DELETE FROM curation WHERE task_id IN (SELECT id FROM gone_draft)",
    "DELETE FROM task_parent WHERE task_id IN (SELECT id FROM gone_draft)
         OR parent_id IN (SELECT id FROM gone_draft)",
    "DELETE FROM task_evidence WHERE task_id IN (SELECT id FROM gone_draft)",
    "DELETE FROM imported WHERE task_id IN (SELECT id FROM gone_draft)",
    "DELETE FROM task_minhash WHERE number IN (SELECT number FROM gone_draft)",
    "DELETE FROM task WHERE id IN (SELECT id FROM gone_draft)",
    "DELETE FROM verdict WHERE draft_id IN (SELECT id FROM gone_draft)",
    "DELETE FROM draft WHERE id IN (SELECT id FROM gone_draft)",
    "DELETE FROM seed_passage WHERE seed_id NOT IN (SELECT seed_id FROM draft)",
];

impl Archive {
    /// Takes out a document: its words, and with `derived` the drafts, tasks and rollouts that
    /// came of them. Tasks that stay without their evidence are retired. The document does not
    /// come back when its file is read again.
    ///
    /// # Errors
    /// [`ArchiveError::NotFound`] when there is no such document.
    pub fn remove_document(&self, id: &str, derived: bool) -> Result<Removal, ArchiveError> {
        let now = self.now();
        let at = |error: rusqlite::Error| Failure::from(error).at(self.path());
        self.connection.pragma_update(None, "secure_delete", true).map_err(at)?;
        let removal = self.write(|tx| remove(tx, id, derived, &now))?;
        // The log holds pages as they were before. A reader that holds them up is waited for.
        let truncate = "PRAGMA wal_checkpoint(TRUNCATE)";
        self.connection.query_row(truncate, [], |_| Ok(())).map_err(at)?;
        Ok(removal)
    }
}

fn remove(tx: &Transaction<'_>, id: &str, derived: bool, now: &str) -> Result<Removal, Failure> {
    if !tx.prepare("SELECT 1 FROM document WHERE id = ?1")?.exists([id])? {
        return Err(Failure::not_found("document", id));
    }
    tx.execute_batch(NO_SETS)?;
    tx.execute_batch(SETS)?;
    let passages = tx.execute(PASSAGES, [id])? as u64;
    let mut removal = Removal {
        document_id: id.to_string(),
        passages,
        drafts: 0,
        tasks: 0,
        rollouts: 0,
        suite_questions: 0,
        tasks_retired: 0,
        versions: Vec::new(),
    };
    if derived {
        removal.drafts = tx.execute(DRAFTS, [])? as u64;
    }
    let versions = match derived {
        true => {
            removal.rollouts = tx.execute(ROLLOUTS, [])? as u64;
            tx.prepare(VERSIONS)?.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?
        }
        // They stay, and are named all the same: by the drafts that would go.
        false => {
            tx.execute(DRAFTS, [])?;
            tx.execute(ROLLOUTS, [])?;
            let versions =
                tx.prepare(VERSIONS)?.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
            tx.execute_batch("DELETE FROM gone_draft; DELETE FROM gone_rollout;")?;
            versions
        }
    };
    removal.versions = versions;
    if derived {
        delete_derived(tx, &mut removal)?;
    }
    delete_document(tx, id, &mut removal)?;
    tx.execute(
        "INSERT INTO removal (document_id, passages, drafts, tasks, rollouts, adapters_json,
                              removed_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![
            id,
            removal.passages as i64,
            removal.drafts as i64,
            removal.tasks as i64,
            removal.rollouts as i64,
            serde_json::Value::from(removal.versions.clone()).to_string(),
            now
        ],
    )?;
    tx.execute_batch(NO_SETS)?;
    super::corpus::note_version(tx, now)?;
    Ok(removal)
}

fn delete_derived(tx: &Transaction<'_>, removal: &mut Removal) -> Result<(), Failure> {
    // Tasks that stay, of which some rollouts go, keep their counts in line with what is left.
    tx.execute_batch(
        "CREATE TEMP TABLE gone_play AS
         SELECT r.task_id, r.model_version, count(*) AS attempts,
                sum(r.exact_match >= 0.5) AS solved
         FROM gone_rollout g JOIN rollout r ON r.rowid = g.number
         WHERE r.task_id NOT IN (SELECT id FROM gone_draft) GROUP BY 1, 2;
         UPDATE task SET attempts = task.attempts - g.attempts, solved = task.solved - g.solved
         FROM (SELECT task_id, sum(attempts) AS attempts, sum(solved) AS solved
               FROM gone_play GROUP BY 1) g WHERE g.task_id = task.id;
         DELETE FROM task_play WHERE EXISTS (
             SELECT 1 FROM gone_play g WHERE g.task_id = task_play.task_id
             AND g.model_version = task_play.model_version AND g.attempts = task_play.attempts);
         UPDATE task_play SET attempts = task_play.attempts - g.attempts,
                              solved = task_play.solved - g.solved
         FROM gone_play g WHERE g.task_id = task_play.task_id
             AND g.model_version = task_play.model_version;
         DROP TABLE gone_play;",
    )?;
    let mut words = tx.prepare("DELETE FROM task_words WHERE rowid = ?1")?;
    let mut gone = tx.prepare("SELECT g.number FROM gone_draft g JOIN task t USING (number)")?;
    let numbers: Vec<i64> = gone.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    for number in &numbers {
        words.execute([number])?;
    }
    removal.tasks = numbers.len() as u64;
    for deletion in DELETIONS {
        tx.execute(deletion, [])?;
    }
    tx.execute("DELETE FROM seed WHERE id NOT IN (SELECT seed_id FROM draft)", [])?;
    // Deleted words stay in the index until its parts are merged.
    tx.execute("INSERT INTO task_words (task_words) VALUES ('optimize')", [])?;
    Ok(())
}

/// Takes out the document's own rows. A passage that something still refers to keeps its id.
fn delete_document(tx: &Transaction<'_>, id: &str, removal: &mut Removal) -> Result<(), Failure> {
    removal.suite_questions = tx.execute(
        "UPDATE suite_item SET question = '', answers_json = '[]', question_hash = NULL
         WHERE source_document = ?1 AND question <> ''",
        [id],
    )? as u64;
    tx.execute(
        "UPDATE evaluation_item SET answer = NULL WHERE EXISTS (
             SELECT 1 FROM suite_item i JOIN evaluation e ON e.suite_id = i.suite_id
             WHERE i.source_document = ?1 AND e.id = evaluation_item.evaluation_id
             AND i.question_id = evaluation_item.question_id)",
        [id],
    )?;
    tx.execute(
        "UPDATE passage SET title = '', text = '', retired = 1
                WHERE id IN (SELECT id FROM gone_passage)",
        [],
    )?;
    removal.tasks_retired = tx.execute(
        "UPDATE task SET state = 'retired', state_reason = 'removed'
         WHERE state <> 'retired' AND id IN (
             SELECT e.task_id FROM task_evidence e JOIN gone_passage p ON p.id = e.passage_id)",
        [],
    )? as u64;
    tx.execute("DELETE FROM source_document WHERE document_id = ?1", [id])?;
    let held = "SELECT 1 FROM task WHERE document_id = ?1";
    if tx.prepare(held)?.exists([id])? {
        tx.execute("UPDATE document SET title = '', retired = 1 WHERE id = ?1", [id])?;
        tx.execute("UPDATE document_passage SET retired = 1 WHERE document_id = ?1", [id])?;
    } else {
        tx.execute("DELETE FROM document_passage WHERE document_id = ?1", [id])?;
        tx.execute("DELETE FROM document WHERE id = ?1", [id])?;
    }
    tx.execute(
        "DELETE FROM passage WHERE id IN (SELECT id FROM gone_passage)
         AND id NOT IN (SELECT passage_id FROM seed_passage)
         AND id NOT IN (SELECT passage_id FROM task_evidence)
         AND id NOT IN (SELECT passage_id FROM document_passage)",
        [],
    )?;
    Ok(())
}
