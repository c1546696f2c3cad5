//! Export: a model with an adapter merged into its weights, as a Hugging Face folder that other
//! programs load without knowing of adapters.

use std::path::Path;

use candle_core::Tensor;
use serde_json::json;

use super::Model;
use super::config::AttentionBias;
use super::config::DecoderConfig;
use super::config::Family;
use super::config::Rope;
use super::config::RopeScaling;
use super::decoder::Decoder;
use super::lora::Adapter;
use super::lora::AdapterError;
use super::lora::Target;
use super::lora::serialise;
use crate::durable;
use crate::durable::PendingDirectory;

/// Writes `model` with `adapter` merged to `dir`, in f32; the folder appears whole or not at all.
/// Returns the hash of its contents.
///
/// # Errors
/// When the disk is full or unwritable, `dir` exists, or no Hugging Face description says what
/// the model computes.
pub fn export(model: &Model, adapter: &Adapter, dir: &Path) -> Result<String, AdapterError> {
    let description = pretty(&config(model)?);
    let tensors = merged(&model.decoder, adapter)?;
    let weights = serialise(tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)))?;
    let pending = PendingDirectory::create(dir)?;
    let write = |name: &str, bytes: &[u8]| durable::write_file(&pending.path().join(name), bytes);
    write("model.safetensors", &weights)?;
    write("config.json", description.as_bytes())?;
    write("tokenizer.json", model.tokenizer.to_json()?.as_bytes())?;
    write("tokenizer_config.json", pretty(&tokenizer_config(model)).as_bytes())?;
    Ok(pending.seal()?.content_hash())
}

/// W + alpha / r · B A for every linear map that has a term; everything else as it is.
fn merged(decoder: &Decoder, adapter: &Adapter) -> Result<Vec<(String, Tensor)>, AdapterError> {
    let mut tensors = vec![
        ("model.embed_tokens.weight".to_string(), decoder.embedding().clone()),
        ("model.norm.weight".to_string(), decoder.final_norm().clone()),
    ];
    if !decoder.config().tied {
        tensors.push(("lm_head.weight".to_string(), decoder.head().clone()));
    }
    for (index, layer) in decoder.layers().iter().enumerate() {
        let name = |part: &str| format!("model.layers.{index}.{part}.weight");
        tensors.push((name("input_layernorm"), layer.attention_norm.clone()));
        tensors.push((name("post_attention_layernorm"), layer.feed_forward_norm.clone()));
        let norms = [("q_norm", &layer.query_norm), ("k_norm", &layer.key_norm)];
        for (norm, weight) in norms {
            let weight = weight.iter().cloned();
            tensors.extend(weight.map(|weight| (name(&format!("self_attn.{norm}")), weight)));
        }
        for target in Target::ALL {
            let weight = &layer.linears[target as usize];
            let weight = match adapter.pair(index, target) {
                Some(pair) => {
                    let term = pair.b.detach().matmul(&pair.a.detach())?;
                    (weight + (term * f64::from(pair.scale))?)?
                }
                None => weight.clone(),
            };
            tensors.push((name(target.module()), weight));
            if let Some(bias) = &layer.biases[target as usize] {
                let name = format!("model.layers.{index}.{}.bias", target.module());
                tensors.push((name, bias.clone()));
            }
        }
    }
    Ok(tensors)
}

/// The family whose class in transformers has the model's biases.
fn class_family(config: &DecoderConfig) -> Result<Family, AdapterError> {
    match (config.family, config.attention_bias) {
        // Llama with these biases is what Qwen2 is.
        (Family::Llama | Family::Qwen2, AttentionBias::QueryKeyValue) => Ok(Family::Qwen2),
        (Family::Llama | Family::Qwen3, AttentionBias::None | AttentionBias::All) => {
            Ok(config.family)
        }
        (family, _) => {
            let why = format!("no {} has biases on its attention maps", family.class());
            Err(AdapterError::Export(why))
        }
    }
}

/// What `config.json` says of the rotary frequencies, but for their base.
fn rope_parameters(rope: &Rope) -> Result<serde_json::Value, AdapterError> {
    match &rope.scaling {
        RopeScaling::None => Ok(json!({ "rope_type": "default" })),
        RopeScaling::Linear { factor } => Ok(json!({ "rope_type": "linear", "factor": factor })),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_positions } => {
            Ok(json!({
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low_freq_factor,
                "high_freq_factor": high_freq_factor,
                "original_max_position_embeddings": original_positions,
            }))
        }
        RopeScaling::Divisors(_) => Err(AdapterError::Export(
            "its rope frequencies are divided one by one, in a way that is not Llama 3's".into(),
        )),
    }
}

fn config(model: &Model) -> Result<serde_json::Value, AdapterError> {
    let config = model.decoder.config();
    let family = class_family(config)?;
    let old_rope = rope_parameters(&config.rope)?;
    let mut new_rope = old_rope.clone();
    new_rope["rope_theta"] = config.rope.theta.into();
    Ok(json!({
        "architectures": [family.class()],
        "model_type": family.name(),
        "dtype": "float32",
        "num_hidden_layers": config.layers,
        "hidden_size": config.hidden,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.feed_forward,
        "vocab_size": config.vocabulary,
        "max_position_embeddings": config.max_positions,
        // Both spellings: transformers before and since version 5.
        "rope_theta": config.rope.theta,
        "rope_scaling": (config.rope.scaling != RopeScaling::None).then_some(old_rope),
        "rope_parameters": new_rope,
        "attention_bias": config.attention_bias == AttentionBias::All,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied,
        "hidden_act": "silu",
        "bos_token_id": model.tokenizer.bos(),
        "eos_token_id": model.tokenizer.eos(),
    }))
}

fn tokenizer_config(model: &Model) -> serde_json::Value {
    let tokenizer = &model.tokenizer;
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model.decoder.config().max_positions,
        "bos_token": tokenizer.bos().and_then(|id| tokenizer.token_text(id)),
        "eos_token": tokenizer.token_text(tokenizer.eos()),
        "pad_token": tokenizer.token_text(tokenizer.pad()),
        "chat_template": model.chat_template.as_ref().map(super::chat::ChatTemplate::source),
    })
}

fn pretty(value: &serde_json::Value) -> String {
    format!("{value:#}\n")
}
