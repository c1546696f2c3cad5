//! The decoder's operations, each with its forward and its backward, on CPU and in f32.
//!
//! Candle's own fused kernels cut the gradient without a word, and its autograd computes gradients
//! for frozen weights. These do neither, so the same forward serves generation and training.
//! Every operation here is compared with a composition of plain candle operations in
//! `tests/it/ops.rs`, values and gradients.

mod attention;
mod bias;
mod exp;
mod head;
mod linear;
mod matrix;
mod pointwise;

pub use attention::HeadShape;
pub use attention::attention;
pub use attention::cached_attention;
pub use bias::add_bias;
pub use head::TokenScores;
pub use head::token_scores;
pub use linear::LoraPair;
pub use linear::linear;
pub use matrix::matmul_gflops;
pub use pointwise::RopeTable;
pub use pointwise::rms_norm;
pub use pointwise::rope;
pub use pointwise::swiglu;

use candle_core::CpuStorage;
use candle_core::Layout;
use candle_core::Result;
use candle_core::Storage;
use candle_core::Tensor;

/// The contiguous f32 values behind a storage and its layout.
fn floats<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let CpuStorage::F32(values) = storage else {
        candle_core::bail!("the decoder's CPU operations are f32 only")
    };
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&values[start..end]),
        None => candle_core::bail!("the decoder's CPU operations want contiguous tensors"),
    }
}

/// Runs `f` on the contiguous f32 values of a CPU tensor, without a copy.
fn with_floats<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> Result<R>) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(cpu) => f(floats(cpu, layout)?),
        _ => candle_core::bail!("the decoder's operations run on the CPU in this build"),
    }
}

/// A CPU tensor of `values`.
fn tensor(values: Vec<f32>, shape: impl Into<candle_core::Shape>) -> Result<Tensor> {
    Tensor::from_vec(values, shape.into(), &candle_core::Device::Cpu)
}
