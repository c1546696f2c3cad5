//! Descriptions of models: those published are read, what they ask for beyond the decoder is
//! refused, by name.

use std::collections::HashMap;
use std::path::Path;

use candle_core::quantized::gguf_file::Value;
use nightschool::model::Model;
use nightschool::model::config::AttentionBias;
use nightschool::model::config::DecoderConfig;
use nightschool::model::config::Family;
use nightschool::model::config::GgufTensors;
use nightschool::model::config::Rope;
use nightschool::model::config::RopeScaling;
use nightschool::model::fetch;
use serde_json::json;

use super::fixture;
use crate::support;

/// The description of Llama 3.2 1B, as transformers 4 wrote it.
fn llama() -> serde_json::Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "attention_bias": false, "bos_token_id": 128000,
        "eos_token_id": [128001, 128008, 128009], "head_dim": 64, "hidden_act": "silu",
        "hidden_size": 2048, "intermediate_size": 8192, "max_position_embeddings": 131072,
        "mlp_bias": false, "model_type": "llama", "num_attention_heads": 32,
        "num_hidden_layers": 16, "num_key_value_heads": 8, "pretraining_tp": 1,
        "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "tie_word_embeddings": true,
        "rope_scaling": {
            "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192, "rope_type": "llama3"
        },
        "torch_dtype": "bfloat16", "vocab_size": 128256
    })
}

/// The description of Qwen2.5 0.5B, as transformers 4 wrote it.
fn qwen2() -> serde_json::Value {
    json!({
        "architectures": ["Qwen2ForCausalLM"], "hidden_act": "silu", "hidden_size": 896,
        "intermediate_size": 4864, "max_position_embeddings": 32768, "max_window_layers": 21,
        "model_type": "qwen2", "num_attention_heads": 14, "num_hidden_layers": 24,
        "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
        "sliding_window": 32768, "tie_word_embeddings": true, "use_sliding_window": false,
        "vocab_size": 151936
    })
}

/// `description` with other entries.
fn with(mut description: serde_json::Value, entries: serde_json::Value) -> serde_json::Value {
    for (key, value) in entries.as_object().unwrap() {
        description[key] = value.clone();
    }
    description
}

fn read(description: &serde_json::Value) -> Result<DecoderConfig, String> {
    DecoderConfig::from_hub_json(&description.to_string()).map_err(|error| error.to_string())
}

#[test]
fn descriptions_as_they_were_published_are_read() {
    let config = read(&llama()).unwrap();
    assert_eq!((config.family, config.attention_bias), (Family::Llama, AttentionBias::None));
    assert_eq!((config.head_dim, config.rope.theta, config.tied), (64, 500_000.0, true));
    assert!(matches!(config.rope.scaling, RopeScaling::Llama3 { factor: 32.0, .. }));
    let config = read(&qwen2()).unwrap();
    assert_eq!(
        (config.family, config.head_dim, config.attention_bias),
        (Family::Qwen2, 64, AttentionBias::QueryKeyValue)
    );
    assert_eq!(config.rope, Rope::plain(1_000_000.0));
    let qwen3 = with(qwen2(), json!({ "model_type": "qwen3", "rope_scaling": null }));
    let config = read(&qwen3).unwrap();
    assert_eq!((config.head_dim, config.attention_bias), (128, AttentionBias::None));
    // The first name of the rope type, beside the present one.
    let scaling = json!({ "rope_scaling": { "type": "linear", "factor": 2.0 } });
    let expected = RopeScaling::Linear { factor: 2.0 };
    assert_eq!(read(&with(llama(), scaling)).unwrap().rope.scaling, expected);
    let both = json!({ "rope_scaling": { "type": "x", "rope_type": "linear", "factor": 2.0 } });
    assert_eq!(read(&with(llama(), both)).unwrap().rope.scaling, expected);
    // A window that no layer has.
    let window = json!({ "use_sliding_window": true, "max_window_layers": 24 });
    assert!(read(&with(qwen2(), window)).is_ok());
}

