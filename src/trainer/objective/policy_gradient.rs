//! The clipped policy gradient and its variants.

use candle_core::Result;
use candle_core::Tensor;
use serde::Deserialize;
use serde::Serialize;

use super::Seen;
use super::column;
use super::k3;
pub use crate::config::Aggregation;
pub use crate::config::Correction;
use crate::model::ops::TokenScores;
use crate::trainer::batch::Target;
use crate::trainer::batch::Totals;

impl Aggregation {
    /// The weight of each of `targets` tokens; `length` is the constant of the last rule.
    pub fn weight(self, totals: Totals, targets: usize, length: usize) -> f32 {
        let sequences = totals.sequences.max(1) as f32;
        match self {
            Self::TokenMean => 1.0 / totals.targets.max(1) as f32,
            Self::SequenceMean => 1.0 / (sequences * targets.max(1) as f32),
            Self::ConstantLength => 1.0 / (sequences * length.max(1) as f32),
        }
    }
}

/// Settings of the clipped policy gradient (Schulman et al. 2017; GRPO, Shao et al. 2024).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PolicyGradient {
    /// Lower clip range of the ratio.
    pub clip_low: f32,
    /// Upper clip range of the ratio (DAPO, Yu et al. 2025: larger than the lower one).
    pub clip_high: f32,
    /// Bound c of dual clipping (Ye et al. 2020): a negative advantage weighs at most c times;
    /// none when absent.
    pub dual_clip: Option<f32>,
    /// Weight of the k3 estimate of KL(policy ‖ base).
    pub kl_coefficient: f32,
    /// Whether that divergence is measured also where its weight is 0.
    pub measure_kl: bool,
    /// Weight of the entropy that is rewarded, per token.
    pub entropy_coefficient: f32,
    /// How token losses become one number.
    pub aggregation: Aggregation,
    /// Tokens of `Aggregation::ConstantLength`.
    pub constant_length: usize,
    /// What is done about the sampler's probabilities.
    pub correction: Correction,
    /// Largest importance ratio.
    pub correction_limit: f32,
}

impl Default for PolicyGradient {
    /// Search Self-play's constants.
    fn default() -> Self {
        Self {
            clip_low: 0.2,
            clip_high: 0.285,
            dual_clip: None,
            kl_coefficient: 0.01,
            measure_kl: false,
            entropy_coefficient: 0.0,
            aggregation: Aggregation::TokenMean,
            constant_length: 1,
            correction: Correction::None,
            correction_limit: 2.0,
        }
    }
}

impl PolicyGradient {
    /// Whether the base model's log-probabilities are needed.
    pub(super) fn needs_base(&self) -> bool {
        self.kl_coefficient > 0.0 || self.measure_kl
    }

    /// The weight of each of a continuation's `targets` tokens.
    pub(super) fn weight(&self, totals: Totals, targets: usize) -> f32 {
        self.aggregation.weight(totals, targets, self.constant_length)
    }

    /// Σ w (c · −min(r A, clip(r) A) + β k3 − η H), with r the ratio to the policy before the
    /// update, c the correction's factor and w the target's weight.
    pub(super) fn loss(
        &self,
        scores: &TokenScores,
        base: Option<&Tensor>,
        targets: &[Target],
    ) -> Result<(Tensor, Seen)> {
        let logprobs = scores.logprobs()?;
        let now: Vec<f32> = logprobs.detach().to_vec1()?;
        let old: Vec<f32> = targets
            .iter()
            .zip(&now)
            .map(|(target, now)| target.before_update().unwrap_or(*now))
            .collect();
        let factors: Vec<f32> =
            targets.iter().zip(&old).map(|(target, old)| self.factor(target, *old)).collect();
        let ratio = (&logprobs - column(&logprobs, old.iter().copied())?)?.exp()?;
        let advantage = column(&logprobs, targets.iter().map(|target| target.advantage))?;
        let clipped = ratio.clamp(1.0 - self.clip_low, 1.0 + self.clip_high)?;
        let mut surrogate = (&ratio * &advantage)?.minimum(&(clipped * &advantage)?)?;
        if let Some(bound) = self.dual_clip {
            let floor = targets.iter().map(|target| match target.advantage < 0.0 {
                true => bound * target.advantage,
                false => f32::MIN,
            });
            surrogate = surrogate.maximum(&column(&logprobs, floor)?)?;
        }
        let mut loss = (surrogate.neg()? * column(&logprobs, factors.iter().copied())?)?;
        let mut seen = self.statistics(&now, &old, targets);
        if let Some(base) = base {
            let k3 = k3(&logprobs, base)?;
            seen.kl = k3.detach().mean_all()?.to_scalar()?;
            if self.kl_coefficient > 0.0 {
                loss = (loss + (k3 * f64::from(self.kl_coefficient))?)?;
            }
        }
        if self.entropy_coefficient > 0.0 {
            loss = (loss - (scores.entropies()? * f64::from(self.entropy_coefficient))?)?;
        }
        let weights = column(&logprobs, targets.iter().map(|target| target.weight))?;
        Ok(((loss * weights)?.sum_all()?, seen))
    }

    fn importance(&self, target: &Target, old: f32) -> f32 {
        target.sampled_logprob.map_or(1.0, |sampled| (old - sampled).exp())
    }

    fn factor(&self, target: &Target, old: f32) -> f32 {
        let ratio = self.importance(target, old);
        match self.correction {
            Correction::None => 1.0,
            Correction::Clip => ratio.min(self.correction_limit),
            Correction::Mask if ratio > self.correction_limit => 0.0,
            Correction::Mask => ratio,
        }
    }

    fn statistics(&self, now: &[f32], old: &[f32], targets: &[Target]) -> Seen {
        let (mut clipped, mut limited) = (0_usize, 0_usize);
        for ((target, now), old) in targets.iter().zip(now).zip(old) {
            let ratio = (now - old).exp();
            let raised = target.advantage > 0.0 && ratio > 1.0 + self.clip_high;
            let lowered = target.advantage < 0.0 && ratio < 1.0 - self.clip_low;
            clipped += usize::from(raised || lowered);
            let at_limit = self.correction != Correction::None
                && self.importance(target, *old) > self.correction_limit;
            limited += usize::from(at_limit);
        }
        let share = |count: usize| count as f32 / targets.len().max(1) as f32;
        Seen { clip_fraction: share(clipped), corrected: share(limited), ..Seen::of(now, targets) }
    }
}
