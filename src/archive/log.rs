//! The write-ahead log: kept short, and watched when somebody keeps it from being cut back.
//!
//! SQLite copies the log into the file after every 1,000 pages, and starts it over when nobody
//! reads what is in it. Readers that come one after another without a gap, and one that holds a
//! snapshot for hours, keep it from that. The first are helped by a checkpoint that waits a moment
//! for them; of the second a person must be told.

use std::cell::Cell;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use rusqlite::Connection;

use super::file::BUSY_TIMEOUT;
use super::file::JOURNAL_SIZE_LIMIT;

/// Above this many bytes the log is brought into the file.
const LIMIT: u64 = JOURNAL_SIZE_LIMIT.cast_unsigned();

/// Growth after which that is tried again.
const AGAIN: u64 = 16 << 20;

/// Above this many bytes a person is told that somebody reads for too long.
const TELL: u64 = 4 * LIMIT;

/// How long the writer waits for readers to end; a bound on what they can cost it.
const PATIENCE: Duration = Duration::from_millis(100);

/// The log of an archive that is written to.
#[derive(Debug)]
pub(super) struct Log {
    archive: PathBuf,
    path: PathBuf,
    /// The size at which to bring it into the file.
    due: Cell<u64>,
    told: Cell<bool>,
}

impl Log {
    /// The log of the archive at `path`.
    pub(super) fn of(path: &Path) -> Self {
        let mut name = path.as_os_str().to_owned();
        name.push("-wal");
        Self {
            archive: path.to_path_buf(),
            path: PathBuf::from(name),
            due: Cell::new(LIMIT + AGAIN),
            told: Cell::new(false),
        }
    }

    fn bytes(&self) -> u64 {
        std::fs::metadata(&self.path).map_or(0, |metadata| metadata.len())
    }

    /// Looks after the log; called after every commit. The commit stands whatever happens here.
    pub(super) fn tend(&self, connection: &Connection) {
        let bytes = self.bytes();
        if bytes < self.due.get() {
            return;
        }
        match restart(connection) {
            Ok(true) => {
                tracing::debug!(bytes, "the archive's log was brought into the file");
                self.due.set(LIMIT + AGAIN);
                self.told.set(false);
                return;
            }
            Ok(false) => {}
            Err(error) => tracing::debug!(%error, "the archive's log stays for now"),
        }
        self.due.set(bytes + AGAIN);
        if bytes >= TELL && !self.told.replace(true) {
            tracing::warn!(
                log = %self.path.display(),
                mb = bytes / 1_000_000,
                "the archive's log cannot be cut back: a program has been reading the archive in \
                 one transaction for a long time; end it (`fuser {}` names it). Nothing is lost, \
                 and the log shrinks by itself afterwards",
                self.archive.display()
            );
        }
    }
}

/// Brings the log into the file and empties it. Returns false when somebody reads from it.
fn restart(connection: &Connection) -> rusqlite::Result<bool> {
    connection.busy_timeout(PATIENCE)?;
    let busy: rusqlite::Result<bool> =
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0));
    connection.busy_timeout(BUSY_TIMEOUT)?;
    Ok(!busy?)
}
