//! What of a round's rollouts is trained on: by objective, which groups and which of their
//! rollouts.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::Serialize;

use crate::archive::StoredRollout;
use crate::archive::TrainItem;
use crate::config::Admit;
use crate::config::Curriculum;
use crate::config::ObjectiveName;
use crate::config::Reward;
use crate::config::Role;
use crate::config::Train;
use crate::curriculum::score;
use crate::reward;
use crate::trainer::batch::Branch;
use crate::trainer::batch::Example;
use crate::trainer::objective::advantage::Baselines;
use crate::trainer::objective::pool;
use crate::trainer::objective::pool::RewardGroup;

/// Why a group is not trained on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeftOut {
    /// Every rollout was cut off at its longest.
    CutOff,
    /// Its rollouts do not begin with the same prompt, so that they are no branches of one.
    PromptsDiffer,
    /// `curriculum.admit` asks for groups in which some rollouts solved the task and some did not.
    NotMixed,
    /// The variance of its rewards is below `curriculum.min_score`.
    BelowMinScore,
    /// The rewards that are compared are all equal.
    NoVariance,
    /// No reward reaches `train.likelihood_min_reward`.
    BelowMinReward,
    /// The best reward exceeds the worst by less than `train.preference_margin`.
    BelowMargin,
}

impl LeftOut {
    /// The name used in the archive, in JSON and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CutOff => "cut_off",
            Self::PromptsDiffer => "prompts_differ",
            Self::NotMixed => "not_mixed",
            Self::BelowMinScore => "below_min_score",
            Self::NoVariance => "no_variance",
            Self::BelowMinReward => "below_min_reward",
            Self::BelowMargin => "below_margin",
        }
    }
}

/// How many of a round's groups are trained on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Those that are.
    pub trained: usize,
    /// Those that are not, by reason.
    pub left_out: BTreeMap<LeftOut, usize>,
}

impl Counts {
    /// Adds those of another round.
    pub fn add(&mut self, other: &Self) {
        self.trained += other.trained;
        for (reason, n) in &other.left_out {
            *self.left_out.entry(*reason).or_default() += n;
        }
    }
}

/// The rollouts of one task.
#[derive(Debug, Clone, PartialEq)]
pub struct PlayedGroup {
    /// How many passages its question combines.
    pub hops: usize,
    /// Its rollouts, in order.
    pub rollouts: Vec<StoredRollout>,
}

/// A group as a training example.
#[derive(Debug, Clone, PartialEq)]
pub struct ChosenGroup {
    /// What is trained on.
    pub example: Example,
    /// The rollouts that its branches are.
    pub items: Vec<TrainItem>,
}

/// The groups that `curriculum` admits and that teach something under the objective in `train`, as
/// training examples in the order of `groups`, and how many do not.
pub fn select(
    train: &Train,
    reward: &Reward,
    curriculum: &Curriculum,
    groups: Vec<PlayedGroup>,
    baselines: &mut Baselines,
) -> (Vec<ChosenGroup>, Counts) {
    let mut counts = Counts::default();
    let mut leave_out = |reason| *counts.left_out.entry(reason).or_default() += 1;
    let mut usable = Vec::new();
    for group in groups {
        match usable_of(group, reward).and_then(|group| admitted(curriculum, group)) {
            Ok(group) => usable.push(group),
            Err(reason) => leave_out(reason),
        }
    }
    let chosen: Vec<Result<Vec<(usize, f32)>, LeftOut>> = match train.objective {
        ObjectiveName::PolicyGradient => by_advantage(train, &usable, baselines),
        ObjectiveName::Likelihood => usable
            .iter()
            .map(|group| sufficient(&rewards(group), train.likelihood_min_reward))
            .collect(),
        ObjectiveName::Preference => {
            usable.iter().map(|group| pair(&rewards(group), train.preference_margin)).collect()
        }
    };
    let mut examples = Vec::new();
    for (group, chosen) in usable.iter().zip(chosen) {
        match chosen {
            Ok(chosen) => examples.push(example(group, &chosen)),
            Err(reason) => leave_out(reason),
        }
    }
    counts.trained = examples.len();
    (examples, counts)
}

