//! The trainer: gradients against finite differences, objectives against values worked out by
//! hand, and adapters in PEFT layout.

use nightschool::config::Tripwires;
use nightschool::model::decoder::Decoder;
use nightschool::model::lora::Adapter;
use nightschool::model::lora::LoraShape;
use nightschool::model::lora::Target;
use nightschool::model::lora::TargetSet;
use nightschool::model::ops::Portable;
use nightschool::rng;
use nightschool::trainer::Limits;
use nightschool::trainer::Trainer;
use nightschool::trainer::batch::Branch;
use nightschool::trainer::batch::Example;
use nightschool::trainer::batch::micro_batches;
use nightschool::trainer::batch::pack;
use nightschool::trainer::objective::Advantage;
use nightschool::trainer::objective::Correction;
use nightschool::trainer::objective::Objective;
use nightschool::trainer::objective::PolicyGradient;
use nightschool::trainer::objective::Preference;
use nightschool::trainer::objective::advantage::Baselines;
use nightschool::trainer::optimizer::AdamW;
use nightschool::trainer::optimizer::AdamWSettings;
use nightschool::trainer::optimizer::Decay;
use nightschool::trainer::optimizer::Gradients;
use nightschool::trainer::optimizer::RateSchedule;
use nightschool::trainer::tripwire;
use proptest::prelude::*;
use rand::Rng as _;

use crate::support;

const SHAPE: LoraShape = LoraShape { rank: 4, alpha: 8.0, dropout: 0.0, targets: TargetSet::ALL };

fn branch(tokens: &[u32], unowned: usize, advantage: f32) -> Branch {
    Branch {
        tokens: tokens.to_vec(),
        owned: (0..tokens.len()).map(|i| i >= unowned).collect(),
        // About ln(1/96), what the tiny model gives any token: ratios near 1.
        sampled_logprobs: vec![-4.5; tokens.len()],
        old_logprobs: Vec::new(),
        advantage,
    }
}

pub(crate) fn examples() -> Vec<Example> {
    vec![
        Example {
            prompt: vec![3, 14, 15, 92, 65],
            branches: vec![branch(&[35, 89, 79], 1, 1.0), branch(&[32, 38], 0, -0.5)],
        },
        Example { prompt: vec![27, 18, 28], branches: vec![branch(&[18, 28, 45, 90], 2, 0.7)] },
    ]
}

/// An adapter whose B is not zero, so that every gradient is.
pub(crate) fn adapter(decoder: &Decoder) -> Adapter {
    let adapter =
        Adapter::fresh(decoder.config(), SHAPE, &mut rng::stream(1, &["adapter"])).unwrap();
    let mut draws = rng::stream(2, &["b"]);
    for (name, variable) in adapter.variables() {
        if name.contains("lora_B") {
            let n = variable.elem_count();
            let values: Vec<f32> = (0..n).map(|_| draws.random_range(-0.05..0.05)).collect();
            let values =
                candle_core::Tensor::from_vec(values, variable.dims(), variable.device()).unwrap();
            variable.set(&values).unwrap();
        }
    }
    adapter
}

pub(crate) const LIMITS: Limits =
    Limits { micro_batch_tokens: 64, activation_bytes: usize::MAX, seed: 1 };

fn gradients(
    decoder: &Decoder,
    adapter: &Adapter,
    objective: &Objective,
    limits: Limits,
) -> (f32, Gradients) {
    let optimizer = AdamW::new(AdamWSettings::default());
    let mut trainer = Trainer::new(decoder, adapter, optimizer, limits);
    let (metrics, gradients) = trainer.gradients(&examples(), objective).unwrap();
    (metrics.loss, gradients)
}

/// Every trainable tensor of the tiny model.
fn check_finite_differences(objective: &Objective) {
    let decoder = support::tiny_decoder();
    check_finite_differences_of(&decoder, &adapter(&decoder), objective);
}

