//! Names of the training methods that a schedule can choose; what they compute is the trainer's.

use serde::Deserialize;
use serde::Serialize;

/// What training on rollouts minimises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ObjectiveName {
    /// Clipped policy gradient on all rollouts, weighted by advantage (GRPO and its kin).
    PolicyGradient,
    /// Masked likelihood of the rollouts whose reward suffices: rejection-sampling fine-tuning
    /// (Yuan et al. 2023), expert iteration.
    Likelihood,
    /// Direct preference optimisation (Rafailov et al. 2023) on the best against the worst rollout
    /// of each group.
    Preference,
}

impl ObjectiveName {
    /// The name used in the archive, in settings and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PolicyGradient => "policy_gradient",
            Self::Likelihood => "likelihood",
            Self::Preference => "preference",
        }
    }
}

/// Which rollouts are compared with each other for their advantages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupKey {
    /// Those of one task (GRPO).
    Task,
    /// Those of all tasks of the round with the same number of hops (the hop-stratified baseline
    /// of Dr. Zero).
    Hops,
    /// All of the round (the global normalisation of REINFORCE++).
    Round,
}

/// A rule from the rewards of one group of rollouts to their advantages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Advantage {
    /// (r − mean) / (σ + 1e-6), σ over n (GRPO, Shao et al. 2024, as published).
    Grpo,
    /// The same with σ over n − 1 (as verl and TRL compute it).
    GrpoSample,
    /// r − mean (Dr. GRPO, Liu et al. 2025).
    DrGrpo,
    /// r − mean of the others (RLOO, Ahmadian et al. 2024).
    LeaveOneOut,
    /// r − moving average of the rewards of the same role and number of hops (REINFORCE; the
    /// baseline before this group's rewards enter it).
    Reinforce,
}

/// How token losses become one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aggregation {
    /// Every token counts the same (DAPO, Yu et al. 2025).
    TokenMean,
    /// Every continuation counts the same, its tokens share its weight (GRPO).
    SequenceMean,
    /// Sum over tokens by a constant length, mean over continuations (Dr. GRPO, Liu et al. 2025).
    ConstantLength,
}

/// What is done where the sampler's probability of a token is not the trainer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Correction {
    /// The sampler's log-probabilities are the old policy's: right when both compute alike.
    None,
    /// Tokens are weighted by min(π_trainer/π_sampler, limit) (truncated importance sampling).
    Clip,
    /// Tokens are weighted by π_trainer/π_sampler, and left out where it exceeds the limit.
    Mask,
}

/// The course of the learning rate behind its warm-up; a decay ends at a tenth of the peak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// The peak throughout.
    Constant,
    /// Down in a straight line.
    Linear,
    /// Down along half a cosine (Loshchilov & Hutter 2017).
    Cosine,
}
