//! Frozen linear maps with low-rank terms.

use candle_core::Result;
use candle_core::Tensor;

use super::Floats;
use super::copied;
use super::matrix::Cores;
use super::matrix::Left;
use super::matrix::Matrix;
use super::matrix::MatrixMut;
use super::matrix::multiply;
use super::matrix::new_sum;
use super::matrix::sum_of_products;
use super::tensor;
use crate::model::ops::Linear;
use crate::model::ops::LoraGradient;
use crate::model::ops::Mapped;

/// The low-rank term and the weight of one map, borrowed.
struct Parts<'a> {
    weight: Floats<'a>,
    lora: Option<(Floats<'a>, Floats<'a>, f32)>,
    out: usize,
    inner: usize,
    rank: usize,
}

impl<'a> Parts<'a> {
    fn of(map: &Linear<'a>) -> Result<Self> {
        let (out, inner) = map.weight.dims2()?;
        let rank = map.lora.map_or(Ok(0), |pair| pair.a.dim(0))?;
        let lora = match map.lora {
            Some(pair) => Some((Floats::of(&pair.a)?, Floats::of(&pair.b)?, pair.scale)),
            None => None,
        };
        Ok(Self { weight: Floats::of(map.weight)?, lora, out, inner, rank })
    }

    fn weight(&self) -> Matrix<'_> {
        Matrix::dense(&self.weight, self.out, self.inner)
    }

    /// A, B and the scale.
    fn lora(&self) -> Option<(Matrix<'_>, Matrix<'_>, f32)> {
        let (a, b, scale) = self.lora.as_ref()?;
        let a = Matrix::dense(a, self.rank, self.inner);
        Some((a, Matrix::dense(b, self.out, self.rank), *scale))
    }
}

