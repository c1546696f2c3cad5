//! The task archive: one SQLite file that holds everything a home has learnt, and how.
//!
//! [`Archive`] writes; the process that holds the home's lock has the only one. [`ArchiveReader`]
//! reads, in any process, also while a night runs. Every write is one `BEGIN IMMEDIATE`
//! transaction. The results of a [`Unit`] of work are stored together with the unit itself: a
//! unit is in the archive whole or not at all, and storing it again changes nothing. See
//! `docs/archive.md` for the tables.

mod balance;
pub mod bench;
mod check;
mod compare;
mod corpus;
mod curation;
mod digest;
mod draft;
mod error;
mod evaluation;
mod export;
mod file;
mod forget;
mod group;
mod guard;
mod import;
mod lineage;
mod listing;
mod log;
mod migrate;
mod minhash;
mod model;
mod night;
mod proposal;
mod query;
mod readable;
mod repair;
mod rollout;
mod space;
mod standing;
mod statistics;
mod task;
mod tokens;
mod trace;
mod train;
mod value;
mod verification;
mod words;

use std::ops::Deref;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use rusqlite::Connection;
use rusqlite::OptionalExtension;
use rusqlite::Transaction;
use rusqlite::TransactionBehavior;
use rusqlite::params;

pub use self::balance::BalanceDecision;
pub use self::balance::BalanceSample;
pub use self::check::Affected;
pub use self::check::Finding;
pub use self::check::FindingKind;
pub use self::check::verify_copy;
pub use self::compare::ModelDetail;
pub use self::compare::ModelDifference;
pub use self::compare::NightDifference;
pub use self::compare::NightSummary;
pub use self::compare::PlayDifference;
pub use self::compare::PlayedTwice;
pub use self::corpus::CorpusSummary;
pub use self::corpus::Document;
pub use self::corpus::DocumentContent;
pub use self::corpus::FileState;
pub use self::corpus::SourceFile;
pub use self::corpus::SourceFileContent;
pub use self::curation::Curation;
pub use self::curation::Decision;
pub use self::draft::CheckCounts;
pub use self::draft::GateCounts;
pub use self::draft::GatedDraft;
pub use self::error::ArchiveError;
pub use self::evaluation::Evaluation;
pub use self::evaluation::EvaluationItem;
pub use self::evaluation::EvaluationName;
pub use self::evaluation::Suite;
pub use self::evaluation::SuiteItem;
pub use self::evaluation::SuiteOrigin;
pub use self::evaluation::SuiteSummary;
pub use self::export::Attempt;
pub use self::export::PlacedPassage;
pub use self::export::TaskRecord;
pub use self::forget::Removal;
pub use self::group::FinishedGroup;
pub use self::guard::Demotion;
pub use self::guard::SealedReading;
pub use self::guard::TextLoss;
pub use self::import::DocumentStanding;
pub use self::import::IMPORTED;
pub use self::import::Imported;
pub use self::import::ImportedDraft;
pub use self::import::Play;
pub use self::lineage::PassageDetail;
pub use self::lineage::TaskDetail;
pub use self::listing::Cursor;
pub use self::listing::Page;
pub use self::listing::RejectedDraft;
pub use self::listing::TaskFilter;
pub use self::listing::TaskOrder;
pub use self::model::ModelKind;
pub use self::model::ModelVersion;
pub use self::model::Promotion;
pub use self::night::Night;
pub use self::night::NightState;
pub use self::night::Unit;
pub use self::proposal::PlayedProposal;
pub use self::proposal::Proposal;
pub use self::proposal::ProposalScore;
pub use self::query::QueryLimits;
pub use self::query::QueryResult;
pub use self::query::SchemaObject;
pub use self::repair::Loss;
pub use self::repair::Repair;
pub use self::repair::repair;
pub use self::rollout::StoredRollout;
pub use self::standing::StandingChange;
pub use self::statistics::HopGroup;
pub use self::statistics::TaskGroup;
pub use self::statistics::TaskGrouping;
pub use self::task::Band;
pub use self::task::StoredTask;
pub use self::task::TaskState;
pub use self::trace::Trace;
pub use self::trace::TraceKind;
pub use self::trace::TraceNode;
pub use self::train::TrainItem;
pub use self::train::TrainPhase;
pub use self::train::TrainStep;
pub use self::verification::Verification;
pub use self::verification::Verified;

