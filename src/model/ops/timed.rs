//! Operations that measure how long they take.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use candle_core::Result;
use candle_core::Tensor;

use super::HeadShape;
use super::Linear;
use super::LoraGradient;
use super::Mapped;
use super::Operations;
use super::RopeTable;
use super::Rotation;
use super::Scored;
use crate::model::packed::Span;

/// Other operations, and the time spent in each kind. On a device that works through a queue the
/// times are those of handing the work over.
#[derive(Debug)]
pub struct Timed {
    inner: Arc<dyn Operations>,
    spent: Mutex<BTreeMap<&'static str, Duration>>,
}

impl Timed {
    /// Operations that do what `inner` does.
    pub fn new(inner: Arc<dyn Operations>) -> Self {
        Self { inner, spent: Mutex::default() }
    }

    /// Time by kind since the last call: `embedding`, `linear`, `norm`, `rope`, `attention`,
    /// `swiglu`, `head`.
    pub fn take(&self) -> BTreeMap<&'static str, Duration> {
        std::mem::take(&mut *self.spent.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn time<R>(&self, kind: &'static str, f: impl FnOnce(&dyn Operations) -> R) -> R {
        let start = Instant::now();
        let result = f(&*self.inner);
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        *spent.entry(kind).or_default() += start.elapsed();
        result
    }
}

impl Operations for Timed {
    fn rows(&self, table: &Tensor, ids: &[u32]) -> Result<Tensor> {
        self.time("embedding", |ops| ops.rows(table, ids))
    }

    fn linears(&self, x: &Tensor, maps: &[Linear<'_>]) -> Result<Vec<Mapped>> {
        self.time("linear", |ops| ops.linears(x, maps))
    }

    fn linear_onto(&self, x: &Tensor, map: &Linear<'_>, residual: &Tensor) -> Result<Mapped> {
        self.time("linear", |ops| ops.linear_onto(x, map, residual))
    }

    fn linears_backward(
        &self,
        x: &Tensor,
        maps: &[Linear<'_>],
        downs: &[Option<Tensor>],
        gradients: &[&Tensor],
    ) -> Result<(Tensor, Vec<Option<LoraGradient>>)> {
        self.time("linear", |ops| ops.linears_backward(x, maps, downs, gradients))
    }

    fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
        self.time("norm", |ops| ops.rms_norm(x, weight, eps))
    }

    fn rms_norm_backward(
        &self,
        x: &Tensor,
        weight: &Tensor,
        eps: f32,
        gradient: &Tensor,
        onto: Option<&Tensor>,
    ) -> Result<Tensor> {
        self.time("norm", |ops| ops.rms_norm_backward(x, weight, eps, gradient, onto))
    }

    fn rope(
        &self,
        x: &Tensor,
        table: &RopeTable,
        positions: &[u32],
        rotation: Rotation,
    ) -> Result<Tensor> {
        self.time("rope", |ops| ops.rope(x, table, positions, rotation))
    }

    fn attention(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        spans: &[Span],
        shape: HeadShape,
    ) -> Result<Tensor> {
        self.time("attention", |ops| ops.attention(q, k, v, spans, shape))
    }

    fn attention_backward(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        spans: &[Span],
        shape: HeadShape,
        gradient: &Tensor,
    ) -> Result<[Tensor; 3]> {
        self.time("attention", |ops| ops.attention_backward(q, k, v, spans, shape, gradient))
    }

    fn swiglu(&self, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        self.time("swiglu", |ops| ops.swiglu(gate, up))
    }

    fn swiglu_backward(
        &self,
        gate: &Tensor,
        up: &Tensor,
        gradient: &Tensor,
    ) -> Result<[Tensor; 2]> {
        self.time("swiglu", |ops| ops.swiglu_backward(gate, up, gradient))
    }

    fn token_scores(
        &self,
        hidden: &Tensor,
        weight: &Tensor,
        targets: &[u32],
        learns: bool,
    ) -> Result<Scored> {
        self.time("head", |ops| ops.token_scores(hidden, weight, targets, learns))
    }

    fn token_scores_backward(
        &self,
        hidden: &Tensor,
        weight: &Tensor,
        targets: &[u32],
        scored: &Scored,
        gradient: &Tensor,
    ) -> Result<Tensor> {
        self.time("head", |ops| {
            ops.token_scores_backward(hidden, weight, targets, scored, gradient)
        })
    }
}
