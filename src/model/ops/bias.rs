//! The bias of a frozen linear map.

use candle_core::CpuStorage;
use candle_core::CustomOp1;
use candle_core::Layout;
use candle_core::Result;
use candle_core::Shape;
use candle_core::Tensor;
use rayon::prelude::*;

use super::floats;
use super::with_floats;

/// Rows given to one rayon task.
const ROWS_PER_TASK: usize = 16;

/// y = x + bias in every row, with x (N, width) and `bias` (width); the bias is frozen.
///
/// # Errors
/// When shapes do not fit or a tensor is not contiguous f32 on the CPU.
pub fn add_bias(x: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let (_, width) = x.dims2()?;
    if bias.dims() != [width] {
        candle_core::bail!("a bias of {:?} for rows of {width}", bias.dims());
    }
    x.apply_op1(AddBias { bias: bias.clone() })
}

struct AddBias {
    bias: Tensor,
}

impl CustomOp1 for AddBias {
    fn name(&self) -> &'static str {
        "add-bias"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut y = floats(storage, layout)?.to_vec();
        with_floats(&self.bias, |bias| {
            y.par_chunks_mut(bias.len() * ROWS_PER_TASK).for_each(|rows| {
                for row in rows.chunks_exact_mut(bias.len()) {
                    row.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
                }
            });
            Ok(())
        })?;
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, _x: &Tensor, _y: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(g.clone()))
    }
}
