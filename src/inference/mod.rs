//! Generation: token ids in, token ids and their log-probabilities out.
//!
//! Everything that asks the model to write goes through [`Generator`]; the game never knows
//! whether an engine in this process, remote servers or a script of a test are behind it.

pub mod bench;
pub mod concurrent;
pub mod doctor;
pub mod engine;
pub mod remote;
pub mod sampler;
pub mod scripted;
pub mod stop;

pub use engine::Engine;
pub use engine::EngineSettings;
pub use engine::Policy;
pub use engine::Ticket;
pub use remote::Remote;
pub use remote::RemoteError;
pub use sampler::Drawn;
pub use sampler::LogitMask;
pub use sampler::Sampling;
pub use sampler::SamplingError;
pub use scripted::Scripted;
pub use stop::StopMatcher;

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

use crate::rollout::StopReason;

/// A prompt and how to continue it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Prompt tokens; at least one.
    pub prompt: Vec<u32>,
    /// How many independent continuations to draw.
    pub samples: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Tokens that may be chosen; all where there is none.
    #[serde(with = "sampler::shared_mask")]
    pub mask: Option<Arc<LogitMask>>,
    /// Longest continuation, in tokens.
    pub max_tokens: usize,
    /// Generation ends when the continuation's text contains one of these.
    pub stop: Vec<String>,
    /// Generation ends with one of these tokens, beside the model's own end of text.
    pub stop_tokens: Vec<u32>,
    /// Seed of the first sample; the others derive theirs from it and their index.
    pub seed: u64,
    /// How long it may take, waiting included; what is written by then is the result.
    pub deadline: Option<Duration>,
}

impl Request {
    /// The most likely continuation of `prompt`, up to `max_tokens` tokens.
    pub fn new(prompt: Vec<u32>, max_tokens: usize) -> Self {
        Self {
            prompt,
            samples: 1,
            sampling: Sampling::GREEDY,
            mask: None,
            max_tokens,
            stop: Vec::new(),
            stop_tokens: Vec::new(),
            seed: 0,
            deadline: None,
        }
    }
}

/// What the policy, untempered, thinks of a token and of the position it stands at.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TokenScore {
    /// Log-probability of the token in nats: its logit − `log_normaliser`.
    pub logprob: f32,
    /// ln Σ e^logit over the vocabulary; NaN where a remote server does not tell.
    pub log_normaliser: f32,
    /// Mean logit over the vocabulary; NaN where a remote server does not tell.
    pub mean_logit: f32,
}

impl TokenScore {
    /// Self-certainty of the position (Kang et al. 2025, eq. 4): the divergence of the uniform
    /// distribution over `vocabulary` tokens from the policy's, in nats, at least 0.
    pub fn self_certainty(&self, vocabulary: usize) -> f32 {
        self.log_normaliser - self.mean_logit - (vocabulary as f32).ln()
    }
}

/// One continuation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Generation {
    /// The sampled tokens, the one that ended it included.
    pub tokens: Vec<u32>,
    /// Log-probability in nats of each token under the distribution it was sampled from; empty
    /// where a remote server does not tell. Then the tokens may be the text encoded anew, and must
    /// not be trained on.
    pub logprobs: Vec<f32>,
    /// The same under the untempered distribution, with that distribution's normaliser; empty
    /// where the engine cannot tell.
    pub scores: Vec<TokenScore>,
    /// The text up to, and without, the stop string or end-of-text token.
    pub text: String,
    /// Why it ended.
    pub stop: StopReason,
}

impl Generation {
    /// Nothing was written.
    pub fn empty(stop: StopReason) -> Self {
        let (tokens, logprobs, scores) = (Vec::new(), Vec::new(), Vec::new());
        Self { tokens, logprobs, scores, text: String::new(), stop }
    }
}

/// A given text to be scored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Continuation {
    /// Tokens before it; at least one.
    pub prompt: Vec<u32>,
    /// The tokens to be scored.
    pub tokens: Vec<u32>,
}

/// Why nothing was generated.
#[derive(Debug, thiserror::Error, Serialize, Deserialize)]
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
    /// Tokens cannot be chosen as asked.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
    /// A script had no continuation left.
    #[error("the script has no continuation for request {0}")]
    ScriptEnded(usize),
    /// A token that the model does not have.
    #[error("token {token} is not in the model's vocabulary of {vocabulary}")]
    UnknownToken {
        /// The token.
        token: u32,
        /// How many the model has.
        vocabulary: usize,
    },
    /// More key/value memory than there is.
    #[error(
        "a prompt and its continuation of {positions} positions exceed the memory for {room}: \
         raise `inference.kv_mb`"
    )]
    NoMemory {
        /// Positions of one continuation.
        positions: usize,
        /// Positions that there is memory for.
        room: usize,
    },
    /// Too many requests wait.
    #[error("{waiting} requests wait already: try again later, or raise `inference.queue`")]
    QueueFull {
        /// How many wait.
        waiting: usize,
    },
    /// The step that the request was in failed.
    #[error("a step of the generation engine failed: {0}; other requests go on")]
    Step(String),
    /// The engine serves nothing any more.
    #[error("the generation engine has ended: {0}")]
    Stopped(String),
    /// An adapter cannot be loaded.
    #[error("the adapter cannot be loaded for generation: {0}")]
    Adapter(String),
    /// Remote servers failed.
    #[error(transparent)]
    #[serde(skip)]
    Remote(RemoteError),
    /// What was asked for is beyond this engine.
    #[error("{0}")]
    Unsupported(String),
    /// The user asked to stop.
    #[error("stopped on request")]
    Interrupted,
}

/// Something that continues prompts.
pub trait Generator: Sync {
    /// Continues every request `samples` times; the result has the requests' order.
    ///
    /// # Errors
    /// When a request cannot be served at all. A bad continuation is not an error.
    fn generate(&self, requests: &[Request]) -> Result<Vec<Vec<Generation>>, GenerateError>;

    /// Scores given continuations, as teacher forcing does: for each, its tokens' scores in order.
    ///
    /// # Errors
    /// When one is too long, or the engine cannot score.
    fn score(&self, given: &[Continuation]) -> Result<Vec<Vec<TokenScore>>, GenerateError>;

    /// Which policy writes: the name of the live adapter, or `base`.
    fn model_version(&self) -> &str;
}

impl<G: Generator + ?Sized> Generator for Box<G>
where
    Box<G>: Sync,
{
    fn generate(&self, requests: &[Request]) -> Result<Vec<Vec<Generation>>, GenerateError> {
        (**self).generate(requests)
    }

    fn score(&self, given: &[Continuation]) -> Result<Vec<Vec<TokenScore>>, GenerateError> {
        (**self).score(given)
    }

    fn model_version(&self) -> &str {
        (**self).model_version()
    }
}
