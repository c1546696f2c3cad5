//! The file: telling an archive from something else, opening it, bringing it up to date.

use std::io::Read;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::OpenFlags;
use rusqlite::Transaction;
use rusqlite::TransactionBehavior;
use rusqlite::backup::Backup;
use rusqlite::backup::StepResult;

use super::error::ArchiveError;
use super::error::Failure;
use super::migrate;
use crate::durable;

/// Marks the file as ours: "NSCH". The first migration writes it.
const APPLICATION_ID: i32 = 0x4E53_4348;

/// The first bytes of every SQLite file.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// How long a statement waits for another process's lock.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Pages in the write-ahead log after which they are put into the file: 32 MB. Pages that change
/// often are put there once for many transactions.
const CHECKPOINT_PAGES: i64 = 8 << 10;

/// Memory for pages of the file, in KiB.
const CACHE_KIB: i64 = 64 << 10;

/// Statements that are kept compiled: more than any one night uses.
const STATEMENTS: usize = 64;

/// The write-ahead log is cut back to this size after a checkpoint, in bytes.
pub(super) const JOURNAL_SIZE_LIMIT: i64 = 64 << 20;

/// Pages copied between two reports of progress.
const COPY_PAGES: i32 = 4096;

/// What the header of a file says.
enum Header {
    /// No tables yet: a new file, or one whose making was interrupted.
    Empty,
    /// An archive of this schema version, not later than the one this program knows.
    Archive(u32),
}

/// Opens the archive for writing, making or migrating it as needed.
pub(super) fn open_writer(path: &Path) -> Result<Connection, ArchiveError> {
    refuse_other_files(path)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection =
        Connection::open_with_flags(path, flags).map_err(|e| Failure::from(e).at(path))?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(failed(&connection, path))?;
    connection.set_transaction_behavior(TransactionBehavior::Immediate);
    let header = read_header(&connection, path)?;
    // Before the first write, so that a damaged file is left as it was found. The whole file is
    // read: a second per gigabyte, beside the hours of a night that a damaged file would spoil.
    check_pages(&connection, path)?;
    connection.pragma_update(None, "journal_mode", "wal").map_err(failed(&connection, path))?;
    connection.pragma_update(None, "synchronous", "full").map_err(failed(&connection, path))?;
    connection
        .pragma_update(None, "journal_size_limit", JOURNAL_SIZE_LIMIT)
        .map_err(failed(&connection, path))?;
    connection
        .pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)
        .map_err(failed(&connection, path))?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB).map_err(failed(&connection, path))?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    bring_up_to_date(&mut connection, path, header)?;
    connection.pragma_update(None, "foreign_keys", true).map_err(failed(&connection, path))?;
    Ok(connection)
}

/// Migrates an archive of an earlier version, after a copy of it was made, or makes a new one.
fn bring_up_to_date(
    connection: &mut Connection,
    path: &Path,
    header: Header,
) -> Result<(), ArchiveError> {
    match header {
        Header::Archive(version) if version == migrate::VERSION => return Ok(()),
        Header::Archive(version) => {
            let copy = back_up(connection, path, version)?;
            tracing::info!(copy = %copy.display(), "migrating the archive; a copy was made first");
        }
        Header::Empty => {}
    }
    // Tables are replaced by others of the same name; what refers to them is checked afterwards.
    connection.pragma_update(None, "foreign_keys", false).map_err(failed(connection, path))?;
    migrate::to_latest(connection).map_err(|error| match error {
        rusqlite_migration::Error::RusqliteError { err, .. } => failed(connection, path)(err),
        other => ArchiveError::Damaged {
            path: path.to_path_buf(),
            detail: format!("it could not be migrated: {other}"),
        },
    })?;
    durable::sync_directory(directory_of(path))?;
    Ok(())
}

/// Names an error of the connection's last call.
fn failed<'a>(
    connection: &'a Connection,
    path: &'a Path,
) -> impl FnOnce(rusqlite::Error) -> ArchiveError + 'a {
    move |error| Failure::from(error).of(connection, path)
}

