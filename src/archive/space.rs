//! What rows take, and what the file could give back.

use super::ArchiveReader;
use super::error::ArchiveError;

/// Rollouts from which it is told what one takes, the newest ones.
const RECENT: u32 = 1000;

/// What a row takes beside its texts and blobs: numbers, keys, and its entries in indexes.
const ROW_BYTES: f64 = 300.0;

impl ArchiveReader {
    /// What a rollout takes on average, by the newest ones; none where there is none.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn rollout_bytes(&self) -> Result<Option<u64>, ArchiveError> {
        self.read(|tx| {
            let mean: Option<f64> = tx.query_row(
                "SELECT avg(bytes) FROM (
                     SELECT length(tokens) + length(logprobs) + length(steps_json)
                            + length(queries_json) + length(retrieved_json)
                            + coalesce(length(answer), 0) AS bytes
                     FROM rollout ORDER BY rowid DESC LIMIT ?1)",
                [RECENT],
                |row| row.get(0),
            )?;
            Ok(mean.map(|mean| (mean + ROW_BYTES) as u64))
        })
    }

    /// Bytes of the file's pages that hold nothing: [`super::Archive::vacuum`] gives them back, and
    /// what is free on other pages.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn unused_bytes(&self) -> Result<u64, ArchiveError> {
        self.read(|tx| {
            let number = |sql: &str| tx.query_row(sql, [], |row| row.get::<_, i64>(0));
            let (pages, size) = (number("PRAGMA freelist_count")?, number("PRAGMA page_size")?);
            Ok(pages.cast_unsigned() * size.cast_unsigned())
        })
    }
}
