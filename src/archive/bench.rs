//! How fast and how large an archive is: a generated one, written while others read it, then read
//! in every way that lists offer, each beside plain SQLite doing the same.

mod generator;
mod reads;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use rusqlite::Connection;
use rusqlite::types::ToSqlOutput;
use serde::Serialize;

use self::generator::Generator;
pub use self::reads::ReadReport;
use super::ARCHIVE_FILE;
use super::Archive;
use super::ArchiveError;
use super::ArchiveReader;
use super::TaskFilter;
use super::TaskOrder;
use super::error::Failure;
use crate::clock::SystemClock;
use crate::progress::Progress;

/// Tasks of a night.
const NIGHT: u32 = 10_000;

/// What is generated.
#[derive(Debug, Clone, Copy)]
pub struct ArchiveBench {
    /// Tasks.
    pub tasks: u32,
    /// Rollouts of each.
    pub rollouts: u32,
    /// Threads that read meanwhile.
    pub readers: u32,
    /// How long each of them waits after a read.
    pub reader_pause: Duration,
    /// What it is drawn from.
    pub seed: u64,
}

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct ArchiveReport {
    /// Tasks, rollouts, and passages that tasks rest on.
    pub tasks: u64,
    /// Rollouts of these.
    pub rollouts: u64,
    /// References from tasks to passages.
    pub evidence: u64,
    /// Rows of all tables.
    pub rows: u64,
    /// Size of the file.
    pub bytes: u64,
    /// That over the tasks.
    pub bytes_per_task: f64,
    /// Largest size of the write-ahead log.
    pub wal_bytes_max: u64,
    /// How writing went.
    pub writing: WriteReport,
    /// How reading went, while it was written and afterwards.
    pub reading: Vec<ReadReport>,
}

/// How writing went, with readers beside it.
#[derive(Debug, Clone, Serialize)]
pub struct WriteReport {
    /// Rows on the disk per second of the time that the calls took which store them.
    pub rows_per_s: f64,
    /// The same over the last tenth, when the file is largest.
    pub rows_per_s_last_tenth: f64,
    /// What plain SQLite writes: the same rows, in transactions of the same size, into tables
    /// without further indexes, with the same readers beside it.
    pub plain_rows_per_s: f64,
    /// The first over that.
    pub ratio: f64,
    /// Longest time that one transaction took, in milliseconds.
    pub transaction_ms_max: f64,
    /// Reads per second that were answered meanwhile.
    pub reads_per_s: f64,
}

/// Measures reading of an archive that was generated before, with the same settings.
///
/// # Errors
/// [`ArchiveError`] when there is none, or it cannot be read.
pub fn read(dir: &Path, settings: &ArchiveBench) -> Result<Vec<ReadReport>, ArchiveError> {
    reads::all(&dir.join(ARCHIVE_FILE), settings)
}

/// Generates an archive in `dir`, which must be empty, and measures it.
///
/// # Errors
/// [`ArchiveError`] when the archive cannot be written or read.
pub fn run(dir: &Path, settings: &ArchiveBench) -> Result<ArchiveReport, ArchiveError> {
    let path = dir.join(ARCHIVE_FILE);
    let archive = Archive::open(&path, Arc::new(SystemClock))?;
    let mut generator = Generator::new(settings);
    generator.begin(&archive)?;
    let written = write(&archive, &mut generator, settings)?;
    drop(archive);
    let counts = count(&path)?;
    let plain = write_plainly(dir, &path, settings, &counts)?;
    let reading = reads::all(&path, settings)?;
    let bytes = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
    Ok(ArchiveReport {
        tasks: settings.tasks.into(),
        rollouts: u64::from(settings.tasks) * u64::from(settings.rollouts),
        evidence: counts.evidence,
        rows: counts.rows,
        bytes,
        bytes_per_task: bytes as f64 / f64::from(settings.tasks.max(1)),
        wal_bytes_max: written.wal_bytes_max,
        writing: WriteReport {
            rows_per_s: counts.rows as f64 / written.seconds,
            // Every task brings about the same number of rows.
            rows_per_s_last_tenth: counts.rows as f64 / 10.0 / written.last_tenth_seconds,
            plain_rows_per_s: plain,
            ratio: counts.rows as f64 / written.seconds / plain,
            transaction_ms_max: written.longest.as_secs_f64() * 1e3,
            reads_per_s: written.reads_per_s,
        },
        reading,
    })
}

struct Written {
    seconds: f64,
    last_tenth_seconds: f64,
    longest: Duration,
    wal_bytes_max: u64,
    reads_per_s: f64,
}

fn write(
    archive: &Archive,
    generator: &mut Generator,
    settings: &ArchiveBench,
) -> Result<Written, ArchiveError> {
    let progress = Progress::start("writing tasks", settings.tasks.into());
    let wal = archive.path().with_file_name(format!("{ARCHIVE_FILE}-wal"));
    let start = Instant::now();
    let (mut all, mut last_tenth) = (Duration::ZERO, Duration::ZERO);
    let (mut longest, mut wal_bytes_max) = (Duration::ZERO, 0);
    let reads = with_readers(archive.path(), settings, || -> Result<(), ArchiveError> {
        while let Some(unit) = generator.next_unit() {
            for transaction in unit.write(archive)? {
                longest = longest.max(transaction);
                all += transaction;
                if unit.first_task >= settings.tasks / 10 * 9 {
                    last_tenth += transaction;
                }
            }
            let size = std::fs::metadata(&wal).map_or(0, |metadata| metadata.len());
            wal_bytes_max = wal_bytes_max.max(size);
            progress.advance(unit.drafts.len() as u64);
        }
        Ok(())
    })?;
    Ok(Written {
        seconds: all.as_secs_f64(),
        last_tenth_seconds: last_tenth.as_secs_f64(),
        longest,
        wal_bytes_max,
        reads_per_s: reads as f64 / start.elapsed().as_secs_f64(),
    })
}