/// Opens an archive for reading only; works while another process writes to it.
pub(super) fn open_reader(path: &Path) -> Result<Connection, ArchiveError> {
    if !path.exists() {
        return Err(ArchiveError::Missing { path: path.to_path_buf() });
    }
    refuse_other_files(path)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let at = |error: rusqlite::Error| Failure::from(error).at(path);
    let connection = Connection::open_with_flags(path, flags).map_err(at)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(at)?;
    match read_header(&connection, path)? {
        Header::Archive(version) if version == migrate::VERSION => Ok(connection),
        Header::Archive(found) => {
            Err(ArchiveError::Older { path: path.to_path_buf(), found, known: migrate::VERSION })
        }
        Header::Empty => Err(ArchiveError::Missing { path: path.to_path_buf() }),
    }
}

/// The directory that holds the file.
pub(super) fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// Looks at the first bytes before SQLite does: SQLite takes a short file of any kind for an empty
/// database and would write over it.
fn refuse_other_files(path: &Path) -> Result<(), ArchiveError> {
    let failed = |error: std::io::Error| {
        ArchiveError::Copy(durable::DurableError::Io {
            action: "read",
            path: path.to_path_buf(),
            source: error,
        })
    };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    let mut start = Vec::new();
    file.take(MAGIC.len() as u64).read_to_end(&mut start).map_err(failed)?;
    if start.is_empty() || start == MAGIC {
        return Ok(());
    }
    Err(ArchiveError::NotADatabase { path: path.to_path_buf() })
}

fn read_header(connection: &Connection, path: &Path) -> Result<Header, ArchiveError> {
    let integer = |sql: &str| -> Result<i32, ArchiveError> {
        connection.query_row(sql, [], |row| row.get(0)).map_err(|e| Failure::from(e).at(path))
    };
    let application = integer("PRAGMA application_id")?;
    let version = integer("PRAGMA user_version")?;
    let tables = integer("SELECT count(*) FROM sqlite_schema")?;
    if application == 0 && version == 0 && tables == 0 {
        return Ok(Header::Empty);
    }
    if application != APPLICATION_ID {
        return Err(ArchiveError::Foreign { path: path.to_path_buf(), found: application });
    }
    match u32::try_from(version) {
        Ok(version @ 1..) if version <= migrate::VERSION => Ok(Header::Archive(version)),
        Ok(found @ 1..) => {
            let known = migrate::VERSION;
            Err(ArchiveError::Newer { path: path.to_path_buf(), found, known })
        }
        _ => Err(ArchiveError::Damaged {
            path: path.to_path_buf(),
            detail: format!("its schema version is {version}"),
        }),
    }
}

/// Runs SQLite's own check of the file's structure.
pub(super) fn check_pages(connection: &Connection, path: &Path) -> Result<(), ArchiveError> {
    let verdict: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(|e| Failure::from(e).at(path))?;
    if verdict == "ok" {
        return Ok(());
    }
    Err(ArchiveError::Damaged { path: path.to_path_buf(), detail: verdict })
}

/// Opens a copy that nobody writes to, without making any file beside it; of an earlier schema
/// version, too. Returns that version.
pub(super) fn open_copy(path: &Path) -> Result<(Connection, u32), ArchiveError> {
    if !path.exists() {
        return Err(ArchiveError::Missing { path: path.to_path_buf() });
    }
    refuse_other_files(path)?;
    // Immutable: SQLite takes no locks and looks for no write-ahead log.
    let mut uri = "file:".to_string();
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' => uri.push(char::from(*byte)),
            byte if byte.is_ascii_alphanumeric() => uri.push(char::from(*byte)),
            byte => uri += &format!("%{byte:02X}"),
        }
    }
    uri += "?immutable=1";
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_URI;
    let connection =
        Connection::open_with_flags(uri, flags).map_err(|e| Failure::from(e).at(path))?;
    match read_header(&connection, path)? {
        Header::Archive(version) => Ok((connection, version)),
        Header::Empty => Err(ArchiveError::Missing { path: path.to_path_buf() }),
    }
}

