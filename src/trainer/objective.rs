//! What is minimised: masked negative log-likelihood, a clipped policy gradient, or a preference
//! between two continuations.

pub mod advantage;
pub mod policy_gradient;
pub mod pool;
pub mod preference;

use candle_core::Result;
use candle_core::Tensor;
use serde::Deserialize;
use serde::Serialize;

pub use self::advantage::Advantage;
pub use self::policy_gradient::Aggregation;
pub use self::policy_gradient::Correction;
pub use self::policy_gradient::PolicyGradient;
pub use self::preference::Preference;
use super::batch::Target;
use super::batch::Totals;
use crate::model::ops::TokenScores;

/// A loss over target tokens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Objective {
    /// Mean of −log p(token) over all targets: rejection-sampling fine-tuning, demonstrations.
    Likelihood,
    /// Clipped policy gradient on rollouts.
    PolicyGradient(PolicyGradient),
    /// Direct preference optimisation: each example's branches are pairs, the better one first.
    Preference(Preference),
}

/// What the objective saw, averaged over the batch's targets.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Seen {
    /// k3 estimate of KL(policy ‖ base), nats.
    pub kl: f32,
    /// Share of targets whose ratio was clipped.
    pub clip_fraction: f32,
    /// Mean ratio of the policy's probability to the one before the update.
    pub ratio: f32,
    /// The largest of these ratios.
    pub ratio_max: f32,
    /// Mean |log-probability now − log-probability when sampled|, nats.
    pub sampler_gap: f32,
    /// Share of targets whose importance ratio reached the correction's limit.
    pub corrected: f32,
}

impl Objective {
    /// Whether the base model's log-probabilities are needed.
    pub fn needs_base(&self) -> bool {
        match self {
            Self::Likelihood => false,
            Self::PolicyGradient(settings) => settings.needs_base(),
            Self::Preference(_) => true,
        }
    }

    /// Measures of a step that this objective does not take; they are 0 in [`Seen`].
    pub fn unmeasured(&self) -> &'static [&'static str] {
        match self {
            Self::Likelihood => &["kl", "clip_fraction", "corrected"],
            Self::PolicyGradient(settings) if !settings.needs_base() => &["kl"],
            Self::PolicyGradient(_) => &[],
            Self::Preference(_) => &["clip_fraction", "corrected"],
        }
    }

    /// The weight of each target of a continuation that has `targets` of them, in an optimiser
    /// step over `totals`.
    pub fn weight(&self, totals: Totals, targets: usize) -> f32 {
        match self {
            Self::Likelihood => Aggregation::TokenMean.weight(totals, targets, 0),
            Self::PolicyGradient(settings) => settings.weight(totals, targets),
            Self::Preference(_) => 2.0 / totals.sequences.max(2) as f32,
        }
    }

    /// This batch's share of the step's loss, as a scalar with gradient.
    ///
    /// `scores` (n, 2) belong to the policy, `base` (n) are the log-probabilities of the model
    /// without adapter, detached.
    ///
    /// # Errors
    /// Those of candle, and when `base` is missing where it is needed.
    pub fn loss(
        &self,
        scores: &TokenScores,
        base: Option<&Tensor>,
        targets: &[Target],
    ) -> Result<(Tensor, Seen)> {
        match self {
            Self::Likelihood => {
                let logprobs = scores.logprobs()?;
                let weights = column(&logprobs, targets.iter().map(|target| target.weight))?;
                let seen = Seen::of(&logprobs.detach().to_vec1()?, targets);
                Ok(((logprobs * weights)?.sum_all()?.neg()?, seen))
            }
            Self::PolicyGradient(settings) => settings.loss(scores, base, targets),
            Self::Preference(settings) => {
                let Some(base) = base else { candle_core::bail!("a preference needs the base") };
                let logprobs = scores.logprobs()?;
                let mut seen = Seen::of(&logprobs.detach().to_vec1()?, targets);
                seen.kl = k3(&logprobs.detach(), base)?.mean_all()?.to_scalar()?;
                Ok((settings.loss(&logprobs, base, targets)?, seen))
            }
        }
    }
}

impl Seen {
    /// Where the policy is, `now` (n), against where it was before the update and when it was
    /// sampled from. Targets that nobody sampled count as unmoved.
    fn of(now: &[f32], targets: &[Target]) -> Self {
        let n = targets.len().max(1) as f32;
        let mut seen = Self::default();
        for (target, now) in targets.iter().zip(now) {
            let ratio = (now - target.before_update().unwrap_or(*now)).exp();
            seen.ratio += ratio / n;
            seen.ratio_max = seen.ratio_max.max(ratio);
            seen.sampler_gap += (now - target.sampled_logprob.unwrap_or(*now)).abs() / n;
        }
        seen
    }
}

impl Target {
    /// The log-probability before the update: the trainer's where it was computed, the sampler's
    /// where both are taken to be the same, none for a demonstration.
    fn before_update(&self) -> Option<f32> {
        self.old_logprob.or(self.sampled_logprob)
    }
}

/// The k3 estimate (Schulman 2020) of KL(policy ‖ base) at each target (n): e^d − d − 1 with
/// d = log base − log policy; never negative.
fn k3(logprobs: &Tensor, base: &Tensor) -> Result<Tensor> {
    let d = (base - logprobs)?;
    (d.exp()? - d)? - 1.0
}

/// Values as a (n) tensor on `like`'s device.
fn column(like: &Tensor, values: impl Iterator<Item = f32>) -> Result<Tensor> {
    Tensor::new(values.collect::<Vec<f32>>(), like.device())
}
