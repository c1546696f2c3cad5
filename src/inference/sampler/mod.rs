//! Choosing the next token from logits: the processors of transformers' `generate`, in its order.
//!
//! A draw reads its row of logits in two vectorised passes and finds the token by sums of blocks
//! (inverse transform sampling); it sorts nothing. It depends on the logits, the request and the
//! random stream alone.

mod filter;
mod mask;
mod row;

use std::borrow::Cow;

use rand::Rng as _;
use serde::Deserialize;
use serde::Serialize;

pub use self::mask::LogitMask;
pub(super) use self::mask::shared_mask;
use self::row::Peaks;
use self::row::Raw;
use self::row::Weights;
use self::row::finite;
use super::TokenScore;
use crate::rng::Rng;

/// How tokens are chosen. What filters is applied in the order of the fields, but the repetition
/// penalty, which comes first.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// Divides the logits; 0 takes the most likely token, and leaves out what filters.
    pub temperature: f32,
    /// Keeps this many of the most likely tokens, and those as likely as the last of them; 0 keeps
    /// all (Fan et al. 2018).
    #[serde(default)]
    pub top_k: usize,
    /// Keeps the most likely tokens up to this total probability, in (0, 1] (Holtzman et al. 2020).
    pub top_p: f32,
    /// Keeps tokens that are at least this share of the most likely one's probability, in [0, 1]; 0
    /// keeps all (Nguyen et al. 2024).
    #[serde(default)]
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens that occurred before, above 0; 1
    /// leaves them (Keskar et al. 2019, CTRL, section 4.1).
    #[serde(default = "no_penalty")]
    pub repetition_penalty: f32,
}

fn no_penalty() -> f32 {
    1.0
}

/// Why tokens cannot be chosen as a request wants.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error, Serialize, Deserialize)]
pub enum SamplingError {
    /// A temperature out of range.
    #[error(
        "the sampling temperature is {0}, but has to be a number of at least 0; 1 samples from the \
         model's own distribution, 0 takes the most likely token"
    )]
    Temperature(f32),
    /// A nucleus out of range.
    #[error("top_p is {0}, but has to be above 0 and at most 1; 1 keeps all tokens")]
    TopP(f32),
    /// A relative probability out of range.
    #[error("min_p is {0}, but has to be at least 0 and at most 1; 0 keeps all tokens")]
    MinP(f32),
    /// A penalty out of range.
    #[error("the repetition penalty is {0}, but has to be a number above 0; 1 leaves it off")]
    RepetitionPenalty(f32),
    /// No token could be chosen.
    #[error(
        "a mask leaves none of the {vocabulary} tokens of the vocabulary to choose from; allow at \
         least one"
    )]
    NothingAllowed {
        /// Tokens of the vocabulary.
        vocabulary: usize,
    },
    /// A mask made for another model.
    #[error(
        "a mask is about {mask} tokens, but the model has logits for {vocabulary}; make it for \
         this model"
    )]
    MaskSize {
        /// Tokens of the mask.
        mask: usize,
        /// Tokens of the model's logits.
        vocabulary: usize,
    },
}

/// A chosen token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drawn {
    /// Its id.
    pub token: u32,
    /// Its log-probability in nats under the distribution it was drawn from; when greedy, under the
    /// untempered one after penalty and mask.
    pub logprob: f32,
    /// Its score by the logits as they were given.
    pub score: TokenScore,
}

