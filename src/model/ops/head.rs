//! The output head: log-probabilities of chosen tokens, without keeping vocabulary-sized rows.

use candle_core::CpuStorage;
use candle_core::CustomOp1;
use candle_core::Layout;
use candle_core::Result;
use candle_core::Shape;
use candle_core::Tensor;
use rayon::prelude::*;

use super::exp::exp;
use super::floats;
use super::matrix::Matrix;
use super::matrix::MatrixMut;
use super::matrix::all_cores;
use super::matrix::product;
use super::tensor;
use super::with_floats;

/// Positions whose logits exist at once: 64 × 49,152 floats are 12 MB.
const CHUNK: usize = 64;

/// Log-probabilities and entropies of some positions.
#[derive(Debug, Clone)]
pub struct TokenScores {
    /// (n, 2): column 0 the target's log-probability in nats, column 1 the distribution's entropy
    /// in nats. Both carry a gradient.
    pub scores: Tensor,
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

/// Scores `targets` (n token ids) at hidden states `hidden` (n, width) under softmax(hidden Wᵀ);
/// `weight` is the frozen head (vocabulary, width).
///
/// # Errors
/// When lengths differ or a tensor is not contiguous f32 on the CPU.
pub fn token_scores(hidden: &Tensor, weight: &Tensor, targets: Vec<u32>) -> Result<TokenScores> {
    let (n, _) = hidden.dims2()?;
    if n != targets.len() {
        candle_core::bail!("{n} hidden states but {} target tokens", targets.len());
    }
    let scores = hidden.apply_op1(Head { weight: weight.clone(), targets })?;
    Ok(TokenScores { scores })
}

struct Head {
    weight: Tensor,
    targets: Vec<u32>,
}

impl Head {
    /// Calls `f(first position, probabilities, log of the normaliser − max, max)` chunk by chunk.
    fn each_chunk(
        &self,
        hidden: &[f32],
        mut f: impl FnMut(usize, &mut [f32], &[f32]) -> Result<()>,
    ) -> Result<()> {
        let (vocabulary, width) = self.weight.dims2()?;
        let mut logits = vec![0.0; CHUNK.min(self.targets.len()) * vocabulary];
        for start in (0..self.targets.len()).step_by(CHUNK) {
            let rows = CHUNK.min(self.targets.len() - start);
            let logits = &mut logits[..rows * vocabulary];
            let hidden = Matrix::dense(&hidden[start * width..], rows, width);
            with_floats(&self.weight, |w| {
                let dst = MatrixMut::dense(logits, rows, vocabulary);
                product(dst, false, 1.0, hidden, Matrix::dense(w, vocabulary, width).t(), {
                    all_cores()
                });
                Ok(())
            })?;
            let normalisers: Vec<f32> = logits
                .par_chunks(vocabulary)
                .map(|row| {
                    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    max + row.iter().map(|x| exp(x - max)).sum::<f32>().ln()
                })
                .collect();
            f(start, logits, &normalisers)?;
        }
        Ok(())
    }
}

impl CustomOp1 for Head {
    fn name(&self) -> &'static str {
        "token-scores"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (vocabulary, _) = self.weight.dims2()?;
        let mut scores = Vec::with_capacity(2 * self.targets.len());
        self.each_chunk(floats(storage, layout)?, |start, logits, normalisers| {
            for (i, (row, z)) in logits.chunks_exact(vocabulary).zip(normalisers).enumerate() {
                let target = self.targets[start + i] as usize;
                let Some(logit) = row.get(target) else {
                    candle_core::bail!("token {target} is outside the vocabulary")
                };
                scores.push(logit - z);
                // H = z − Σ p x
                scores.push(z - row.iter().map(|x| exp(x - z) * x).sum::<f32>());
            }
            Ok(())
        })?;
        Ok((CpuStorage::F32(scores), (self.targets.len(), 2).into()))
    }

    /// d hidden = (g (onehot − p) − h p (log p + H)) W, with g and h the gradients of
    /// log-probability and entropy.
    fn bwd(&self, hidden: &Tensor, scores: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let (n, width) = hidden.dims2()?;
        let (vocabulary, _) = self.weight.dims2()?;
        let gradient: Vec<f32> = gradient.flatten_all()?.to_vec1()?;
        let scores: Vec<f32> = scores.flatten_all()?.to_vec1()?;
        let mut d_hidden = vec![0.0; n * width];
        with_floats(hidden, |hidden| {
            self.each_chunk(hidden, |start, logits, normalisers| {
                let rows = normalisers.len();
                logits.par_chunks_mut(vocabulary).enumerate().for_each(|(i, row)| {
                    let (at, z) = (2 * (start + i), normalisers[i]);
                    let (g, h, entropy) = (gradient[at], gradient[at + 1], scores[at + 1]);
                    row.iter_mut().for_each(|x| {
                        let logprob = *x - z;
                        *x = -exp(logprob) * (g + h * (logprob + entropy));
                    });
                    row[self.targets[start + i] as usize] += g;
                });
                with_floats(&self.weight, |w| {
                    let dst = &mut d_hidden[start * width..(start + rows) * width];
                    let dst = MatrixMut::dense(dst, rows, width);
                    let lhs = Matrix::dense(logits, rows, vocabulary);
                    product(dst, false, 1.0, lhs, Matrix::dense(w, vocabulary, width), all_cores());
                    Ok(())
                })
            })
        })?;
        Ok(Some(tensor(d_hidden, (n, width))?))
    }
}
