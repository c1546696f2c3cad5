//! What an ingest gives, as plain data: documents, the files they came from, and what was left out.

use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;

/// A titled text with its source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// Hash of the source's path relative to the folder that was added, and of the title or the
    /// record's own id: it stays the same when the text changes or the folder moves.
    pub id: String,
    /// The file it was read from, as in [`SourceFile::path`].
    pub source: String,
    /// The id that a record of a `.jsonl` file brought along.
    pub record_id: Option<String>,
    /// Heading, record title or file stem.
    pub title: String,
    /// Paragraphs, one a line; within a paragraph white space is normalised.
    pub text: String,
}

/// A file that was read in this ingest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFile {
    /// Absolute path, links resolved; the key of `known` in the next ingest.
    pub path: String,
    /// Hash of the file's bytes, in hexadecimal.
    pub hash: String,
    /// How many documents it gave.
    pub documents: usize,
}

/// Why a file or a part of it was left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SkipReason {
    /// A known kind of document for which there is no reader yet.
    NotReadYet,
    /// Not a kind of document this program knows.
    UnknownKind,
    /// An attribution or licence file in a folder: about the documents, not one of them.
    NotContent,
    /// The bytes are not text.
    Binary,
    /// Text, but not in UTF-8.
    BadUtf8,
    /// The operating system would not give the file or folder.
    Unreadable,
    /// Larger than this program reads into memory.
    TooLarge,
    /// The format's parser gave up.
    Unparsable,
    /// A line of a `.jsonl` file is not a JSON object.
    BrokenJson,
    /// A record lacks a field that is needed, or the field is not text.
    MissingField,
    /// Nothing is left once the markup is taken away.
    NoText,
}

impl SkipReason {
    /// All reasons, in the order reports list them.
    pub const ALL: [Self; 11] = [
        Self::NotReadYet,
        Self::UnknownKind,
        Self::NotContent,
        Self::Binary,
        Self::BadUtf8,
        Self::Unreadable,
        Self::TooLarge,
        Self::Unparsable,
        Self::BrokenJson,
        Self::MissingField,
        Self::NoText,
    ];

    /// The name used in the archive, in JSON and in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotReadYet => "not_read_yet",
            Self::UnknownKind => "unknown_kind",
            Self::NotContent => "not_content",
            Self::Binary => "binary",
            Self::BadUtf8 => "bad_utf8",
            Self::Unreadable => "unreadable",
            Self::TooLarge => "too_large",
            Self::Unparsable => "unparsable",
            Self::BrokenJson => "broken_json",
            Self::MissingField => "missing_field",
            Self::NoText => "no_text",
        }
    }
}

/// A file, or one line of it, that gave no document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// The file or folder.
    pub path: String,
    /// The line, from 1, where one line is at fault.
    pub line: Option<u64>,
    /// Why, as a label.
    pub reason: SkipReason,
    /// Why, in words, with what to do about it.
    pub detail: String,
}

/// What an ingest found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// Files read now, sorted by path.
    pub files: Vec<SourceFile>,
    /// Files that are as they were in the last ingest; not parsed again.
    pub unchanged: Vec<String>,
    /// Files known from the last ingest that are no longer where these paths lead.
    pub vanished: Vec<String>,
    /// The documents of `files`, in file order, then in order within the file.
    pub documents: Vec<Document>,
    /// What was left out. A file all of whose lines are at fault is here and not in `files`.
    pub skipped: Vec<Skipped>,
}

/// Why an ingest could not begin.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A path that was asked for is not there.
    #[error("cannot add {}: no such file or folder; check the spelling", path.display())]
    NotFound {
        /// The path as given.
        path: PathBuf,
    },
    /// A path that was asked for cannot be looked at.
    #[error("cannot add {}: the path cannot be opened; check its permissions", path.display())]
    Inaccessible {
        /// The path as given.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
}