impl Sampling {
    /// The most likely token at every position.
    pub const GREEDY: Self =
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0 };

    /// The policy's own distribution, scaled by `temperature`.
    pub fn at(temperature: f32) -> Self {
        Self { temperature, ..Self::GREEDY }
    }

    /// That all values are in range.
    ///
    /// # Errors
    /// Says which one is not, and what it may be.
    pub fn check(&self) -> Result<(), SamplingError> {
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            return Err(SamplingError::Temperature(self.temperature));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(SamplingError::TopP(self.top_p));
        }
        if !(0.0..=1.0).contains(&self.min_p) {
            return Err(SamplingError::MinP(self.min_p));
        }
        if !(self.repetition_penalty.is_finite() && self.repetition_penalty > 0.0) {
            return Err(SamplingError::RepetitionPenalty(self.repetition_penalty));
        }
        Ok(())
    }

    /// Draws a token.
    ///
    /// `previous` are the tokens before it, prompt and continuation, which the repetition penalty
    /// is about. The order is that of transformers: repetition penalty, mask, temperature, top-k,
    /// top-p, min-p. Of equal logits the greedy choice is the smallest id, and top-p keeps the
    /// smallest ids (there torch's order is open).
    ///
    /// Logits that are not finite never make it fail: NaN counts as −∞; tokens with +∞ are equally
    /// likely, and all others impossible; where nothing is possible, all tokens that the mask
    /// allows are equally likely. Log-probabilities are finite: an impossible token's is
    /// `f32::MIN`. Where the mask allows none of the row's tokens it is left out; see
    /// [`LogitMask::check`]. `logits` is overwritten.
    ///
    /// # Panics
    /// When there are no logits.
    pub fn draw(
        &self,
        logits: &mut [f32],
        previous: &[u32],
        mask: Option<&LogitMask>,
        rng: &mut Rng,
    ) -> Drawn {
        assert!(!logits.is_empty(), "a token cannot be drawn from no logits");
        let raw = Raw::of(logits);
        let penalised = self.penalise(logits, previous);
        let mask = mask.filter(|mask| mask.allows_any(logits.len()));
        if let Some(mask) = mask {
            mask.apply(logits);
        }
        let ((token, logprob), settled) = if penalised.is_empty() && mask.is_none() {
            (self.choose(logits, &raw.peaks, Some(&raw.weights), rng), false)
        } else {
            let (peaks, settled) = Peaks::of(logits, mask);
            (self.choose(logits, &peaks, None, rng), settled)
        };
        let before = penalised.iter().find(|(id, _)| *id == token).map(|(_, logit)| *logit);
        // A row that had to be settled again left only what was impossible.
        let unchanged = if settled { f32::NEG_INFINITY } else { logits[token] };
        let score = raw.score(before.unwrap_or(unchanged));
        Drawn { token: token as u32, logprob: finite(logprob), score }
    }

    /// The place of a token, and its log-probability. `known` are the row's untempered weights.
    fn choose(
        &self,
        row: &[f32],
        peaks: &Peaks,
        known: Option<&Weights>,
        rng: &mut Rng,
    ) -> (usize, f64) {
        let weights = |scale: f32| match known {
            Some(known) if scale == 1.0 => Cow::Borrowed(known),
            _ => Cow::Owned(Weights::of(row, peaks.max, scale)),
        };
        let best = || {
            let token = peaks.argmax(row);
            (token, weights(1.0).logprob(row[token]))
        };
        let scale = self.temperature.recip();
        // The smallest temperatures have no reciprocal, and no second token either.
        if self.temperature <= 0.0 || !scale.is_finite() {
            return best();
        }
        let uniform: f64 = rng.random();
        if !self.keeps_all(row.len()) {
            return self.filter(row, peaks, scale).pick(uniform).unwrap_or_else(best);
        }
        let weights = weights(scale);
        let token = weights.pick(row, uniform);
        token.map_or_else(best, |token| (token, weights.logprob(row[token])))
    }

    /// Applies the repetition penalty, once to each token of `previous`; returns their places and
    /// logits before.
    fn penalise(&self, row: &mut [f32], previous: &[u32]) -> Vec<(usize, f32)> {
        let penalty = self.repetition_penalty;
        if penalty == 1.0 {
            return Vec::new();
        }
        let mut seen = vec![false; row.len()];
        let mut before = Vec::new();
        for id in previous.iter().map(|token| *token as usize) {
            let Some(logit) = row.get_mut(id) else { continue };
            if !std::mem::replace(&mut seen[id], true) {
                before.push((id, *logit));
                *logit = if *logit < 0.0 { *logit * penalty } else { *logit / penalty };
            }
        }
        before
    }
}
