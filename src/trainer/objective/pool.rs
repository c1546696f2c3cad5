//! Advantages of a round: which rollouts are compared with each other.

use std::collections::BTreeMap;

use super::advantage::Advantage;
use super::advantage::Baselines;
pub use crate::config::GroupKey;
use crate::config::Role;

/// The rewards of one task's rollouts, at least one.
#[derive(Debug, Clone, PartialEq)]
pub struct RewardGroup {
    /// Rewards in the order of the rollouts.
    pub rewards: Vec<f32>,
    /// How many passages the task's question combines.
    pub hops: usize,
}

/// Advantages of a round's `groups` of one `role`, each group's in the order of its rewards. `rule`
/// compares the rewards of all groups with the same `key`; the moving averages of
/// [`Advantage::Reinforce`] go by number of hops, group after group, whatever the key.
///
/// `None` for a group that teaches nothing: the rewards it is compared with are all equal.
pub fn advantages(
    rule: Advantage,
    key: GroupKey,
    role: Role,
    groups: &[RewardGroup],
    baselines: &mut Baselines,
) -> Vec<Option<Vec<f32>>> {
    let stratum = |group: &RewardGroup| format!("{}/hops {}", role.as_str(), group.hops);
    if rule == Advantage::Reinforce || key == GroupKey::Task {
        let of = |group: &RewardGroup| rule.of(&group.rewards, &stratum(group), baselines);
        return groups.iter().map(of).collect();
    }
    let mut pools: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (index, group) in groups.iter().enumerate() {
        let pool = if key == GroupKey::Hops { group.hops } else { 0 };
        pools.entry(pool).or_default().push(index);
    }
    let mut advantages = vec![None; groups.len()];
    for members in pools.values() {
        let rewards = members.iter().flat_map(|index| &groups[*index].rewards);
        let rewards: Vec<f32> = rewards.copied().collect();
        let Some(pooled) = rule.of(&rewards, "", baselines) else { continue };
        let mut pooled = pooled.into_iter();
        for index in members {
            let n = groups[*index].rewards.len();
            advantages[*index] = Some(pooled.by_ref().take(n).collect());
        }
    }
    advantages
}
