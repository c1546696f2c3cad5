//! The rounds of a night, as the morning report tells them.

use serde::Deserialize;
use serde::Serialize;

use super::night::Night;
use super::statistics::RoundStatistics;
use crate::archive::PlayedProposal;

/// What a round brought.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct RoundReport {
    /// The model's drafts.
    pub drafts: usize,
    /// Those that became tasks.
    pub accepted: usize,
    /// Mean reward of those whose worth was found out, for their proposer.
    pub proposal_reward: Option<f64>,
    /// Tasks that were played.
    pub groups: usize,
    /// Those whose rewards were all equal: they taught nothing.
    pub without_variance: usize,
    /// Rollouts of them.
    pub rollouts: usize,
    /// Rollouts whose answer matched exactly.
    pub solved: usize,
    /// Mean reward of the rollouts.
    pub reward: f64,
}

impl Night<'_> {
    /// The rounds that were played, in order.
    pub(super) fn round_reports(&self) -> anyhow::Result<Vec<RoundReport>> {
        (0..self.settings.solve.rounds as u32).map(|round| self.round_report(round)).collect()
    }

    fn round_report(&self, round: u32) -> anyhow::Result<RoundReport> {
        let proposals = self.archive.proposals(self.number, round..=round)?;
        let rollouts = self.archive.rollouts_in(self.number, round)?;
        let statistics = RoundStatistics::of(&rollouts, &self.settings.reward);
        let solved = rollouts.iter().filter(|stored| stored.score.exact_match >= 0.5).count();
        Ok(RoundReport {
            drafts: proposals.len(),
            accepted: proposals.iter().filter(|one| one.rejection.is_none()).count(),
            proposal_reward: mean_reward(&proposals),
            groups: statistics.groups,
            without_variance: statistics.without_variance,
            rollouts: rollouts.len(),
            solved,
            reward: statistics.reward_mean,
        })
    }
}

fn mean_reward(proposals: &[PlayedProposal]) -> Option<f64> {
    let rewards: Vec<f64> = proposals.iter().filter_map(|one| one.reward).map(f64::from).collect();
    (!rewards.is_empty()).then(|| rewards.iter().sum::<f64>() / rewards.len() as f64)
}
