//! Generation: token ids in, token ids and their log-probabilities out.
//!
//! Everything that asks the model to write goes through [`Generator`]; the game never knows
//! whether an engine in this process or a script of a test is behind it.

pub mod engine;
pub mod sampler;
pub mod scripted;

pub use engine::Engine;
pub use sampler::Sampling;
pub use scripted::Scripted;

use crate::rollout::StopReason;

/// A prompt and how to continue it.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Prompt tokens; at least one.
    pub prompt: Vec<u32>,
    /// How many independent continuations to draw.
    pub samples: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Longest continuation, in tokens.
    pub max_tokens: usize,
    /// Generation ends when the continuation's text contains one of these.
    pub stop: Vec<String>,
    /// Seed of the first sample; the others derive theirs from it and their index.
    pub seed: u64,
}

/// One continuation.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// The sampled tokens, the one that ended it included.
    pub tokens: Vec<u32>,
    /// Log-probability in nats of each token under the distribution it was sampled from.
    pub logprobs: Vec<f32>,
    /// The text up to, and without, the stop string or end-of-text token.
    pub text: String,
    /// Why it ended.
    pub stop: StopReason,
}

/// Why nothing was generated.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// A prompt and its continuation do not fit the model's context.
    #[error("a prompt of {prompt} tokens and {max_tokens} new ones exceed the model's {limit}")]
    TooLong {
        /// Prompt length.
        prompt: usize,
        /// Tokens asked for.
        max_tokens: usize,
        /// The model's context.
        limit: usize,
    },
    /// A prompt without a token.
    #[error("a prompt needs at least one token")]
    EmptyPrompt,
    /// A script had no continuation left.
    #[error("the script has no continuation for request {0}")]
    ScriptEnded(usize),
    /// The tensor library failed.
    #[error("generation failed: {0}")]
    Tensor(#[from] candle_core::Error),
    /// The user asked to stop.
    #[error("stopped on request")]
    Interrupted,
}

/// Something that continues prompts.
pub trait Generator {
    /// Continues every request `samples` times; the result has the requests' order.
    ///
    /// # Errors
    /// When a request cannot be served at all. A bad continuation is not an error.
    fn generate(&self, requests: &[Request]) -> Result<Vec<Vec<Generation>>, GenerateError>;

    /// Which policy writes: the name of the live adapter, or `base`.
    fn model_version(&self) -> &str;
}
