//! The decoder, adapters and training against transformers, peft and torch, whose values
//! `scripts/make_torch_fixtures.py` made.

use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use nightschool::config::Adapters;
use nightschool::config::Role;
use nightschool::model::Model;
use nightschool::model::adapter_set::AdapterSet;
use nightschool::model::export::export;
use nightschool::model::fetch;
use nightschool::model::fetch::ModelSpec;
use nightschool::model::lora::Adapter;
use nightschool::model::packed::Packed;
use nightschool::model::packed::Past;
use nightschool::trainer::Limits;
use nightschool::trainer::Trainer;
use nightschool::trainer::batch::Branch;
use nightschool::trainer::batch::Example;
use nightschool::trainer::objective::Objective;
use nightschool::trainer::optimizer::AdamW;
use nightschool::trainer::optimizer::AdamWSettings;
use serde::Deserialize;

use crate::support;

#[derive(Deserialize)]
struct Values {
    tokens: Vec<u32>,
    base_logits: Vec<Vec<f32>>,
    adapter_logits: Vec<Vec<f32>>,
    sequences: Vec<Sequence>,
    learning_rate: f32,
    losses: Vec<f32>,
}

#[derive(Deserialize)]
struct Sequence {
    prompt: Vec<u32>,
    continuation: Vec<u32>,
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/torch").join(name)
}

fn values() -> Values {
    serde_json::from_slice(&std::fs::read(fixture("values.json")).unwrap()).unwrap()
}

/// A folder or GGUF file, loaded as `--model DIR` loads it.
pub(crate) fn load(dir: &Path) -> Model {
    let spec: ModelSpec = dir.to_str().unwrap().parse().unwrap();
    Model::load(&fetch::resolve(&spec, &support::cache()).unwrap()).unwrap()
}

/// The one that transformers saved.
fn model() -> Model {
    load(&fixture("model"))
}

fn adapter(model: &Model) -> Adapter {
    Adapter::load(&fixture("adapter"), model.decoder.config()).unwrap()
}

pub(crate) fn logits(model: &Model, adapter: Option<&Adapter>, tokens: &[u32]) -> Vec<Vec<f32>> {
    let mut batch = Packed::new();
    batch.push(tokens, Past::None);
    let hidden = model.decoder.forward(&batch, adapter).unwrap();
    let rows: Vec<u32> = (0..tokens.len() as u32).collect();
    model.decoder.logits(&hidden, &rows).unwrap().to_vec2().unwrap()
}

/// The largest difference, relative to the largest value.
pub(crate) fn distance(found: &[Vec<f32>], expected: &[Vec<f32>]) -> f32 {
    let (found, expected) = (found.concat(), expected.concat());
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
    let pairs = found.iter().zip(&expected);
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / scale
}

/// Within 1e-3 of the largest value.
fn assert_close(found: &[Vec<f32>], expected: &[Vec<f32>]) {
    let worst = distance(found, expected);
    assert!(worst < 1e-3, "off by {worst} of the largest");
}

/// Twenty steps on the fixture's sequences; the loss before each.
fn train(model: &Model, adapter: &Adapter, values: &Values) -> Vec<f32> {
    let examples: Vec<Example> = values
        .sequences
        .iter()
        .map(|sequence| Example {
            prompt: sequence.prompt.clone(),
            branches: vec![Branch {
                tokens: sequence.continuation.clone(),
                owned: vec![true; sequence.continuation.len()],
                sampled_logprobs: Vec::new(),
                old_logprobs: Vec::new(),
                advantage: 1.0,
            }],
        })
        .collect();
    let settings = AdamWSettings { weight_decay: 0.0, clip_norm: 1.0, ..AdamWSettings::default() };
    let limits = Limits { micro_batch_tokens: 1024, activation_bytes: usize::MAX, seed: 1 };
    let mut trainer = Trainer::new(&model.decoder, adapter, AdamW::new(settings), limits);
    let mut step =
        || trainer.step(&examples, &Objective::Likelihood, values.learning_rate).unwrap();
    values.losses.iter().map(|_| step().loss).collect()
}