/// The group with those rollouts that count.
fn usable_of(mut group: PlayedGroup, settings: &Reward) -> Result<PlayedGroup, LeftOut> {
    group.rollouts.retain(|stored| reward::counts(&stored.rollout, settings));
    let prompt = |stored: &StoredRollout| {
        stored.rollout.steps.first().map(|step| step.tokens.clone()).unwrap_or_default()
    };
    let Some(first) = group.rollouts.first().map(prompt) else { return Err(LeftOut::CutOff) };
    if first.is_empty() || group.rollouts.iter().any(|stored| prompt(stored) != first) {
        return Err(LeftOut::PromptsDiffer);
    }
    Ok(group)
}

/// The group, if the settings admit it.
fn admitted(curriculum: &Curriculum, group: PlayedGroup) -> Result<PlayedGroup, LeftOut> {
    let solved = |stored: &StoredRollout| stored.score.exact_match >= 0.5;
    let n = group.rollouts.iter().filter(|stored| solved(stored)).count();
    match curriculum.admit {
        Admit::Mixed if n == 0 || n == group.rollouts.len() => Err(LeftOut::NotMixed),
        Admit::Learnable if score(&rewards(&group)) < curriculum.min_score => {
            Err(LeftOut::BelowMinScore)
        }
        Admit::All | Admit::Mixed | Admit::Learnable => Ok(group),
    }
}

fn rewards(group: &PlayedGroup) -> Vec<f32> {
    group.rollouts.iter().map(|stored| stored.score.reward).collect()
}

/// All rollouts of each group with their advantages.
fn by_advantage(
    train: &Train,
    groups: &[PlayedGroup],
    baselines: &mut Baselines,
) -> Vec<Result<Vec<(usize, f32)>, LeftOut>> {
    let compared: Vec<RewardGroup> = groups
        .iter()
        .map(|group| RewardGroup { rewards: rewards(group), hops: group.hops })
        .collect();
    pool::advantages(train.advantage, train.group_key, Role::Solver, &compared, baselines)
        .into_iter()
        .map(|advantages| {
            let advantages = advantages.ok_or(LeftOut::NoVariance)?;
            Ok(advantages.into_iter().enumerate().collect())
        })
        .collect()
}

/// The rollouts whose reward reaches `min_reward`.
fn sufficient(rewards: &[f32], min_reward: f32) -> Result<Vec<(usize, f32)>, LeftOut> {
    let reach = rewards.iter().enumerate().filter(|(_, reward)| **reward >= min_reward);
    let chosen: Vec<(usize, f32)> = reach.map(|(index, _)| (index, 1.0)).collect();
    if chosen.is_empty() { Err(LeftOut::BelowMinReward) } else { Ok(chosen) }
}

/// The best rollout and the worst, in this order; of equal ones the first.
fn pair(rewards: &[f32], margin: f32) -> Result<Vec<(usize, f32)>, LeftOut> {
    let better = |a: usize, b: usize| if rewards[b] > rewards[a] { b } else { a };
    let worse = |a: usize, b: usize| if rewards[b] < rewards[a] { b } else { a };
    let (best, worst) =
        (0..rewards.len()).fold((0, 0), |(best, worst), i| (better(best, i), worse(worst, i)));
    let gain = rewards[best] - rewards[worst];
    if gain <= 0.0 {
        return Err(LeftOut::NoVariance);
    }
    if gain < margin {
        return Err(LeftOut::BelowMargin);
    }
    Ok(vec![(best, 1.0), (worst, -1.0)])
}

/// The group's prompt with a branch for each chosen rollout.
fn example(group: &PlayedGroup, chosen: &[(usize, f32)]) -> ChosenGroup {
    let first = group.rollouts.first().and_then(|stored| stored.rollout.steps.first());
    let chosen = || chosen.iter().map(|(index, advantage)| (&group.rollouts[*index], *advantage));
    let branch = |(stored, advantage): (&StoredRollout, f32)| {
        Branch::of_steps(stored.rollout.steps.get(1..).unwrap_or_default(), advantage)
    };
    let item = |(stored, _): (&StoredRollout, f32)| TrainItem::Rollout {
        task_id: stored.rollout.task_id.clone(),
        round: stored.round,
        index: stored.rollout.index,
    };
    ChosenGroup {
        example: Example {
            prompt: first.map(|step| step.tokens.clone()).unwrap_or_default(),
            branches: chosen().map(branch).collect(),
        },
        items: chosen().map(item).collect(),
    }
}