use self::error::Failure;
use self::log::Log;
use crate::clock::Clock;

/// The name of the file within a home.
pub const ARCHIVE_FILE: &str = "archive.db";

/// A read-only view of an archive. Each method sees one consistent state.
pub struct ArchiveReader {
    connection: Connection,
    path: PathBuf,
}

impl std::fmt::Debug for ArchiveReader {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ArchiveReader").field("path", &self.path).finish_non_exhaustive()
    }
}

impl ArchiveReader {
    /// Opens the archive at `path` for reading.
    ///
    /// # Errors
    /// [`ArchiveError::Missing`], [`ArchiveError::NotADatabase`], [`ArchiveError::Foreign`],
    /// [`ArchiveError::Newer`], [`ArchiveError::Older`] or [`ArchiveError::Damaged`].
    pub fn open(path: &Path) -> Result<Self, ArchiveError> {
        Ok(Self { connection: file::open_reader(path)?, path: path.to_path_buf() })
    }

    /// Opens a copy that nobody writes to, such as one in a backup; nothing is written beside it.
    ///
    /// # Errors
    /// Those of [`ArchiveReader::open`].
    pub fn open_copy(path: &Path) -> Result<Self, ArchiveError> {
        let (connection, found) = file::open_copy(path)?;
        if found != migrate::VERSION {
            let (path, known) = (path.to_path_buf(), migrate::VERSION);
            return Err(ArchiveError::Older { path, found, known });
        }
        Ok(Self { connection, path: path.to_path_buf() })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A value kept by [`Archive::put_meta`].
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn meta(&self, key: &str) -> Result<Option<String>, ArchiveError> {
        self.read(|tx| {
            let mut statement = tx.prepare_cached("SELECT value FROM meta WHERE key = ?1")?;
            Ok(statement.query_row([key], |row| row.get(0)).optional()?)
        })
    }

    /// Writes a consistent copy of the archive to `copy`, also while it is written to: the
    /// writer's log grows meanwhile.
    ///
    /// # Errors
    /// [`ArchiveError::Copy`] or [`ArchiveError::DiskFull`]; `copy` is then as it was.
    pub fn copy_to(&self, copy: &Path) -> Result<(), ArchiveError> {
        self.copy_to_with(copy, &mut |_, _| ())
    }

    /// As [`ArchiveReader::copy_to`], and tells `progress` the pages copied and all pages.
    ///
    /// # Errors
    /// As there.
    pub fn copy_to_with(
        &self,
        copy: &Path,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(), ArchiveError> {
        file::copy_to(&self.connection, &self.path, copy, progress)
    }

    /// Runs `work` on one consistent state of the file.
    fn read<T>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Failure>,
    ) -> Result<T, ArchiveError> {
        Transaction::new_unchecked(&self.connection, TransactionBehavior::Deferred)
            .map_err(Failure::from)
            .and_then(|tx| work(&tx))
            .map_err(|failure| failure.at(&self.path))
    }
}

/// The archive of the process that may write to it; reads like an [`ArchiveReader`].
///
/// Methods take `&self` and return when the data are on the disk, so that a thread of its own can
/// take over the writing later without a change to callers.
pub struct Archive {
    reader: ArchiveReader,
    clock: Arc<dyn Clock>,
    log: Log,
    /// Tokens that the model wrote since a unit was stored.
    generated: Arc<AtomicU64>,
}

impl std::fmt::Debug for Archive {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Archive").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Deref for Archive {
    type Target = ArchiveReader;

