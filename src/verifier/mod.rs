//! The gate: which drafts become tasks.
//!
//! Checks go by their cost: rules first, which cost nothing, then the model's, in batches, the
//! shortest prompts first. A draft's first required rejection decides, and what comes after it is
//! not asked. A check that cannot be carried out rejects: the gate fails closed. Every verdict is
//! kept with what it was based on. Where `verify.enforce` is off, only what a task cannot be
//! without decides about the model's drafts, and all else is kept as a record. Order and rules
//! follow Search Self-play's filters and RAG verification; closed-book failure, the need for every
//! passage of the evidence and the absence of rival answers are checked beside it.

pub mod minhash;
pub mod model_checks;
pub mod rules;

use std::collections::HashMap;

use crate::task::Draft;
use crate::task::Origin;
use crate::task::Passage;
use crate::task::Verdict;

pub use model_checks::Cost;
pub use model_checks::ModelChecks;
pub use rules::RuleChecks;

use self::minhash::Signature;

/// The names of all checks, in the order in which a draft comes to them.
pub const CHECKS: [&str; 10] = [
    rules::FORMAT,
    rules::LENGTH,
    rules::LEAK,
    rules::EVIDENCE,
    rules::DUPLICATE,
    rules::NEAR_DUPLICATE,
    model_checks::CLOSED_BOOK,
    model_checks::RAG,
    model_checks::EVIDENCE_NEEDED,
    model_checks::UNIQUENESS,
];

/// What the gate must know about questions accepted earlier.
pub trait KnownQuestions {
    /// Whether the archive holds this question, whatever its case and punctuation.
    ///
    /// # Errors
    /// When the archive cannot be read.
    fn contains(&self, question: &str) -> anyhow::Result<bool>;

    /// The questions of the archive whose signature has at least so many bytes in common with
    /// this one.
    ///
    /// # Errors
    /// When the archive cannot be read.
    fn alike(&self, signature: &Signature, matches: usize) -> anyhow::Result<Vec<KnownQuestion>>;
}

/// A question accepted earlier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownQuestion {
    /// The task's id.
    pub id: String,
    /// The question.
    pub question: String,
    /// Its answer.
    pub answer: String,
    /// Whether it is kept for evaluation.
    pub heldout: bool,
}

/// A draft on its way through the gate.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The draft.
    pub draft: Draft,
    /// What was said so far, in order.
    pub verdicts: Vec<Verdict>,
    /// Whether the model's checks decide about it, or are only recorded.
    pub model_decides: bool,
}

impl Candidate {
    /// A draft that no check has seen. The model decides about what a model wrote.
    pub fn new(draft: Draft) -> Self {
        let model_decides = draft.origin == Origin::Model;
        Self { draft, verdicts: Vec::new(), model_decides }
    }

    /// Whether no required check has rejected it.
    pub fn stands(&self) -> bool {
        self.verdicts.iter().all(|verdict| !(verdict.required && verdict.rejection.is_some()))
    }

    fn question(&self) -> &str {
        self.draft.question.as_deref().unwrap_or_default()
    }
}

/// Passages by id.
pub type Passages = HashMap<String, Passage>;
