//! Operations that treat each token on its own: RMS norm, rotary embedding, SwiGLU.

use std::sync::Arc;
use std::sync::OnceLock;

use candle_core::CpuStorage;
use candle_core::CustomOp1;
use candle_core::CustomOp2;
use candle_core::Layout;
use candle_core::Result;
use candle_core::Shape;
use candle_core::Tensor;
use rayon::prelude::*;

use super::exp::exp;
use super::floats;
use super::tensor;
use super::with_floats;

/// Rows given to one rayon task: enough work to outweigh handing it over.
const ROWS_PER_TASK: usize = 16;

/// y = x / sqrt(mean(x²) + eps) · weight over the last dimension (Zhang & Sennrich 2019, eq. 4).
///
/// x is (N, width), `weight` (width); the weight is frozen.
///
/// # Errors
/// When shapes do not fit or a tensor is not contiguous f32 on the CPU.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    x.apply_op1(RmsNorm { weight: weight.clone(), eps })
}

struct RmsNorm {
    weight: Tensor,
    eps: f32,
}

impl CustomOp1 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, width) = layout.shape().dims2()?;
        let x = floats(storage, layout)?;
        let mut y = vec![0.0; x.len()];
        with_floats(&self.weight, |weight| {
            let block = width * ROWS_PER_TASK;
            y.par_chunks_mut(block).zip(x.par_chunks(block)).for_each(|(y, x)| {
                for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                    let inverse = self.inverse_rms(x);
                    for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
                        *y = x * inverse * w;
                    }
                }
            });
            Ok(())
        })?;
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    /// With r = 1/rms and h = g ∘ weight: dx = r h − x r³ mean(h ∘ x).
    fn bwd(&self, x: &Tensor, _y: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        let (tokens, width) = x.dims2()?;
        let g = g.contiguous()?;
        let mut dx = vec![0.0; tokens * width];
        with_floats(&g, |g| {
            with_floats(x, |x| {
                with_floats(&self.weight, |weight| {
                    let rows = dx.par_chunks_mut(width).zip(x.par_chunks(width));
                    rows.zip(g.par_chunks(width)).with_min_len(ROWS_PER_TASK).for_each(
                        |((dx, x), g)| {
                            let inverse = self.inverse_rms(x);
                            let dot: f32 =
                                g.iter().zip(weight).zip(x).map(|((g, w), x)| g * w * x).sum();
                            let pull = inverse.powi(3) * dot / width as f32;
                            for (((dx, x), g), w) in dx.iter_mut().zip(x).zip(g).zip(weight) {
                                *dx = g * w * inverse - x * pull;
                            }
                        },
                    );
                    Ok(())
                })
            })
        })?;
        Ok(Some(tensor(dx, (tokens, width))?))
    }
}

impl RmsNorm {
    fn inverse_rms(&self, x: &[f32]) -> f32 {
        let sum: f32 = x.iter().map(|x| x * x).sum();
        1.0 / (sum / x.len() as f32 + self.eps).sqrt()
    }
}

/// Positions whose cosines and sines are worked out together.
const POSITIONS_PER_BLOCK: usize = 512;

/// Cosines and sines of the rotary embedding. They are worked out block by block when a position
/// is first used: few runs come near the end of a long context.
#[derive(Debug)]
pub struct RopeTable {
    /// Radians per position of each pair of dimensions (head_dim / 2).
    inverse_frequencies: Vec<f32>,
    /// Each (position, cosines then sines, head_dim / 2), row-major.
    blocks: Vec<OnceLock<Vec<f32>>>,
    positions: usize,
}

impl RopeTable {
    /// Angles position · inverse frequency (Su et al. 2021, eq. 15) for up to `positions`
    /// positions; there is one frequency for each pair of a head's dimensions (head_dim / 2).
    pub fn new(inverse_frequencies: Vec<f32>, positions: usize) -> Self {
        let blocks = positions.div_ceil(POSITIONS_PER_BLOCK);
        let blocks = (0..blocks).map(|_| OnceLock::new()).collect();
        Self { inverse_frequencies, blocks, positions }
    }

    /// How many positions the table covers.
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// Half the width of a head.
    fn half(&self) -> usize {
        self.inverse_frequencies.len()
    }

