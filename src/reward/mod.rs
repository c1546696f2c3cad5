//! Rewards: pure functions of a recorded rollout and its task.

pub mod proposal;

use crate::answer;
use crate::config::AnswerReward;
use crate::config::CutOff;
use crate::config::Reward;
use crate::rollout::Rollout;
use crate::rollout::Score;

/// How a rollout's turns were formed; zeros where the program itself searches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Turns {
    /// Turns that were neither a search nor an answer.
    pub malformed: u32,
    /// Searches that had been made before.
    pub repeated: u32,
}

/// Judges a rollout against the task's answer. The reward is that of the answer (token F1 as in
/// ZeroSearch, Sun et al. 2025, or exact match; 0 without one), raised to the format reward for an
/// answer in form, less what is taken off for turns; never below 0.
pub fn score(rollout: &Rollout, answer: &str, turns: Turns, settings: &Reward) -> Score {
    let predicted = rollout.answer.as_deref().unwrap_or_default();
    let (exact_match, f1) = answer::best_match(predicted, &[answer]);
    let of_answer = match settings.answer {
        AnswerReward::F1 => f1,
        AnswerReward::ExactMatch => exact_match,
    };
    let in_form = rollout.answer.is_some() && turns.malformed == 0;
    let floor = if in_form { settings.format } else { 0.0 };
    let taken_off = settings.malformed * turns.malformed as f32
        + settings.repeated_search * turns.repeated as f32;
    let reward = (of_answer.max(floor) - taken_off).max(0.0);
    Score { exact_match, f1, reward }
}

/// Whether a rollout takes part in its group. One that was cut off is, unless the settings say
/// otherwise, neither right nor wrong: it has no place in the baseline and no gradient.
pub fn counts(rollout: &Rollout, settings: &Reward) -> bool {
    let cut = rollout.stop.is_cut() && settings.cut_off == CutOff::LeftOut;
    !cut && rollout.model_tokens() > 0
}