/// Opens an archive of the present version for writing although it is damaged.
pub(super) fn open_to_repair(path: &Path) -> Result<Connection, ArchiveError> {
    drop(open_reader(path)?);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let at = |error: rusqlite::Error| Failure::from(error).at(path);
    let connection = Connection::open_with_flags(path, flags).map_err(at)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(at)?;
    connection.pragma_update(None, "synchronous", "full").map_err(at)?;
    connection.pragma_update(None, "foreign_keys", false).map_err(at)?;
    Ok(connection)
}

/// Makes sure that no process has the file open and that all of it is in the one file, so that it
/// may be moved. A file that SQLite cannot read has no users; its log is moved with it.
pub(super) fn take_out_of_use(path: &Path) -> Result<(), ArchiveError> {
    if !path.exists() {
        return Ok(());
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let single_file = || -> rusqlite::Result<()> {
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        // Leaving WAL needs every other connection to be closed.
        connection.pragma_update(None, "journal_mode", "delete")
    };
    match single_file().map_err(|error| Failure::from(error).at(path)) {
        Err(error @ (ArchiveError::Busy { .. } | ArchiveError::DiskFull { .. })) => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Copies the archive to `archive.db.version-N.backup` beside it, whole or not at all.
fn back_up(connection: &Connection, path: &Path, version: u32) -> Result<PathBuf, ArchiveError> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".version-{version}.backup"));
    let copy = PathBuf::from(name);
    copy_to(connection, path, &copy, &mut |_, _| ())?;
    Ok(copy)
}

/// Writes a consistent copy of the archive to the file `copy`, whole or not at all, telling
/// `progress` the pages copied and all pages.
pub(super) fn copy_to(
    connection: &Connection,
    path: &Path,
    copy: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), ArchiveError> {
    let directory = directory_of(copy);
    let size = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    durable::ensure_free(directory, size)?;
    // In a directory of its own: the copy may have its own write-ahead log while it is made.
    let aside = durable::PendingDirectory::create(&directory.join("backup"))?;
    let partial = aside.path().join("copy.db");
    copy_pages(connection, &partial, progress).map_err(|e| Failure::from(e).at(copy))?;
    durable::move_file(&partial, copy)?;
    Ok(())
}

/// One read transaction around all steps: without it every commit of a writer in between would
/// start the copy over. The writer goes on meanwhile; only its log cannot be cut back.
fn copy_pages(
    connection: &Connection,
    to: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> rusqlite::Result<()> {
    let snapshot = Transaction::new_unchecked(connection, TransactionBehavior::Deferred)?;
    // A transaction has its snapshot from its first read on.
    snapshot.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    let mut target = Connection::open(to)?;
    {
        let backup = Backup::new(connection, &mut target)?;
        loop {
            let step = backup.step(COPY_PAGES)?;
            let state = backup.progress();
            let total = u64::try_from(state.pagecount).unwrap_or(0);
            progress(total.saturating_sub(u64::try_from(state.remaining).unwrap_or(0)), total);
            match step {
                StepResult::Done => break,
                StepResult::More => {}
                _ => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }
    drop(snapshot);
    Ok(())
}

/// Rewrites the file without its free pages. Returns its bytes before and after.
pub(super) fn vacuum(connection: &Connection, path: &Path) -> Result<[u64; 2], ArchiveError> {
    let directory = directory_of(path);
    let run = || -> Result<[u64; 2], Failure> {
        truncate_log(connection)?;
        let before = size(path);
        // A copy beside the file, and the log that carries it over.
        durable::ensure_free(directory, before.saturating_mul(2)).map_err(ArchiveError::from)?;
        let beside = directory.display().to_string();
        // Deprecated only because it counts for the whole process; the system's folder for
        // temporary files is often small.
        connection.pragma_update(None, "temp_store_directory", beside)?;
        let done = connection.execute_batch("VACUUM");
        connection.pragma_update(None, "temp_store_directory", "")?;
        done?;
        truncate_log(connection)?;
        Ok([before, size(path)])
    };
    run().map_err(|failure| failure.of(connection, path))
}

fn size(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// Brings all of the log into the file, waiting for readers.
fn truncate_log(connection: &Connection) -> Result<(), Failure> {
    let busy: bool =
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    if busy {
        let busy = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
        return Err(rusqlite::Error::SqliteFailure(busy, None).into());
    }
    Ok(())
}
