//! How the proposer is trained on what became of its drafts.

use serde::Deserialize;
use serde::Serialize;

use super::methods::Advantage;
use super::methods::GroupKey;

/// How the proposer is trained on what became of its drafts. What it does not name, it takes from
/// [`super::Train`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainProposer {
    /// What training on drafts minimises.
    pub objective: ProposerObjective,
    /// What a draft that became a task is worth; any other is worth 0.
    pub reward: ProposalReward,
    /// Whether a task that no rollout solved is worth 0 too, whatever the reward says.
    pub zero_when_never_solved: bool,
    /// Reward from which a draft is learnt under [`ProposerObjective::Likelihood`].
    pub likelihood_min_reward: f32,
    /// How rewards become advantages.
    pub advantage: Advantage,
    /// Which drafts are compared with each other.
    pub group_key: GroupKey,
    /// Whether the proposer is trained before the solver or after it.
    pub order: Order,
    /// Rounds from one training of the proposer to the next; the drafts of all of them are used.
    pub every: usize,
    /// Drafts per optimiser step.
    pub drafts: usize,
    /// Learning rate.
    pub learning_rate: f32,
}

/// What training the proposer minimises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProposerObjective {
    /// Nothing: the proposer stays as it is.
    None,
    /// Clipped policy gradient on all drafts, weighted by advantage.
    PolicyGradient,
    /// Masked likelihood of the drafts whose reward suffices: expert iteration.
    Likelihood,
}

/// What a draft that became a task is worth to its proposer, from the share s of its n rollouts
/// that solved it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProposalReward {
    /// 1, however hard it is.
    Accepted,
    /// 1 − s (Search Self-play).
    FailureRate,
    /// (n − k) / (n − 1) for k solved of n, and 0 when all of them or none did (Dr. Zero).
    DrZero,
    /// exp(−(v − ¼)² / 0.02) with the variance v = s(1 − s) of the outcomes (SPICE).
    Spice,
    /// 4 s(1 − s), the learnability.
    Learnability,
}

/// Which role is trained first in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// The proposer, as in Search Self-play.
    ProposerFirst,
    /// The solver.
    SolverFirst,
}
