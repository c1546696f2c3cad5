//! Tripwires: limits on a step's measures that stop training before it does harm.

use std::fmt;

use crate::config::Tripwires;

/// A limit and the measure that crossed it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Crossed {
    /// The measure's name in a step's metrics.
    pub measure: &'static str,
    /// What it was.
    pub value: f64,
    /// The limit.
    pub limit: f64,
}

impl fmt::Display for Crossed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = if self.value > self.limit { "above" } else { "below" };
        write!(f, "{} was {:.4}, {side} the limit {}", self.measure, self.value, self.limit)
    }
}

/// The first limit that a step's recorded `metrics` cross; measures they lack are not checked.
pub fn crossed(limits: &Tripwires, metrics: &serde_json::Value) -> Option<Crossed> {
    let above = [
        ("kl", limits.kl_max),
        ("entropy", limits.entropy_max),
        ("clip_fraction", limits.clip_fraction_max),
        ("ratio", limits.ratio_max),
        ("grad_norm", limits.grad_norm_max),
        ("sampler_gap", limits.sampler_gap_max),
        ("response_tokens", limits.response_tokens_max),
        ("zero_variance", limits.zero_variance_max),
    ];
    let below = [
        ("entropy", limits.entropy_min),
        ("response_tokens", limits.response_tokens_min),
        ("reward_mean", limits.reward_mean_min),
        ("reward_std", limits.reward_std_min),
    ];
    let cross = |(measure, limit): (&'static str, Option<f64>), over: bool| {
        let (limit, value) = (limit?, metrics[measure].as_f64()?);
        let beyond = if over { value > limit } else { value < limit };
        beyond.then_some(Crossed { measure, value, limit })
    };
    let highest = above.into_iter().find_map(|limit| cross(limit, true));
    highest.or_else(|| below.into_iter().find_map(|limit| cross(limit, false)))
}
