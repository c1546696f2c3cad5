//! Shared by the tests: a tiny random model, and the real default one.

pub(crate) mod http;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::OnceLock;

use candle_core::DType;
use candle_core::Device;
use candle_core::Tensor;
use nightschool::config;
use nightschool::inference::Engine;
use nightschool::model::Model;
use nightschool::model::config::AttentionBias;
use nightschool::model::config::DecoderConfig;
use nightschool::model::config::Family;
use nightschool::model::config::Rope;
use nightschool::model::decoder::Decoder;
use nightschool::model::decoder::LayerWeights;
use nightschool::model::fetch;
use nightschool::model::lora::Target;

/// The cache of the tests' real model: fetched once per target folder.
pub(crate) fn cache() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("model-cache")
}

/// The real default model, loaded once per test run.
pub(crate) fn default_model() -> Arc<Model> {
    static MODEL: OnceLock<Arc<Model>> = OnceLock::new();
    let load = || {
        let spec = "smollm2-135m".parse().unwrap();
        let files = fetch::resolve(&spec, &cache()).expect("the default model can be fetched");
        Arc::new(Model::load(&files).expect("the default model loads"))
    };
    MODEL.get_or_init(load).clone()
}

/// An engine with the settings' defaults.
pub(crate) fn engine(model: Arc<Model>) -> Engine {
    let settings = config::load(&[], &[]).unwrap().inference;
    Engine::open(model, &settings, Arc::default()).unwrap()
}

/// Dimensions of the tiny model: two layers, grouped queries.
pub(crate) fn tiny_config() -> DecoderConfig {
    DecoderConfig {
        family: Family::Llama,
        layers: 2,
        hidden: 32,
        heads: 4,
        kv_heads: 2,
        head_dim: 8,
        feed_forward: 48,
        vocabulary: 96,
        max_positions: 256,
        rope: Rope::plain(10_000.0),
        attention_bias: AttentionBias::None,
        norm_eps: 1e-5,
        tied: true,
    }
}

/// Random weights by their Hugging Face names, the same every time.
pub(crate) fn tiny_weights() -> Vec<(String, Tensor)> {
    let config = tiny_config();
    let mut rng = nightschool::rng::stream(7, &["tiny"]);
    let mut random = |dims: &[usize], scale: f32, mean: f32| {
        use rand::Rng as _;
        let n = dims.iter().product();
        let values: Vec<f32> =
            (0..n).map(|_| mean + scale * (rng.random::<f32>() * 2.0 - 1.0)).collect();
        Tensor::from_vec(values, dims, &Device::Cpu).unwrap()
    };
    let mut all = vec![
        ("model.embed_tokens.weight".to_string(), random(&[96, 32], 0.5, 0.0)),
        ("model.norm.weight".to_string(), random(&[32], 0.1, 1.0)),
    ];
    for layer in 0..config.layers {
        let prefix = format!("model.layers.{layer}");
        for target in Target::ALL {
            let (out, inner) = target.dims(&config);
            let name = format!("{prefix}.{}.weight", target.module());
            all.push((name, random(&[out, inner], 0.3, 0.0)));
        }
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            all.push((format!("{prefix}.{norm}.weight"), random(&[32], 0.1, 1.0)));
        }
    }
    all
}

/// The tiny model's decoder.
pub(crate) fn tiny_decoder() -> Decoder {
    let weights: std::collections::HashMap<String, Tensor> = tiny_weights().into_iter().collect();
    let get = |name: String| weights[&name].to_dtype(DType::F32).unwrap();
    let layers = (0..2).map(|layer| {
        let prefix = format!("model.layers.{layer}");
        LayerWeights {
            attention_norm: get(format!("{prefix}.input_layernorm.weight")),
            feed_forward_norm: get(format!("{prefix}.post_attention_layernorm.weight")),
            query_norm: None,
            key_norm: None,
            biases: [const { None }; Target::COUNT],
            linears: Target::ALL.map(|target| get(format!("{prefix}.{}.weight", target.module()))),
        }
    });
    let embedding = get("model.embed_tokens.weight".into());
    let norm = get("model.norm.weight".into());
    Decoder::new(tiny_config(), embedding.clone(), layers.collect(), norm, embedding)
}