/// Every trainable tensor of a decoder of two layers and at least 96 tokens: the directional
/// derivative along its own gradient.
pub(crate) fn check_finite_differences_of(
    decoder: &Decoder,
    adapter: &Adapter,
    objective: &Objective,
) {
    let found = gradients(decoder, adapter, objective, LIMITS).1;
    assert_eq!(adapter.variables().len(), 2 * 7 * 2);
    for (name, variable) in adapter.variables() {
        let gradient = found.get(name).expect(name).clone();
        let norm: f32 = gradient.sqr().unwrap().sum_all().unwrap().to_scalar().unwrap();
        let norm = norm.sqrt();
        assert!(norm > 0.0 && norm.is_finite(), "{name}: no gradient");
        let original = variable.as_tensor().copy().unwrap();
        // Far enough that the loss changes by more than its f32 noise, near enough to be linear.
        let step = (2e-3 / norm).min(0.05);
        let direction = (gradient * f64::from(step / norm)).unwrap();
        let at = |moved: candle_core::Tensor| {
            variable.set(&moved).unwrap();
            gradients(decoder, adapter, objective, LIMITS).0
        };
        let up = at((&original + &direction).unwrap());
        let down = at((&original - &direction).unwrap());
        variable.set(&original).unwrap();
        let measured = (up - down) / (2.0 * step);
        let error = (measured / norm - 1.0).abs();
        assert!(error < 0.03, "{name}: gradient norm {norm}, measured {measured}");
    }
}

/// All gradients of one pass, tensor by tensor.
fn all_gradients(decoder: &Decoder, adapter: &Adapter, limits: Limits) -> Vec<Vec<f32>> {
    let settings = PolicyGradient { kl_coefficient: 0.1, ..PolicyGradient::default() };
    let found = gradients(decoder, adapter, &Objective::PolicyGradient(settings), limits).1;
    let flat = |name| found.get(name).expect("a gradient").flatten_all().unwrap().to_vec1();
    adapter.variables().keys().map(|name| flat(name).unwrap()).collect()
}

#[test]
fn layers_that_are_computed_again_give_the_same_gradients() {
    let decoder = support::tiny_decoder();
    for adapter in [adapter(&decoder), with_dropout(&decoder)] {
        let kept = all_gradients(&decoder, &adapter, LIMITS);
        let again = Limits { activation_bytes: 0, ..LIMITS };
        assert_eq!(all_gradients(&decoder, &adapter, again), kept, "bit for bit");
    }
}

/// What any other device runs, against the kernels of this one.
#[test]
fn portable_operations_give_the_same_gradients() {
    let decoder = support::tiny_decoder();
    let adapter = with_dropout(&decoder);
    let expected = all_gradients(&decoder, &adapter, LIMITS);
    let decoder = decoder.with_operations(std::sync::Arc::new(Portable));
    let found = all_gradients(&decoder, &adapter, LIMITS);
    for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
        assert!((found - expected).abs() < 1e-4, "{found}, the kernels give {expected}");
    }
}

/// The adapter's tensors stay f32 whatever the weights are.
#[test]
fn weights_in_bf16_train_to_about_the_same_loss() {
    let decoder = support::tiny_decoder();
    let exact = train(&decoder, &adapter(&decoder), AdamW::new(AdamWSettings::default()), 20).1;
    let rounded = decoder
        .to(&candle_core::Device::Cpu, candle_core::DType::BF16)
        .unwrap()
        .with_operations(std::sync::Arc::new(Portable));
    let found = train(&rounded, &adapter(&decoder), AdamW::new(AdamWSettings::default()), 20).1;
    assert!((found / exact - 1.0).abs() < 0.1, "{found}, in f32 {exact}");
}

/// Like [`adapter`], with dropout.
fn with_dropout(decoder: &Decoder) -> Adapter {
    let tensors = adapter(decoder);
    let tensors =
        tensors.variables().iter().map(|(name, v)| (name.clone(), v.as_tensor().clone())).collect();
    let shape = LoraShape { dropout: 0.2, ..SHAPE };
    Adapter::from_tensors(decoder.config(), shape, &tensors).unwrap()
}

#[test]
fn gradients_under_dropout_equal_finite_differences() {
    let decoder = support::tiny_decoder();
    check_finite_differences_of(&decoder, &with_dropout(&decoder), &Objective::Likelihood);
}

#[test]
fn likelihood_gradients_equal_finite_differences() {
    check_finite_differences(&Objective::Likelihood);
}

#[test]
fn policy_gradients_equal_finite_differences() {
    let settings = PolicyGradient { kl_coefficient: 0.1, ..PolicyGradient::default() };
    check_finite_differences(&Objective::PolicyGradient(settings));
}

