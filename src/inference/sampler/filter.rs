//! Top-k, top-p and min-p: which tokens are left, without sorting the vocabulary.
//!
//! The peaks of a row's blocks tell which blocks can hold a token that is likely enough; only those
//! are looked through.

use std::cmp::Ordering;

use super::Sampling;
use super::row::BLOCK;
use super::row::Peaks;
use super::row::Weights;
use super::row::log_weight;
use super::row::weight;

/// So few tokens are sorted rather than divided once more.
const SORTED: usize = 64;

/// Lower bounds tried for the nucleus, as multiples of the one that is always low enough. The low
/// ones are for rows that are nearly flat.
const NUCLEUS_BOUNDS: [f64; 4] = [1024.0, 64.0, 8.0, 1.0];

/// A row, tempered by `scale`, about to be filtered.
struct Row<'a> {
    logits: &'a [f32],
    peaks: &'a Peaks,
    scale: f32,
}

impl Row<'_> {
    /// The tokens whose logits are at least `bound`.
    fn from(&self, bound: f32) -> Vec<u32> {
        let bound = bound.max(f32::MIN);
        let mut found = Vec::new();
        for (index, block) in self.logits.chunks(BLOCK).enumerate() {
            if self.peaks.blocks[index] < bound {
                continue;
            }
            // Written whether wanted or not: no branch to be guessed wrong.
            let (mut ids, mut count) = ([0; BLOCK], 0_usize);
            for (place, logit) in block.iter().enumerate() {
                ids[count % BLOCK] = (index * BLOCK + place) as u32;
                count = count.wrapping_add(usize::from(*logit >= bound));
            }
            found.extend_from_slice(&ids[..count]);
        }
        found
    }

    /// The `k` most likely tokens, and those as likely as the last of them (Fan et al. 2018).
    fn top_k(&self, k: usize) -> Candidates {
        let logit = |id: &u32| self.logits[*id as usize];
        // As many blocks as tokens wanted have a token that is at least as likely as this bound.
        let mut found = self.from(kth_largest(self.peaks.blocks.clone(), k));
        let bound = kth_largest(found.iter().map(logit).collect(), k);
        found.retain(|id| logit(id) >= bound);
        self.candidates(found)
    }

    /// The tokens whose weight is at least `floor`, and perhaps some a little below it.
    fn above(&self, floor: f64) -> Candidates {
        // A thousandth below, for the rounding of the weights.
        let below_max = (floor.ln() - 1e-3) / f64::from(self.scale);
        self.candidates(self.from(((f64::from(self.peaks.max) + below_max) as f32).next_down()))
    }

    /// The nucleus of probability `p`, as far as its weights are at least `min_p`: a token's place
    /// in it depends on likelier ones only.
    fn nucleus(&self, p: f64, min_p: f64) -> Candidates {
        let total = Weights::of(self.logits, self.peaks.max, self.scale).total;
        // Tokens below this floor have together less than 1 − p of the mass: the nucleus is among
        // the others. Mostly a few tokens far above it have the mass already.
        let floor = (1.0 - p) * total / self.logits.len() as f64;
        let mut found = Candidates::default();
        for floor in NUCLEUS_BOUNDS.map(|above| (above * floor).min(1.0)) {
            found = self.above(floor.max(min_p));
            if floor <= min_p || found.mass_from(f32::MIN) > p * total {
                break;
            }
        }
        found.keep_nucleus(p * total);
        found
    }

    fn candidates(&self, ids: Vec<u32>) -> Candidates {
        let logits: Vec<f32> = ids.iter().map(|id| self.logits[*id as usize]).collect();
        let weights = logits.iter().map(|x| weight(*x, self.peaks.max, self.scale)).collect();
        Candidates { ids, logits, weights }
    }
}

/// The `k`-th largest value; −∞ where there are fewer.
fn kth_largest(mut values: Vec<f32>, k: usize) -> f32 {
    if k > values.len() {
        return f32::NEG_INFINITY;
    }
    *values.select_nth_unstable_by(k.saturating_sub(1), |a, b| b.total_cmp(a)).1
}

/// Tokens that may be drawn, in the order of their ids.
#[derive(Debug, Default)]
struct Candidates {
    ids: Vec<u32>,
    logits: Vec<f32>,
    /// e^(scale · (logit − max))
    weights: Vec<f32>,
}

impl Candidates {
    /// Keeps the tokens for whose id, logit and weight `keep` is true.
    fn retain(&mut self, keep: impl Fn(u32, f32, f32) -> bool) {
        let mut kept = 0;
        for i in 0..self.ids.len() {
            let (id, logit, weight) = (self.ids[i], self.logits[i], self.weights[i]);
            (self.ids[kept], self.logits[kept], self.weights[kept]) = (id, logit, weight);
            kept += usize::from(keep(id, logit, weight));
        }
        self.ids.truncate(kept);
        self.logits.truncate(kept);
        self.weights.truncate(kept);
    }

