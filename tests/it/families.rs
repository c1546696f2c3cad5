//! Model families against transformers, peft and llama.cpp, whose values
//! `scripts/make_family_fixtures.py` made.

mod descriptions;

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use nightschool::inference::Generator;
use nightschool::inference::Request;
use nightschool::model::Model;
use nightschool::model::config::Rope;
use nightschool::model::config::RopeScaling;
use nightschool::model::export::export;
use nightschool::model::lora::Adapter;
use nightschool::model::lora::LoraShape;
use nightschool::model::lora::TargetSet;
use nightschool::rng;
use nightschool::trainer::objective::Objective;
use serde::Deserialize;

use crate::support;
use crate::torch::check_logits;
use crate::torch::distance;
use crate::torch::load;
use crate::torch::logits;
use crate::trainer::adapter;
use crate::trainer::check_finite_differences_of;

#[derive(Deserialize)]
pub(crate) struct Values {
    pub(crate) tokens: Vec<u32>,
    /// The positions whose logits are given.
    rows: Vec<usize>,
    /// Logits by folder or file.
    pub(crate) models: BTreeMap<String, Vec<Vec<f32>>>,
    /// The folder that the adapter is for.
    adapted: String,
    adapter_logits: Vec<Vec<f32>>,
    prompt_lengths: Vec<usize>,
    /// Continuations of prompts of these lengths, by file.
    continuations: BTreeMap<String, Vec<Vec<u32>>>,
    scaling: Vec<Scaling>,
}

/// The rope scaling of a published Llama.
#[derive(Deserialize)]
struct Scaling {
    name: String,
    theta: f64,
    factor: f64,
    inverse_frequencies: Vec<f32>,
    divisors: Vec<f32>,
}

/// Folders and files of all families.
pub(crate) const FIXTURES: [&str; 13] = [
    "llama-linear",
    "llama3",
    "llama3-f32.gguf",
    "llama3-q4_1.gguf",
    "qwen2",
    "qwen2-f16.gguf",
    "qwen2-mixed.gguf",
    "qwen2-q4_0.gguf",
    "qwen3",
    "qwen3-bf16.gguf",
    "qwen3-q4_k_m.gguf",
    "qwen3-q8_0.gguf",
    "qwen3-untied",
];

pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/families").join(name)
}

pub(crate) fn values() -> Values {
    serde_json::from_slice(&std::fs::read(fixture("values.json")).unwrap()).unwrap()
}

fn at(rows: &[usize], logits: &[Vec<f32>]) -> Vec<Vec<f32>> {
    rows.iter().map(|row| logits[*row].clone()).collect()
}

/// Within 1e-3 of the largest value; 1e-5 was seen with f32 products, 1e-4 with those of the tile
/// unit.
fn assert_close(name: &str, found: &[Vec<f32>], expected: &[Vec<f32>]) {
    let worst = distance(found, expected);
    assert!(worst < 1e-3, "{name}: off by {worst} of the largest");
}

#[test]
fn folders_and_gguf_files_of_every_family_give_the_logits_of_transformers() {
    let values = values();
    assert!(values.models.keys().eq(FIXTURES));
    for (name, expected) in &values.models {
        let model = load(&fixture(name));
        assert_close(name, &at(&values.rows, &logits(&model, None, &values.tokens)), expected);
    }
}

#[test]
fn greedy_continuations_of_gguf_files_equal_llama_cpp() {
    let values = values();
    for (name, expected) in &values.continuations {
        let model = Arc::new(load(&fixture(name)));
        let engine = support::engine(model);
        let policy = engine.policy("base", None).unwrap();
        let request = |length: &usize| Request::new(values.tokens[..*length].to_vec(), 40);
        let requests: Vec<Request> = values.prompt_lengths.iter().map(request).collect();
        for (generation, expected) in policy.generate(&requests).unwrap().iter().zip(expected) {
            assert_eq!(&generation[0].tokens, expected, "{name}");
        }
    }
}

