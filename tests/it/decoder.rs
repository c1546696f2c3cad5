//! The decoder: against candle-transformers on a tiny model, against llama.cpp on the real one, and
//! branches against their own sequences. `runner.rs` holds generation's runners to it.

use std::collections::HashMap;

use candle_core::DType;
use candle_core::Device;
use candle_core::Tensor;
use candle_nn::VarBuilder;
use candle_transformers::models::llama as reference;
use nightschool::inference::Generator;
use nightschool::inference::Request;
use nightschool::model::packed::Packed;
use nightschool::model::packed::Past;
use serde::Deserialize;

use crate::support;

fn max_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn rows(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn logits_equal_candle_transformers() {
    let config = reference::Config {
        hidden_size: 32,
        intermediate_size: 48,
        vocab_size: 96,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        use_flash_attn: false,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        bos_token_id: None,
        eos_token_id: None,
        rope_scaling: None,
        max_position_embeddings: 256,
        tie_word_embeddings: true,
    };
    let weights: HashMap<String, Tensor> = support::tiny_weights().into_iter().collect();
    let builder = VarBuilder::from_tensors(weights, DType::F32, &Device::Cpu);
    let model = reference::Llama::load(builder, &config).unwrap();
    let mut cache = reference::Cache::new(false, DType::F32, &config, &Device::Cpu).unwrap();
    let tokens: Vec<u32> = (0..40).map(|i| i * 31 % 96).collect();
    let input = Tensor::new(tokens.as_slice(), &Device::Cpu).unwrap().unsqueeze(0).unwrap();
    let expected = rows(&model.forward(&input, 0, &mut cache).unwrap());

    let decoder = support::tiny_decoder();
    let mut batch = Packed::new();
    batch.push(&tokens, Past::None);
    let hidden = decoder.forward(&batch, None).unwrap();
    let logits = rows(&decoder.logits(&hidden, &[39]).unwrap());
    let difference = max_difference(&logits, &expected);
    assert!(difference < 1e-4, "logits differ by {difference}");
}

#[test]
fn a_branch_equals_its_own_sequence() {
    let decoder = support::tiny_decoder();
    let prompt: Vec<u32> = (0..30).map(|i| i * 7 % 96).collect();
    let branches = [vec![5, 6, 7, 8], vec![9, 10], vec![11, 12, 13, 14, 15, 16]];
    let mut tree = Packed::new();
    let root = tree.push(&prompt, Past::None);
    for branch in &branches {
        tree.push(branch, Past::Span(root));
    }
    let hidden = decoder.forward(&tree, None).unwrap();
    let mut start = prompt.len();
    for branch in &branches {
        let mut alone = Packed::new();
        alone.push(&[prompt.as_slice(), branch].concat(), Past::None);
        let expected = decoder.forward(&alone, None).unwrap();
        let expected = expected.narrow(0, prompt.len(), branch.len()).unwrap();
        let ours = hidden.narrow(0, start, branch.len()).unwrap();
        let difference = max_difference(&rows(&ours), &rows(&expected));
        assert!(difference < 1e-4, "hidden states differ by {difference}");
        start += branch.len();
    }
}

#[derive(Deserialize)]
struct Fixture {
    prompts: Vec<FixturePrompt>,
}

#[derive(Deserialize)]
struct FixturePrompt {
    name: String,
    prompt_tokens: Vec<u32>,
    tokens: Vec<u32>,
}

/// The values come from llama.cpp on the same file dequantised to f32, by
/// `scripts/make_greedy_fixtures.py`.
#[test]
fn greedy_continuations_equal_llama_cpp() {
    let fixture: Fixture = serde_json::from_str(include_str!("../fixtures/greedy.json")).unwrap();
    assert_eq!(fixture.prompts.len(), 10);
    let engine = support::engine(support::default_model());
    let policy = engine.policy("base", None).unwrap();
    let requests: Vec<Request> = fixture
        .prompts
        .iter()
        .map(|prompt| Request::new(prompt.prompt_tokens.clone(), 40))
        .collect();
    let generations = policy.generate(&requests).unwrap();
    for (prompt, generation) in fixture.prompts.iter().zip(generations) {
        assert_eq!(generation[0].tokens, prompt.tokens, "prompt `{}`", prompt.name);
    }
}
