//! What is minimised: masked negative log-likelihood, or a clipped policy gradient.

use candle_core::Result;
use candle_core::Tensor;
use serde::Deserialize;
use serde::Serialize;

use super::batch::Target;

/// Settings of the clipped policy gradient (Schulman et al. 2017; GRPO, Shao et al. 2024).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyGradient {
    /// Lower clip range of the ratio.
    pub clip_low: f32,
    /// Upper clip range of the ratio (DAPO, Yu et al. 2025: larger than the lower one).
    pub clip_high: f32,
    /// Weight of the k3 estimate of KL(policy ‖ base).
    pub kl_coefficient: f32,
}

impl Default for PolicyGradient {
    /// Search Self-play's constants.
    fn default() -> Self {
        Self { clip_low: 0.2, clip_high: 0.285, kl_coefficient: 0.01 }
    }
}

/// A loss over target tokens, each weighted equally (token mean).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Objective {
    /// Mean of −log p(token).
    Likelihood,
    /// −min(r A, clip(r) A) + KL, with r the ratio to the sampler's probability.
    PolicyGradient(PolicyGradient),
}

/// What the objective saw, averaged over the batch's targets.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Seen {
    /// k3 estimate of KL(policy ‖ base), nats.
    pub kl: f32,
    /// Share of targets whose ratio was clipped.
    pub clip_fraction: f32,
    /// Mean |log ratio| to the sampler, nats.
    pub sampler_gap: f32,
}

impl Objective {
    /// Whether the base model's log-probabilities are needed.
    pub fn needs_base(&self) -> bool {
        matches!(self, Self::PolicyGradient(settings) if settings.kl_coefficient > 0.0)
    }

    /// This batch's share of the mean over `total` targets, as a scalar with gradient.
    ///
    /// `logprobs` (n) belong to the policy, `base` (n) to the model without adapter, detached.
    ///
    /// # Errors
    /// Those of candle.
    pub fn loss(
        &self,
        logprobs: &Tensor,
        base: Option<&Tensor>,
        targets: &[Target],
        total: usize,
    ) -> Result<(Tensor, Seen)> {
        let share = 1.0 / total.max(1) as f64;
        match self {
            Self::Likelihood => {
                let loss = (logprobs.sum_all()? * -share)?;
                Ok((loss, Seen::default()))
            }
            Self::PolicyGradient(settings) => settings.loss(logprobs, base, targets, share),
        }
    }
}

impl PolicyGradient {
    fn loss(
        &self,
        logprobs: &Tensor,
        base: Option<&Tensor>,
        targets: &[Target],
        share: f64,
    ) -> Result<(Tensor, Seen)> {
        let device = logprobs.device();
        let now: Vec<f32> = logprobs.detach().to_vec1()?;
        let column = |f: &dyn Fn(usize, &Target) -> f32| {
            let values: Vec<f32> = targets.iter().enumerate().map(|(i, t)| f(i, t)).collect();
            Tensor::new(values, device)
        };
        let old = column(&|i, target| target.sampled_logprob.unwrap_or(now[i]))?;
        let advantage = column(&|_, target| target.advantage)?;
        let log_ratio = (logprobs - &old)?;
        let ratio = log_ratio.exp()?;
        let clipped = ratio.clamp(1.0 - self.clip_low, 1.0 + self.clip_high)?;
        let surrogate = (&ratio * &advantage)?.minimum(&(clipped * &advantage)?)?;
        let mut loss = surrogate.neg()?;
        let mut seen = self.statistics(&log_ratio.detach().to_vec1()?, targets);
        if let (Some(base), true) = (base, self.kl_coefficient > 0.0) {
            // k3 (Schulman 2020): e^d − d − 1 with d = log base − log policy; never negative.
            let d = (base - logprobs)?;
            let k3 = ((d.exp()? - d)? - 1.0)?;
            seen.kl = k3.detach().mean_all()?.to_scalar()?;
            loss = (loss + (k3 * f64::from(self.kl_coefficient))?)?;
        }
        Ok(((loss.sum_all()? * share)?, seen))
    }

    fn statistics(&self, log_ratios: &[f32], targets: &[Target]) -> Seen {
        let n = targets.len().max(1) as f32;
        let clipped = log_ratios.iter().zip(targets).filter(|(log_ratio, target)| {
            let ratio = log_ratio.exp();
            (target.advantage > 0.0 && ratio > 1.0 + self.clip_high)
                || (target.advantage < 0.0 && ratio < 1.0 - self.clip_low)
        });
        Seen {
            kl: 0.0,
            clip_fraction: clipped.count() as f32 / n,
            sampler_gap: log_ratios.iter().map(|x| x.abs()).sum::<f32>() / n,
        }
    }
}

/// Group-relative advantages (GRPO): (reward − mean) / (population std + 1e-6) within one group.
///
/// `None` when all rewards are equal: such a group teaches nothing and is left out, not trained
/// with zeros, so that it cannot pull through the KL term either.
pub fn group_advantages(rewards: &[f32]) -> Option<Vec<f32>> {
    let first = rewards.first()?;
    if rewards.iter().all(|reward| reward == first) {
        return None;
    }
    let n = rewards.len() as f32;
    let mean = rewards.iter().sum::<f32>() / n;
    let variance = rewards.iter().map(|r| (r - mean).powi(2)).sum::<f32>() / n;
    let scale = variance.sqrt() + 1e-6;
    Some(rewards.iter().map(|reward| (reward - mean) / scale).collect())
}
