//! The decoder's operations, each with its forward and its backward.
//!
//! Candle's own fused kernels cut the gradient without a word, and its autograd computes gradients
//! for frozen weights and adds zeros at every edge. So the decoder's backward is written by hand
//! ([`crate::model::backward`]), over the pairs of functions here. There are two implementations:
//! [`Cpu`], kernels over f32 slices, and [`Portable`], compositions of candle operations for every
//! other device, with weights of any type. `tests/it/ops.rs` holds both to candle's autograd.

mod cpu;
mod exp;
mod portable;
mod rope;
mod timed;

use std::fmt::Debug;
use std::sync::Arc;

use candle_core::DType;
use candle_core::Device;
use candle_core::Result;
use candle_core::Tensor;
use rand::Rng as _;

pub use self::cpu::Cpu;
pub use self::cpu::matmul_unit;
pub use self::cpu::tiles_available;
pub(crate) use self::exp::exp;
pub use self::portable::Portable;
pub use self::rope::RopeTable;
pub use self::timed::Timed;
use crate::model::packed::Span;
use crate::rng;

/// The low-rank term `scale · B A` of one linear map (Hu et al. 2021, LoRA, eq. 3).
#[derive(Debug, Clone)]
pub struct LoraPair {
    /// Down-projection (rank, in), f32.
    pub a: Tensor,
    /// Up-projection (out, rank), f32.
    pub b: Tensor,
    /// alpha / rank.
    pub scale: f32,
}

/// A frozen linear map with an optional trainable low-rank term.
#[derive(Debug, Clone, Copy)]
pub struct Linear<'a> {
    /// (out, in)
    pub weight: &'a Tensor,
    /// (out)
    pub bias: Option<&'a Tensor>,
    /// The low-rank term.
    pub lora: Option<&'a LoraPair>,
    /// Dropout before the low-rank term, in training.
    pub dropout: Option<Dropout>,
}

impl<'a> Linear<'a> {
    /// A map without bias, adapter and dropout.
    pub fn plain(weight: &'a Tensor) -> Self {
        Self { weight, bias: None, lora: None, dropout: None }
    }
}

/// Which inputs of a low-rank term are dropped (Srivastava et al. 2014): the same ones in forward
/// and backward, because they follow from the seed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// Share of values set to zero, in [0, 1); the others are multiplied by 1 / (1 − rate).
    pub rate: f32,
    /// Where the draws begin.
    pub seed: u64,
}

impl Dropout {
    /// The same rate with other draws.
    #[must_use]
    pub fn derived(self, labels: &[&str]) -> Self {
        Self { seed: rng::derive(self.seed, labels), ..self }
    }

    /// What `n` values are multiplied by.
    pub fn mask(self, n: usize) -> Vec<f32> {
        let kept = 1.0 / (1.0 - self.rate);
        let mut draws = rng::stream(self.seed, &["dropout"]);
        (0..n).map(|_| if draws.random::<f32>() < self.rate { 0.0 } else { kept }).collect()
    }
}

/// What a map made of its input.
#[derive(Debug, Clone)]
pub struct Mapped {
    /// The result, (N, out).
    pub y: Tensor,
    /// scale · drop(x) Aᵀ, (N, rank), which the backward needs; small, so always there.
    pub down: Option<Tensor>,
}

/// The gradient of a [`LoraPair`].
#[derive(Debug, Clone)]
pub struct LoraGradient {
    /// That of A (rank, in).
    pub a: Tensor,
    /// That of B (out, rank).
    pub b: Tensor,
}

/// Head counts and size of one attention layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadShape {
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
}

impl HeadShape {
    pub(in crate::model) fn group(self) -> usize {
        self.heads / self.kv_heads
    }

    pub(in crate::model) fn query_width(self) -> usize {
        self.heads * self.head_dim
    }

    pub(in crate::model) fn kv_width(self) -> usize {
        self.kv_heads * self.head_dim
    }

    pub(in crate::model) fn scale(self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }
}

/// Which way heads are rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    /// By the angle of the position.
    Forward,
    /// Back: the inverse, which is also the transpose, and so the backward.
    Backward,
}

/// Log-probabilities and entropies of some positions.
#[derive(Debug, Clone)]
pub struct TokenScores {
    /// (n, 2), f32 on the CPU: column 0 the target's log-probability in nats, column 1 the
    /// distribution's entropy in nats.
    pub scores: Tensor,
}

/// The result of the head's forward, with what its backward can use.
#[derive(Debug, Clone)]
pub struct Scored {
    /// Log-probabilities and entropies.
    pub tokens: TokenScores,
    /// d log p(target) / d hidden, (n, width), where it was asked for and is cheap to have.
    pub slopes: Option<Tensor>,
}

impl TokenScores {
    /// The targets' log-probabilities, (n).
    ///
    /// # Errors
    /// Those of candle.
    pub fn logprobs(&self) -> Result<Tensor> {
        self.scores.narrow(1, 0, 1)?.squeeze(1)
    }

    /// The distributions' entropies, (n).
    ///
    /// # Errors
    /// Those of candle.
    pub fn entropies(&self) -> Result<Tensor> {
        self.scores.narrow(1, 1, 1)?.squeeze(1)
    }

    /// The mean log-probability over positions, in nats.
    ///
    /// # Errors
    /// Those of candle.
    pub fn mean_logprob(&self) -> Result<f32> {
        self.scores.detach().narrow(1, 0, 1)?.mean_all()?.to_scalar()
    }

    /// The mean entropy over positions, in nats.
    ///
    /// # Errors
    /// Those of candle.
    pub fn mean_entropy(&self) -> Result<f32> {
        self.scores.detach().narrow(1, 1, 1)?.mean_all()?.to_scalar()
    }
}