#[test]
fn only_owned_tokens_are_targets() {
    let batch = pack(&examples(), |_| 1.0);
    let targets: Vec<(u32, u32)> = batch.targets.iter().map(|t| (t.row, t.token)).collect();
    // First example: prompt rows 0–4, branches at 5–7 and 8–9; second: prompt 10–12, branch 13–16.
    let expected = [(5, 89), (6, 79), (4, 32), (8, 38), (14, 45), (15, 90)];
    assert_eq!(targets, expected);
}

#[test]
fn entropy_bonus_gradients_equal_finite_differences() {
    let settings = PolicyGradient { entropy_coefficient: 0.5, ..PolicyGradient::default() };
    check_finite_differences(&Objective::PolicyGradient(settings));
}

#[test]
fn preference_gradients_equal_finite_differences() {
    check_finite_differences(&Objective::Preference(Preference { beta: 0.5 }));
}

#[test]
fn a_group_without_variance_teaches_nothing() {
    let mut baselines = Baselines::default();
    for rule in [Advantage::Grpo, Advantage::GrpoSample, Advantage::DrGrpo, Advantage::LeaveOneOut]
    {
        assert_eq!(rule.of(&[0.5; 8], "solver", &mut baselines), None);
        assert_eq!(rule.of(&[], "solver", &mut baselines), None);
    }
    assert_eq!(baselines, Baselines::default(), "only REINFORCE has a baseline");
}

#[test]
fn the_trainers_own_logprobs_stand_at_the_tokens_it_trains() {
    let decoder = support::tiny_decoder();
    let adapter = adapter(&decoder);
    let trainer = Trainer::new(&decoder, &adapter, AdamW::new(AdamWSettings::default()), LIMITS);
    let mut scored = examples();
    trainer.score_before_update(&mut scored).unwrap();
    let settings = PolicyGradient { correction: Correction::Mask, ..PolicyGradient::default() };
    let objective = Objective::PolicyGradient(settings);
    // Before any update the ratio is one everywhere, however far the sampler was off.
    let mut trainer = trainer;
    let metrics = trainer.step(&scored, &objective, 0.0).unwrap();
    assert!((metrics.ratio - 1.0).abs() < 1e-5 && metrics.clip_fraction == 0.0, "{metrics:?}");
    assert!(metrics.sampler_gap > 0.01);
}

#[test]
fn learning_rates_rise_and_fall_as_named() {
    let at = |decay, step| RateSchedule { decay, peak: 1.0, warm_up: 4, total: 24 }.at(step);
    for decay in [Decay::Constant, Decay::Linear, Decay::Cosine] {
        assert_eq!([at(decay, 0), at(decay, 3), at(decay, 4)], [0.25, 1.0, 1.0], "{decay:?}");
    }
    let halfway = [Decay::Constant, Decay::Linear, Decay::Cosine].map(|decay| at(decay, 14));
    let end = [Decay::Constant, Decay::Linear, Decay::Cosine].map(|decay| at(decay, 24));
    for (found, expected) in halfway.iter().zip([1.0, 0.55, 0.55]) {
        assert!((found - expected).abs() < 1e-6);
    }
    for (found, expected) in end.iter().zip([1.0, 0.1, 0.1]) {
        assert!((found - expected).abs() < 1e-6);
    }
    assert!(at(Decay::Cosine, 9) > at(Decay::Linear, 9), "a cosine falls late");
}

#[test]
fn tripwires_name_what_crossed_them() {
    let limits = Tripwires { kl_max: Some(2.0), entropy_min: Some(0.1), ..Tripwires::default() };
    let crossed = |metrics| tripwire::crossed(&limits, &metrics).map(|crossed| crossed.to_string());
    assert_eq!(crossed(serde_json::json!({ "kl": 1.5, "entropy": 0.3, "grad_norm": 1e9 })), None);
    assert_eq!(
        crossed(serde_json::json!({ "kl": 2.5, "entropy": 0.3 })).unwrap(),
        "kl was 2.5000, above the limit 2"
    );
    assert_eq!(
        crossed(serde_json::json!({ "kl": 0.5, "entropy": 0.05 })).unwrap(),
        "entropy was 0.0500, below the limit 0.1"
    );
    // A measure that is missing or not a number says nothing here: such a step is skipped.
    assert_eq!(crossed(serde_json::json!({ "kl": null })), None);
}