/// Results of all maps; `residual` is what the (only) map's result is added to.
pub(super) fn forward(
    x: &Tensor,
    maps: &[Linear<'_>],
    residual: Option<&Tensor>,
) -> Result<Vec<Mapped>> {
    let (tokens, inner) = x.dims2()?;
    let x = Floats::of(x)?;
    let left = Left::new(Matrix::dense(&x, tokens, inner), Cores::All);
    let mut results = Vec::with_capacity(maps.len());
    for map in maps {
        let parts = Parts::of(map)?;
        let down = parts.lora().map(|(a, _, scale)| match map.dropout {
            None => multiply(scale, &left, a.t(), Cores::All),
            Some(dropout) => {
                let dropped = masked(&x, &dropout.mask(x.len()));
                let left = Left::new(Matrix::dense(&dropped, tokens, inner), Cores::All);
                multiply(scale, &left, a.t(), Cores::All)
            }
        });
        let low = down
            .as_deref()
            .map(|down| Left::new(Matrix::dense(down, tokens, parts.rank), Cores::All));
        let mut terms = vec![(&left, parts.weight().t())];
        if let (Some(low), Some((_, b, _))) = (&low, parts.lora()) {
            terms.push((low, b.t()));
        }
        let y = match starting_values(residual, map.bias, tokens)? {
            Some(mut y) => {
                let dst = MatrixMut::dense(&mut y, tokens, parts.out);
                sum_of_products(dst, true, 1.0, &terms, Cores::All);
                y
            }
            None => new_sum(1.0, &terms, Cores::All),
        };
        let down = down.map(|down| tensor(down, (tokens, parts.rank))).transpose()?;
        results.push(Mapped { y: tensor(y, (tokens, parts.out))?, down });
    }
    Ok(results)
}

/// What a product is added to: the residual, the bias in every row, their sum, or nothing.
fn starting_values(
    residual: Option<&Tensor>,
    bias: Option<&Tensor>,
    tokens: usize,
) -> Result<Option<Vec<f32>>> {
    let mut y = match (residual, bias) {
        (Some(residual), _) => copied(&Floats::of(residual)?),
        (None, Some(bias)) => return Ok(Some(Floats::of(bias)?.repeat(tokens))),
        (None, None) => return Ok(None),
    };
    if let Some(bias) = bias {
        let bias = Floats::of(bias)?;
        let rows = y.chunks_exact_mut(bias.len());
        rows.for_each(|row| row.iter_mut().zip(&*bias).for_each(|(y, b)| *y += b));
    }
    Ok(Some(y))
}

fn masked(x: &[f32], mask: &[f32]) -> Vec<f32> {
    x.iter().zip(mask).map(|(x, m)| x * m).collect()
}

/// dx = Σ g W + drop(scale · g B A), dA = (scale · g B)ᵀ drop(x), dB = gᵀ (scale · drop(x) Aᵀ).
pub(super) fn backward(
    x: &Tensor,
    maps: &[Linear<'_>],
    downs: &[Option<Tensor>],
    gradients: &[&Tensor],
) -> Result<(Tensor, Vec<Option<LoraGradient>>)> {
    let (tokens, inner) = x.dims2()?;
    let x = Floats::of(x)?;
    let parts: Vec<Parts<'_>> = maps.iter().map(Parts::of).collect::<Result<_>>()?;
    let gradients: Vec<Floats<'_>> =
        gradients.iter().map(|g| Floats::of(g)).collect::<Result<_>>()?;
    let g = |i: usize| Matrix::dense(&gradients[i], tokens, parts[i].out);
    let lefts: Vec<Left<'_>> = (0..maps.len()).map(|i| Left::new(g(i), Cores::All)).collect();
    // scale · g B, (N, rank)
    let ups: Vec<Option<Vec<f32>>> = parts
        .iter()
        .zip(&lefts)
        .map(|(parts, left)| parts.lora().map(|(_, b, scale)| multiply(scale, left, b, Cores::All)))
        .collect();
    let up = |i: usize| ups[i].as_deref().map(|up| Matrix::dense(up, tokens, parts[i].rank));
    let low: Vec<Option<Left<'_>>> =
        (0..maps.len()).map(|i| up(i).map(|up| Left::new(up, Cores::All))).collect();
    let mut terms = Vec::with_capacity(2 * maps.len());
    for (i, parts) in parts.iter().enumerate() {
        terms.push((&lefts[i], parts.weight()));
        if let (Some(low), Some((a, ..)), None) = (&low[i], parts.lora(), maps[i].dropout) {
            terms.push((low, a));
        }
    }
    let mut dx = new_sum(1.0, &terms, Cores::All);
    let mut lora = Vec::with_capacity(maps.len());
    // Laid out once for all maps without dropout.
    let x_t = Left::new(Matrix::dense(&x, tokens, inner).t(), Cores::All);
    for (i, parts) in parts.iter().enumerate() {
        let (Some(up), Some(down), Some((a, ..))) = (up(i), &downs[i], parts.lora()) else {
            lora.push(None);
            continue;
        };
        let da = match (maps[i].dropout, &low[i]) {
            (Some(dropout), Some(low)) => {
                let mask = dropout.mask(x.len());
                let through = multiply(1.0, low, a, Cores::All);
                dx.iter_mut().zip(masked(&through, &mask)).for_each(|(dx, d)| *dx += d);
                let dropped = masked(&x, &mask);
                let left = Left::new(Matrix::dense(&dropped, tokens, inner).t(), Cores::All);
                multiply(1.0, &left, up, Cores::All)
            }
            _ => multiply(1.0, &x_t, up, Cores::All),
        };
        let down = Floats::of(down)?;
        let down = Matrix::dense(&down, tokens, parts.rank);
        let db = multiply(1.0, &Left::new(g(i).t(), Cores::All), down, Cores::All);
        lora.push(Some(LoraGradient {
            // Computed as its transpose, whose rows fill tiles.
            a: tensor(transposed(&da, inner, parts.rank), (parts.rank, inner))?,
            b: tensor(db, (parts.out, parts.rank))?,
        }));
    }
    Ok((tensor(dx, (tokens, inner))?, lora))
}

fn transposed(values: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    (0..cols).flat_map(|col| (0..rows).map(move |row| values[row * cols + col])).collect()
}