    /// Cosines and sines at `position`, each (head_dim / 2).
    fn at(&self, position: usize) -> (&[f32], &[f32]) {
        let (block, row) = (position / POSITIONS_PER_BLOCK, position % POSITIONS_PER_BLOCK);
        let width = 2 * self.half();
        let values = self.blocks[block].get_or_init(|| self.block(block * POSITIONS_PER_BLOCK));
        values[row * width..(row + 1) * width].split_at(self.half())
    }

    fn block(&self, first: usize) -> Vec<f32> {
        let mut values = Vec::with_capacity(POSITIONS_PER_BLOCK * 2 * self.half());
        for position in first..first + POSITIONS_PER_BLOCK {
            let angles = self.inverse_frequencies.iter().map(|f| position as f32 * f);
            values.extend(angles.clone().map(f32::cos));
            values.extend(angles.map(f32::sin));
        }
        values
    }
}

/// Rotates each head of x (N, heads · head_dim) by its token's position, in the Hugging Face
/// layout: dimension i is paired with i + head_dim/2.
///
/// # Errors
/// When a position lies past the table or the tensor is not contiguous f32 on the CPU.
pub fn rope(x: &Tensor, table: &Arc<RopeTable>, positions: &Arc<Vec<u32>>) -> Result<Tensor> {
    let last = positions.iter().max().copied().unwrap_or(0) as usize;
    if last >= table.positions() {
        candle_core::bail!("position {last} is past the model's {} positions", table.positions());
    }
    x.apply_op1(Rope { table: table.clone(), positions: positions.clone() })
}

struct Rope {
    table: Arc<RopeTable>,
    positions: Arc<Vec<u32>>,
}

impl Rope {
    /// `direction` is 1 for the rotation and −1 for its inverse, which is also its transpose.
    fn rotate(&self, x: &[f32], width: usize, direction: f32) -> Vec<f32> {
        let half = self.table.half();
        let mut y = vec![0.0; x.len()];
        let rows = y.par_chunks_mut(width).zip(x.par_chunks(width)).zip(self.positions.par_iter());
        rows.with_min_len(ROWS_PER_TASK).for_each(|((y, x), &position)| {
            let (cos, sin) = self.table.at(position as usize);
            for (y, x) in y.chunks_exact_mut(2 * half).zip(x.chunks_exact(2 * half)) {
                let ((y_low, y_high), (x_low, x_high)) = (y.split_at_mut(half), x.split_at(half));
                for i in 0..half {
                    let sin = sin[i] * direction;
                    y_low[i] = x_low[i] * cos[i] - x_high[i] * sin;
                    y_high[i] = x_high[i] * cos[i] + x_low[i] * sin;
                }
            }
        });
        y
    }
}

impl CustomOp1 for Rope {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, width) = layout.shape().dims2()?;
        let y = self.rotate(floats(storage, layout)?, width, 1.0);
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        let (tokens, width) = x.dims2()?;
        let g = g.contiguous()?;
        let dx = with_floats(&g, |g| Ok(self.rotate(g, width, -1.0)))?;
        Ok(Some(tensor(dx, (tokens, width))?))
    }
}

/// y = silu(gate) ∘ up (Shazeer 2020, eq. 5), all (N, width).
///
/// # Errors
/// When shapes do not fit or a tensor is not contiguous f32 on the CPU.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gate.apply_op2(up, SwiGlu)
}

struct SwiGlu;

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

impl CustomOp2 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gate_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (gate, up) = (floats(gate, gate_layout)?, floats(up, up_layout)?);
        let y = gate
            .par_iter()
            .zip(up)
            .with_min_len(4096)
            .map(|(&gate, &up)| gate * sigmoid(gate) * up)
            .collect();
        Ok((CpuStorage::F32(y), gate_layout.shape().clone()))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _y: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dims = gate.dims2()?;
        let g = g.contiguous()?;
        let (d_gate, d_up) = with_floats(&g, |g| {
            with_floats(gate, |gate| {
                with_floats(up, |up| {
                    let pairs = g.par_iter().zip(gate).zip(up).with_min_len(4096);
                    Ok(pairs
                        .map(|((&g, &gate), &up)| {
                            let s = sigmoid(gate);
                            (g * up * s * (1.0 + gate * (1.0 - s)), g * gate * s)
                        })
                        .unzip::<_, _, Vec<f32>, Vec<f32>>())
                })
            })
        })?;
        Ok((Some(tensor(d_gate, dims)?), Some(tensor(d_up, dims)?)))
    }
}
