//! A Hugging Face `config.json`, as transformers 4 and 5 write it.

use serde::Deserialize;

use super::AttentionBias;
use super::ConfigError;
use super::DecoderConfig;
use super::Family;
use super::Rope;
use super::RopeScaling;

#[derive(Deserialize)]
struct HubConfig {
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
    /// How positions are scaled, before transformers 5.
    rope_scaling: Option<RopeParameters>,
    /// The same and the base, since transformers 5.
    rope_parameters: Option<RopeParameters>,
    #[serde(flatten)]
    unusual: Unusual,
}

/// What a description may ask for that the decoder does not compute.
#[derive(Deserialize)]
struct Unusual {
    #[serde(default)]
    mlp_bias: bool,
    hidden_act: Option<String>,
    #[serde(default)]
    use_sliding_window: bool,
    sliding_window: Option<usize>,
    max_window_layers: Option<usize>,
    layer_types: Option<Vec<String>>,
    num_experts: Option<usize>,
    num_local_experts: Option<usize>,
    quantization_config: Option<Quantisation>,
}

#[derive(Deserialize)]
struct Quantisation {
    quant_method: Option<String>,
}

#[derive(Default, Deserialize)]
struct RopeParameters {
    rope_type: Option<String>,
    /// What `rope_type` was called first; some files have both.
    #[serde(rename = "type")]
    old_type: Option<String>,
    rope_theta: Option<f64>,
    partial_rotary_factor: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<usize>,
}

#[derive(Deserialize)]
struct ModelType {
    model_type: String,
}

/// The base of the rotary frequencies where a model's description has none.
pub(super) const DEFAULT_ROPE_THETA: f64 = 10_000.0;

/// Width of Qwen3's heads where a description leaves it out; elsewhere it is hidden / heads.
const QWEN3_HEAD_DIM: usize = 128;

impl DecoderConfig {
    /// Reads a Hugging Face `config.json`.
    ///
    /// # Errors
    /// When the architecture or one of its features is not supported, or a key is missing.
    pub fn from_hub_json(text: &str) -> Result<Self, ConfigError> {
        // First: descriptions of other architectures lack keys.
        let family = Family::from_name(&serde_json::from_str::<ModelType>(text)?.model_type)?;
        let hub: HubConfig = serde_json::from_str(text)?;
        hub.unusual.refuse(hub.num_hidden_layers)?;
        let head_dim = hub.head_dim.unwrap_or(match family {
            Family::Qwen3 => QWEN3_HEAD_DIM,
            Family::Llama | Family::Qwen2 => hub.hidden_size / hub.num_attention_heads.max(1),
        });
        let attention_bias = match (family, hub.attention_bias) {
            (Family::Qwen2, _) => AttentionBias::QueryKeyValue,
            (Family::Llama | Family::Qwen3, true) => AttentionBias::All,
            (Family::Llama | Family::Qwen3, false) => AttentionBias::None,
        };
        let rope = hub.rope_parameters.or(hub.rope_scaling).unwrap_or_default();
        Self {
            family,
            layers: hub.num_hidden_layers,
            hidden: hub.hidden_size,
            heads: hub.num_attention_heads,
            kv_heads: hub.num_key_value_heads.unwrap_or(hub.num_attention_heads),
            head_dim,
            feed_forward: hub.intermediate_size,
            vocabulary: hub.vocab_size,
            max_positions: hub.max_position_embeddings,
            rope: rope.read(hub.rope_theta, hub.max_position_embeddings)?,
            attention_bias,
            norm_eps: hub.rms_norm_eps as f32,
            tied: hub.tie_word_embeddings,
        }
        .checked()
    }
}

impl Unusual {
    fn refuse(&self, layers: usize) -> Result<(), ConfigError> {
        let refuse = |what: String| Err(ConfigError::Feature(what));
        if self.mlp_bias {
            return refuse("biases in the feed-forward block (mlp_bias)".into());
        }
        if let Some(activation) = self.hidden_act.as_ref().filter(|name| *name != "silu") {
            return refuse(format!("the activation `{activation}` (hidden_act)"));
        }
        if self.num_experts.or(self.num_local_experts).is_some_and(|count| count > 0) {
            return refuse("a mixture of experts".into());
        }
        if let Some(quantisation) = &self.quantization_config {
            let method = quantisation.quant_method.as_deref().unwrap_or("unnamed");
            return refuse(format!("weights quantised by `{method}` (quantization_config)"));
        }
        let full = |kind: &&String| *kind != "full_attention";
        if let Some(kind) = self.layer_types.as_ref().and_then(|kinds| kinds.iter().find(full)) {
            return refuse(format!("layers of type `{kind}` (layer_types)"));
        }
        // Layers from `max_window_layers` on have the window; `layer_types`, where given, decides.
        let reaches = self.max_window_layers.is_none_or(|first| first < layers);
        let window = self.use_sliding_window && self.sliding_window.is_some() && reaches;
        match window && self.layer_types.is_none() {
            true => refuse("sliding-window attention (use_sliding_window)".into()),
            false => Ok(()),
        }
    }
}

impl RopeParameters {
    /// The frequencies; `theta` and `positions` stand beside the parameters in the description.
    fn read(self, theta: Option<f64>, positions: usize) -> Result<Rope, ConfigError> {
        if self.partial_rotary_factor.is_some_and(|factor| factor != 1.0) {
            return Err(ConfigError::Feature("rope on a part of each head".into()));
        }
        let required = |value: Option<f64>, key: &str| {
            value.ok_or_else(|| ConfigError::Missing(format!("{key} of the rope parameters")))
        };
        let scaling = match self.rope_type.or(self.old_type).as_deref() {
            None | Some("default") => RopeScaling::None,
            Some("linear") => RopeScaling::Linear { factor: required(self.factor, "factor")? },
            Some("llama3") => RopeScaling::Llama3 {
                factor: required(self.factor, "factor")?,
                low_freq_factor: required(self.low_freq_factor, "low_freq_factor")?,
                high_freq_factor: required(self.high_freq_factor, "high_freq_factor")?,
                original_positions: self.original_max_position_embeddings.unwrap_or(positions),
            },
            Some(other) => {
                return Err(ConfigError::Feature(format!("rope of type `{other}`")));
            }
        };
        Ok(Rope { theta: self.rope_theta.or(theta).unwrap_or(DEFAULT_ROPE_THETA), scaling })
    }
}
