//! A decoder's family, dimensions and constants, read from GGUF metadata or from a Hugging Face
//! `config.json`. What the decoder does not compute is refused here, by name.

mod gguf;
mod hub;
mod rope;

pub use self::gguf::GgufTensors;
pub use self::rope::Rope;
pub use self::rope::RopeScaling;

use super::lora::Target;

/// Families the decoder computes, by Hugging Face's `model_type` and GGUF's
/// `general.architecture`, which are the same.
pub const SUPPORTED: &[&str] = &["llama", "qwen2", "qwen3"];

/// What of those families it computes, for messages.
const SUPPORTED_FEATURES: &str = "supported: llama, qwen2 and qwen3 models with full attention, \
     SwiGLU without biases, unquantised or GGUF weights, and rope of type default, linear or \
     llama3";

/// Why a model's description was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Another architecture.
    #[error("architecture `{0}` is not supported; supported: {list}", list = SUPPORTED.join(", "))]
    Architecture(String),
    /// A feature of the architecture that the decoder does not compute.
    #[error("the model uses {0}, which this version does not compute; {SUPPORTED_FEATURES}")]
    Feature(String),
    /// A key is missing or has another type.
    #[error("the model's description lacks a usable `{0}`")]
    Missing(String),
    /// The dimensions contradict each other.
    #[error("the model's dimensions do not fit together: {0}")]
    Inconsistent(String),
    /// `config.json` is not the JSON expected.
    #[error("config.json cannot be read: {0}")]
    Json(#[from] serde_json::Error),
}

/// A model family: what its layers have beside Llama's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Llama, SmolLM2 (Touvron et al. 2023; Grattafiori et al. 2024).
    Llama,
    /// Qwen2 and Qwen2.5: biases on query, key and value (Yang et al. 2024).
    Qwen2,
    /// Qwen3: an RMS norm over each head of query and key (Yang et al. 2025).
    Qwen3,
}

impl Family {
    /// The family called `name` in `model_type` or `general.architecture`.
    ///
    /// # Errors
    /// When it is none of [`SUPPORTED`].
    pub fn from_name(name: &str) -> Result<Self, ConfigError> {
        match name {
            "llama" => Ok(Self::Llama),
            "qwen2" => Ok(Self::Qwen2),
            "qwen3" => Ok(Self::Qwen3),
            _ => Err(ConfigError::Architecture(name.to_string())),
        }
    }

    /// Its name in `model_type` and `general.architecture`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }

    /// The class in transformers that computes it.
    pub fn class(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
        }
    }

    /// Whether every head of query and key goes through a norm before rope.
    pub fn norms_heads(self) -> bool {
        self == Self::Qwen3
    }
}

/// Which of attention's linear maps add a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttentionBias {
    /// None of them.
    None,
    /// Query, key and value.
    QueryKeyValue,
    /// Query, key, value and output.
    All,
}

impl AttentionBias {
    /// Whether the map of `target` adds one.
    pub fn has(self, target: Target) -> bool {
        match target {
            Target::Query | Target::Key | Target::Value => self != Self::None,
            Target::Output => self == Self::All,
            Target::Gate | Target::Up | Target::Down => false,
        }
    }
}

/// Dimensions and constants of a decoder.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderConfig {
    /// The model's family.
    pub family: Family,
    /// Number of layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Width of the feed-forward block.
    pub feed_forward: usize,
    /// Vocabulary size.
    pub vocabulary: usize,
    /// Longest sequence.
    pub max_positions: usize,
    /// The rotary frequencies.
    pub rope: Rope,
    /// Which of attention's linear maps add a bias.
    pub attention_bias: AttentionBias,
    /// Added to the mean square in RMS norm.
    pub norm_eps: f32,
    /// Whether the output head is the embedding.
    pub tied: bool,
}

/// More positions than any model has: a larger number is damage.
const MAX_POSITIONS: usize = 1 << 30;

impl DecoderConfig {
    fn checked(self) -> Result<Self, ConfigError> {
        let wrong = |what: &str| Err(ConfigError::Inconsistent(what.to_string()));
        if self.layers == 0 || self.hidden == 0 || self.vocabulary == 0 || self.heads == 0 {
            return wrong("a dimension is zero");
        }
        if self.kv_heads == 0 || !self.heads.is_multiple_of(self.kv_heads) {
            return wrong("the query heads are not a multiple of the key/value heads");
        }
        if self.head_dim == 0 || !self.head_dim.is_multiple_of(2) {
            return wrong("the head dimension is odd");
        }
        if self.max_positions == 0 || self.max_positions > MAX_POSITIONS {
            return wrong("the number of positions is zero or absurd");
        }
        match self.rope.inverse_frequencies(self.head_dim) {
            Some(_) => Ok(self),
            None => wrong("the rope parameters give no usable frequencies"),
        }
    }
}
