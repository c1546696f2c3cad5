//! Limits on what training steps may show before training stops.

use serde::Deserialize;
use serde::Serialize;

/// Limits of the measures recorded with every step on rollouts; a limit that is absent is not
/// checked.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tripwires {
    /// Most steps in a row, of one adapter and phase, whose loss or gradient was not finite.
    pub skipped_max: Option<u32>,
    /// Largest mean KL(policy ‖ base), in nats.
    pub kl_max: Option<f64>,
    /// Smallest mean entropy, in nats: below it the policy says one thing only.
    pub entropy_min: Option<f64>,
    /// Largest mean entropy, in nats: above it the policy says anything.
    pub entropy_max: Option<f64>,
    /// Largest share of clipped tokens.
    pub clip_fraction_max: Option<f64>,
    /// Largest mean ratio to the policy before the update.
    pub ratio_max: Option<f64>,
    /// Largest gradient norm before clipping.
    pub grad_norm_max: Option<f64>,
    /// Largest mean |log-probability now − when sampled|, in nats.
    pub sampler_gap_max: Option<f64>,
    /// Shortest mean answer of a round, in tokens.
    pub response_tokens_min: Option<f64>,
    /// Longest mean answer of a round, in tokens.
    pub response_tokens_max: Option<f64>,
    /// Smallest mean reward of a round.
    pub reward_mean_min: Option<f64>,
    /// Smallest standard deviation of a round's rewards.
    pub reward_std_min: Option<f64>,
    /// Largest share of a round's groups without variance.
    pub zero_variance_max: Option<f64>,
}
