//! What a rollout is worth.

use serde::Deserialize;
use serde::Serialize;

/// What a rollout is worth, in [0, 1]: its answer, and how it came to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reward {
    /// What its answer is worth.
    pub answer: AnswerReward,
    /// What an answer that has nothing right is worth when it was given in form (Search-R1's format
    /// reward).
    pub format: f32,
    /// Taken off for each turn that is neither a search nor an answer.
    pub malformed: f32,
    /// Taken off for each search that was made before in the same rollout.
    pub repeated_search: f32,
    /// What becomes of a rollout that was cut off before an answer.
    pub cut_off: CutOff,
}

/// What an answer is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnswerReward {
    /// Token F1 with the task's answer.
    F1,
    /// 1 for the task's answer, else 0.
    ExactMatch,
}

/// What becomes of a rollout that was cut off before an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CutOff {
    /// It has no place in its group: neither right nor wrong.
    LeftOut,
    /// It is worth nothing.
    Zero,
}
