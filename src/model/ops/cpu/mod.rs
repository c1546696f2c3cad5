//! The operations as kernels over f32 slices, on all cores.

mod attention;
mod head;
mod linear;
mod matrix;
mod pointwise;

use std::ops::Deref;
use std::ops::Range;

use candle_core::CpuStorage;
use candle_core::Device;
use candle_core::Result;
use candle_core::Shape;
use candle_core::Storage;
use candle_core::Tensor;
use parking_lot::RwLockReadGuard;
use rayon::prelude::*;

pub use self::matrix::matmul_unit;
pub use self::matrix::tiles_available;
use super::HeadShape;
use super::Linear;
use super::LoraGradient;
use super::Mapped;
use super::Operations;
use super::RopeTable;
use super::Rotation;
use super::Scored;
use crate::model::packed::Span;

/// Operations on the CPU.
#[derive(Debug, Clone, Copy)]
pub struct Cpu;

/// The contiguous f32 values of a CPU tensor, borrowed.
struct Floats<'a> {
    storage: RwLockReadGuard<'a, Storage>,
    range: Range<usize>,
}

impl<'a> Floats<'a> {
    fn of(tensor: &'a Tensor) -> Result<Self> {
        let (storage, layout) = tensor.storage_and_layout();
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("the CPU operations want contiguous tensors")
        };
        match &*storage {
            Storage::Cpu(CpuStorage::F32(_)) => Ok(Self { storage, range: start..end }),
            _ => candle_core::bail!("the CPU operations want f32 tensors on the CPU"),
        }
    }
}

impl Deref for Floats<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(values)) => &values[self.range.clone()],
            _ => unreachable!("checked when it was made"),
        }
    }
}

/// Values a task writes or copies at once.
const VALUES_PER_TASK: usize = 1 << 15;

/// `len` zeros, written by all cores.
fn zeros(len: usize) -> Vec<f32> {
    rayon::iter::repeat_n(0.0, len).with_min_len(VALUES_PER_TASK).collect()
}

/// A copy, made by all cores.
fn copied(values: &[f32]) -> Vec<f32> {
    values.par_iter().copied().with_min_len(VALUES_PER_TASK).collect()
}

/// A CPU tensor of `values`.
fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> Result<Tensor> {
    Tensor::from_vec(values, shape.into(), &Device::Cpu)
}

impl Operations for Cpu {
    fn rows(&self, table: &Tensor, ids: &[u32]) -> Result<Tensor> {
        table.index_select(&Tensor::new(ids, &Device::Cpu)?, 0)
    }

    fn linears(&self, x: &Tensor, maps: &[Linear<'_>]) -> Result<Vec<Mapped>> {
        linear::forward(x, maps, None)
    }

    fn linear_onto(&self, x: &Tensor, map: &Linear<'_>, residual: &Tensor) -> Result<Mapped> {
        let mapped = linear::forward(x, std::slice::from_ref(map), Some(residual))?;
        mapped.into_iter().next().ok_or_else(|| candle_core::Error::Msg("no result".into()))
    }

    fn linears_backward(
        &self,
        x: &Tensor,
        maps: &[Linear<'_>],
        downs: &[Option<Tensor>],
        gradients: &[&Tensor],
    ) -> Result<(Tensor, Vec<Option<LoraGradient>>)> {
        linear::backward(x, maps, downs, gradients)
    }

    fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
        pointwise::rms_norm(x, weight, eps)
    }

    fn rms_norm_backward(
        &self,
        x: &Tensor,
        weight: &Tensor,
        eps: f32,
        gradient: &Tensor,
        onto: Option<&Tensor>,
    ) -> Result<Tensor> {
        pointwise::rms_norm_backward(x, weight, eps, gradient, onto)
    }

    fn rope(
        &self,
        x: &Tensor,
        table: &RopeTable,
        positions: &[u32],
        rotation: Rotation,
    ) -> Result<Tensor> {
        pointwise::rope(x, table, positions, rotation)
    }

    fn attention(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        spans: &[Span],
        shape: HeadShape,
    ) -> Result<Tensor> {
        attention::forward(q, k, v, spans, shape)
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
        attention::backward(q, k, v, spans, shape, gradient)
    }

    fn swiglu(&self, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        pointwise::swiglu(gate, up)
    }

    fn swiglu_backward(
        &self,
        gate: &Tensor,
        up: &Tensor,
        gradient: &Tensor,
    ) -> Result<[Tensor; 2]> {
        pointwise::swiglu_backward(gate, up, gradient)
    }

    fn token_scores(
        &self,
        hidden: &Tensor,
        weight: &Tensor,
        targets: &[u32],
        learns: bool,
    ) -> Result<Scored> {
        head::forward(hidden, weight, targets, learns)
    }

    fn token_scores_backward(
        &self,
        hidden: &Tensor,
        weight: &Tensor,
        targets: &[u32],
        scored: &Scored,
        gradient: &Tensor,
    ) -> Result<Tensor> {
        head::backward(hidden, weight, targets, scored, gradient)
    }
}
