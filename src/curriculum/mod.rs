//! Curriculum: which tasks are played next.

use rand::Rng as _;

use crate::rng::Rng;

/// What the choice is made from.
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
}

/// Chooses tasks from the archive.
pub trait Sampler {
    /// Picks up to `n` different tasks, best first. The same entries and generator give the same
    /// picks.
    fn pick(&self, entries: &[Entry], n: usize, rng: &mut Rng) -> Vec<String>;
}

/// Prefers tasks that are solved about half the time: p(1 − p) of a Beta(1, 1) posterior mean
/// (learnability, Rutherford et al. 2024). The model's own tasks, which are few, come before
/// code-made ones of the same worth.
#[derive(Debug, Default, Clone, Copy)]
pub struct Learnability;

impl Sampler for Learnability {
    fn pick(&self, entries: &[Entry], n: usize, rng: &mut Rng) -> Vec<String> {
        let mut scored: Vec<(f64, bool, f64, &str)> = entries
            .iter()
            .map(|entry| {
                let p = (entry.solved + 1) as f64 / (entry.attempts + 2) as f64;
                (p * (1.0 - p), entry.model_made, rng.random(), entry.task_id.as_str())
            })
            .collect();
        scored.sort_by(|a, b| {
            b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)).then(b.2.total_cmp(&a.2)).then(a.3.cmp(b.3))
        });
        scored.into_iter().take(n).map(|(_, _, _, id)| id.to_string()).collect()
    }
}
