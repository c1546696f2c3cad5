//! Repairing an archive: what can be derived is made again; of a damaged table all rows that can
//! be read go into a new file, and what was lost is told. A copy of the old file stays beside it.

mod salvage;

use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;

use rusqlite::Connection;
use rusqlite::Transaction;
use rusqlite::TransactionBehavior;
use serde::Serialize;

use super::check::COPY;
use super::check::Finding;
use super::check::REINDEX;
use super::error::ArchiveError;
use super::error::Failure;
use super::file;
use super::minhash;
use super::readable::is_damage;
use crate::durable;
use crate::durable::Move;
use crate::durable::PendingDirectory;

/// What could not be kept of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Loss {
    /// The table.
    pub table: String,
    /// Where its rows cannot be read, by their keys.
    pub gaps: Vec<String>,
    /// Rows that can be read and are left out, since what they belong to was lost.
    pub rows_left_out: u64,
}

/// What a repair did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Repair {
    /// The file as it was before.
    pub kept: PathBuf,
    /// Whether the archive is a new file, with what could be read of the old one.
    pub copied: bool,
    /// Tables of which rows were lost or left out.
    pub losses: Vec<Loss>,
    /// Ids of tasks that were lost, as far as anything still names them.
    pub tasks_lost: BTreeSet<String>,
    /// Rollouts that tasks which are still there have lost.
    pub rollouts_lost: u64,
}

/// Repairs what `findings` say can be repaired; returns none, and changes nothing, where nothing
/// can. The caller holds the lock of the file's directory.
///
/// # Errors
/// [`ArchiveError::Damaged`] when only a backup helps; [`ArchiveError::Busy`] when another process
/// has the file open; [`ArchiveError::DiskFull`]. The archive is then as it was.
pub fn repair(path: &Path, findings: &[Finding]) -> Result<Option<Repair>, ArchiveError> {
    if findings.iter().all(|finding| finding.repair.is_none()) {
        return Ok(None);
    }
    let connection = file::open_to_repair(path)?;
    if findings.iter().all(|finding| finding.repair != Some(COPY)) {
        let kept = free_name(path, "before-repair");
        file::copy_to(&connection, path, &kept, &mut |_, _| ())?;
        match in_place(&connection, findings) {
            Ok(()) => return Ok(Some(Repair { kept, ..Repair::default() })),
            // Where even emptying an index fails, its pages cannot be freed: a new file has none.
            Err(error) if is_damage(&error) => {}
            Err(error) => return Err(Failure::from(error).at(path)),
        }
    }
    into_new_file(connection, path).map(Some)
}

/// A name beside the file that is not taken.
fn free_name(path: &Path, what: &str) -> PathBuf {
    let name = |number: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{what}-{number}"));
        PathBuf::from(name)
    };
    (1..).map(name).find(|name| !name.exists()).unwrap_or_else(|| name(0))
}

fn in_place(connection: &Connection, findings: &[Finding]) -> rusqlite::Result<()> {
    let tx = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
    if findings.iter().any(|finding| finding.repair == Some(REINDEX)) {
        tx.execute_batch("REINDEX")?;
    }
    derive(&tx)?;
    tx.commit()
}

/// Makes again what follows from other rows: counts, the index of words, and signatures.
fn derive(tx: &Transaction<'_>) -> rusqlite::Result<()> {
    tx.execute_batch(
        "UPDATE task SET attempts = r.n, solved = r.solved
         FROM (SELECT t.id, count(r.task_id) AS n, coalesce(sum(r.exact_match >= 0.5), 0) AS solved
               FROM task t LEFT JOIN rollout r ON r.task_id = t.id GROUP BY t.id) AS r
         WHERE r.id = task.id AND (task.attempts, task.solved) <> (r.n, r.solved);
         DELETE FROM task_play;
         INSERT INTO task_play (task_id, model_version, attempts, solved)
         SELECT task_id, model_version, count(*), sum(exact_match >= 0.5)
         FROM rollout GROUP BY task_id, model_version;
         INSERT INTO task_words (task_words) VALUES ('delete-all');
         INSERT INTO task_words (rowid, question, answer)
         SELECT t.number, d.question, s.answer
         FROM task t JOIN draft d ON d.number = t.number JOIN seed s ON s.id = d.seed_id;",
    )?;
    minhash::refill(tx)
}

/// Copies what can be read into a new file and puts that in the place of the old one.
fn into_new_file(old: Connection, path: &Path) -> Result<Repair, ArchiveError> {
    let directory = file::directory_of(path);
    durable::ensure_free(directory, std::fs::metadata(path).map_or(0, |file| file.len()))?;
    let aside = PendingDirectory::create(&directory.join("repair"))?;
    let fresh = aside.path().join("archive.db");
    let mut repair = {
        let new = file::open_writer(&fresh)?;
        salvage::copy(&old, &new, path)?
    };
    drop(old);
    file::take_out_of_use(&fresh)?;
    file::take_out_of_use(path)?;
    durable::sync_directory(aside.path())?;
    repair.kept = free_name(path, "damaged");
    let name = |path: &Path| {
        let name = path.strip_prefix(directory).unwrap_or(path);
        name.to_string_lossy().into_owned()
    };
    let (now, kept) = (name(path), name(&repair.kept));
    let moves = [
        Move::new(&now, &kept),
        Move::new(format!("{now}-wal"), format!("{kept}-wal")),
        Move::new(format!("{now}-shm"), format!("{kept}-shm")),
        Move::new(name(&fresh), &now),
    ];
    durable::replace(directory, &moves)?;
    Ok(repair)
}
