//! Samplers: from what is known of tasks to which are played.

use rand::Rng as _;
use rand::seq::SliceRandom;
use serde::Deserialize;
use serde::Serialize;

use super::exit::Exit;
use crate::config::Curriculum;
use crate::config::SamplerName;
use crate::rng::Rng;

/// What the choice is made from: a task, or a start within one.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The task.
    pub task_id: String,
    /// Rollouts made so far.
    pub attempts: u64,
    /// Those whose answer was right.
    pub solved: u64,
    /// Whether the model itself wrote it.
    pub model_made: bool,
    /// How its latest group went; none where there was none.
    pub measured: Option<Measured>,
}

/// What the latest group of rollouts at an entry says of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// Variance of the group's rewards.
    pub variance: f64,
    /// Nights since then.
    pub nights_ago: u32,
    /// Whether the group was not the entry's own: that of the rollout it starts from stands for it.
    pub estimated: bool,
}

/// What was chosen.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Choice {
    /// Places among the entries, all different, in the order in which they were chosen.
    pub places: Vec<usize>,
    /// Their scores, in the same order; empty where the sampler scores nothing.
    pub scores: Vec<Scored>,
    /// What they were drawn from; none where nothing was drawn but the best taken.
    pub spread: Option<Spread>,
}

/// What an entry is drawn by.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    /// The score, from 0 to ¼.
    pub score: f64,
    /// Whether it is an estimate: the entry has no group of its own, or an old one.
    pub estimated: bool,
}

/// How widely a distribution over entries is spread.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// Entries with a probability.
    pub eligible: usize,
    /// Their effective sample size, 1 / Σ P²: from 1, where one has it all, to `eligible`.
    pub effective: f64,
}

/// Chooses among entries.
pub trait Sampler {
    /// Picks up to `n` different entries. The same entries and generator give the same choice.
    fn pick(&self, entries: &[Entry], n: usize, rng: &mut Rng) -> Choice;
}

/// The sampler of the settings.
pub fn sampler(settings: &Curriculum) -> Box<dyn Sampler> {
    match settings.sampler {
        SamplerName::Uniform => Box::new(Uniform),
        SamplerName::Learnability => Box::new(Learnability),
        SamplerName::Exit => Box::new(Exit::new(settings, false)),
        SamplerName::ExitPermuted => Box::new(Exit::new(settings, true)),
    }
}

/// Any, with the same probability.
#[derive(Debug, Default, Clone, Copy)]
pub struct Uniform;

impl Sampler for Uniform {
    fn pick(&self, entries: &[Entry], n: usize, rng: &mut Rng) -> Choice {
        let mut places: Vec<usize> = (0..entries.len()).collect();
        places.shuffle(rng);
        places.truncate(n);
        Choice { places, spread: Spread::even(entries.len()), ..Choice::default() }
    }
}

impl Spread {
    /// That of so many entries with the same probability.
    pub(super) fn even(n: usize) -> Option<Self> {
        (n > 0).then_some(Self { eligible: n, effective: n as f64 })
    }
}

/// Prefers tasks that are solved about half the time: p(1 − p) of a Beta(1, 1) posterior mean
/// (learnability, Rutherford et al. 2024). The model's own tasks, which are few, come before
/// code-made ones of the same worth.
#[derive(Debug, Default, Clone, Copy)]
pub struct Learnability;

impl Sampler for Learnability {
    fn pick(&self, entries: &[Entry], n: usize, rng: &mut Rng) -> Choice {
        let mut scored: Vec<(f64, bool, f64, &str, usize)> = entries
            .iter()
            .enumerate()
            .map(|(place, entry)| {
                let p = (entry.solved + 1) as f64 / (entry.attempts + 2) as f64;
                let id = entry.task_id.as_str();
                (p * (1.0 - p), entry.model_made, rng.random(), id, place)
            })
            .collect();
        scored.sort_by(|a, b| {
            b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)).then(b.2.total_cmp(&a.2)).then(a.3.cmp(b.3))
        });
        let places = scored.into_iter().take(n).map(|one| one.4).collect();
        Choice { places, ..Choice::default() }
    }
}
