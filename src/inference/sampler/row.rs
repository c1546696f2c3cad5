//! A row of logits, read block by block so that the compiler can vectorise: its maxima, its mean
//! and the running sums of its softmax.

use super::LogitMask;
use crate::inference::TokenScore;
use crate::model::ops::exp;

/// Logits with a maximum and a sum of their own.
pub(super) const BLOCK: usize = 64;

/// Running values a block is read with.
const LANES: usize = 16;

/// Tokens less likely than the best one by more than this, in nats, are never drawn: e^−87 is the
/// smallest number f32 holds at full precision.
const SMALLEST: f32 = -87.0;

/// e^(scale · (x − max)): 1 for the largest logit, 0 for −∞, for NaN and for what is too unlikely.
#[inline(always)]
pub(super) fn weight(x: f32, max: f32, scale: f32) -> f32 {
    let exponent = (x - max) * scale;
    if exponent > SMALLEST { exp(exponent) } else { 0.0 }
}

/// ln of [`weight`], without its rounding.
pub(super) fn log_weight(x: f32, max: f32, scale: f32) -> f64 {
    (f64::from(x) - f64::from(max)) * f64::from(scale)
}

/// To f32, where what is out of its range becomes its largest or smallest number.
pub(super) fn finite(x: f64) -> f32 {
    x.clamp(f64::from(f32::MIN), f64::from(f32::MAX)) as f32
}

/// Combines lane by lane, then the lanes in halves.
#[inline(always)]
fn reduce(block: &[f32; BLOCK], zero: f32, f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [zero; LANES];
    for part in block.as_chunks::<LANES>().0 {
        for (lane, x) in lanes.iter_mut().zip(part) {
            *lane = f(*lane, *x);
        }
    }
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            lanes[lane] = f(lanes[lane], lanes[lane + half]);
        }
        half /= 2;
    }
    lanes[0]
}

/// The largest logits.
#[derive(Debug)]
pub(super) struct Peaks {
    /// Of each block.
    pub(super) blocks: Vec<f32>,
    /// Of the row.
    pub(super) max: f32,
    /// All logits together; not finite where one of them is not.
    sum: f64,
}

impl Peaks {
    /// Reads a row, where NaN counts as −∞.
    fn read(row: &[f32]) -> Self {
        let larger = |a: f32, b: f32| if b > a { b } else { a };
        let (whole, rest) = row.as_chunks::<BLOCK>();
        let mut sum: f64 = rest.iter().map(|x| f64::from(*x)).sum();
        let mut blocks = Vec::with_capacity(whole.len() + 1);
        for block in whole {
            blocks.push(reduce(block, f32::NEG_INFINITY, larger));
            sum += f64::from(reduce(block, 0.0, |a, b| a + b));
        }
        if !rest.is_empty() {
            blocks.push(rest.iter().copied().fold(f32::NEG_INFINITY, larger));
        }
        let max = blocks.iter().copied().fold(f32::NEG_INFINITY, larger);
        Self { blocks, max, sum }
    }

    /// Reads a row that has been [`settle`]d before and changed since; the result has a finite
    /// maximum. Also whether that took settling it again.
    pub(super) fn of(row: &mut [f32], mask: Option<&LogitMask>) -> (Self, bool) {
        let peaks = Self::read(row);
        if peaks.max.is_finite() {
            return (peaks, false);
        }
        settle(row, mask);
        (Self::read(row), true)
    }

    /// The first place of the maximum.
    pub(super) fn argmax(&self, row: &[f32]) -> usize {
        let block = self.blocks.iter().position(|max| *max == self.max).unwrap_or(0);
        let start = block * BLOCK;
        let within = row[start..].iter().position(|x| *x == self.max);
        start + within.unwrap_or(0)
    }
}

/// Leaves only finite values and −∞, at least one of them finite, by what they must mean: NaN is
/// −∞; where there is +∞, its tokens are equally likely and all others impossible; where nothing is
/// possible, every token that `mask` allows is equally likely.
fn settle(row: &mut [f32], mask: Option<&LogitMask>) {
    let certain = row.contains(&f32::INFINITY);
    for x in row.iter_mut() {
        *x = match *x {
            f32::INFINITY => 0.0,
            x if certain || x.is_nan() => f32::NEG_INFINITY,
            x => x,
        };
    }
    if row.iter().any(|x| x.is_finite()) {
        return;
    }
    row.fill(0.0);
    if let Some(mask) = mask.filter(|mask| mask.allows_any(row.len())) {
        mask.apply(row);
    }
}

