//! How drafts are checked.

use serde::Deserialize;
use serde::Serialize;

/// How drafts are checked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verify {
    /// Whether the gate decides about the model's drafts. If not, they are turned away only for
    /// what a task cannot be without, and what else the checks say is recorded: the control of an
    /// experiment.
    pub enforce: bool,
    /// Shortest question, in words.
    pub min_words: usize,
    /// Shortest question, in characters (Search Self-play: 10).
    pub min_chars: usize,
    /// Longest question, in characters.
    pub max_chars: usize,
    /// Jaccard similarity from which a question with the same answer is a repetition; 1 for none.
    pub duplicate_jaccard: f64,
    /// Passages beside the evidence in the RAG check (Search Self-play: 4).
    pub noise_passages: usize,
    /// F1 against the seed's answer that counts as found, in (0, 1].
    pub min_f1: f32,
    /// Answers drawn in each of the model's checks; 1 takes the likeliest.
    pub samples: usize,
    /// Sampling temperature when there are several.
    pub temperature: f32,
    /// Share of them that must agree with the seed's answer for it to be found, in (0, 1].
    pub majority: f32,
    /// Whether every passage of the evidence must be needed.
    pub evidence_needed: bool,
    /// Whether no other answer may be as well supported.
    pub uniqueness: bool,
    /// Passages beside the evidence in which another answer is looked for.
    pub uniqueness_passages: usize,
    /// By how much a rival's mean log-probability per token may be lower, in nats.
    pub uniqueness_margin: f32,
    /// Code-made drafts per night whose model checks are recorded.
    pub record_on_code: usize,
}
