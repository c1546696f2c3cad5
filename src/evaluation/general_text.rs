//! General text: paragraphs of which no home is taught, to see what a model forgets.
//!
//! `general_text.md` says where they come from.

use serde::Deserialize;

use crate::rng::content_id;

const TEXT: &str = include_str!("general_text.jsonl");

/// A paragraph.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Paragraph {
    /// Where it stands.
    pub source: String,
    /// The paragraph.
    pub text: String,
}

/// All paragraphs, in order.
///
/// # Errors
/// When a line is not what it should be: the program was built wrongly.
pub fn paragraphs() -> serde_json::Result<Vec<Paragraph>> {
    TEXT.lines().map(serde_json::from_str).collect()
}

/// What tells this text from that of another program version.
pub fn id() -> String {
    content_id(&["general text", TEXT])
}