/// Does `work` while threads read in turn the newest and the hardest tasks, one task whole, and
/// what a search finds. Returns how many reads were answered.
fn with_readers<E: From<ArchiveError>>(
    path: &Path,
    settings: &ArchiveBench,
    work: impl FnOnce() -> Result<(), E>,
) -> Result<u64, E> {
    let (over, reads) = (AtomicBool::new(false), AtomicU64::new(0));
    let read = || -> Result<(), ArchiveError> {
        let reader = ArchiveReader::open(path)?;
        let newest = TaskFilter { limit: Some(50), ..TaskFilter::default() };
        let newest = TaskFilter { order: TaskOrder::Newest, ..newest };
        let hardest = TaskFilter { order: TaskOrder::Hardest, ..newest.clone() };
        while !over.load(Ordering::Relaxed) {
            let pause = || std::thread::sleep(settings.reader_pause);
            let tasks = reader.tasks(&newest)?;
            pause();
            reader.tasks(&hardest)?;
            pause();
            if let Some(stored) = tasks.last() {
                reader.task_detail(&stored.task.id)?;
                pause();
                reader.search_tasks(&stored.task.question, 20)?;
            }
            pause();
            reads.fetch_add(4, Ordering::Relaxed);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..settings.readers).map(|_| scope.spawn(read)).collect();
        let done = work();
        over.store(true, Ordering::Relaxed);
        for reader in readers {
            if let Ok(outcome) = reader.join() {
                outcome?;
            }
        }
        done
    })?;
    Ok(reads.into_inner())
}

struct Counts {
    rows: u64,
    evidence: u64,
    tables: Vec<String>,
}

fn count(path: &Path) -> Result<Counts, ArchiveError> {
    let reader = ArchiveReader::open(path)?;
    reader.read(|tx| {
        let tables: Vec<String> = tx
            .prepare(
                "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table'
                 AND name NOT LIKE 'sqlite~_%' ESCAPE '~'",
            )?
            .query_map([], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        let count = |table: &str| -> Result<u64, Failure> {
            let sql = format!("SELECT count(*) FROM \"{table}\"");
            Ok(tx.query_row(&sql, [], |row| row.get::<_, i64>(0))?.cast_unsigned())
        };
        let mut rows = 0;
        for table in &tables {
            rows += count(table)?;
        }
        Ok(Counts { rows, evidence: count("task_evidence")?, tables })
    })
}

/// Copies all rows, table by table, into a file of plain tables, each transaction as many as a unit
/// has on average. Returns rows per second.
fn write_plainly(
    dir: &Path,
    source: &Path,
    settings: &ArchiveBench,
    counts: &Counts,
) -> Result<f64, ArchiveError> {
    let path = dir.join("plain.db");
    let failed = |error: rusqlite::Error| Failure::from(error).at(&path);
    let connection = Connection::open(&path).map_err(failed)?;
    let per_unit = counts.rows / u64::from(generator::units(settings)).max(1) / 2;
    let setup = format!(
        "PRAGMA journal_mode = wal; PRAGMA synchronous = full; PRAGMA cache_size = -65536;
         ATTACH '{}' AS source;",
        source.display().to_string().replace('\'', "''")
    );
    connection.execute_batch(&setup).map_err(failed)?;
    let progress = Progress::start("plain SQLite", counts.rows);
    let start = Instant::now();
    with_readers(source, settings, || -> Result<(), ArchiveError> {
        for table in &counts.tables {
            copy_plainly(&connection, table, per_unit.max(1), &progress).map_err(failed)?;
        }
        Ok(())
    })?;
    let seconds = start.elapsed().as_secs_f64();
    drop(connection);
    // It was only written to be timed.
    let _ = std::fs::remove_file(&path);
    Ok(counts.rows as f64 / seconds)
}

fn copy_plainly(
    connection: &Connection,
    table: &str,
    per_unit: u64,
    progress: &Progress,
) -> rusqlite::Result<()> {
    let make = format!("CREATE TABLE \"{table}\" AS SELECT * FROM source.\"{table}\" LIMIT 0");
    connection.execute_batch(&make)?;
    let mut read = connection.prepare(&format!("SELECT * FROM source.\"{table}\""))?;
    let columns = vec!["?"; read.column_count()].join(", ");
    let mut insert =
        connection.prepare(&format!("INSERT INTO main.\"{table}\" VALUES ({columns})"))?;
    let mut rows = read.query([])?;
    let mut n = 0;
    connection.execute_batch("BEGIN IMMEDIATE")?;
    while let Some(row) = rows.next()? {
        for column in 0..insert.parameter_count() {
            insert.raw_bind_parameter(column + 1, ToSqlOutput::Borrowed(row.get_ref(column)?))?;
        }
        insert.raw_execute()?;
        n += 1;
        if n % per_unit == 0 {
            progress.advance(per_unit);
            connection.execute_batch("COMMIT; BEGIN IMMEDIATE")?;
        }
    }
    connection.execute_batch("COMMIT")
}
