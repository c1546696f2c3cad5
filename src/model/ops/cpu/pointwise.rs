//! Operations that treat each token on its own: RMS norm, rotary embedding, SwiGLU.

use candle_core::Result;
use candle_core::Tensor;
use rayon::prelude::*;

use super::Floats;
use super::copied;
use super::tensor;
use super::zeros;
use crate::model::ops::RopeTable;
use crate::model::ops::Rotation;
use crate::model::ops::exp;

/// Rows given to one rayon task: enough work to outweigh handing it over.
const ROWS_PER_TASK: usize = 16;

pub(super) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    let (tokens, width) = x.dims2()?;
    let (x, weight) = (Floats::of(x)?, Floats::of(weight)?);
    let mut y = zeros(x.len());
    let rows = y.par_chunks_mut(width).zip(x.par_chunks(width));
    rows.with_min_len(ROWS_PER_TASK).for_each(|(y, x)| {
        let inverse = inverse_rms(x, eps);
        for ((y, x), w) in y.iter_mut().zip(x).zip(&*weight) {
            *y = x * inverse * w;
        }
    });
    tensor(y, (tokens, width))
}

/// With r = 1/rms and h = g ∘ weight: dx = r h − x r³ mean(h ∘ x).
pub(super) fn rms_norm_backward(
    x: &Tensor,
    weight: &Tensor,
    eps: f32,
    gradient: &Tensor,
    onto: Option<&Tensor>,
) -> Result<Tensor> {
    let (tokens, width) = x.dims2()?;
    let (x, weight, g) = (Floats::of(x)?, Floats::of(weight)?, Floats::of(gradient)?);
    let mut dx = match onto {
        Some(onto) => copied(&Floats::of(onto)?),
        None => zeros(x.len()),
    };
    let rows = dx.par_chunks_mut(width).zip(x.par_chunks(width)).zip(g.par_chunks(width));
    rows.with_min_len(ROWS_PER_TASK).for_each(|((dx, x), g)| {
        let inverse = inverse_rms(x, eps);
        let dot = sum(g.iter().zip(&*weight).zip(x).map(|((g, w), x)| g * w * x));
        let pull = inverse.powi(3) * dot / width as f32;
        for (((dx, x), g), w) in dx.iter_mut().zip(x).zip(g).zip(&*weight) {
            *dx += g * w * inverse - x * pull;
        }
    });
    tensor(dx, (tokens, width))
}

fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    let squares = sum(x.iter().map(|x| x * x));
    1.0 / (squares / x.len() as f32 + eps).sqrt()
}

/// Eight running sums, so that the compiler keeps them in one vector register.
fn sum(values: impl Iterator<Item = f32>) -> f32 {
    let mut sums = [0.0_f32; 8];
    for (i, value) in values.enumerate() {
        sums[i % 8] += value;
    }
    sums.iter().sum()
}

pub(super) fn rope(
    x: &Tensor,
    table: &RopeTable,
    positions: &[u32],
    rotation: Rotation,
) -> Result<Tensor> {
    let (tokens, width) = x.dims2()?;
    table.check(positions)?;
    let x = Floats::of(x)?;
    let half = table.half();
    let direction = if rotation == Rotation::Forward { 1.0 } else { -1.0 };
    let mut y = zeros(x.len());
    let rows = y.par_chunks_mut(width).zip(x.par_chunks(width)).zip(positions.par_iter());
    rows.with_min_len(ROWS_PER_TASK).for_each(|((y, x), &position)| {
        let (cos, sin) = table.at(position);
        for (y, x) in y.chunks_exact_mut(2 * half).zip(x.chunks_exact(2 * half)) {
            let ((y_low, y_high), (x_low, x_high)) = (y.split_at_mut(half), x.split_at(half));
            for i in 0..half {
                let sin = sin[i] * direction;
                y_low[i] = x_low[i] * cos[i] - x_high[i] * sin;
                y_high[i] = x_high[i] * cos[i] + x_low[i] * sin;
            }
        }
    });
    tensor(y, (tokens, width))
}

/// Values given to one rayon task.
const VALUES_PER_TASK: usize = 8192;

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

pub(super) fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    let dims = gate.dims2()?;
    let (gate, up) = (Floats::of(gate)?, Floats::of(up)?);
    let mut y = zeros(gate.len());
    let chunks = y.par_chunks_mut(VALUES_PER_TASK).zip(gate.par_chunks(VALUES_PER_TASK));
    chunks.zip(up.par_chunks(VALUES_PER_TASK)).for_each(|((y, gate), up)| {
        let n = y.len();
        let (gate, up) = (&gate[..n], &up[..n]);
        for i in 0..n {
            y[i] = gate[i] * sigmoid(gate[i]) * up[i];
        }
    });
    tensor(y, dims)
}

pub(super) fn swiglu_backward(
    gate: &Tensor,
    up: &Tensor,
    gradient: &Tensor,
) -> Result<[Tensor; 2]> {
    let dims = gate.dims2()?;
    let (gate, up, g) = (Floats::of(gate)?, Floats::of(up)?, Floats::of(gradient)?);
    let (mut d_gate, mut d_up) = (zeros(gate.len()), zeros(gate.len()));
    let outs = d_gate.par_chunks_mut(VALUES_PER_TASK).zip(d_up.par_chunks_mut(VALUES_PER_TASK));
    let ins = gate.par_chunks(VALUES_PER_TASK).zip(up.par_chunks(VALUES_PER_TASK));
    let chunks = outs.zip(ins).zip(g.par_chunks(VALUES_PER_TASK));
    chunks.for_each(|(((d_gate, d_up), (gate, up)), g)| {
        let n = d_gate.len();
        let (d_up, gate, up, g) = (&mut d_up[..n], &gate[..n], &up[..n], &g[..n]);
        for i in 0..n {
            let s = sigmoid(gate[i]);
            d_gate[i] = g[i] * up[i] * s * (1.0 + gate[i] * (1.0 - s));
            d_up[i] = g[i] * gate[i] * s;
        }
    });
    Ok([tensor(d_gate, dims)?, tensor(d_up, dims)?])
}
