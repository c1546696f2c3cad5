//! What is minimised: masked negative log-likelihood, a clipped policy gradient, or a preference
//! between two continuations.

pub mod advantage;
pub mod policy_gradient;
pub mod preference;

use candle_core::Result;
use candle_core::Tensor;

pub use self::advantage::Advantage;
pub use self::policy_gradient::Aggregation;
pub use self::policy_gradient::Correction;
pub use self::policy_gradient::PolicyGradient;
pub use self::preference::Preference;
use super::batch::Target;
use super::batch::Totals;
use crate::model::ops::TokenScores;

/// A loss over target tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
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
            Self::PolicyGradient(settings) => settings.kl_coefficient > 0.0,
            Self::Preference(_) => true,
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
                Ok(((logprobs * weights)?.sum_all()?.neg()?, Seen::default()))
            }
            Self::PolicyGradient(settings) => settings.loss(scores, base, targets),
            Self::Preference(settings) => {
                let Some(base) = base else { candle_core::bail!("a preference needs the base") };
                Ok((settings.loss(&scores.logprobs()?, base, targets)?, Seen::default()))
            }
        }
    }
}

/// Values as a (n) tensor on `like`'s device.
fn column(like: &Tensor, values: impl Iterator<Item = f32>) -> Result<Tensor> {
    Tensor::new(values.collect::<Vec<f32>>(), like.device())
}
