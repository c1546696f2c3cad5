//! The output head: log-probabilities of chosen tokens, without keeping vocabulary-sized rows.

use candle_core::Result;
use candle_core::Tensor;
use rayon::prelude::*;

use super::Floats;
use super::matrix::Cores;
use super::matrix::Matrix;
use super::matrix::MatrixMut;
use super::matrix::product;
use super::tensor;
use super::zeros;
use crate::model::ops::Scored;
use crate::model::ops::TokenScores;
use crate::model::ops::check_targets;
use crate::model::ops::exp;

/// Memory for logits: 512 positions of 49,152 tokens are 100 MB.
const LOGITS: usize = 25_165_824;

/// Tokens of the vocabulary multiplied at once, so that the operands stay small when laid out.
const VOCABULARY_PART: usize = 2048;

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

/// The head's weight, hidden states, and room for a few positions' logits.
struct Head<'a> {
    weight: &'a [f32],
    vocabulary: usize,
    width: usize,
    hidden: &'a [f32],
}

impl Head<'_> {
    /// Calls `f(first position, logits, their normalisers)` chunk by chunk.
    fn each_chunk(&self, mut f: impl FnMut(usize, &mut [f32], &[f32])) {
        let positions = self.hidden.len() / self.width;
        let chunk = (LOGITS / self.vocabulary).clamp(1, positions.max(1));
        let mut logits = zeros(chunk * self.vocabulary);
        for start in (0..positions).step_by(chunk) {
            let rows = chunk.min(positions - start);
            let logits = &mut logits[..rows * self.vocabulary];
            let hidden = Matrix::dense(&self.hidden[start * self.width..], rows, self.width);
            let weight = Matrix::dense(self.weight, self.vocabulary, self.width);
            let dst = MatrixMut::dense(logits, rows, self.vocabulary);
            product(dst, false, 1.0, hidden, weight.t(), Cores::All);
            let normalisers: Vec<f32> =
                logits.par_chunks(self.vocabulary).map(normaliser).collect();
            f(start, logits, &normalisers);
        }
    }

    /// out ← `rows` W, a part of the vocabulary at a time.
    fn through_weight(&self, rows: &[f32], out: &mut [f32]) {
        let n = rows.len() / self.vocabulary;
        for start in (0..self.vocabulary).step_by(VOCABULARY_PART) {
            let part = VOCABULARY_PART.min(self.vocabulary - start);
            let rows = Matrix::new(&rows[start..], n, part, self.vocabulary);
            let weight = Matrix::dense(&self.weight[start * self.width..], part, self.width);
            let dst = MatrixMut::dense(&mut out[..n * self.width], n, self.width);
            product(dst, start > 0, 1.0, rows, weight, Cores::All);
        }
    }
}

pub(super) fn forward(
    hidden: &Tensor,
    weight: &Tensor,
    targets: &[u32],
    learns: bool,
) -> Result<Scored> {
    check_targets(hidden, weight, targets)?;
    let ((n, width), (vocabulary, _)) = (hidden.dims2()?, weight.dims2()?);
    let (hidden, weight) = (Floats::of(hidden)?, Floats::of(weight)?);
    let head = Head { weight: &weight, vocabulary, width, hidden: &hidden };
    let mut scores = Vec::with_capacity(2 * n);
    // Taken while the logits are there, so that they need not be computed a second time.
    let mut slopes = zeros(if learns { n * width } else { 0 });
    head.each_chunk(|start, logits, normalisers| {
        let rows = logits.par_chunks_mut(vocabulary).zip(normalisers).enumerate();
        let scored = rows.map(|(i, (row, z))| {
            let target = targets[start + i] as usize;
            let scored = score(row, *z, target);
            if learns {
                row.iter_mut().for_each(|x| *x = -exp(*x - z));
                row[target] += 1.0;
            }
            scored
        });
        let scored: Vec<[f32; 2]> = scored.collect();
        scores.extend(scored.into_iter().flatten());
        if learns {
            head.through_weight(logits, &mut slopes[start * width..]);
        }
    });
    let slopes = if learns { Some(tensor(slopes, (n, width))?) } else { None };
    let tokens = TokenScores { scores: tensor(scores, (n, 2))? };
    Ok(Scored { tokens, slopes })
}

/// d hidden = (g (onehot − p) − h p (log p + H)) W, with g and h the gradients of log-probability
/// and entropy.
pub(super) fn backward(
    hidden: &Tensor,
    weight: &Tensor,
    targets: &[u32],
    scored: &Scored,
    gradient: &Tensor,
) -> Result<Tensor> {
    let ((n, width), (vocabulary, _)) = (hidden.dims2()?, weight.dims2()?);
    let gradient = Floats::of(gradient)?;
    let entropy_is_free = gradient.iter().skip(1).step_by(2).all(|h| *h == 0.0);
    if let (Some(slopes), true) = (&scored.slopes, entropy_is_free) {
        let slopes = Floats::of(slopes)?;
        let rows = slopes.par_chunks(width).zip(gradient.par_chunks(2));
        let d_hidden = rows.flat_map_iter(|(row, g)| row.iter().map(|slope| slope * g[0]));
        return tensor(d_hidden.collect(), (n, width));
    }
    let (hidden, weight) = (Floats::of(hidden)?, Floats::of(weight)?);
    let scores = Floats::of(&scored.tokens.scores)?;
    let head = Head { weight: &weight, vocabulary, width, hidden: &hidden };
    let mut d_hidden = zeros(n * width);
    head.each_chunk(|start, logits, normalisers| {
        logits.par_chunks_mut(vocabulary).enumerate().for_each(|(i, row)| {
            let (at, z) = (2 * (start + i), normalisers[i]);
            let (g, h, entropy) = (gradient[at], gradient[at + 1], scores[at + 1]);
            row.iter_mut().for_each(|x| {
                let logprob = *x - z;
                *x = -exp(logprob) * (g + h * (logprob + entropy));
            });
            row[targets[start + i] as usize] += g;
        });
        head.through_weight(logits, &mut d_hidden[start * width..]);
    });
    tensor(d_hidden, (n, width))
}
