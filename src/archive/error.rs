//! What can go wrong with an archive, and the one place where SQLite's errors get a name.

use std::path::Path;
use std::path::PathBuf;

use rusqlite::Connection;
use rusqlite::ErrorCode;

use crate::durable::DurableError;

/// Why the archive could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// There is no file to read from.
    #[error(
        "there is no archive at {} yet; `nightschool night --now` or `corpus add` makes one",
        path.display()
    )]
    Missing {
        /// The file looked for.
        path: PathBuf,
    },
    /// The file is something else than an SQLite database.
    #[error(
        "{} is not a database; move it away, or point --home at another directory",
        path.display()
    )]
    NotADatabase {
        /// The file.
        path: PathBuf,
    },
    /// The file is a database of another program.
    #[error(
        "{} is a database of another program (application id {found:#x}); move it away, or point \
         --home at another directory",
        path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The id its header carries; 0 when it names no program.
        found: i32,
    },
    /// The file was written by a later release.
    #[error(
        "{} has schema version {found}, this program knows versions up to {known}; install the \
         nightschool that wrote it",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema version.
        found: u32,
        /// The latest version this program knows.
        known: u32,
    },
    /// The file must be migrated before it can be read, and readers do not write.
    #[error(
        "{} has schema version {found}, this program reads version {known}; run `nightschool night \
         --now` or `corpus add` once, which keeps a copy and brings it up to date",
        path.display()
    )]
    Older {
        /// The file.
        path: PathBuf,
        /// Its schema version.
        found: u32,
        /// The version this program reads.
        known: u32,
    },
    /// The file, or a value in it, is not as this program wrote it.
    #[error("{} is damaged: {detail}; restore a copy of it", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// No space was left, or the limit set on the archive was reached. Nothing was half-written.
    #[error("no space left to write {}; free some and run the same command again", path.display())]
    DiskFull {
        /// The file.
        path: PathBuf,
    },
    /// Another process kept the file locked for longer than the archive waits.
    #[error("{} is locked by another process; wait for it to end or stop it", path.display())]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// A night cannot begin while another is unfinished.
    #[error("night {number} is not finished; continue it first")]
    NightUnfinished {
        /// The unfinished night.
        number: u32,
    },
    /// Nothing in the archive has this id.
    #[error("the archive has no {kind} {id:?}")]
    NotFound {
        /// What was looked for: `task`, `night`, …
        kind: &'static str,
        /// The id, or the beginning of one.
        id: String,
    },
    /// More than one id begins like this.
    #[error("{matches} tasks have an id that begins with {prefix:?}; give more of it")]
    Ambiguous {
        /// What was given.
        prefix: String,
        /// How many ids begin with it.
        matches: u64,
    },
    /// What was stored under this id never changes, and differs from what was now given.
    #[error("{kind} {id:?} is in the archive with other content and cannot be replaced")]
    Frozen {
        /// What it is: `suite`, `model version`, …
        kind: &'static str,
        /// Its id or name.
        id: String,
    },
    /// The caller's data contradict each other or the archive. A fault of the program.
    #[error("the archive refused {what}")]
    Inconsistent {
        /// What does not fit.
        what: String,
    },
    /// A query of a person's own was refused, or failed.
    #[error("the query was refused: {why}")]
    Query {
        /// The reason, and what to do.
        why: String,
    },
    /// A copy of the file could not be made or put in place.
    #[error(transparent)]
    Copy(#[from] DurableError),
    /// SQLite failed in another way.
    #[error("the archive {} failed: {source}", path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// SQLite's reason.
        source: rusqlite::Error,
    },
}

/// An error inside a transaction, before the file's name is put to it.
#[derive(Debug)]
pub(super) enum Failure {
    Sqlite(rusqlite::Error),
    Named(ArchiveError),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<ArchiveError> for Failure {
    fn from(error: ArchiveError) -> Self {
        Self::Named(error)
    }
}

impl Failure {
    /// Refuses what the caller gave.
    pub(super) fn inconsistent(what: impl Into<String>) -> Self {
        Self::Named(ArchiveError::Inconsistent { what: what.into() })
    }

    /// Says that nothing has this id.
    pub(super) fn not_found(kind: &'static str, id: impl ToString) -> Self {
        Self::Named(ArchiveError::NotFound { kind, id: id.to_string() })
    }

    /// The error to return for work that failed on `connection`, just now. SQLite calls a disk
    /// full only when a write says so; file systems that allocate late say it when they flush.
    pub(super) fn of(self, connection: &Connection, path: &Path) -> ArchiveError {
        match self {
            Self::Sqlite(rusqlite::Error::SqliteFailure(failure, _))
                if failure.code == ErrorCode::SystemIoFailure && disk_was_full(connection) =>
            {
                ArchiveError::DiskFull { path: path.to_path_buf() }
            }
            other => other.at(path),
        }
    }

    /// The error to return for work on the archive at `path`.
    pub(super) fn at(self, path: &Path) -> ArchiveError {
        match self {
            Self::Named(error) => error,
            Self::Sqlite(error) => name_sqlite_error(error, path),
        }
    }
}

/// What the system said when the connection's last call failed.
fn disk_was_full(connection: &Connection) -> bool {
    // SAFETY: the handle is open as long as the connection that lends it, and only read from here.
    let errno = unsafe { rusqlite::ffi::sqlite3_system_errno(connection.handle()) };
    let kind = std::io::Error::from_raw_os_error(errno).kind();
    matches!(kind, std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}

fn name_sqlite_error(source: rusqlite::Error, path: &Path) -> ArchiveError {
    let path = path.to_path_buf();
    match source {
        rusqlite::Error::SqliteFailure(failure, ref message) => match failure.code {
            ErrorCode::DiskFull => ArchiveError::DiskFull { path },
            ErrorCode::NotADatabase => ArchiveError::NotADatabase { path },
            ErrorCode::DatabaseCorrupt => ArchiveError::Damaged {
                path,
                detail: message.clone().unwrap_or_else(|| failure.to_string()),
            },
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => ArchiveError::Busy { path },
            ErrorCode::ConstraintViolation => ArchiveError::Inconsistent {
                what: format!(
                    "a row for {}: {}",
                    path.display(),
                    message.clone().unwrap_or_else(|| failure.to_string())
                ),
            },
            _ => ArchiveError::Sqlite { path, source },
        },
        rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::IntegralValueOutOfRange(..)
        | rusqlite::Error::InvalidColumnType(..) => {
            ArchiveError::Damaged { path, detail: source.to_string() }
        }
        _ => ArchiveError::Sqlite { path, source },
    }
}
