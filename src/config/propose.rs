//! How drafts are made.

use serde::Deserialize;
use serde::Serialize;

use super::ConfigError;
use super::check::within;

/// Passages that a question combines at most.
pub const HOPS_MAX: usize = 4;

/// Searches before a question at most.
const TURNS_MAX: usize = 16;
/// Examples from the archive at most.
const EXAMPLES_MAX: usize = 16;

/// How drafts are made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Propose {
    /// Seeds turned into questions by rules, per night.
    pub code_drafts: usize,
    /// Seeds given to the model, per night.
    pub model_drafts: usize,
    /// What the model is given of a seed.
    pub method: ProposerMethod,
    /// Passages a model-made question must combine.
    pub hops: Hops,
    /// Searches that the model may make before it writes the question; with none it writes at once.
    pub turns: usize,
    /// Tasks of the archive that the base model is shown as examples, at most.
    pub archive_examples: usize,
    /// Sampling temperature.
    pub temperature: f32,
    /// Longest text, or turn where there are several, in tokens.
    pub max_tokens: usize,
    /// The base model's prompt where the answer is given.
    pub base_prompt: String,
    /// An adapter's prompt there: what it was trained with.
    pub adapter_prompt: String,
    /// The base model's prompt where it writes the answer, too.
    pub document_base_prompt: String,
    /// An adapter's prompt there.
    pub document_adapter_prompt: String,
    /// Whether the adapter in training writes, once it is trained; if not, the base model does.
    pub with_adapter: bool,
}

/// What the model is given of a seed, and what it writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProposerMethod {
    /// The answer and its evidence: it writes the question (Search Self-play).
    AnswerSeeded,
    /// The evidence: it writes a question and its answer.
    DocumentSeeded,
}

/// How many passages model-made questions combine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a number of passages, or a list of weights")]
pub enum Hops {
    /// Each of them so many.
    Fixed(usize),
    /// One passage, two and so on, by these weights.
    Weights(Vec<f64>),
}

impl Propose {
    /// The name of the prompt that opens a text of the base model, or of a trained adapter.
    pub fn prompt(&self, with_adapter: bool) -> &str {
        match (self.method, with_adapter) {
            (ProposerMethod::AnswerSeeded, false) => &self.base_prompt,
            (ProposerMethod::AnswerSeeded, true) => &self.adapter_prompt,
            (ProposerMethod::DocumentSeeded, false) => &self.document_base_prompt,
            (ProposerMethod::DocumentSeeded, true) => &self.document_adapter_prompt,
        }
    }

    /// Fails on the first value outside its range.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        self.hops.check()?;
        within("propose.max_tokens", self.max_tokens, 1, 1024)?;
        within("propose.turns", self.turns, 0, TURNS_MAX)?;
        within("propose.archive_examples", self.archive_examples, 0, EXAMPLES_MAX)?;
        within("propose.temperature", f64::from(self.temperature), 0.0, 5.0)?;
        if self.turns > 0 && self.method == ProposerMethod::DocumentSeeded {
            let reason = format!(
                "is {}; with `propose.method` = \"document_seeded\" it must be 0, since only a \
                 question for a given answer is searched for",
                self.turns
            );
            return Err(ConfigError::Range { key: "propose.turns", reason });
        }
        Ok(())
    }
}

impl Hops {
    /// Of `n` questions how many combine one passage, two and so on: the shares as nearly as whole
    /// numbers can.
    pub fn counts(&self, n: usize) -> Vec<usize> {
        let weights: Vec<f64> = match self {
            Self::Fixed(hops) => (1..=*hops).map(|at| f64::from(u8::from(at == *hops))).collect(),
            Self::Weights(weights) => weights.clone(),
        };
        let total: f64 = weights.iter().sum();
        let shares: Vec<f64> = weights.iter().map(|weight| weight / total * n as f64).collect();
        let mut counts: Vec<usize> = shares.iter().map(|share| share.floor() as usize).collect();
        let missing = n.saturating_sub(counts.iter().sum());
        // The largest remainders are rounded up; of equal ones that of fewer passages.
        let mut places: Vec<usize> = (0..counts.len()).collect();
        places.sort_by(|a, b| shares[*b].fract().total_cmp(&shares[*a].fract()));
        places.into_iter().take(missing).for_each(|place| counts[place] += 1);
        counts
    }

    fn check(&self) -> Result<(), ConfigError> {
        const KEY: &str = "propose.hops";
        match self {
            Self::Fixed(hops) => within(KEY, *hops, 1, HOPS_MAX),
            Self::Weights(weights) => {
                let sound = weights.iter().all(|weight| weight.is_finite() && *weight >= 0.0);
                let drawn = weights.iter().any(|weight| *weight > 0.0);
                if sound && drawn && weights.len() <= HOPS_MAX {
                    return Ok(());
                }
                let reason = format!(
                    "is {weights:?}; weights must be at most {HOPS_MAX}, none negative, one above 0"
                );
                Err(ConfigError::Range { key: KEY, reason })
            }
        }
    }
}
