//! Proposers: from a seed (an answer and the passages that lead to it) to a draft.

mod author;
pub mod cloze;
pub mod document;
pub mod searching;
pub mod seeded;

pub use self::author::Author;

use crate::inference::GenerateError;
use crate::protocol::PromptError;
use crate::retrieval::RetrievalError;
use crate::rng;
use crate::rollout::Step;
use crate::rollout::StopReason;
use crate::task::Draft;
use crate::task::Origin;
use crate::task::Seed;

/// Why no drafts were made.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    /// Generation failed.
    #[error(transparent)]
    Generate(#[from] GenerateError),
    /// Retrieval failed.
    #[error(transparent)]
    Retrieve(#[from] RetrievalError),
    /// The prompt failed.
    #[error(transparent)]
    Prompt(#[from] PromptError),
}

/// A draft with what was written for it.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    /// The draft.
    pub draft: Draft,
    /// Tokens with their owners, the prompt first; none where a server did not tell them.
    pub steps: Vec<Step>,
    /// Why the writing ended.
    pub stop: StopReason,
}

/// Writes questions for seeds.
pub trait Proposer {
    /// One draft per seed, in the seeds' order. A draft without a question is an outcome, not an
    /// error.
    ///
    /// # Errors
    /// When generation or a search fails.
    fn propose(&self, seeds: &[Seed]) -> Result<Vec<Written>, ProposeError>;

    /// How its drafts are drawn, as the archive keeps it.
    fn sampling(&self) -> serde_json::Value;
}

/// The id of a draft: the same seed drawn in the same night has the same id after a restart,
/// whatever was written for it.
fn draft_id(origin: Origin, night: u32, drawn: &Seed) -> String {
    let mut parts = vec!["draft", origin.as_str(), drawn.answer.as_str()];
    parts.extend(drawn.path.iter().map(String::as_str));
    night_id(night, &parts)
}

/// An id for something of a night: 4 hexadecimal digits of the night, then 12 of a hash of `parts`.
/// What came in one night stands together wherever things are sorted by id, so that an archive of
/// years takes new tasks as fast as a young one.
pub fn night_id(night: u32, parts: &[&str]) -> String {
    let hash = rng::content_id(&[&[night.to_string().as_str()], parts].concat());
    format!("{:04x}{}", night & 0xffff, &hash[..12])
}

/// The question in a text: all up to its first question mark, if it has one.
fn question_in(text: &str) -> Option<String> {
    let text = text.trim();
    Some(text[..=text.find('?')?].to_string())
}
