//! Export: a model with an adapter merged into its weights, as a Hugging Face folder that other
//! programs load without knowing of adapters.

use std::path::Path;

use candle_core::Tensor;
use serde_json::json;

use super::Model;
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
/// When the disk is full or unwritable, or `dir` exists.
pub fn export(model: &Model, adapter: &Adapter, dir: &Path) -> Result<String, AdapterError> {
    let tensors = merged(&model.decoder, adapter)?;
    let weights = serialise(tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)))?;
    let pending = PendingDirectory::create(dir)?;
    let write = |name: &str, bytes: &[u8]| durable::write_file(&pending.path().join(name), bytes);
    write("model.safetensors", &weights)?;
    write("config.json", pretty(&config(model)).as_bytes())?;
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
        }
    }
    Ok(tensors)
}

fn config(model: &Model) -> serde_json::Value {
    let config = model.decoder.config();
    json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
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
        "rope_theta": config.rope_theta,
        "rope_parameters": { "rope_type": "default", "rope_theta": config.rope_theta },
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied,
        "hidden_act": "silu",
        "bos_token_id": model.tokenizer.bos(),
        "eos_token_id": model.tokenizer.eos(),
    })
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