proptest! {
    #[test]
    fn advantages_have_mean_zero(rewards in prop::collection::vec(0.0_f32..1.0, 2..16)) {
        if let Some(advantages) = Advantage::Grpo.of(&rewards, "", &mut Baselines::default()) {
            prop_assert!(advantages.iter().sum::<f32>().abs() < 1e-2);
        }
    }

    #[test]
    fn micro_batches_keep_every_example(sizes in prop::collection::vec(1_usize..40, 0..20)) {
        let examples: Vec<Example> = sizes
            .iter()
            .map(|n| Example { prompt: vec![1; *n], branches: vec![branch(&[2], 0, 1.0)] })
            .collect();
        let chunks = micro_batches(&examples, 50);
        prop_assert_eq!(chunks.concat(), examples.clone());
        for chunk in chunks {
            let tokens: usize = chunk.iter().map(Example::token_count).sum();
            prop_assert!(chunk.len() == 1 || tokens <= 50);
        }
    }
}

/// Trains `steps` steps from `start`, which are a fresh optimiser or a checkpoint's.
pub(crate) fn train(
    decoder: &Decoder,
    adapter: &Adapter,
    optimizer: AdamW,
    steps: usize,
) -> (AdamW, f32) {
    let mut trainer = Trainer::new(decoder, adapter, optimizer, LIMITS);
    let mut last = 0.0;
    for _ in 0..steps {
        last = trainer.step(&examples(), &Objective::Likelihood, 1e-2).unwrap().loss;
    }
    (trainer.into_optimizer(), last)
}

pub(crate) fn values(adapter: &Adapter) -> Vec<Vec<f32>> {
    let flat = |variable: &candle_core::Var| variable.flatten_all().unwrap().to_vec1().unwrap();
    adapter.variables().values().map(flat).collect()
}

#[test]
fn training_learns() {
    let decoder = support::tiny_decoder();
    let trained = adapter(&decoder);
    let (first, before) = train(&decoder, &trained, AdamW::new(AdamWSettings::default()), 1);
    let (_, after) = train(&decoder, &trained, first, 29);
    assert!(after < before * 0.5, "the loss went from {before} to {after}");
}

#[test]
fn adapters_are_stored_in_peft_layout() {
    let decoder = support::tiny_decoder();
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("adapter");
    let saved = adapter(&decoder);
    saved.save(&dir, "tiny").unwrap();
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(dir.join("adapter_config.json")).unwrap()).unwrap();
    assert_eq!(config["peft_type"], "LORA");
    assert_eq!(config["r"], 4);
    assert_eq!(config["target_modules"].as_array().unwrap().len(), 7);
    let bytes = std::fs::read(dir.join("adapter_model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let a =
        tensors.tensor("base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight").unwrap();
    assert_eq!(a.shape(), [4, 32]);
    let b = tensors.tensor("base_model.model.model.layers.0.mlp.down_proj.lora_B.weight").unwrap();
    assert_eq!(b.shape(), [32, 4]);
    assert_eq!(values(&Adapter::load(&dir, decoder.config()).unwrap()), values(&saved));
}

#[test]
fn an_adapter_on_some_maps_trains_and_comes_back() {
    let decoder = support::tiny_decoder();
    let targets = TargetSet::of(&[Target::Query, Target::Value]);
    let shape = LoraShape { targets, ..SHAPE };
    let small = Adapter::fresh(decoder.config(), shape, &mut rng::stream(1, &["adapter"])).unwrap();
    assert_eq!(small.variables().len(), 2 * 2 * 2, "two layers, two maps, A and B");
    let (_, before) = train(&decoder, &small, AdamW::new(AdamWSettings::default()), 1);
    let (_, after) = train(&decoder, &small, AdamW::new(AdamWSettings::default()), 10);
    assert!(after < before, "the loss went from {before} to {after}");
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("adapter");
    small.save(&dir, "tiny").unwrap();
    let loaded = Adapter::load(&dir, decoder.config()).unwrap();
    assert_eq!((loaded.shape(), values(&loaded)), (shape, values(&small)));
}