    /// Weight of the tokens whose logits are at least `bound`.
    fn mass_from(&self, bound: f32) -> f64 {
        let blocks = self.logits.chunks(BLOCK).zip(self.weights.chunks(BLOCK));
        let masses = blocks.map(|(logits, weights)| {
            let mut lanes = [0.0_f32; 16];
            for (logits, weights) in logits.chunks(lanes.len()).zip(weights.chunks(lanes.len())) {
                for (lane, (logit, weight)) in lanes.iter_mut().zip(logits.iter().zip(weights)) {
                    *lane += if *logit >= bound { *weight } else { 0.0 };
                }
            }
            f64::from(lanes.iter().sum::<f32>())
        });
        masses.sum()
    }

    fn count_between(&self, low: f32, high: f32) -> usize {
        let is_between = |logit: &f32| u32::from(low <= *logit && *logit < high);
        // A sum that is checked for overflow would not be vectorised.
        self.logits.iter().map(is_between).fold(0, u32::wrapping_add) as usize
    }

    /// Keeps the most likely tokens up to the first at which their sum reaches `wanted`; at least
    /// one. Of equally likely ones the smallest ids are kept first. (Torch's sort, and so
    /// transformers, leaves the order of those open.)
    fn keep_nucleus(&mut self, wanted: f64) {
        // The tokens from `low` on have the mass, those from `high` on have not.
        let mut low = self.logits.iter().copied().fold(f32::INFINITY, f32::min);
        let mut high = self.logits.iter().copied().fold(f32::NEG_INFINITY, f32::max).next_up();
        while self.count_between(low, high) > SORTED {
            let middle = low + (high - low) / 2.0;
            if !(low < middle && middle < high) {
                break;
            }
            let side = if self.mass_from(middle) >= wanted { &mut low } else { &mut high };
            *side = middle;
        }
        let is_between = |i: &usize| low <= self.logits[*i] && self.logits[*i] < high;
        let mut between: Vec<usize> = (0..self.ids.len()).filter(is_between).collect();
        // Stable: equal ones, of which −0 and 0 are two, stay in the order of their ids.
        let order = |a: f32, b: f32| b.partial_cmp(&a).unwrap_or(Ordering::Equal);
        between.sort_by(|a, b| order(self.logits[*a], self.logits[*b]));
        let mut sum = self.mass_from(high);
        let reaches = |i: &&usize| {
            sum += f64::from(self.weights[**i]);
            sum >= wanted
        };
        let Some(last) = between.iter().find(reaches).or(between.last()) else { return };
        let (last_id, bound) = (self.ids[*last], self.logits[*last]);
        self.retain(|id, logit, _| logit > bound || (logit == bound && id <= last_id));
    }
}

/// What the filters left of a row.
#[derive(Debug)]
pub(super) struct Filtered {
    candidates: Candidates,
    max: f32,
    scale: f32,
}

impl Sampling {
    /// Whether no filter can take a token of a vocabulary of this size.
    pub(super) fn keeps_all(&self, vocabulary: usize) -> bool {
        !self.limits(vocabulary) && self.top_p >= 1.0 && self.min_p <= 0.0
    }

    fn limits(&self, vocabulary: usize) -> bool {
        self.top_k > 0 && self.top_k < vocabulary
    }

    /// Applies top-k, top-p and min-p, in this order, each to what the one before it has left.
    pub(super) fn filter(&self, logits: &[f32], peaks: &Peaks, scale: f32) -> Filtered {
        let row = Row { logits, peaks, scale };
        let (top_p, min_p) = (f64::from(self.top_p), f64::from(self.min_p.clamp(0.0, 1.0)));
        let mut candidates = if self.limits(logits.len()) {
            let mut candidates = row.top_k(self.top_k);
            if top_p < 1.0 {
                candidates.keep_nucleus(top_p * candidates.mass_from(f32::MIN));
            }
            candidates
        } else if top_p < 1.0 {
            row.nucleus(top_p, min_p)
        } else {
            row.above(min_p)
        };
        candidates.retain(|_, _, weight| f64::from(weight) >= min_p);
        Filtered { candidates, max: peaks.max, scale }
    }
}

impl Filtered {
    /// The token at which the running sum of probabilities passes `uniform`, in [0, 1), and its
    /// log-probability among the tokens left.
    pub(super) fn pick(&self, uniform: f64) -> Option<(usize, f64)> {
        let Candidates { ids, logits, weights } = &self.candidates;
        let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
        let target = uniform * total;
        let (mut sum, mut found) = (0.0, None);
        for (i, weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
            found = Some(i);
            sum += f64::from(*weight);
            if sum > target {
                break;
            }
        }
        let i = found?;
        Some((ids[i] as usize, log_weight(logits[i], self.max, self.scale) - total.ln()))
    }
}
