//! The output head: log-probabilities of chosen tokens, without keeping vocabulary-sized rows.

use std::sync::OnceLock;

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
    let learns = hidden.track_op();
    let head = Head { weight: weight.clone(), targets, learns, slopes: OnceLock::new() };
    Ok(TokenScores { scores: hidden.apply_op1(head)? })
}

struct Head {
    weight: Tensor,
    targets: Vec<u32>,
    /// Whether a gradient will be asked for.
    learns: bool,
    /// d log p(target) / d hidden, (n, width): taken while the logits are there, so that they need
    /// not be computed a second time.
    slopes: OnceLock<Vec<f32>>,
}

/// log p(target) and the entropy, H = z − Σ p x, of a row of logits with normaliser z.
fn score(row: &[f32], z: f32, target: usize) -> [f32; 2] {
    // In blocks, so that the compiler can keep several sums and vectorise them.
    let mut sums = [0.0_f32; 16];
    let blocks = row.chunks_exact(sums.len());
    let rest: f32 = blocks.remainder().iter().map(|x| exp(x - z) * x).sum();
    for block in blocks {
        for (sum, x) in sums.iter_mut().zip(block) {
            *sum += exp(x - z) * x;
        }
    }
    [row[target] - z, z - rest - sums.iter().sum::<f32>()]
}

/// max + log Σ e^(x − max).
fn normaliser(row: &[f32]) -> f32 {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sums = [0.0_f32; 16];
    let blocks = row.chunks_exact(sums.len());
    let rest: f32 = blocks.remainder().iter().map(|x| exp(x - max)).sum();
    for block in blocks {
        for (sum, x) in sums.iter_mut().zip(block) {
            *sum += exp(x - max);
        }
    }
    max + (rest + sums.iter().sum::<f32>()).ln()
}

impl Head {
    /// Calls `f(first position, logits, their normalisers)` chunk by chunk.
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
            let normalisers: Vec<f32> = logits.par_chunks(vocabulary).map(normaliser).collect();
            f(start, logits, &normalisers)?;
        }
        Ok(())
    }

    /// The first rows of `out` ← `rows` W.
    fn through_weight(&self, rows: &[f32], out: &mut [f32]) -> Result<()> {
        let (vocabulary, width) = self.weight.dims2()?;
        let n = rows.len() / vocabulary;
        with_floats(&self.weight, |w| {
            let dst = MatrixMut::dense(&mut out[..n * width], n, width);
            let weight = Matrix::dense(w, vocabulary, width);
            product(dst, false, 1.0, Matrix::dense(rows, n, vocabulary), weight, all_cores());
            Ok(())
        })
    }
}

impl CustomOp1 for Head {
    fn name(&self) -> &'static str {
        "token-scores"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (vocabulary, width) = self.weight.dims2()?;
        if let Some(target) = self.targets.iter().find(|target| **target as usize >= vocabulary) {
            candle_core::bail!("token {target} is outside the vocabulary")
        }
        let n = self.targets.len();
        let mut scores = Vec::with_capacity(2 * n);
        let mut slopes = vec![0.0; if self.learns { n * width } else { 0 }];
        self.each_chunk(floats(storage, layout)?, |start, logits, normalisers| {
            let rows = logits.par_chunks_mut(vocabulary).zip(normalisers).enumerate();
            let scored = rows.map(|(i, (row, z))| {
                let target = self.targets[start + i] as usize;
                let scored = score(row, *z, target);
                if self.learns {
                    row.iter_mut().for_each(|x| *x = -exp(*x - z));
                    row[target] += 1.0;
                }
                scored
            });
            let scored: Vec<[f32; 2]> = scored.collect();
            scores.extend(scored.into_iter().flatten());
            match self.learns {
                true => self.through_weight(logits, &mut slopes[start * width..]),
                false => Ok(()),
            }
        })?;
        // Set once: an operation is applied once.
        let _ = self.slopes.set(slopes);
        Ok((CpuStorage::F32(scores), (n, 2).into()))
    }

    /// d hidden = (g (onehot − p) − h p (log p + H)) W, with g and h the gradients of
    /// log-probability and entropy.
    fn bwd(&self, hidden: &Tensor, scores: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let (n, width) = hidden.dims2()?;
        let gradient: Vec<f32> = gradient.flatten_all()?.to_vec1()?;
        let entropy_is_free = gradient.iter().skip(1).step_by(2).all(|h| *h == 0.0);
        if let (Some(slopes), true) = (self.slopes.get(), entropy_is_free && self.learns) {
            let rows = slopes.par_chunks(width).zip(gradient.par_chunks(2));
            let d_hidden = rows.flat_map_iter(|(row, g)| row.iter().map(|slope| slope * g[0]));
            return Ok(Some(tensor(d_hidden.collect(), (n, width))?));
        }
        let (vocabulary, _) = self.weight.dims2()?;
        let scores: Vec<f32> = scores.flatten_all()?.to_vec1()?;
        let mut d_hidden = vec![0.0; n * width];
        with_floats(hidden, |hidden| {
            self.each_chunk(hidden, |start, logits, normalisers| {
                logits.par_chunks_mut(vocabulary).enumerate().for_each(|(i, row)| {
                    let (at, z) = (2 * (start + i), normalisers[i]);
                    let (g, h, entropy) = (gradient[at], gradient[at + 1], scores[at + 1]);
                    row.iter_mut().for_each(|x| {
                        let logprob = *x - z;
                        *x = -exp(logprob) * (g + h * (logprob + entropy));
                    });
                    row[self.targets[start + i] as usize] += g;
                });
                self.through_weight(logits, &mut d_hidden[start * width..])
            })
        })?;
        Ok(Some(tensor(d_hidden, (n, width))?))
    }
}
