//! A decoder's dimensions, read from GGUF metadata or from a Hugging Face `config.json`.

use std::collections::HashMap;

use candle_core::quantized::gguf_file::Value;
use serde::Deserialize;

/// Architectures the decoder computes.
pub const SUPPORTED: &[&str] = &["llama"];

/// Why a model's description was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Another architecture.
    #[error("architecture `{0}` is not supported; supported: {list}", list = SUPPORTED.join(", "))]
    Architecture(String),
    /// A feature of the architecture that the decoder does not compute.
    #[error("the model uses {0}, which this version does not compute")]
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

/// Dimensions and constants of a decoder.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderConfig {
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
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Added to the mean square in RMS norm.
    pub norm_eps: f32,
    /// Whether the output head is the embedding.
    pub tied: bool,
}

#[derive(Deserialize)]
struct HubConfig {
    model_type: String,
    num_hidden_layers: usize,
    hidden_size: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    intermediate_size: usize,
    vocab_size: usize,
    max_position_embeddings: usize,
    rope_theta: Option<f64>,
    rms_norm_eps: f64,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    /// How positions are scaled, before transformers 5.
    rope_scaling: Option<serde_json::Value>,
    /// The same and the base, since transformers 5.
    rope_parameters: Option<RopeParameters>,
}

#[derive(Deserialize)]
struct RopeParameters {
    rope_type: Option<String>,
    rope_theta: Option<f64>,
    partial_rotary_factor: Option<f64>,
}

impl RopeParameters {
    /// Every dimension turned, by unscaled positions.
    fn plain(&self) -> bool {
        self.rope_type.as_deref().is_none_or(|kind| kind == "default")
            && self.partial_rotary_factor.is_none_or(|factor| factor == 1.0)
    }
}

/// The base of the rotary frequencies where a model's description has none.
const DEFAULT_ROPE_THETA: f64 = 10_000.0;

impl DecoderConfig {
    /// Reads a Hugging Face `config.json`.
    ///
    /// # Errors
    /// When the architecture or one of its features is not supported, or a key is missing.
    pub fn from_hub_json(text: &str) -> Result<Self, ConfigError> {
        let hub: HubConfig = serde_json::from_str(text)?;
        if !SUPPORTED.contains(&hub.model_type.as_str()) {
            return Err(ConfigError::Architecture(hub.model_type));
        }
        if hub.attention_bias || hub.mlp_bias {
            return Err(ConfigError::Feature("bias terms".into()));
        }
        let scaled = hub.rope_scaling.is_some_and(|scaling| !scaling.is_null());
        if scaled || hub.rope_parameters.as_ref().is_some_and(|rope| !rope.plain()) {
            return Err(ConfigError::Feature("rope scaling".into()));
        }
        let rope_theta = hub.rope_parameters.and_then(|rope| rope.rope_theta).or(hub.rope_theta);
        Self {
            layers: hub.num_hidden_layers,
            hidden: hub.hidden_size,
            heads: hub.num_attention_heads,
            kv_heads: hub.num_key_value_heads.unwrap_or(hub.num_attention_heads),
            head_dim: hub.head_dim.unwrap_or(hub.hidden_size / hub.num_attention_heads.max(1)),
            feed_forward: hub.intermediate_size,
            vocabulary: hub.vocab_size,
            max_positions: hub.max_position_embeddings,
            rope_theta: rope_theta.unwrap_or(DEFAULT_ROPE_THETA),
            norm_eps: hub.rms_norm_eps as f32,
            tied: hub.tie_word_embeddings,
        }
        .checked()
    }

    /// Reads GGUF metadata; `vocabulary` and `tied` come from the file's tensors.
    ///
    /// # Errors
    /// When the architecture or one of its features is not supported, or a key is missing.
    pub fn from_gguf(
        metadata: &HashMap<String, Value>,
        vocabulary: usize,
        tied: bool,
    ) -> Result<Self, ConfigError> {
        let missing = |key: &str| ConfigError::Missing(key.to_string());
        let architecture = metadata
            .get("general.architecture")
            .and_then(|value| value.to_string().ok())
            .ok_or_else(|| missing("general.architecture"))?;
        if !SUPPORTED.contains(&architecture.as_str()) {
            return Err(ConfigError::Architecture(architecture.clone()));
        }
        let value = |key: &str| metadata.get(&format!("{architecture}.{key}"));
        let count = |key: &str| {
            let read = value(key).and_then(|value| value.to_u32().ok());
            read.map(|n| n as usize).ok_or_else(|| missing(&format!("{architecture}.{key}")))
        };
        let real = |key: &str| value(key).and_then(|value| value.to_f32().ok());
        if value("rope.scaling.type").is_some() || metadata.contains_key("rope_freqs.weight") {
            return Err(ConfigError::Feature("rope scaling".into()));
        }
        let (hidden, heads) = (count("embedding_length")?, count("attention.head_count")?);
        Self {
            layers: count("block_count")?,
            hidden,
            heads,
            kv_heads: count("attention.head_count_kv").unwrap_or(heads),
            head_dim: count("attention.key_length").unwrap_or(hidden / heads.max(1)),
            feed_forward: count("feed_forward_length")?,
            vocabulary,
            max_positions: count("context_length")?,
            rope_theta: f64::from(real("rope.freq_base").unwrap_or(DEFAULT_ROPE_THETA as f32)),
            norm_eps: real("attention.layer_norm_rms_epsilon")
                .ok_or_else(|| missing("attention.layer_norm_rms_epsilon"))?,
            tied,
        }
        .checked()
    }

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
        Ok(self)
    }
}
