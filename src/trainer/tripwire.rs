//! Tripwires: limits on what steps show that stop training before it does harm.

use std::collections::BTreeMap;
use std::fmt;

use crate::archive::TrainPhase;
use crate::archive::TrainStep;
use crate::config::AdapterSlot;
use crate::config::Tripwires;

/// A limit and the measure that crossed it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Crossed {
    /// The measure's name in a step's metrics.
    pub measure: &'static str,
    /// What it was.
    pub value: f64,
    /// The limit.
    pub limit: f64,
}

impl fmt::Display for Crossed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { measure, value, limit } = self;
        if *measure == SKIPPED {
            return write!(
                f,
                "{value} steps in a row had a loss or gradient that was not finite, more than the \
                 limit {limit}"
            );
        }
        let side = if value > limit { "above" } else { "below" };
        write!(f, "{measure} was {value:.4}, {side} the limit {limit}")
    }
}

/// The measure of steps in a row that were skipped.
pub const SKIPPED: &str = "skipped";

/// The first limit that a step's recorded `metrics` cross; measures they lack are not checked.
pub fn crossed(limits: &Tripwires, metrics: &serde_json::Value) -> Option<Crossed> {
    let above = [
        ("kl", limits.kl_max),
        ("entropy", limits.entropy_max),
        ("clip_fraction", limits.clip_fraction_max),
        ("ratio", limits.ratio_max),
        ("grad_norm", limits.grad_norm_max),
        ("sampler_gap", limits.sampler_gap_max),
        ("response_tokens", limits.response_tokens_max),
        ("zero_variance", limits.zero_variance_max),
    ];
    let below = [
        ("entropy", limits.entropy_min),
        ("response_tokens", limits.response_tokens_min),
        ("reward_mean", limits.reward_mean_min),
        ("reward_std", limits.reward_std_min),
    ];
    let cross = |(measure, limit): (&'static str, Option<f64>), over: bool| {
        let (limit, value) = (limit?, metrics[measure].as_f64()?);
        let beyond = if over { value > limit } else { value < limit };
        beyond.then_some(Crossed { measure, value, limit })
    };
    let highest = above.into_iter().find_map(|limit| cross(limit, true));
    highest.or_else(|| below.into_iter().find_map(|limit| cross(limit, false)))
}

/// The step that training stopped at, and why.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stop {
    /// The step's phase.
    pub phase: TrainPhase,
    /// The adapter it trained.
    pub adapter: AdapterSlot,
    /// Its number.
    pub step: u32,
    /// What it crossed.
    pub crossed: Crossed,
}

impl Stop {
    /// Whether it was this step.
    pub fn is_at(&self, step: &TrainStep) -> bool {
        (self.phase, self.adapter, self.step) == (step.phase, step.adapter, step.step)
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phase = match self.phase {
            TrainPhase::WarmStart => "the warm start",
            TrainPhase::Policy => "training on rollouts",
            TrainPhase::Proposer => "training the proposer",
        };
        write!(f, "step {} of {phase}: {}", self.step, self.crossed)
    }
}

/// Follows the steps of a night and knows when training must stop.
///
/// Steps that were skipped are counted in a row, by phase and adapter: a single one is harmless,
/// for it changed nothing; several say that the weights no longer give finite numbers.
#[derive(Debug)]
pub struct Watch<'a> {
    limits: &'a Tripwires,
    /// How many of the last steps of each phase and adapter were skipped: counted apart, so that it
    /// does not matter in which order their steps are read back.
    skipped: BTreeMap<(TrainPhase, AdapterSlot), u32>,
    stop: Option<Stop>,
}

impl<'a> Watch<'a> {
    /// A watch over the `steps` taken so far, in their order.
    pub fn over(limits: &'a Tripwires, steps: &[TrainStep]) -> Self {
        let mut watch = Self { limits, skipped: BTreeMap::new(), stop: None };
        steps.iter().for_each(|step| watch.see(step));
        watch
    }

    /// Takes in the next step.
    pub fn see(&mut self, step: &TrainStep) {
        let skipped = self.skipped.entry((step.phase, step.adapter)).or_default();
        *skipped = if step.metrics[SKIPPED] == true { *skipped + 1 } else { 0 };
        let in_a_row = *skipped;
        if self.stop.is_some() {
            return;
        }
        let too_many = self.limits.skipped_max.filter(|limit| in_a_row > *limit);
        let crossed = match too_many {
            Some(limit) => Some(Crossed {
                measure: SKIPPED,
                value: f64::from(in_a_row),
                limit: f64::from(limit),
            }),
            // Demonstrations have no rollouts, and their first steps are far from where they lead.
            None if step.phase == TrainPhase::WarmStart => None,
            None => crossed(self.limits, &step.metrics),
        };
        let (phase, adapter, step) = (step.phase, step.adapter, step.step);
        self.stop = crossed.map(|crossed| Stop { phase, adapter, step, crossed });
    }

    /// Where and why training stopped, if it did.
    pub fn stop(&self) -> Option<Stop> {
        self.stop
    }
}
