//! Training the real default model.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use nightschool::model::Model;
use nightschool::model::fetch;
use nightschool::model::fetch::Layout;
use nightschool::model::lora::Adapter;
use nightschool::model::lora::LoraShape;
use nightschool::model::lora::TargetSet;
use nightschool::rng;
use nightschool::trainer::Limits;
use nightschool::trainer::Trainer;
use nightschool::trainer::batch::Branch;
use nightschool::trainer::batch::Example;
use nightschool::trainer::objective::Objective;
use nightschool::trainer::optimizer::AdamW;
use nightschool::trainer::optimizer::AdamWSettings;

use crate::support;

const LIMITS: Limits = Limits { micro_batch_tokens: 1024, activation_bytes: usize::MAX, seed: 1 };
const SHAPE: LoraShape = LoraShape { rank: 16, alpha: 32.0, dropout: 0.0, targets: TargetSet::ALL };

/// The beginnings of `n` articles of the bundled corpus, `length` tokens each.
fn sequences(model: &Model, n: usize, length: usize) -> Vec<Vec<u32>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/default/arts.md");
    let text = std::fs::read_to_string(path).unwrap();
    let articles = text.split("\n## ").skip(1);
    let tokens =
        articles.map(|article| model.tokenizer.encode(article)).filter(|t| t.len() > length);
    tokens.take(n).map(|tokens| tokens[..length].to_vec()).collect()
}

/// Each sequence to be learnt from its first token on.
fn examples(sequences: &[Vec<u32>]) -> Vec<Example> {
    let example = |tokens: &Vec<u32>| Example {
        prompt: tokens[..1].to_vec(),
        branches: vec![Branch {
            tokens: tokens[1..].to_vec(),
            owned: vec![true; tokens.len() - 1],
            sampled_logprobs: Vec::new(),
            old_logprobs: Vec::new(),
            advantage: 1.0,
        }],
    };
    sequences.iter().map(example).collect()
}

fn fresh(model: &Model) -> Adapter {
    let mut draws = rng::stream(1, &["adapter"]);
    Adapter::fresh(model.decoder.config(), SHAPE, &mut draws).unwrap()
}

/// Steps at a constant rate until one's loss is below `enough`; the loss before each.
fn train(
    model: &Arc<Model>,
    adapter: &Adapter,
    examples: &[Example],
    rate: f32,
    steps: usize,
    enough: f32,
) -> Vec<f32> {
    let optimizer = AdamW::new(AdamWSettings::default());
    let mut trainer = Trainer::new(&model.decoder, adapter, optimizer, LIMITS);
    let mut losses = Vec::new();
    while losses.len() < steps && losses.last().is_none_or(|loss| *loss >= enough) {
        losses.push(trainer.step(examples, &Objective::Likelihood, rate).unwrap().loss);
    }
    losses
}

#[test]
fn sixteen_short_sequences_are_learnt_by_heart_within_sixty_steps() {
    let model = support::default_model();
    let sequences = sequences(&model, 16, 12);
    assert_eq!(sequences.len(), 16);
    let losses = train(&model, &fresh(&model), &examples(&sequences), 2e-3, 60, 0.1);
    assert!(losses[0] > 2.0, "nothing to learn: {losses:?}");
    assert!(losses.last().unwrap() < &0.1, "{losses:?}");
}

/// `NIGHTSCHOOL_PYTHON=PYTHON cargo test --release --locked -- --ignored torch_from_the_same`
#[test]
#[ignore = "needs a Python with torch, transformers and peft, named by NIGHTSCHOOL_PYTHON"]
fn losses_follow_torch_from_the_same_adapter() {
    let python = std::env::var("NIGHTSCHOOL_PYTHON").expect("NIGHTSCHOOL_PYTHON names a Python");
    const RATE: f32 = 5e-4;
    let model = support::default_model();
    let files = fetch::resolve(&"smollm2-135m".parse().unwrap(), &support::cache()).unwrap();
    let Layout::Gguf { path } = files.layout else { panic!("the default model is a GGUF file") };
    let adapter = fresh(&model);
    let folder = tempfile::tempdir().unwrap();
    let saved = folder.path().join("adapter");
    adapter.save(&saved, "smollm2-135m").unwrap();
    let sequences = sequences(&model, 8, 64);
    let losses = train(&model, &adapter, &examples(&sequences), RATE, 20, 0.0);
    let run = HashMap::from([
        ("sequences", serde_json::json!(sequences)),
        ("losses", serde_json::json!(losses)),
        ("learning_rate", serde_json::json!(RATE)),
    ]);
    let file = folder.path().join("run.json");
    std::fs::write(&file, serde_json::to_vec(&run).unwrap()).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/check_losses.py");
    let status = Command::new(python).arg(script).arg(file).arg(path).arg(saved).status();
    assert!(status.unwrap().success());
}
