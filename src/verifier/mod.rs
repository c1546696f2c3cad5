//! The gate: which drafts become tasks.
//!
//! Rule checks come first, because they cost nothing; then the model checks, in batches. A draft's
//! first required rejection decides. A check that cannot be carried out rejects: the gate fails
//! closed. Every verdict is kept with what it was based on. Order and rules follow Search
//! Self-play's filters and RAG verification, with a closed-book check that it lacks.

pub mod model_checks;
pub mod rules;

use std::collections::HashMap;

use crate::task::Draft;
use crate::task::Origin;
use crate::task::Passage;
use crate::task::Verdict;

pub use model_checks::ModelChecks;
pub use rules::RuleChecks;

/// What the gate must know about questions accepted earlier.
pub trait KnownQuestions {
    /// Whether the archive holds this question, whatever its case and punctuation.
    ///
    /// # Errors
    /// When the archive cannot be read.
    fn contains(&self, question: &str) -> anyhow::Result<bool>;
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
}

/// Passages by id.
pub type Passages = HashMap<String, Passage>;
