//! What a draft is worth to its proposer.

pub use crate::config::ProposalReward;

impl ProposalReward {
    /// The reward, in [0, 1], of a task that `solved` of `attempts` rollouts solved; with
    /// `zero_when_never_solved`, 0 when none did. Such a task may be hard, or wrong: Search
    /// Self-play pays most for it, the others nothing.
    ///
    /// A task that nobody attempted is worth 0.
    pub fn of(self, solved: u64, attempts: u64, zero_when_never_solved: bool) -> f32 {
        if attempts == 0 || (solved == 0 && zero_when_never_solved) {
            return 0.0;
        }
        let rate = solved as f64 / attempts as f64;
        let variance = rate * (1.0 - rate);
        let reward = match self {
            Self::Accepted => 1.0,
            Self::FailureRate => 1.0 - rate,
            Self::DrZero if solved == 0 || solved == attempts => 0.0,
            Self::DrZero => (attempts - solved) as f64 / (attempts - 1) as f64,
            Self::Spice => (-(variance - 0.25).powi(2) / 0.02).exp(),
            Self::Learnability => 4.0 * variance,
        };
        reward as f32
    }
}
