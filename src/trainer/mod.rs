//! Training a LoRA adapter on sequences the game produced.
//!
//! Answers to one prompt are trained as one tree: the prompt's tokens are read once and every
//! answer is a branch of it. A group of eight rollouts costs little more than one.

pub mod batch;
pub mod bench;
pub mod checkpoint;
pub mod objective;
pub mod optimizer;
pub mod tripwire;

use std::time::Instant;

use candle_core::Tensor;
use serde::Deserialize;
use serde::Serialize;

use self::batch::Example;
use self::batch::Totals;
use self::objective::Objective;
use self::optimizer::AdamW;
use crate::model::decoder::Decoder;
use crate::model::lora::Adapter;

/// Why training stopped.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The tensor library failed.
    #[error("training failed: {0}")]
    Tensor(#[from] candle_core::Error),
    /// Too many steps in a row had a loss or gradient that is not a number.
    #[error("the loss or its gradient was not finite in {0} steps; the last good adapter is kept")]
    NotFinite(u32),
}

/// What one optimiser step did; every field is recorded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// The objective's value.
    pub loss: f32,
    /// Global norm of the gradient before clipping.
    pub grad_norm: f32,
    /// Learning rate used.
    pub learning_rate: f32,
    /// Tokens read by the forward pass.
    pub tokens: usize,
    /// Tokens that carried a training signal.
    pub target_tokens: usize,
    /// Mean log-probability of the targets, in nats.
    pub logprob: f32,
    /// Mean entropy at the targets, in nats.
    pub entropy: f32,
    /// Mean k3 estimate of KL(policy ‖ base) at the targets, in nats; 0 when not computed.
    pub kl: f32,
    /// Share of targets at which the ratio was clipped.
    pub clip_fraction: f32,
    /// Mean ratio of the policy's probability to the one before the update.
    pub ratio: f32,
    /// The largest of these ratios.
    pub ratio_max: f32,
    /// Mean |log-probability now − log-probability when sampled|, in nats.
    pub sampler_gap: f32,
    /// Share of targets whose importance ratio reached the correction's limit.
    pub corrected: f32,
    /// Whether the step was skipped because something was not finite.
    pub skipped: bool,
}

/// Trains one adapter of one frozen decoder.
pub struct Trainer<'a> {
    decoder: &'a Decoder,
    adapter: &'a Adapter,
    optimizer: AdamW,
    /// Packed tokens of one forward and backward pass at most, unless one example alone is longer.
    micro_batch_tokens: usize,
    timings: Timings,
}

/// Where a trainer's time went so far, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Timings {
    /// Forward passes and losses.
    pub forward_s: f64,
    /// Backward passes.
    pub backward_s: f64,
    /// The optimiser.
    pub update_s: f64,
}

impl<'a> Trainer<'a> {
    /// A trainer whose optimiser continues from `optimizer`'s state.
    pub fn new(
        decoder: &'a Decoder,
        adapter: &'a Adapter,
        optimizer: AdamW,
        micro_batch_tokens: usize,
    ) -> Self {
        let timings = Timings::default();
        Self { decoder, adapter, optimizer, micro_batch_tokens, timings }
    }

    /// The optimiser, for its state and step count.
    pub fn optimizer(&self) -> &AdamW {
        &self.optimizer
    }

    /// Where the time went so far.
    pub fn timings(&self) -> Timings {
        self.timings
    }

    /// The optimiser, to go on with.
    pub fn into_optimizer(self) -> AdamW {
        self.optimizer
    }

