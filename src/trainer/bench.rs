//! How fast training is, beside the floor that this machine's matrix product sets.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use rand::Rng as _;
use serde::Serialize;

use super::Limits;
use super::Trainer;
use super::batch::Branch;
use super::batch::Example;
use super::objective::Objective;
use super::optimizer::AdamW;
use super::optimizer::AdamWSettings;
use crate::machine::peak_memory;
use crate::model::config::DecoderConfig;
use crate::model::decoder::Decoder;
use crate::model::lora::Adapter;
use crate::model::lora::LoraShape;
use crate::model::lora::Target;
use crate::model::lora::TargetSet;
use crate::model::ops;
use crate::model::ops::Timed;
use crate::progress::Progress;
use crate::rng;

/// What to train for the measurement.
#[derive(Debug, Clone, Copy)]
pub struct TrainBench {
    /// Sequences per optimiser step.
    pub sequences: usize,
    /// Tokens of each.
    pub tokens: usize,
    /// LoRA rank, on all linear maps.
    pub rank: usize,
    /// Steps measured, after one that is not.
    pub steps: usize,
    /// Tokens per forward and backward pass.
    pub micro_batch_tokens: usize,
    /// Megabytes of activations kept between the two at most.
    pub activation_mb: usize,
}

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrainBenchReport {
    /// Version of this shape.
    pub schema_version: u32,
    /// Sequences per step.
    pub sequences: usize,
    /// Tokens of each.
    pub tokens: usize,
    /// LoRA rank.
    pub rank: usize,
    /// Tokens per forward and backward pass.
    pub micro_batch_tokens: usize,
    /// Megabytes of activations kept at most.
    pub activation_mb: usize,
    /// Where it was computed: `cpu` or `cuda`.
    pub device: &'static str,
    /// Type of the frozen weights.
    pub dtype: &'static str,
    /// What large products ran on: `amx`, `vector` or `cuda`.
    pub matmul_unit: &'static str,
    /// Threads used.
    pub threads: usize,
    /// Tokens trained a second, by the median step.
    pub tokens_per_s: f64,
    /// Median time of a step.
    pub step_s: f64,
    /// Mean time per step of the forward passes.
    pub forward_s: f64,
    /// Mean time per step of the backward passes.
    pub backward_s: f64,
    /// Mean time per step of the optimiser.
    pub update_s: f64,
    /// Mean time per step by kind of operation: `linear` (the layers' maps and their adapters),
    /// `attention`, `swiglu`, `norm`, `rope`, `head`, `embedding`.
    pub operations_s: BTreeMap<&'static str, f64>,
    /// The process's largest resident memory, where the system tells it.
    pub peak_memory_bytes: Option<u64>,
    /// Rate of a large matrix product on this machine, 1e9 operations a second.
    pub matmul_gflops: f64,
    /// Tokens a second if nothing but the linear maps' products took time: forward, input
    /// gradients, and the adapter's own.
    pub floor_tokens_per_s: f64,
    /// Share of the floor that was reached.
    pub floor_ratio: f64,
}

/// Trains a fresh adapter of `decoder` on random tokens.
///
/// # Errors
/// When training fails.
pub fn run(decoder: Decoder, bench: &TrainBench) -> anyhow::Result<TrainBenchReport> {
    let timed = Arc::new(Timed::new(decoder.operations().clone()));
    let decoder = decoder.with_operations(timed.clone());
    let config = decoder.config();
    let (alpha, targets) = (2.0 * bench.rank as f32, TargetSet::ALL);
    let shape = LoraShape { rank: bench.rank, alpha, dropout: 0.0, targets };
    let adapter = Adapter::fresh(config, shape, &mut rng::stream(1, &["bench adapter"]))?;
    let adapter = adapter.to_device(config, decoder.device())?;
    let optimizer = AdamW::new(AdamWSettings::default());
    let limits = Limits {
        micro_batch_tokens: bench.micro_batch_tokens,
        activation_bytes: bench.activation_mb << 20,
        seed: 1,
    };
    let mut trainer = Trainer::new(&decoder, &adapter, optimizer, limits);
    let examples = random_examples(bench, config.vocabulary as u32);
    let progress = Progress::start("training steps", bench.steps as u64 + 1);
    trainer.step(&examples, &Objective::Likelihood, 1e-4)?;
    progress.advance(1);
    let warm = trainer.timings();
    timed.take();
    let mut seconds = Vec::with_capacity(bench.steps);
    for _ in 0..bench.steps {
        let start = Instant::now();
        trainer.step(&examples, &Objective::Likelihood, 1e-4)?;
        seconds.push(start.elapsed().as_secs_f64());
        progress.advance(1);
    }
    seconds.sort_by(f64::total_cmp);
    let step_s = seconds[seconds.len() / 2];
    let timings = trainer.timings();
    let per_step = |total: f64| total / bench.steps as f64;
    let operations = timed.take().into_iter();
    let operations_s = operations.map(|(kind, spent)| (kind, per_step(spent.as_secs_f64())));
    let matmul_gflops = ops::matmul_gflops(decoder.device(), decoder.dtype())?;
    let floor_tokens_per_s = matmul_gflops * 1e9 / flops_per_token(config, bench.rank);
    let tokens_per_s = (bench.sequences * bench.tokens) as f64 / step_s;
    let cpu = decoder.device().is_cpu();
    Ok(TrainBenchReport {
        schema_version: 1,
        sequences: bench.sequences,
        tokens: bench.tokens,
        rank: bench.rank,
        micro_batch_tokens: bench.micro_batch_tokens,
        activation_mb: bench.activation_mb,
        device: if cpu { "cpu" } else { "cuda" },
        dtype: decoder.dtype().as_str(),
        matmul_unit: if cpu { ops::matmul_unit() } else { "cuda" },
        threads: rayon::current_num_threads(),
        tokens_per_s,
        step_s,
        forward_s: per_step(timings.forward_s - warm.forward_s),
        backward_s: per_step(timings.backward_s - warm.backward_s),
        update_s: per_step(timings.update_s - warm.update_s),
        operations_s: operations_s.collect(),
        peak_memory_bytes: peak_memory(),
        matmul_gflops,
        floor_tokens_per_s,
        floor_ratio: tokens_per_s / floor_tokens_per_s,
    })
}

fn random_examples(bench: &TrainBench, vocabulary: u32) -> Vec<Example> {
    let mut draws = rng::stream(1, &["bench tokens"]);
    let mut tokens = |n: usize| (0..n).map(|_| draws.random_range(0..vocabulary)).collect();
    (0..bench.sequences)
        .map(|_| Example {
            prompt: tokens(1),
            branches: vec![Branch {
                tokens: tokens(bench.tokens - 1),
                owned: vec![true; bench.tokens - 1],
                sampled_logprobs: Vec::new(),
                old_logprobs: Vec::new(),
                advantage: 1.0,
            }],
        })
        .collect()
}

/// Operations of the linear maps and the head: two per weight forward, two for the input's
/// gradient; the adapter's terms two more, for their own.
fn flops_per_token(config: &DecoderConfig, rank: usize) -> f64 {
    let dims = || Target::ALL.iter().map(|target| target.dims(config));
    let layer: usize = dims().map(|(out, inner)| out * inner).sum();
    let low_rank: usize = dims().map(|(out, inner)| rank * (out + inner)).sum();
    let frozen = config.layers * layer + config.vocabulary * config.hidden;
    4.0 * frozen as f64 + 6.0 * (config.layers * low_rank) as f64
}