#[test]
fn a_folder_of_transformers_gives_its_logits() {
    let (model, values) = (model(), values());
    assert_close(&logits(&model, None, &values.tokens), &values.base_logits);
}

#[test]
fn an_adapter_of_peft_gives_its_logits() {
    let (model, values) = (model(), values());
    let found = logits(&model, Some(&adapter(&model)), &values.tokens);
    assert_close(&found, &values.adapter_logits);
}

#[test]
fn twenty_steps_of_training_follow_torch() {
    let (model, values) = (model(), values());
    let losses = train(&model, &adapter(&model), &values);
    for (step, (found, expected)) in losses.iter().zip(&values.losses).enumerate() {
        let error = (found / expected - 1.0).abs();
        assert!(error < 0.01, "step {step}: loss {found}, torch has {expected}");
    }
}

#[test]
fn an_exported_model_computes_what_base_and_adapter_do() {
    let (model, values) = (model(), values());
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("merged");
    export(&model, &adapter(&model), &dir).unwrap();
    let merged = load(&dir);
    assert_eq!(merged.decoder.config(), model.decoder.config());
    assert_close(&logits(&merged, None, &values.tokens), &values.adapter_logits);
    let text = "Two words";
    assert_eq!(merged.tokenizer.encode(text), model.tokenizer.encode(text));
    assert_eq!(merged.tokenizer.eos(), model.tokenizer.eos());
}

/// `scripts/check_logits.py`, the real client.
pub(crate) fn check_logits(folder: &Path, tokens: &[u32], logits: &[Vec<f32>], loaded: &[&Path]) {
    let python = std::env::var("NIGHTSCHOOL_PYTHON").expect("NIGHTSCHOOL_PYTHON names a Python");
    let written = serde_json::json!({ "tokens": tokens, "logits": logits });
    let file = folder.join("logits.json");
    std::fs::write(&file, written.to_string()).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/check_logits.py");
    let status = Command::new(python).arg(script).arg(file).args(loaded).status();
    assert!(status.unwrap().success());
}

/// `NIGHTSCHOOL_PYTHON=PYTHON cargo test --release --locked -- --ignored peft_loads`
#[test]
#[ignore = "needs a Python with torch, transformers and peft, named by NIGHTSCHOOL_PYTHON"]
fn peft_loads_a_trained_adapter_and_transformers_an_exported_model() {
    let (model, values) = (model(), values());
    let trained = adapter(&model);
    train(&model, &trained, &values);
    let folder = tempfile::tempdir().unwrap();
    let (saved, merged) = (folder.path().join("adapter"), folder.path().join("merged"));
    trained.save(&saved, "tiny").unwrap();
    export(&model, &trained, &merged).unwrap();
    let found = logits(&model, Some(&trained), &values.tokens);
    check_logits(folder.path(), &values.tokens, &found, &[&fixture("model"), &saved]);
    check_logits(folder.path(), &values.tokens, &found, &[&merged]);

    // A version with an adapter per role: each subfolder is a PEFT directory.
    let version = folder.path().join("version");
    let roles = AdapterSet::build(Adapters::PerRole, |role| match role {
        Role::Solver => Adapter::load(&saved, model.decoder.config()),
        Role::Proposer => Ok(adapter(&model)),
    });
    roles.unwrap().save(&version, "tiny").unwrap();
    check_logits(
        folder.path(),
        &values.tokens,
        &found,
        &[&fixture("model"), &version.join("solver")],
    );
    let untrained = logits(&model, Some(&adapter(&model)), &values.tokens);
    check_logits(
        folder.path(),
        &values.tokens,
        &untrained,
        &[&fixture("model"), &version.join("proposer")],
    );
}
