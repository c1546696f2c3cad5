//! A decoder's description in the metadata of a GGUF file.

use std::collections::HashMap;

use candle_core::quantized::gguf_file::Value;

use super::AttentionBias;
use super::ConfigError;
use super::DecoderConfig;
use super::Family;
use super::Rope;
use super::RopeScaling;
use super::hub::DEFAULT_ROPE_THETA;

/// What a GGUF file says by its tensors instead of its metadata.
#[derive(Debug, Clone, PartialEq)]
pub struct GgufTensors {
    /// Rows of the embedding.
    pub vocabulary: usize,
    /// Whether there is no output head, so that the embedding serves as one.
    pub tied: bool,
    /// Which of attention's linear maps have a bias.
    pub attention_bias: AttentionBias,
    /// Whether the feed-forward block has biases.
    pub feed_forward_bias: bool,
    /// What each rotary frequency is divided by (head_dim / 2).
    pub rope_divisors: Option<Vec<f32>>,
}

/// The entries of one architecture.
struct Entries<'a> {
    metadata: &'a HashMap<String, Value>,
    architecture: &'a str,
}

impl<'a> Entries<'a> {
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.metadata.get(&format!("{}.{key}", self.architecture))
    }

    /// A whole number; `None` when there is no such entry.
    fn optional_count(&self, key: &str) -> Result<Option<usize>, ConfigError> {
        let missing = || ConfigError::Missing(format!("{}.{key}", self.architecture));
        let read = |value: &Value| match value {
            // Some writers make small counts 64 bits wide.
            Value::U64(wide) => usize::try_from(*wide).map_err(|_| missing()),
            _ => value.to_u32().map(|n| n as usize).map_err(|_| missing()),
        };
        self.get(key).map(read).transpose()
    }

    fn count(&self, key: &str) -> Result<usize, ConfigError> {
        let missing = || ConfigError::Missing(format!("{}.{key}", self.architecture));
        self.optional_count(key)?.ok_or_else(missing)
    }

    fn real(&self, key: &str) -> Option<f64> {
        self.get(key).and_then(|value| value.to_f32().ok()).map(f64::from)
    }

    /// Refuses what the decoder does not compute.
    fn refuse(&self, head_dim: usize, positions: usize) -> Result<(), ConfigError> {
        let refuse = |what: String| Err(ConfigError::Feature(what));
        if self.optional_count("expert_count")?.is_some_and(|count| count > 0) {
            return refuse("a mixture of experts".into());
        }
        let window = self.optional_count("attention.sliding_window")?.unwrap_or(0);
        if window > 0 && window < positions {
            return refuse(format!("sliding-window attention over {window} positions"));
        }
        if self.optional_count("rope.dimension_count")?.is_some_and(|count| count != head_dim) {
            return refuse("rope on a part of each head".into());
        }
        if self.optional_count("attention.value_length")?.is_some_and(|width| width != head_dim) {
            return refuse("values of another width than keys".into());
        }
        let parts = self.metadata.get("split.count").and_then(|value| value.to_u16().ok());
        match parts {
            Some(parts) if parts > 1 => {
                refuse(format!("weights split over {parts} GGUF files; join them first"))
            }
            _ => Ok(()),
        }
    }

    fn rope(&self, divisors: Option<Vec<f32>>) -> Result<Rope, ConfigError> {
        let theta = self.real("rope.freq_base").unwrap_or(DEFAULT_ROPE_THETA);
        // llama.cpp takes a factor without a type as linear, and zero as none.
        let kind = self.get("rope.scaling.type").map_or(Ok("linear"), |value| {
            let text = value.to_string().map(String::as_str);
            text.map_err(|_| ConfigError::Missing("rope.scaling.type".into()))
        })?;
        let factor = self.real("rope.scaling.factor").or_else(|| self.real("rope.scale_linear"));
        let factor = factor.filter(|factor| *factor != 0.0 && *factor != 1.0);
        match (kind, factor, divisors) {
            ("none", _, None) | ("linear", None, None) => Ok(Rope::plain(theta)),
            ("none", _, Some(divisors)) | ("linear", None, Some(divisors)) => {
                Ok(Rope::from_divisors(theta, divisors))
            }
            ("linear", Some(factor), None) => {
                Ok(Rope { theta, scaling: RopeScaling::Linear { factor } })
            }
            ("linear", Some(_), Some(_)) => {
                Err(ConfigError::Feature("two ways of rope scaling at once".into()))
            }
            (other, ..) => Err(ConfigError::Feature(format!("rope scaling of type `{other}`"))),
        }
    }
}

impl DecoderConfig {
    /// Reads GGUF metadata and what the file's tensors say beside it.
    ///
    /// # Errors
    /// When the architecture or one of its features is not supported, or a key is missing.
    pub fn from_gguf(
        metadata: &HashMap<String, Value>,
        tensors: GgufTensors,
    ) -> Result<Self, ConfigError> {
        let missing = |key: &str| ConfigError::Missing(key.to_string());
        let architecture = metadata
            .get("general.architecture")
            .and_then(|value| value.to_string().ok())
            .ok_or_else(|| missing("general.architecture"))?;
        let family = Family::from_name(architecture)?;
        let entries = Entries { metadata, architecture };
        let (hidden, heads) =
            (entries.count("embedding_length")?, entries.count("attention.head_count")?);
        let key_length = entries.optional_count("attention.key_length")?;
        let head_dim = key_length.unwrap_or(hidden / heads.max(1));
        let max_positions = entries.count("context_length")?;
        entries.refuse(head_dim, max_positions)?;
        if tensors.feed_forward_bias {
            return Err(ConfigError::Feature("biases in the feed-forward block".into()));
        }
        let attention_bias = match (family, tensors.attention_bias) {
            // Without them it is not that model: their absence is to be noticed.
            (Family::Qwen2, AttentionBias::None) => AttentionBias::QueryKeyValue,
            (_, found) => found,
        };
        Self {
            family,
            layers: entries.count("block_count")?,
            hidden,
            heads,
            kv_heads: entries.optional_count("attention.head_count_kv")?.unwrap_or(heads),
            head_dim,
            feed_forward: entries.count("feed_forward_length")?,
            vocabulary: tensors.vocabulary,
            max_positions,
            rope: entries.rope(tensors.rope_divisors)?,
            attention_bias,
            norm_eps: entries
                .real("attention.layer_norm_rms_epsilon")
                .ok_or_else(|| missing("attention.layer_norm_rms_epsilon"))?
                as f32,
            tied: tensors.tied,
        }
        .checked()
    }
}
