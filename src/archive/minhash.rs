//! Signatures of tasks' questions, by which those that are nearly the same are found.

use rusqlite::OptionalExtension;
use rusqlite::Transaction;
use rusqlite::params;

use super::ArchiveReader;
use super::error::ArchiveError;
use crate::verifier::KnownQuestion;
use crate::verifier::minhash::HASHES;
use crate::verifier::minhash::Shingles;
use crate::verifier::minhash::Signature;

/// Stores the signature of a task's question.
pub(super) fn put(tx: &Transaction<'_>, number: i64, question: &str) -> rusqlite::Result<()> {
    tx.prepare_cached("INSERT INTO task_minhash (number, signature) VALUES (?1, ?2)")?
        .execute(params![number, Shingles::of(question).signature().as_bytes()])?;
    Ok(())
}

/// Computes all signatures again.
pub(super) fn refill(tx: &Transaction<'_>) -> rusqlite::Result<()> {
    tx.execute("DELETE FROM task_minhash", [])?;
    let mut tasks = tx.prepare(
        "SELECT t.number, d.question FROM task t JOIN draft d ON d.number = t.number
         ORDER BY t.number",
    )?;
    let mut rows = tasks.query([])?;
    while let Some(row) = rows.next()? {
        put(tx, row.get(0)?, &row.get::<_, String>(1)?)?;
    }
    Ok(())
}

impl ArchiveReader {
    /// The signatures of the questions of all tasks, retired ones included, that have a higher
    /// number than this, in the order of their numbers.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn signatures_after(&self, number: i64) -> Result<Vec<(i64, Signature)>, ArchiveError> {
        self.read(|tx| {
            let mut statement = tx.prepare_cached(
                "SELECT number, signature FROM task_minhash WHERE number > ?1 ORDER BY number",
            )?;
            let rows = statement.query_map([number], |row| {
                Ok((row.get(0)?, Signature::from(row.get::<_, [u8; HASHES]>(1)?)))
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }

    /// What the tasks of these numbers ask; those that are not there are left out.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn asked(&self, numbers: &[i64]) -> Result<Vec<KnownQuestion>, ArchiveError> {
        self.read(|tx| {
            let mut statement = tx.prepare_cached(
                "SELECT d.id, d.question, s.answer, t.split = 'heldout' FROM draft d
                 JOIN seed s ON s.id = d.seed_id JOIN task t ON t.number = d.number
                 WHERE d.number = ?1",
            )?;
            let mut asked = |number: &i64| {
                let known = statement.query_row([number], |row| {
                    let (id, question, answer) = (row.get(0)?, row.get(1)?, row.get(2)?);
                    Ok(KnownQuestion { id, question, answer, heldout: row.get(3)? })
                });
                known.optional().transpose()
            };
            Ok(numbers.iter().filter_map(&mut asked).collect::<Result<_, _>>()?)
        })
    }
}
