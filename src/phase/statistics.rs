//! What a round's rollouts were like.

use std::collections::BTreeMap;

use crate::archive::StoredRollout;
use crate::config::Reward;
use crate::reward;

/// Measures over a round's rollouts, recorded with every step that is trained on them.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct RoundStatistics {
    /// Groups played.
    pub(super) groups: usize,
    /// Groups whose rewards are all equal.
    pub(super) without_variance: usize,
    /// Mean length of what the model wrote, in tokens.
    response_tokens: f64,
    /// Mean reward.
    pub(super) reward_mean: f64,
    /// Standard deviation of the rewards, over n.
    reward_std: f64,
}

impl RoundStatistics {
    /// Those of one round's rollouts.
    pub(super) fn of(rollouts: &[StoredRollout], settings: &Reward) -> Self {
        let n = rollouts.len().max(1) as f64;
        let mean =
            |value: &dyn Fn(&StoredRollout) -> f64| rollouts.iter().map(value).sum::<f64>() / n;
        let reward_mean = mean(&|stored| f64::from(stored.score.reward));
        let spread =
            |stored: &StoredRollout| (f64::from(stored.score.reward) - reward_mean).powi(2);
        let mut by_task: BTreeMap<&str, Vec<f32>> = BTreeMap::new();
        for stored in rollouts {
            let rewards = by_task.entry(&stored.rollout.task_id).or_default();
            if reward::counts(&stored.rollout, settings) {
                rewards.push(stored.score.reward);
            }
        }
        let equal = |rewards: &&Vec<f32>| rewards.windows(2).all(|pair| pair[0] == pair[1]);
        Self {
            groups: by_task.len(),
            without_variance: by_task.values().filter(equal).count(),
            response_tokens: mean(&|stored| stored.rollout.model_tokens() as f64),
            reward_mean,
            reward_std: mean(&spread).sqrt(),
        }
    }

    /// As members of a step's metrics.
    pub(super) fn recorded(&self) -> serde_json::Map<String, serde_json::Value> {
        let zero_variance = self.without_variance as f64 / self.groups.max(1) as f64;
        [
            ("response_tokens", self.response_tokens),
            ("reward_mean", self.reward_mean),
            ("reward_std", self.reward_std),
            ("zero_variance", zero_variance),
        ]
        .map(|(name, value)| (name.to_string(), value.into()))
        .into_iter()
        .collect()
    }
}