    fn deref(&self) -> &ArchiveReader {
        &self.reader
    }
}

impl Archive {
    /// Opens the archive at `path` for writing and makes it if there is none. An archive of an
    /// earlier schema version is copied to `PATH.version-N.backup` and then migrated.
    ///
    /// # Errors
    /// [`ArchiveError::NotADatabase`], [`ArchiveError::Foreign`], [`ArchiveError::Newer`] or
    /// [`ArchiveError::Damaged`], with the file left as it was; [`ArchiveError::DiskFull`].
    pub fn open(path: &Path, clock: Arc<dyn Clock>) -> Result<Self, ArchiveError> {
        let connection = file::open_writer(path)?;
        let log = Log::of(path);
        let reader = ArchiveReader { connection, path: path.to_path_buf() };
        Ok(Self { reader, clock, log, generated: Arc::default() })
    }

    /// Lets the file grow to about `bytes` and no further; a write beyond that fails like one on a
    /// full disk. Holds for this opening of the file.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn limit_size(&self, bytes: u64) -> Result<(), ArchiveError> {
        let limit = || -> Result<(), Failure> {
            let size: u32 = self.connection.query_row("PRAGMA page_size", [], |row| row.get(0))?;
            let pages = i64::try_from(bytes / u64::from(size.max(1))).unwrap_or(i64::MAX);
            let sql =
                format!("PRAGMA max_page_count = {}", pages.clamp(1, i64::from(u32::MAX) - 1));
            self.connection.query_row(&sql, [], |_| Ok(()))?;
            Ok(())
        };
        limit().map_err(|failure| failure.at(&self.path))
    }

    /// Makes sure that no other process has the archive at `path` open, and that all of it is in
    /// the one file, so that it may be moved.
    ///
    /// # Errors
    /// [`ArchiveError::Busy`] when one has.
    pub fn take_out_of_use(path: &Path) -> Result<(), ArchiveError> {
        file::take_out_of_use(path)
    }

    /// Gives the space of removed rows back to the disk. Numbers of tasks stay as they are. Needs
    /// twice the file's size free meanwhile. Returns the file's bytes before and after.
    ///
    /// # Errors
    /// [`ArchiveError::Busy`] when another process keeps reading; [`ArchiveError::DiskFull`] or
    /// [`ArchiveError::Copy`] when there is too little room. The archive is then as it was.
    pub fn vacuum(&self) -> Result<[u64; 2], ArchiveError> {
        file::vacuum(&self.connection, &self.path)
    }

    /// Keeps a value that belongs to the home as a whole; replaces an earlier one.
    ///
    /// # Errors
    /// [`ArchiveError`] when it could not be written.
    pub fn put_meta(&self, key: &str, value: &str) -> Result<(), ArchiveError> {
        self.write(|tx| {
            tx.execute(
                "INSERT INTO meta (key, value) VALUES (?1, ?2)
                 ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                params![key, value],
            )?;
            Ok(())
        })
    }

    /// The present time as stored in clock columns.
    fn now(&self) -> String {
        self.clock.now().to_string()
    }

    /// Runs `work` as one transaction: on an error nothing of it remains.
    fn write<T>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Failure>,
    ) -> Result<T, ArchiveError> {
        // IMMEDIATE: a transaction that starts by reading and then wants to write is refused at
        // once when another process wrote in between, however long the busy timeout.
        let run = || -> Result<T, Failure> {
            let tx = Transaction::new_unchecked(&self.connection, TransactionBehavior::Immediate)?;
            let result = work(&tx)?;
            tx.commit()?;
            Ok(result)
        };
        let result = run().map_err(|failure| failure.of(&self.connection, &self.path))?;
        self.log.tend(&self.connection);
        Ok(result)
    }

    /// Runs `work` and marks `unit` as done, as one transaction. Returns false, without running
    /// it, when the unit is already there.
    fn write_unit(
        &self,
        unit: &Unit<'_>,
        work: impl FnOnce(&Transaction<'_>) -> Result<(), Failure>,
    ) -> Result<bool, ArchiveError> {
        self.write(|tx| {
            if night::is_done(tx, unit)? {
                return Ok(false);
            }
            night::require_running(tx, unit.night)?;
            work(tx)?;
            let generated = self.generated.swap(0, Ordering::Relaxed);
            night::mark_done(tx, unit, generated, &self.now())?;
            Ok(true)
        })
    }
}
