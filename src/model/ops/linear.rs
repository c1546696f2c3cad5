//! A frozen linear map with an optional low-rank adapter (Hu et al. 2021, LoRA, eq. 3).

use candle_core::CpuStorage;
use candle_core::CustomOp1;
use candle_core::CustomOp3;
use candle_core::Layout;
use candle_core::Result;
use candle_core::Shape;
use candle_core::Tensor;

use super::floats;
use super::matrix::Matrix;
use super::matrix::MatrixMut;
use super::matrix::all_cores;
use super::matrix::product;
use super::tensor;
use super::with_floats;

/// The low-rank term `scale · B A` of one linear map.
#[derive(Debug, Clone)]
pub struct LoraPair {
    /// Down-projection (rank, in).
    pub a: Tensor,
    /// Up-projection (out, rank).
    pub b: Tensor,
    /// alpha / rank.
    pub scale: f32,
}

/// y = x Wᵀ + scale · (x Aᵀ) Bᵀ, with x (N, in), W (out, in), y (N, out).
///
/// W never receives a gradient; x, A and B do.
///
/// # Errors
/// When the shapes do not fit or a tensor is not contiguous f32 on the CPU.
pub fn linear(x: &Tensor, weight: &Tensor, lora: Option<&LoraPair>) -> Result<Tensor> {
    let op = Linear { weight: weight.clone(), scale: lora.map_or(0.0, |pair| pair.scale) };
    match lora {
        None => x.apply_op1(op),
        Some(pair) => x.apply_op3(&pair.a, &pair.b, op),
    }
}

struct Linear {
    weight: Tensor,
    scale: f32,
}

impl Linear {
    /// (out, in)
    fn dims(&self) -> Result<(usize, usize)> {
        self.weight.dims2()
    }

    fn base(&self, x: &[f32], tokens: usize) -> Result<Vec<f32>> {
        let (out, inner) = self.dims()?;
        let mut y = vec![0.0; tokens * out];
        with_floats(&self.weight, |w| {
            let lhs = Matrix::dense(x, tokens, inner);
            let rhs = Matrix::dense(w, out, inner).t();
            product(MatrixMut::dense(&mut y, tokens, out), false, 1.0, lhs, rhs, all_cores());
            Ok(())
        })?;
        Ok(y)
    }

    /// dx = g W
    fn input_gradient(&self, g: &[f32], tokens: usize) -> Result<Vec<f32>> {
        let (out, inner) = self.dims()?;
        let mut dx = vec![0.0; tokens * inner];
        with_floats(&self.weight, |w| {
            let lhs = Matrix::dense(g, tokens, out);
            let rhs = Matrix::dense(w, out, inner);
            product(MatrixMut::dense(&mut dx, tokens, inner), false, 1.0, lhs, rhs, all_cores());
            Ok(())
        })?;
        Ok(dx)
    }
}

/// a · b as a new row-major buffer.
fn multiply(alpha: f32, lhs: Matrix<'_>, rhs: Matrix<'_>, rows: usize, cols: usize) -> Vec<f32> {
    let mut dst = vec![0.0; rows * cols];
    product(MatrixMut::dense(&mut dst, rows, cols), false, alpha, lhs, rhs, all_cores());
    dst
}

impl CustomOp1 for Linear {
    fn name(&self) -> &'static str {
        "frozen-linear"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (tokens, _) = layout.shape().dims2()?;
        let y = self.base(floats(storage, layout)?, tokens)?;
        Ok((CpuStorage::F32(y), (tokens, self.dims()?.0).into()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        let dims = x.dims2()?;
        let g = g.contiguous()?;
        let dx = with_floats(&g, |g| self.input_gradient(g, dims.0))?;
        Ok(Some(tensor(dx, dims)?))
    }
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "lora-linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (tokens, inner) = x_layout.shape().dims2()?;
        let (rank, _) = a_layout.shape().dims2()?;
        let (out, _) = self.dims()?;
        let x = floats(x, x_layout)?;
        let mut y = self.base(x, tokens)?;
        let a = Matrix::dense(floats(a, a_layout)?, rank, inner);
        let down = multiply(1.0, Matrix::dense(x, tokens, inner), a.t(), tokens, rank);
        let b = Matrix::dense(floats(b, b_layout)?, out, rank);
        let down = Matrix::dense(&down, tokens, rank);
        product(MatrixMut::dense(&mut y, tokens, out), true, self.scale, down, b.t(), all_cores());
        Ok((CpuStorage::F32(y), (tokens, out).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        a: &Tensor,
        b: &Tensor,
        _y: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (tokens, inner) = x.dims2()?;
        let (out, rank) = b.dims2()?;
        let g = g.contiguous()?;
        let (dx, da, db) = with_floats(&g, |g| {
            with_floats(x, |x| {
                with_floats(a, |a| {
                    with_floats(b, |b| {
                        let mut dx = self.input_gradient(g, tokens)?;
                        let g = Matrix::dense(g, tokens, out);
                        let x = Matrix::dense(x, tokens, inner);
                        let a = Matrix::dense(a, rank, inner);
                        let b = Matrix::dense(b, out, rank);
                        // g B and x Aᵀ are (N, rank): small, so recomputed instead of kept.
                        let up = multiply(self.scale, g, b, tokens, rank);
                        let up = Matrix::dense(&up, tokens, rank);
                        let down = multiply(self.scale, x, a.t(), tokens, rank);
                        let down = Matrix::dense(&down, tokens, rank);
                        let into = MatrixMut::dense(&mut dx, tokens, inner);
                        product(into, true, 1.0, up, a, all_cores());
                        let da = multiply(1.0, up.t(), x, rank, inner);
                        let db = multiply(1.0, g.t(), down, out, rank);
                        Ok((dx, da, db))
                    })
                })
            })
        })?;
        Ok((
            Some(tensor(dx, (tokens, inner))?),
            Some(tensor(da, (rank, inner))?),
            Some(tensor(db, (out, rank))?),
        ))
    }
}