#[test]
fn an_adapter_of_peft_on_qwen3_gives_its_logits() {
    let values = values();
    let model = load(&fixture(&values.adapted));
    let adapter = Adapter::load(&fixture("adapter"), model.decoder.config()).unwrap();
    let found = logits(&model, Some(&adapter), &values.tokens);
    assert_close("adapter", &at(&values.rows, &found), &values.adapter_logits);
}

fn check_gradients(name: &str) {
    let decoder = load(&fixture(name)).decoder;
    check_finite_differences_of(&decoder, &adapter(&decoder), &Objective::Likelihood);
}

#[test]
fn gradients_through_scaled_rope_and_output_biases_equal_finite_differences() {
    check_gradients("llama-linear");
}

#[test]
fn gradients_through_biases_equal_finite_differences() {
    check_gradients("qwen2");
}

#[test]
fn gradients_through_head_norms_equal_finite_differences() {
    check_gradients("qwen3");
    check_gradients("qwen3-untied");
}

/// The folder of `name`, exported with an adapter that changes nothing.
fn exported(name: &str, dir: &Path) -> (Model, Model) {
    let model = load(&fixture(name));
    let shape = LoraShape { rank: 2, alpha: 4.0, dropout: 0.0, targets: TargetSet::ALL };
    let config = model.decoder.config();
    let adapter = Adapter::fresh(config, shape, &mut rng::stream(1, &["adapter"])).unwrap();
    export(&model, &adapter, dir).unwrap();
    let exported = load(dir);
    (model, exported)
}

/// Folders, and files whose rope scaling a folder can describe.
const EXPORTED: [&str; 8] = [
    "llama3",
    "llama-linear",
    "qwen2",
    "qwen3",
    "qwen3-untied",
    "qwen2-f16.gguf",
    "qwen3-bf16.gguf",
    "qwen3-q8_0.gguf",
];

#[test]
fn an_exported_model_of_every_family_computes_the_same() {
    let values = values();
    for name in EXPORTED {
        let folder = tempfile::tempdir().unwrap();
        let (model, exported) = exported(name, &folder.path().join("merged"));
        assert_eq!(exported.decoder.config(), model.decoder.config());
        let found = at(&values.rows, &logits(&exported, None, &values.tokens));
        assert_close(name, &found, &values.models[name]);
    }
}

/// `NIGHTSCHOOL_PYTHON=PYTHON cargo test --release --locked -- --ignored transformers_loads`
#[test]
#[ignore = "needs a Python with torch, transformers and peft, named by NIGHTSCHOOL_PYTHON"]
fn transformers_loads_an_exported_model_of_every_family() {
    let values = values();
    for name in EXPORTED {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("merged");
        let (model, _) = exported(name, &dir);
        let found = logits(&model, None, &values.tokens);
        check_logits(folder.path(), &values.tokens, &found, &[&dir]);
    }
}

#[test]
fn a_model_that_no_folder_describes_is_not_exported() {
    let model = load(&fixture("llama3-f32.gguf"));
    let shape = LoraShape { rank: 2, alpha: 4.0, dropout: 0.0, targets: TargetSet::ALL };
    let config = model.decoder.config();
    let adapter = Adapter::fresh(config, shape, &mut rng::stream(1, &["adapter"])).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("merged");
    let error = export(&model, &adapter, &dir).unwrap_err().to_string();
    assert!(error.contains("divided one by one, in a way that is not Llama 3's"), "{error}");
    assert!(!dir.exists());
}

#[test]
fn scaling_of_published_llamas_equals_transformers_and_is_recognised() {
    for published in values().scaling {
        let scaling = RopeScaling::Llama3 {
            factor: published.factor,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_positions: 8192,
        };
        let rope = Rope { theta: published.theta, scaling };
        let expected = &published.inverse_frequencies;
        let found = rope.inverse_frequencies(2 * expected.len()).unwrap();
        for (found, expected) in found.iter().zip(expected) {
            assert!((found / expected - 1.0).abs() < 1e-5, "{}", published.name);
        }
        assert_eq!(Rope::from_divisors(published.theta, published.divisors), rope);
    }
}