    /// One optimiser step on `examples`: gradients of micro-batches are summed, then applied.
    ///
    /// A step whose loss or gradient is not finite changes nothing and says so in its metrics.
    ///
    /// # Errors
    /// When the tensor library fails.
    pub fn step(
        &mut self,
        examples: &[Example],
        objective: &Objective,
        learning_rate: f32,
    ) -> Result<StepMetrics, TrainError> {
        let totals = Totals::of(examples);
        let mut metrics =
            StepMetrics { learning_rate, target_tokens: totals.targets, ..StepMetrics::default() };
        let mut gradients = optimizer::Gradients::default();
        let mut finite = true;
        for chunk in batch::micro_batches(examples, self.micro_batch_tokens) {
            let share = self.micro_step(chunk, objective, totals, &mut gradients, &mut metrics)?;
            finite &= share.is_finite();
            metrics.loss += share;
        }
        let update = Instant::now();
        metrics.grad_norm = gradients.norm()?;
        if totals.targets == 0 || !finite || !metrics.grad_norm.is_finite() {
            metrics.skipped = true;
            return Ok(metrics);
        }
        self.optimizer.apply(self.adapter.variables(), &gradients, learning_rate)?;
        self.timings.update_s += update.elapsed().as_secs_f64();
        Ok(metrics)
    }

    /// Adds the gradient of `chunk`'s share of the loss; returns that share.
    fn micro_step(
        &mut self,
        chunk: &[Example],
        objective: &Objective,
        totals: Totals,
        gradients: &mut optimizer::Gradients,
        metrics: &mut StepMetrics,
    ) -> Result<f32, TrainError> {
        let forward = Instant::now();
        let batch = batch::pack(chunk, |targets| objective.weight(totals, targets));
        let base = match objective.needs_base() {
            true => Some(self.score(&batch, None)?.logprobs()?.detach()),
            false => None,
        };
        let scores = self.score(&batch, Some(self.adapter))?;
        let (loss, seen) = objective.loss(&scores, base.as_ref(), &batch.targets)?;
        let share = batch.targets.len() as f32 / totals.targets.max(1) as f32;
        metrics.tokens += batch.packed.len();
        metrics.logprob += share * scores.mean_logprob()?;
        metrics.entropy += share * scores.mean_entropy()?;
        metrics.kl += share * seen.kl;
        metrics.clip_fraction += share * seen.clip_fraction;
        metrics.ratio += share * seen.ratio;
        metrics.ratio_max = metrics.ratio_max.max(seen.ratio_max);
        metrics.sampler_gap += share * seen.sampler_gap;
        metrics.corrected += share * seen.corrected;
        self.timings.forward_s += forward.elapsed().as_secs_f64();
        let backward = Instant::now();
        let store = loss.backward()?;
        gradients.add(self.adapter.variables(), &store)?;
        self.timings.backward_s += backward.elapsed().as_secs_f64();
        Ok(loss.to_scalar()?)
    }

    /// Fills in the log-probabilities that the adapter gives now, as those before the update.
    ///
    /// # Errors
    /// When the tensor library fails.
    pub fn score_before_update(&self, examples: &mut [Example]) -> Result<(), TrainError> {
        for example in examples {
            let batch = batch::pack(std::slice::from_ref(example), |_| 1.0);
            let logprobs = self.score(&batch, Some(self.adapter))?.logprobs()?.detach();
            let mut logprobs = logprobs.to_vec1::<f32>()?.into_iter();
            for branch in &mut example.branches {
                let owned = branch.owned.iter();
                branch.old_logprobs = owned
                    .map(|owned| if *owned { logprobs.next() } else { None }.unwrap_or(0.0))
                    .collect();
            }
        }
        Ok(())
    }

    fn score(
        &self,
        batch: &batch::TrainingBatch,
        adapter: Option<&Adapter>,
    ) -> Result<crate::model::ops::TokenScores, TrainError> {
        let hidden = self.decoder.forward(&batch.packed, adapter, None)?;
        let rows: Vec<u32> = batch.targets.iter().map(|target| target.row).collect();
        let rows = Tensor::new(rows, hidden.device())?;
        let targets = batch.targets.iter().map(|target| target.token).collect();
        let hidden = hidden.index_select(&rows, 0)?;
        Ok(crate::model::ops::token_scores(&hidden, self.decoder.head(), targets)?)
    }
}
