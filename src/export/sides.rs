//! Which split a row belongs to: documents are divided, never the words of one.

use serde::Serialize;

use crate::archive::Document;
use crate::archive::PlacedPassage;
use crate::rng;
use crate::task::Split;

/// A split of an export, in the order of strictness: what stands in a later one is never shown in
/// an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// To train on.
    Train,
    /// To choose by.
    Validation,
    /// To measure with: the archive's held-out documents.
    Test,
}

impl Side {
    /// All splits.
    pub const ALL: [Self; 3] = [Self::Train, Self::Validation, Self::Test];

    /// The name of the split and of its file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Test => "test",
        }
    }
}

/// Divides documents: the held-out ones are the test; of the others a share, by a hash of their
/// ids, is the validation, so that a document keeps its split whatever is added.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sides {
    /// The share of the documents to train on that goes to validation, in [0, 1].
    pub validation: f64,
}

impl Sides {
    /// The split of a document.
    pub fn of_document(self, document: &Document) -> Side {
        // A number in [0, 1) with the 53 bits of a double.
        let draw = (rng::derive(0, &["validation document", &document.id]) >> 11) as f64
            / (1u64 << 53) as f64;
        match document.split {
            Split::Heldout => Side::Test,
            Split::Train if draw < self.validation => Side::Validation,
            Split::Train => Side::Train,
        }
    }

    /// The split of a passage: the strictest of the documents that it stands in, or once stood in.
    pub fn of_passage(self, passage: &PlacedPassage) -> Side {
        let sides = passage.documents.iter().map(|document| self.of_document(document));
        sides.max().unwrap_or(Side::Train)
    }

    /// The split of a task: the strictest of its own and those of its evidence.
    pub(super) fn of_task(self, split: Split, evidence: &[PlacedPassage]) -> Side {
        let own = if split == Split::Heldout { Side::Test } else { Side::Train };
        evidence.iter().map(|passage| self.of_passage(passage)).fold(own, Side::max)
    }
}