#[test]
fn descriptions_that_ask_for_more_are_refused_by_name() {
    let cases = [
        (json!({ "model_type": "gemma3" }), "architecture `gemma3` is not supported"),
        (json!({ "model_type": "qwen3_moe" }), "supported: llama, qwen2, qwen3"),
        (json!({ "mlp_bias": true }), "biases in the feed-forward block (mlp_bias)"),
        (json!({ "hidden_act": "gelu" }), "the activation `gelu` (hidden_act)"),
        (json!({ "num_experts": 8 }), "a mixture of experts"),
        (json!({ "use_sliding_window": true }), "sliding-window attention (use_sliding_window)"),
        (
            json!({ "layer_types": ["full_attention", "sliding_attention"] }),
            "layers of type `sliding_attention` (layer_types)",
        ),
        (json!({ "rope_scaling": { "type": "yarn", "factor": 4.0 } }), "rope of type `yarn`"),
        (json!({ "rope_parameters": { "rope_type": "dynamic" } }), "rope of type `dynamic`"),
        (
            json!({ "rope_parameters": { "partial_rotary_factor": 0.5 } }),
            "rope on a part of each head",
        ),
        (json!({ "rope_scaling": { "type": "linear" } }), "lacks a usable `factor of the rope"),
        (json!({ "rope_theta": 0.0 }), "the rope parameters give no usable frequencies"),
        (
            json!({ "quantization_config": { "quant_method": "gptq" } }),
            "weights quantised by `gptq` (quantization_config)",
        ),
        (json!({ "max_position_embeddings": 0 }), "the number of positions is zero or absurd"),
    ];
    for (entries, expected) in cases {
        let error = read(&with(qwen2(), entries)).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    let error = read(&with(qwen2(), json!({ "mlp_bias": true }))).unwrap_err();
    assert!(error.contains("supported: llama, qwen2 and qwen3 models with full attention"));
}

fn gguf_metadata(architecture: &str) -> HashMap<String, Value> {
    let counts = [
        ("block_count", 2),
        ("embedding_length", 64),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
        ("feed_forward_length", 96),
        ("context_length", 1024),
    ];
    let counts = counts.map(|(key, count)| (format!("{architecture}.{key}"), Value::U32(count)));
    let mut metadata = HashMap::from(counts);
    metadata.insert("general.architecture".into(), Value::String(architecture.into()));
    let epsilon = format!("{architecture}.attention.layer_norm_rms_epsilon");
    metadata.insert(epsilon, Value::F32(1e-5));
    metadata
}

#[test]
fn gguf_files_that_ask_for_more_are_refused_by_name() {
    let tensors = GgufTensors {
        vocabulary: 96,
        tied: true,
        attention_bias: AttentionBias::None,
        feed_forward_bias: false,
        rope_divisors: None,
    };
    let text = |text: &str| Value::String(text.into());
    let cases = [
        ("general.architecture", text("gemma3"), "architecture `gemma3` is not supported"),
        ("llama.expert_count", Value::U32(8), "a mixture of experts"),
        ("llama.attention.sliding_window", Value::U32(512), "sliding-window attention over 512"),
        ("llama.rope.dimension_count", Value::U32(8), "rope on a part of each head"),
        ("llama.attention.value_length", Value::U32(8), "values of another width than keys"),
        ("llama.rope.scaling.type", text("yarn"), "rope scaling of type `yarn`"),
        ("split.count", Value::U16(3), "weights split over 3 GGUF files; join them first"),
        (
            "llama.attention.head_count_kv",
            Value::Array(vec![Value::U32(2), Value::U32(4)]),
            "lacks a usable `llama.attention.head_count_kv`",
        ),
    ];
    for (key, value, expected) in cases {
        let mut metadata = gguf_metadata("llama");
        metadata.insert(key.into(), value);
        let error = DecoderConfig::from_gguf(&metadata, tensors.clone()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let biased = GgufTensors { feed_forward_bias: true, ..tensors.clone() };
    let error = DecoderConfig::from_gguf(&gguf_metadata("llama"), biased).unwrap_err().to_string();
    assert!(error.contains("biases in the feed-forward block"), "{error}");
    let short = GgufTensors { rope_divisors: Some(vec![1.0; 3]), ..tensors.clone() };
    let error = DecoderConfig::from_gguf(&gguf_metadata("llama"), short).unwrap_err().to_string();
    assert!(error.contains("the rope parameters give no usable frequencies"), "{error}");
    // What changes nothing is read: a window as wide as the context, linear scaling by 1.
    let mut metadata = gguf_metadata("llama");
    metadata.insert("llama.attention.sliding_window".into(), Value::U32(1024));
    metadata.insert("llama.rope.scaling.factor".into(), Value::F32(1.0));
    let config = DecoderConfig::from_gguf(&metadata, tensors.clone()).unwrap();
    assert_eq!(config.rope, Rope::plain(10_000.0));
    metadata.insert("llama.rope.scaling.factor".into(), Value::F32(4.0));
    let config = DecoderConfig::from_gguf(&metadata, tensors).unwrap();
    assert_eq!(config.rope.scaling, RopeScaling::Linear { factor: 4.0 });
}

/// Why the model at `path` does not load.
fn refusal(path: &Path) -> String {
    let spec = path.to_str().unwrap().parse().unwrap();
    let files = fetch::resolve(&spec, &support::cache());
    files.map_or_else(
        |error| error.to_string(),
        |files| Model::load(&files).unwrap_err().to_string(),
    )
}

#[test]
fn files_with_other_weights_than_described_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    // The type of the first query projection: after its name, two dimensions of 8 bytes.
    let mut bytes = std::fs::read(fixture("llama3-f32.gguf")).unwrap();
    let name = b"blk.0.attn_q.weight";
    let start = bytes.windows(name.len()).position(|window| window == name).unwrap();
    let kind = start + name.len() + 4 + 2 * 8;
    bytes[kind..kind + 4].copy_from_slice(&20_u32.to_le_bytes());
    let path = folder.path().join("other.gguf");
    std::fs::write(&path, bytes).unwrap();
    let error = refusal(&path);
    assert!(error.contains("stores weights in ggml type number 20, which is not"), "{error}");

    // A Qwen3's weights under a Qwen2's description, and a shard that is not there.
    let copy = |from: &str, name: &str, into: &Path| {
        std::fs::create_dir_all(into).unwrap();
        std::fs::copy(fixture(from).join(name), into.join(name)).unwrap();
    };
    let mixed = folder.path().join("mixed");
    copy("qwen3-untied", "model.safetensors", &mixed);
    copy("qwen2", "config.json", &mixed);
    copy("qwen2", "tokenizer.json", &mixed);
    let error = refusal(&mixed);
    assert!(error.contains("self_attn.q_proj.weight` is [32, 64], expected [64, 64]"), "{error}");
    let sharded = folder.path().join("sharded");
    for name in ["config.json", "tokenizer.json", "model.safetensors.index.json"] {
        copy("qwen2", name, &sharded);
    }
    copy("qwen2", "model-00001-of-00003.safetensors", &sharded);
    let error = refusal(&sharded);
    assert!(error.contains("lacks model-00002-of-00003.safetensors, model-00003"), "{error}");
}
