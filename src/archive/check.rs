//! Whether the archive is whole: its pages, its references, and what this program promises of it.

mod damage;
mod invariants;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;

use rusqlite::Connection;
use serde::Serialize;

use super::ArchiveReader;
use super::error::ArchiveError;
use super::error::Failure;
use super::file;
use super::readable::is_damage;

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// Pages, or the rows and entries on them, are damaged.
    Structure,
    /// A row refers to one that is not there.
    Reference,
    /// A draft without the task that it became, or with one although it was rejected.
    Fate,
    /// A count that differs from what it counts.
    Count,
    /// The index of words, or the signatures, differ from the tasks.
    Words,
    /// A value that does not read back.
    Value,
    /// The live version is not there, or lost its weights.
    Live,
    /// A version's files are not there or differ from what was written.
    Weights,
}

/// Whose history a finding is part of, as far as can be read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Affected {
    /// Ids of tasks (of drafts where they became none), in order.
    pub tasks: BTreeSet<String>,
    /// Nights.
    pub nights: BTreeSet<u32>,
}

impl Affected {
    fn add(&mut self, id: Option<String>, night: Option<u32>) {
        self.tasks.extend(id);
        self.nights.extend(night);
    }
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What sort of thing.
    pub kind: FindingKind,
    /// The table, index, version or file.
    pub place: String,
    /// What was found, in words.
    pub detail: String,
    /// Whose history it is part of.
    pub affected: Affected,
    /// What a repair does about it; none where only a backup helps.
    pub repair: Option<&'static str>,
}

impl Finding {
    pub(super) fn new(kind: FindingKind, place: &str, detail: impl Into<String>) -> Self {
        let (place, affected) = (place.to_string(), Affected::default());
        Self { kind, place, detail: detail.into(), affected, repair: None }
    }
}

/// What a repair does, by the cause.
pub(super) const REINDEX: &str = "builds the index again";
pub(super) const REBUILD_WORDS: &str = "builds the index of words again";
pub(super) const REFILL: &str = "computes the signatures again";
pub(super) const RECOUNT: &str = "counts again";
pub(super) const COPY: &str = "copies what can be read into a new file, and says what was lost";

impl ArchiveReader {
    /// Checks the whole file and fails with the first thing found.
    ///
    /// # Errors
    /// [`ArchiveError::Damaged`].
    pub fn check(&self) -> Result<(), ArchiveError> {
        match self.findings()?.into_iter().next() {
            None => Ok(()),
            Some(finding) => Err(ArchiveError::Damaged {
                path: self.path.clone(),
                detail: format!("{}: {}", finding.place, finding.detail),
            }),
        }
    }

    /// Checks the structure of every page and index (`PRAGMA integrity_check`), every reference
    /// between tables, and what `docs/archive.md` promises: everything that is not as it should
    /// be.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read at all.
    pub fn findings(&self) -> Result<Vec<Finding>, ArchiveError> {
        self.findings_with(&mut |_| ())
    }

    /// As [`ArchiveReader::findings`]; `step` is told the name of each of the
    /// [`ArchiveReader::CHECKS`] steps as it ends.
    ///
    /// # Errors
    /// As there.
    pub fn findings_with(&self, step: &mut dyn FnMut(&str)) -> Result<Vec<Finding>, ArchiveError> {
        let failed = |error: rusqlite::Error| Failure::from(error).at(&self.path);
        let mut findings = damage::find(&self.connection).map_err(failed)?;
        step("pages");
        // Where pages are damaged, what else is found follows from that.
        let damaged = !findings.is_empty();
        let mut take = |found: rusqlite::Result<Vec<Finding>>, name: &str| {
            step(name);
            match found {
                Ok(found) => findings.extend(found),
                Err(error) if damaged && is_damage(&error) => {}
                Err(error) => return Err(error),
            }
            Ok(())
        };
        take(references(&self.connection), "references").map_err(failed)?;
        for invariant in invariants::ALL {
            take(invariant.check(&self.connection), invariant.name()).map_err(failed)?;
        }
        take(invariants::blobs(&self.connection), "tokens").map_err(failed)?;
        take(invariants::live(&self.connection), "live model").map_err(failed)?;
        Ok(findings)
    }

    /// How many steps [`ArchiveReader::findings`] has.
    pub const CHECKS: u64 = 4 + invariants::ALL.len() as u64;
}

/// References to rows that are not there, one finding for each pair of tables.
fn references(connection: &Connection) -> rusqlite::Result<Vec<Finding>> {
    let mut statement = connection.prepare("PRAGMA foreign_key_check")?;
    let mut rows = statement.query([])?;
    let mut broken: BTreeMap<(String, String), u64> = BTreeMap::new();
    while let Some(row) = rows.next()? {
        *broken.entry((row.get(0)?, row.get(2)?)).or_default() += 1;
    }
    let findings = broken.into_iter().map(|((table, target), rows)| {
        let detail = format!("{rows} rows refer to rows that {target} lacks");
        Finding { repair: Some(COPY), ..Finding::new(FindingKind::Reference, &table, detail) }
    });
    Ok(findings.collect())
}

/// Checks the pages and references of a copy that nobody writes to, of this schema version or an
/// earlier one. Nothing is written beside it. Returns its schema version.
///
/// # Errors
/// [`ArchiveError::Damaged`], or why it is no archive that this program knows.
pub fn verify_copy(path: &Path) -> Result<u32, ArchiveError> {
    let (connection, version) = file::open_copy(path)?;
    let failed = |error: rusqlite::Error| Failure::from(error).at(path);
    let mut findings = damage::find(&connection).map_err(failed)?;
    if findings.is_empty() {
        findings = references(&connection).map_err(failed)?;
    }
    match findings.into_iter().next() {
        None => Ok(version),
        Some(finding) => Err(ArchiveError::Damaged {
            path: path.to_path_buf(),
            detail: format!("{}: {}", finding.place, finding.detail),
        }),
    }
}