/// Sums of a row's softmax.
#[derive(Debug, Clone)]
pub(super) struct Weights {
    max: f32,
    scale: f32,
    /// Of each block.
    blocks: Vec<f32>,
    /// Of the row; at least 1, the weight of its maximum.
    pub(super) total: f64,
}

impl Weights {
    /// Sums e^(scale · (x − max)): a few f32 terms in each lane, f64 from block to block, so that
    /// 49,152 small terms are not lost.
    pub(super) fn of(row: &[f32], max: f32, scale: f32) -> Self {
        let (whole, rest) = row.as_chunks::<BLOCK>();
        let mut blocks = Vec::with_capacity(whole.len() + 1);
        for block in whole {
            blocks.push(reduce(&block.map(|x| weight(x, max, scale)), 0.0, |a, b| a + b));
        }
        if !rest.is_empty() {
            blocks.push(rest.iter().map(|x| weight(*x, max, scale)).sum());
        }
        let total = blocks.iter().map(|sum| f64::from(*sum)).sum();
        Self { max, scale, blocks, total }
    }

    /// ln Σ e^(scale · x) − scale · max
    fn log_total(&self) -> f64 {
        self.total.ln()
    }

    /// Log-probability of a token with this logit.
    pub(super) fn logprob(&self, x: f32) -> f64 {
        log_weight(x, self.max, self.scale) - self.log_total()
    }

    /// The token at which the running sum of probabilities passes `uniform`, in [0, 1): the block
    /// by the blocks' sums, the token by its weight.
    pub(super) fn pick(&self, row: &[f32], uniform: f64) -> Option<usize> {
        let target = uniform * self.total;
        let (mut sum, mut found) = (0.0, None);
        for (block, weight) in self.blocks.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
            found = Some((block * BLOCK, sum));
            sum += f64::from(*weight);
            if sum > target {
                break;
            }
        }
        let (start, mut sum) = found?;
        let mut last = None;
        // Rounding may leave the block's own terms short of the target: its last one, then.
        for (index, x) in row.iter().enumerate().skip(start).take(BLOCK) {
            let weight = weight(*x, self.max, self.scale);
            if weight > 0.0 {
                last = Some(index);
                sum += f64::from(weight);
                if sum > target {
                    break;
                }
            }
        }
        last
    }
}

/// A row as the policy gave it.
#[derive(Debug)]
pub(super) struct Raw {
    pub(super) peaks: Peaks,
    /// Untempered.
    pub(super) weights: Weights,
    mean: f64,
}

impl Raw {
    /// Reads a row; one that is not finite is [`settle`]d.
    pub(super) fn of(row: &mut [f32]) -> Self {
        Self::finite(row).unwrap_or_else(|| {
            settle(row, None);
            let peaks = Peaks::read(row);
            let weights = Weights::of(row, peaks.max, 1.0);
            let possible = row.iter().filter(|x| x.is_finite());
            let (sum, n) = possible.fold((0.0, 0.0), |(s, n), x| (s + f64::from(*x), n + 1.0));
            Self { peaks, weights, mean: sum / n }
        })
    }

    /// Reads a row if it is finite.
    fn finite(row: &[f32]) -> Option<Self> {
        let peaks = Peaks::read(row);
        let mean = peaks.sum / row.len() as f64;
        mean.is_finite().then(|| Self { weights: Weights::of(row, peaks.max, 1.0), peaks, mean })
    }

    /// The score of a token with this logit.
    pub(super) fn score(&self, x: f32) -> TokenScore {
        TokenScore {
            logprob: finite(self.weights.logprob(x)),
            log_normaliser: finite(f64::from(self.peaks.max) + self.weights.log_total()),
            mean_logit: finite(self.mean),
        }
    }
}

impl TokenScore {
    /// The score of `token` under a row of logits, summed to within 10⁻⁶ of their ln Σ e^logit.
    ///
    /// A row that is not finite is read as [`super::Sampling::draw`] does; the mean is then over
    /// the finite logits. An impossible token, or one outside the row, has log-probability
    /// `f32::MIN`.
    ///
    /// # Panics
    /// When there are no logits.
    pub fn of(logits: &[f32], token: u32) -> Self {
        assert!(!logits.is_empty(), "a token cannot be scored by no logits");
        let logit = |row: &[f32]| row.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY);
        if let Some(raw) = Raw::finite(logits) {
            return raw.score(logit(logits));
        }
        let mut row = logits.to_vec();
        let raw = Raw::of(&mut row);
        raw.score(logit(&row))
    }
}
