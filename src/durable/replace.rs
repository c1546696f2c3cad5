//! Replacing several files and folders of a directory as one step.
//!
//! The moves are written to a file before the first is made. A crash in the middle leaves that
//! file, and whoever next takes the directory's lock makes the rest of the moves: what was decided
//! is carried to its end, never half of it used.

use std::io;
use std::path::Path;

use serde::Deserialize;
use serde::Serialize;

use super::DurableError;
use super::sync_directory;
use super::write_file;

/// Name of the file that lists the moves under way.
const MOVES_FILE: &str = "replace.json";

/// A rename within a directory. Names are relative to it, with `/` between parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// What is moved; one that is not there counts as moved.
    pub from: String,
    /// Where to; a file there is replaced, a folder must not be there.
    pub to: String,
}

impl Move {
    /// A move from one name to another.
    pub fn new(from: impl Into<String>, to: impl Into<String>) -> Self {
        Self { from: from.into(), to: to.into() }
    }
}

/// Makes all `moves` in `directory`, in their order, or none: also across a crash, after which the
/// next [`super::HomeLock`] of the directory makes those that are left. What is moved into place
/// must have been flushed before.
///
/// # Errors
/// [`DurableError`]. When the list could not be written nothing was moved; later, the moves that
/// are left are made by the next lock.
pub fn replace(directory: &Path, moves: &[Move]) -> Result<(), DurableError> {
    let list = directory.join(MOVES_FILE);
    write_moves(&list, moves)?;
    finish_replacement(directory)?;
    Ok(())
}

fn write_moves(list: &Path, moves: &[Move]) -> Result<(), DurableError> {
    let text = serde_json::to_vec_pretty(moves)
        .map_err(|error| DurableError::io("write", list, error.into()))?;
    write_file(list, &text)
}

/// Whether moves of a [`replace`] that did not end are left.
pub fn is_replacement_unfinished(directory: &Path) -> bool {
    directory.join(MOVES_FILE).exists()
}

/// Makes the moves that a [`replace`] left. Returns false when there were none. Call it only while
/// holding the directory's lock.
pub(super) fn finish_replacement(directory: &Path) -> Result<bool, DurableError> {
    let list = directory.join(MOVES_FILE);
    let failed = |error| DurableError::io("read", &list, error);
    let text = match std::fs::read(&list) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed(error)),
    };
    let moves: Vec<Move> = serde_json::from_slice(&text).map_err(|error| failed(error.into()))?;
    for (done, Move { from, to }) in moves.iter().enumerate() {
        let (from, to) = (directory.join(from), directory.join(to));
        match std::fs::rename(&from, &to) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound && !from.exists() => {}
            Err(error) => return Err(DurableError::io("rename to", &to, error)),
        }
        // Each in turn: a later move must not reach the disk without the ones before it.
        for path in [&from, &to] {
            if let Some(parent) = path.parent().filter(|parent| parent.exists()) {
                sync_directory(parent)?;
            }
        }
        // A name may be moved away and another put there: what is done must not be done again.
        write_moves(&list, &moves[done + 1..])?;
    }
    std::fs::remove_file(&list).map_err(|error| DurableError::io("remove", &list, error))?;
    sync_directory(directory)?;
    Ok(true)
}
