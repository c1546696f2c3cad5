//! What a policy did with a task: token sequences with their owners, as plain data.

use serde::Deserialize;
use serde::Serialize;

use crate::rng::content_id;

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The model sampled an end-of-text token, its own or one that the request named.
    EndOfText,
    /// A stop string appeared.
    StopString,
    /// The token budget ran out: the text is cut, so it is masked from training.
    Length,
    /// The request was withdrawn.
    Cancelled,
    /// Its time ran out: the text is cut.
    Deadline,
}

impl StopReason {
    /// Whether the text was cut off before its end.
    pub fn is_cut(self) -> bool {
        matches!(self, Self::Length | Self::Cancelled | Self::Deadline)
    }

    /// The name used in the archive, in JSON and in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EndOfText => "end_of_text",
            Self::StopString => "stop_string",
            Self::Length => "length",
            Self::Cancelled => "cancelled",
            Self::Deadline => "deadline",
        }
    }
}

/// Who wrote a token. Only the model's own tokens carry a training signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Owner {
    /// Sampled from the policy.
    Model,
    /// Prompt text, retrieved passages, anything the program inserted.
    Tool,
}

/// A run of tokens with one owner.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Who wrote these tokens.
    pub owner: Owner,
    /// Token ids, exactly as sampled or inserted.
    pub tokens: Vec<u32>,
    /// Log-probability of each token under the sampler; empty for tool tokens.
    pub logprobs: Vec<f32>,
}

/// How a rollout goes on from an earlier one of its task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartKind {
    /// Asked for a better answer than the earlier one.
    Improve,
    /// Asked for another answer than the earlier one.
    Diverge,
    /// In the middle of the earlier conversation, behind its first turns.
    Continue,
}

impl StartKind {
    /// The name used in the archive, in JSON and in tables; that of the prompt, too, for those that
    /// have one.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Improve => "improve",
            Self::Diverge => "diverge",
            Self::Continue => "continue",
        }
    }
}

/// The history that a group of rollouts begins with; without one it begins with the question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// How it goes on from there.
    pub kind: StartKind,
    /// How many rollouts, one after another, lie before it: at least 1.
    pub depth: u32,
    /// Night of the rollout that it starts from, which attempts the same task.
    pub night: u32,
    /// That rollout's round.
    pub round: u32,
    /// That rollout's place in its group.
    pub index: u32,
    /// How many of that rollout's steps are kept; none where all of it is history.
    pub steps: Option<u32>,
}

/// One attempt at one task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rollout {
    /// The task attempted.
    pub task_id: String,
    /// Which member of the group, from 0.
    pub index: u32,
    /// The policy that sampled it.
    pub model_version: String,
    /// The token sequence, in order.
    pub steps: Vec<Step>,
    /// Search queries issued, the scripted first one included.
    pub queries: Vec<String>,
    /// Passages retrieved, best first, without repeats.
    pub retrieved: Vec<String>,
    /// The answer read from the text; `None` when there was none.
    pub answer: Option<String>,
    /// Why it ended.
    pub stop: StopReason,
    /// The history that it began with; none where it began with the question.
    pub start: Option<Start>,
}

impl Rollout {
    /// How many tokens the model itself wrote.
    pub fn model_tokens(&self) -> usize {
        self.steps
            .iter()
            .filter(|step| step.owner == Owner::Model)
            .map(|step| step.tokens.len())
            .sum()
    }

    /// Hash of what the model itself wrote: equal for rollouts in which it did the same.
    pub fn trajectory(&self) -> String {
        let written = self.steps.iter().filter(|step| step.owner == Owner::Model);
        let turns: Vec<String> = written.map(|step| format!("{:?}", step.tokens)).collect();
        content_id(&turns.iter().map(String::as_str).collect::<Vec<_>>())
    }
}

/// How a rollout was judged.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Exact match after SQuAD normalisation, 0 or 1.
    pub exact_match: f32,
    /// Token F1 after SQuAD normalisation, in [0, 1].
    pub f1: f32,
    /// What the trainer sees, in [0, 1].
    pub reward: f32,
}
