//! How rollouts are trained on.

use serde::Deserialize;
use serde::Serialize;

use super::methods::Advantage;
use super::methods::Aggregation;
use super::methods::Correction;
use super::methods::Decay;
use super::methods::GroupKey;
use super::methods::ObjectiveName;
use super::roles::Adapters;
use crate::model::lora::Target;

/// How rollouts are trained on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Train {
    /// Whether solver and proposer share one adapter.
    pub adapters: Adapters,
    /// LoRA rank.
    pub rank: usize,
    /// LoRA alpha.
    pub alpha: f32,
    /// Linear maps with a low-rank term; at least one.
    pub target_modules: Vec<Target>,
    /// Share of an adapter's inputs that training leaves out at random, in [0, 1).
    pub dropout: f32,
    /// What training on rollouts minimises.
    pub objective: ObjectiveName,
    /// Reward from which a rollout is learnt under [`ObjectiveName::Likelihood`].
    pub likelihood_min_reward: f32,
    /// β of [`ObjectiveName::Preference`]: how strongly the policy is held to the base model.
    pub preference_beta: f32,
    /// By how much the best reward of a group must exceed the worst to make a pair.
    pub preference_margin: f32,
    /// Peak learning rate on rollouts.
    pub learning_rate: f32,
    /// Steps over which it rises, from the night's first step on rollouts.
    pub warm_up: usize,
    /// Its course from there to the night's last round.
    pub decay: Decay,
    /// Decoupled weight decay, here and in the warm start.
    pub weight_decay: f64,
    /// Groups per optimiser step.
    pub groups: usize,
    /// Whether the rewards of a round are dealt out again at random before they are looked at: the
    /// control of an experiment, from which nothing can be learnt.
    pub permute_rewards: bool,
    /// Which rollouts are compared with each other.
    pub group_key: GroupKey,
    /// How their rewards become advantages.
    pub advantage: Advantage,
    /// How token losses become one number.
    pub aggregation: Aggregation,
    /// Lower clip range of the ratio.
    pub clip_low: f32,
    /// Upper clip range of the ratio.
    pub clip_high: f32,
    /// How many times a negative advantage may weigh at most; no bound when absent.
    pub dual_clip: Option<f32>,
    /// Weight of KL to the base model.
    pub kl_coefficient: f32,
    /// Weight of the policy's entropy, which is rewarded.
    pub entropy_coefficient: f32,
    /// What is done where sampler and trainer disagree about a token's probability.
    pub correction: Correction,
    /// Largest importance ratio between the two.
    pub correction_limit: f32,
    /// Global gradient norm above which gradients are scaled down.
    pub clip_norm: f64,
    /// Tokens per forward and backward pass.
    pub micro_batch_tokens: usize,
    /// Megabytes of activations kept between the two at most; the rest is computed again.
    pub activation_mb: usize,
    /// Steps between checkpoints.
    pub checkpoint_steps: usize,
}
