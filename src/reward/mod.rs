//! Rewards: pure functions of a recorded rollout and its task.

pub mod proposal;

use crate::answer;
use crate::rollout::Rollout;
use crate::rollout::Score;

/// Judges a rollout against the task's answer: the reward is token F1 (as in ZeroSearch, Sun et
/// al. 2025), 0 without an answer.
pub fn score(rollout: &Rollout, answer: &str) -> Score {
    let predicted = rollout.answer.as_deref().unwrap_or_default();
    let (exact_match, f1) = answer::best_match(predicted, &[answer]);
    Score { exact_match, f1, reward: f1 }
}

/// Whether a rollout takes part in its group. One that was cut off is neither right nor wrong: it
/// has no place in the baseline and no gradient.
pub fn counts(rollout: &Rollout) -> bool {
    !rollout.stop.is_cut() && rollout.model_tokens() > 0
}
