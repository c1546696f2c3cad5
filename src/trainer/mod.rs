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

use candle_core::Var;
use serde::Deserialize;
use serde::Serialize;

use self::batch::Example;
use self::batch::Totals;
use self::batch::TrainingBatch;
use self::objective::Objective;
use self::optimizer::AdamW;
use self::optimizer::Gradients;
use crate::model::backward::Tape;
use crate::model::backward::TrainingPass;
use crate::model::decoder::Decoder;
use crate::model::lora::Adapter;
use crate::model::ops::Dropout;
use crate::model::ops::TokenScores;
use crate::rng;

/// Why training stopped.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The tensor library failed.
    #[error("training failed: {0}")]
    Tensor(#[from] candle_core::Error),
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
    limits: Limits,
    timings: Timings,
}

/// What bounds a trainer's memory, and where its random draws come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Packed tokens of one forward and backward pass at most, unless one example alone is longer.
    pub micro_batch_tokens: usize,
    /// Bytes of activations kept between forward and backward at most, besides the layers' inputs;
    /// what exceeds them is computed again.
    pub activation_bytes: usize,
    /// The seed of dropout.
    pub seed: u64,
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
        limits: Limits,
    ) -> Self {
        Self { decoder, adapter, optimizer, limits, timings: Timings::default() }
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
        let (mut metrics, gradients) = self.gradients(examples, objective)?;
        metrics.learning_rate = learning_rate;
        if metrics.target_tokens == 0 || !metrics.loss.is_finite() || !metrics.grad_norm.is_finite()
        {
            metrics.skipped = true;
            return Ok(metrics);
        }
        let update = Instant::now();
        self.optimizer.apply(self.adapter.variables(), &gradients, learning_rate)?;
        self.timings.update_s += update.elapsed().as_secs_f64();
        Ok(metrics)
    }

    /// The loss of one step and its gradient, without the update.
    ///
    /// # Errors
    /// When the tensor library fails.
    pub fn gradients(
        &mut self,
        examples: &[Example],
        objective: &Objective,
    ) -> Result<(StepMetrics, Gradients), TrainError> {
        let totals = Totals::of(examples);
        let mut metrics = StepMetrics { target_tokens: totals.targets, ..StepMetrics::default() };
        let mut gradients = Gradients::default();
        let chunks = batch::micro_batches(examples, self.limits.micro_batch_tokens);
        for (index, chunk) in chunks.into_iter().enumerate() {
            let batch = batch::pack(chunk, |targets| objective.weight(totals, targets));
            // A batch without targets has no loss and so no gradient.
            if !batch.targets.is_empty() {
                self.micro_step(index, &batch, objective, totals, &mut gradients, &mut metrics)?;
            }
        }
        metrics.grad_norm = gradients.norm()?;
        Ok((metrics, gradients))
    }

    /// Adds one micro-batch's share of the loss and its gradient.
    fn micro_step(
        &mut self,
        index: usize,
        batch: &TrainingBatch,
        objective: &Objective,
        totals: Totals,
        gradients: &mut Gradients,
        metrics: &mut StepMetrics,
    ) -> Result<(), TrainError> {
        let forward = Instant::now();
        let base = match objective.needs_base() {
            true => Some(self.score(batch, None)?.logprobs()?),
            false => None,
        };
        let (ops, head) = (self.decoder.operations(), self.decoder.head());
        let (rows, targets) = (batch.rows(), batch.tokens());
        let tape =
            Tape::record(self.decoder, self.adapter, &batch.packed, self.training_pass(index))?;
        let hidden = tape.hidden(&rows)?;
        let scored = ops.token_scores(&hidden, head, &targets, true)?;
        // The objective is a few operations on (n, 2) values: candle's autograd differentiates it.
        let scores = Var::from_tensor(&scored.tokens.scores)?;
        let policy = TokenScores { scores: scores.as_tensor().clone() };
        let (loss, seen) = objective.loss(&policy, base.as_ref(), &batch.targets)?;
        let share = batch.targets.len() as f32 / totals.targets.max(1) as f32;
        metrics.loss += loss.to_scalar::<f32>()?;
        metrics.tokens += batch.packed.len();
        metrics.logprob += share * scored.tokens.mean_logprob()?;
        metrics.entropy += share * scored.tokens.mean_entropy()?;
        metrics.kl += share * seen.kl;
        metrics.clip_fraction += share * seen.clip_fraction;
        metrics.ratio += share * seen.ratio;
        metrics.ratio_max = metrics.ratio_max.max(seen.ratio_max);
        metrics.sampler_gap += share * seen.sampler_gap;
        metrics.corrected += share * seen.corrected;
        self.timings.forward_s += forward.elapsed().as_secs_f64();
        let backward = Instant::now();
        let store = loss.backward()?;
        let d_scores = match store.get(&scores) {
            Some(gradient) => gradient.contiguous()?,
            None => scores.zeros_like()?,
        };
        let d_hidden = ops.token_scores_backward(&hidden, head, &targets, &scored, &d_scores)?;
        tape.backward(&rows, &d_hidden, &mut |layer, target, gradient| {
            gradients.add(layer, target, gradient)
        })?;
        self.timings.backward_s += backward.elapsed().as_secs_f64();
        Ok(())
    }

    /// How the micro-batch of number `index` in the coming step is run.
    fn training_pass(&self, index: usize) -> TrainingPass {
        let rate = self.adapter.shape().dropout;
        let step = self.optimizer.steps().to_string();
        let seed = rng::derive(self.limits.seed, &["dropout", &step, &index.to_string()]);
        TrainingPass {
            dropout: (rate > 0.0).then_some(Dropout { rate, seed }),
            activation_bytes: self.limits.activation_bytes,
        }
    }

    /// Fills in the log-probabilities that the adapter gives now, as those before the update.
    ///
    /// # Errors
    /// When the tensor library fails.
    pub fn score_before_update<'e>(
        &self,
        examples: impl IntoIterator<Item = &'e mut Example>,
    ) -> Result<(), TrainError> {
        for example in examples {
            let batch = batch::pack(std::slice::from_ref(&*example), |_| 1.0);
            let logprobs = self.score(&batch, Some(self.adapter))?.logprobs()?;
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
        batch: &TrainingBatch,
        adapter: Option<&Adapter>,
    ) -> Result<TokenScores, TrainError> {
        let ops = self.decoder.operations();
        let hidden = self.decoder.forward(&batch.packed, adapter)?;
        let hidden = ops.rows(&hidden, &batch.rows())?;
        Ok(ops.token_scores(&hidden, self.decoder.head(), &batch.tokens(), false)?.tokens)
    }
}