/// The operations of the decoder on one kind of device.
///
/// Activations are f32. Nothing here records a graph: gradients are what the backward functions
/// return.
///
/// # Errors
/// All fail when shapes do not fit, when a tensor is not contiguous, and with candle's errors.
pub trait Operations: Debug + Send + Sync {
    /// Rows of `table` (n, width) at `ids`, (N, width), as f32.
    fn rows(&self, table: &Tensor, ids: &[u32]) -> Result<Tensor>;

    /// y = x Wᵀ + b + scale · (drop(x) Aᵀ) Bᵀ for each of `maps`, which all read x (N, in); each
    /// result is (N, out).
    fn linears(&self, x: &Tensor, maps: &[Linear<'_>]) -> Result<Vec<Mapped>>;

    /// `residual` + the result of one map: the end of a residual block.
    fn linear_onto(&self, x: &Tensor, map: &Linear<'_>, residual: &Tensor) -> Result<Mapped>;

    /// The gradient of the input that `maps` read, summed over them, (N, in), and those of their
    /// low-rank terms; `downs` are the forward's, `gradients` those of the maps' results. W and b
    /// are frozen: nothing is computed for them.
    fn linears_backward(
        &self,
        x: &Tensor,
        maps: &[Linear<'_>],
        downs: &[Option<Tensor>],
        gradients: &[&Tensor],
    ) -> Result<(Tensor, Vec<Option<LoraGradient>>)>;

    /// y = x / sqrt(mean(x²) + eps) · weight over the last dimension (Zhang & Sennrich 2019,
    /// eq. 4); x is (N, width), `weight` (width), frozen.
    fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor>;

    /// The gradient of x, (N, width), given that of the result; added to `onto` where there is one.
    fn rms_norm_backward(
        &self,
        x: &Tensor,
        weight: &Tensor,
        eps: f32,
        gradient: &Tensor,
        onto: Option<&Tensor>,
    ) -> Result<Tensor>;

    /// Rotates each head of x (N, heads · head_dim) by its token's position, in the Hugging Face
    /// layout: dimension i is paired with i + head_dim/2.
    fn rope(
        &self,
        x: &Tensor,
        table: &RopeTable,
        positions: &[u32],
        rotation: Rotation,
    ) -> Result<Tensor>;

    /// Causal grouped-query attention (Vaswani et al. 2017, eq. 1; Ainslie et al. 2023) in which a
    /// span's past, if any, is another span of the batch. q is (N, heads · head_dim), k and v are
    /// (N, kv_heads · head_dim); the result is like q.
    fn attention(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        spans: &[Span],
        shape: HeadShape,
    ) -> Result<Tensor>;

    /// The gradients of q, k and v, given that of the result.
    fn attention_backward(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        spans: &[Span],
        shape: HeadShape,
        gradient: &Tensor,
    ) -> Result<[Tensor; 3]>;

    /// y = silu(gate) ∘ up (Shazeer 2020, eq. 5), all (N, width).
    fn swiglu(&self, gate: &Tensor, up: &Tensor) -> Result<Tensor>;

    /// The gradients of gate and up, given that of the result.
    fn swiglu_backward(&self, gate: &Tensor, up: &Tensor, gradient: &Tensor)
    -> Result<[Tensor; 2]>;

    /// Scores `targets` (n token ids) at hidden states (n, width) under softmax(hidden Wᵀ);
    /// `weight` is the frozen head (vocabulary, width). Vocabulary-sized rows exist for a few
    /// positions at a time. `learns` keeps what the backward needs.
    fn token_scores(
        &self,
        hidden: &Tensor,
        weight: &Tensor,
        targets: &[u32],
        learns: bool,
    ) -> Result<Scored>;

    /// The gradient of `hidden`, (n, width), given that of the scores, (n, 2).
    fn token_scores_backward(
        &self,
        hidden: &Tensor,
        weight: &Tensor,
        targets: &[u32],
        scored: &Scored,
        gradient: &Tensor,
    ) -> Result<Tensor>;
}

/// The operations for weights of `dtype` on `device`.
pub fn on(device: &Device, dtype: DType) -> Arc<dyn Operations> {
    match (device, dtype) {
        (Device::Cpu, DType::F32) => Arc::new(Cpu),
        _ => Arc::new(Portable),
    }
}

/// The rate of a large linear map on `device` with weights of `dtype`, in 1e9 operations a second:
/// the best of several.
///
/// # Errors
/// Those of candle.
pub fn matmul_gflops(device: &Device, dtype: DType) -> Result<f64> {
    const SIDE: usize = 1024;
    const REPEATS: usize = 7;
    let ops = on(device, dtype);
    let x = Tensor::ones((SIDE, SIDE), DType::F32, device)?;
    let weight = Tensor::ones((SIDE, SIDE), dtype, device)?;
    let mut best = f64::INFINITY;
    for _ in 0..REPEATS {
        let start = std::time::Instant::now();
        ops.linears(&x, &[Linear::plain(&weight)])?;
        device.synchronize()?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(2.0 * (SIDE * SIDE * SIDE) as f64 / best / 1e9)
}

/// Fails unless there are as many targets as hidden states, all within the vocabulary.
fn check_targets(hidden: &Tensor, weight: &Tensor, targets: &[u32]) -> Result<()> {
    let ((n, _), (vocabulary, _)) = (hidden.dims2()?, weight.dims2()?);
    if n != targets.len() {
        candle_core::bail!("{n} hidden states but {} target tokens", targets.len());
    }
    match targets.iter().find(|target| **target as usize >= vocabulary) {
        Some(target) => candle_core::bail!("token {target} is outside the vocabulary"),
        None => Ok(()),
    }
}
