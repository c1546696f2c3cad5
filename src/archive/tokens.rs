//! Removing the tokens of old rollouts and proposals. Their rows stay: who made them, how they
//! ended, the answer, what they were worth, and how many tokens they had.
//!
//! What is to go is decided once, at the end of a night, and read as gone from then on. The blobs
//! follow in batches: a crash in between leaves some, which nobody sees and the next call removes.

use rusqlite::OptionalExtension;
use rusqlite::Transaction;
use rusqlite::params;

use super::Archive;
use super::error::ArchiveError;
use super::error::Failure;
use super::night::Unit;

/// Rows that one transaction empties: it must not hold up readers, nor fill the log.
const BATCH: u32 = 500;

/// The night at whose end the tokens of a row of the night `{}` were removed, as SQL.
pub(super) fn removed_night(night: &str) -> String {
    format!(
        "(SELECT min(removal.night) FROM token_removal removal \
             WHERE removal.until_night >= {night})"
    )
}

/// Whether the tokens of a row of the night `{}` were removed, as SQL.
pub(super) fn are_removed(night: &str) -> String {
    format!("coalesce({night} <= (SELECT max(until_night) FROM token_removal), 0)")
}

/// What is emptied of a night (`?1`), so many rows (`?2`) at a time.
const BATCHES: [&str; 2] = [
    "UPDATE rollout SET tokens = x'', logprobs = x'', prompt_id = NULL WHERE rowid IN (
         SELECT rowid FROM rollout WHERE night = ?1 AND length(tokens) > 0 LIMIT ?2)",
    "UPDATE proposal SET tokens = x'', logprobs = x'', prompt_id = NULL WHERE draft_id IN (
         SELECT p.draft_id FROM draft d JOIN proposal p ON p.draft_id = d.id
         WHERE d.night = ?1 AND length(p.tokens) > 0 LIMIT ?2)",
];

impl Archive {
    /// Notes that rollouts and proposals of `until` and of the nights before it lose their tokens.
    /// Returns false, and changes nothing, when the unit is already there.
    ///
    /// # Errors
    /// [`ArchiveError::Inconsistent`] when that is not before the unit's own night.
    pub fn record_token_removal(&self, unit: &Unit<'_>, until: u32) -> Result<bool, ArchiveError> {
        self.write_unit(unit, |tx| {
            if until >= unit.night {
                let what = format!("tokens removed up to night {until} in night {}", unit.night);
                return Err(Failure::inconsistent(what));
            }
            tx.execute(
                "INSERT INTO token_removal (night, until_night) VALUES (?1, ?2)",
                [unit.night, until],
            )?;
            Ok(())
        })
    }

    /// Empties the blobs of what was noted, as far as they are still there. Returns how many rows
    /// that were.
    ///
    /// # Errors
    /// [`ArchiveError`] when it could not be written; calling again goes on.
    pub fn remove_noted_tokens(&self) -> Result<u64, ArchiveError> {
        let Some((first, last)) = self.read(left)? else { return Ok(0) };
        let mut rows = 0;
        for night in first..=last {
            for sql in BATCHES {
                loop {
                    let emptied =
                        self.write(|tx| Ok(tx.prepare_cached(sql)?.execute([night, BATCH])?))?;
                    rows += emptied as u64;
                    if emptied < BATCH as usize {
                        break;
                    }
                }
            }
        }
        let now = self.now();
        self.write(|tx| {
            tx.execute(
                "DELETE FROM prompt WHERE id NOT IN (
                     SELECT prompt_id FROM rollout WHERE prompt_id IS NOT NULL
                     UNION SELECT prompt_id FROM proposal WHERE prompt_id IS NOT NULL)",
                [],
            )?;
            tx.execute(
                "UPDATE token_removal SET done_at = ?1 WHERE done_at IS NULL",
                params![now],
            )?;
            Ok(())
        })?;
        Ok(rows)
    }
}

/// The nights whose blobs may be left.
fn left(tx: &Transaction<'_>) -> Result<Option<(u32, u32)>, Failure> {
    let sql = "SELECT coalesce((SELECT max(until_night) FROM token_removal
                                WHERE done_at IS NOT NULL), 0) + 1, max(until_night)
               FROM token_removal WHERE done_at IS NULL HAVING count(*) > 0";
    Ok(tx.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).optional()?)
}
