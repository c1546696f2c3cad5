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
use crate::model::ops::Dropout;
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

/// One map on the way back, with the gradient of its result (N, out).
struct Back<'a> {
    parts: Parts<'a>,
    dropout: Option<Dropout>,
    g: Floats<'a>,
}

impl<'a> Back<'a> {
    fn of(map: &Linear<'a>, g: &'a Tensor) -> Result<Self> {
        Ok(Self { parts: Parts::of(map)?, dropout: map.dropout, g: Floats::of(g)? })
    }

    fn g(&self) -> Matrix<'_> {
        Matrix::dense(&self.g, self.g.len() / self.parts.out, self.parts.out)
    }

    /// scale · g B, (N, rank); `g` is laid out.
    fn up(&self, g: &Left<'_>) -> Option<Vec<f32>> {
        let (_, b, scale) = self.parts.lora()?;
        Some(multiply(scale, g, b, Cores::All))
    }

    /// [`Back::up`] as a matrix.
    fn up_matrix<'u>(&self, up: &'u [f32]) -> Matrix<'u> {
        Matrix::dense(up, up.len() / self.parts.rank, self.parts.rank)
    }

    /// The term's gradients; `x_t` is what it read, (in, N).
    fn gradient(&self, x_t: &Left<'_>, up: &[f32], down: &Tensor) -> Result<LoraGradient> {
        let Parts { out, inner, rank, .. } = self.parts;
        // Computed as its transpose, whose rows fill tiles.
        let da = multiply(1.0, x_t, self.up_matrix(up), Cores::All);
        let (tokens, _) = down.dims2()?;
        let down = Floats::of(down)?;
        let down = Matrix::dense(&down, tokens, rank);
        let db = multiply(1.0, &Left::new(self.g().t(), Cores::All), down, Cores::All);
        let a = tensor(transposed(&da, inner, rank), (rank, inner))?;
        Ok(LoraGradient { a, b: tensor(db, (out, rank))? })
    }
}

/// x (N, inner) as (inner, N), laid out.
fn transpose(x: &[f32], inner: usize) -> Left<'_> {
    Left::new(Matrix::dense(x, x.len() / inner, inner).t(), Cores::All)
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
    let pairs = maps.iter().zip(gradients);
    let backs: Vec<Back<'_>> = pairs.map(|(map, g)| Back::of(map, g)).collect::<Result<_>>()?;
    let (mut dx, ups) = input_gradient(&backs);
    // Laid out once for all terms without dropout.
    let mut x_t = None;
    let mut lora = Vec::with_capacity(maps.len());
    for ((back, up), down) in backs.iter().zip(&ups).zip(downs) {
        let (Some(up), Some(down), Some((a, ..))) = (up, down, back.parts.lora()) else {
            lora.push(None);
            continue;
        };
        lora.push(Some(match back.dropout {
            None => back.gradient(x_t.get_or_insert_with(|| transpose(&x, inner)), up, down)?,
            Some(dropout) => {
                let mask = dropout.mask(x.len());
                let left = Left::new(back.up_matrix(up), Cores::All);
                let through = multiply(1.0, &left, a, Cores::All);
                dx.iter_mut().zip(masked(&through, &mask)).for_each(|(dx, d)| *dx += d);
                back.gradient(&transpose(&masked(&x, &mask), inner), up, down)?
            }
        }));
    }
    Ok((tensor(dx, (tokens, inner))?, lora))
}

/// Σ g W over the maps, with the low-rank terms that have no dropout; and every term's
/// [`Back::up`].
fn input_gradient(backs: &[Back<'_>]) -> (Vec<f32>, Vec<Option<Vec<f32>>>) {
    let lefts: Vec<Left<'_>> = backs.iter().map(|back| Left::new(back.g(), Cores::All)).collect();
    let ups: Vec<Option<Vec<f32>>> =
        backs.iter().zip(&lefts).map(|(back, left)| back.up(left)).collect();
    let low: Vec<Option<Left<'_>>> = backs
        .iter()
        .zip(&ups)
        .map(|(back, up)| {
            let up = up.as_deref().filter(|_| back.dropout.is_none())?;
            Some(Left::new(back.up_matrix(up), Cores::All))
        })
        .collect();
    let mut terms = Vec::with_capacity(2 * backs.len());
    for ((back, left), low) in backs.iter().zip(&lefts).zip(&low) {
        terms.push((left, back.parts.weight()));
        if let (Some(low), Some((a, ..))) = (low, back.parts.lora()) {
            terms.push((low, a));
        }
    }
    let dx = new_sum(1.0, &terms, Cores::All);
    drop(low);
    (dx, ups)
}

fn transposed(values: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    (0..cols).flat_map(|col| (0..rows).map(move |row| values[row * cols + col])).collect()
}
