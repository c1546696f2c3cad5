//! Which tasks are played, where their rollouts begin, and which groups are trained on.

use serde::Deserialize;
use serde::Serialize;

use super::ConfigError;
use super::check::within;

/// How the tasks of a round are chosen, and what is trained on of what came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Curriculum {
    /// How tasks are chosen.
    pub sampler: SamplerName,
    /// κ of ExIt: how strongly it prefers high scores.
    pub kappa: f64,
    /// Entries with the highest scores that ExIt draws from.
    pub capacity: usize,
    /// Entries that were played, below which ExIt draws any.
    pub min_buffer: usize,
    /// How probably ExIt draws by score; any task otherwise.
    pub selection_probability: f64,
    /// Score of tasks that were never played.
    pub unplayed_score: f64,
    /// Nights after which a score counts as an estimate.
    pub stale_after: u32,
    /// Share of a round's groups that play tasks made by code, at most.
    pub code_share: f64,
    /// Share of a round's groups that start from an earlier rollout.
    pub improve_share: f64,
    /// How probably such a group is asked for another answer, not for a better one.
    pub diverge_probability: f64,
    /// Which groups are trained on.
    pub admit: Admit,
    /// Score that [`Admit::Learnable`] asks for.
    pub min_score: f64,
    /// Attempts without a right answer after which a task is parked; 0: none is.
    pub park_after: u64,
    /// Versions whose latest attempts decide on parking and resting.
    pub recent_versions: usize,
    /// Nights after which a parked task is tried again.
    pub retry_after: u32,
    /// Attempts from which a task can rest; 0: none does.
    pub retire_attempts: u64,
    /// Share of them that must have solved it.
    pub retire_solved: f64,
    /// Share of a round's groups that play resting tasks.
    pub rehearsal_share: f64,
}

/// A way to choose tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SamplerName {
    /// Any, with the same probability.
    Uniform,
    /// Those solved about half the time first, over all attempts (Rutherford et al. 2024).
    Learnability,
    /// By the variance of the rewards of the latest group (ExIt, Jiang et al. 2025).
    Exit,
    /// The same with the scores shuffled: a control that has all of it but the signal.
    ExitPermuted,
}

impl SamplerName {
    /// The name used in settings and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Learnability => "learnability",
            Self::Exit => "exit",
            Self::ExitPermuted => "exit_permuted",
        }
    }
}

/// Which finished groups are trained on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Admit {
    /// All from which the objective can learn.
    All,
    /// Those in which some rollouts solved the task and some did not.
    Mixed,
    /// Those whose rewards vary enough.
    Learnable,
}

impl Curriculum {
    /// Fails on the first value outside its range.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        within("curriculum.kappa", self.kappa, 0.0, 10_000.0)?;
        within("curriculum.capacity", self.capacity, 1, 10_000_000)?;
        within("curriculum.min_buffer", self.min_buffer, 0, self.capacity)?;
        within("curriculum.selection_probability", self.selection_probability, 0.0, 1.0)?;
        within("curriculum.unplayed_score", self.unplayed_score, 0.0, 0.25)?;
        within("curriculum.code_share", self.code_share, 0.0, 1.0)?;
        within("curriculum.improve_share", self.improve_share, 0.0, 1.0)?;
        within("curriculum.diverge_probability", self.diverge_probability, 0.0, 1.0)?;
        within("curriculum.min_score", self.min_score, 0.0, 0.25)?;
        within("curriculum.recent_versions", self.recent_versions, 1, 10_000)?;
        within("curriculum.retry_after", self.retry_after, 1, 100_000)?;
        within("curriculum.retire_solved", self.retire_solved, 0.01, 1.0)?;
        within("curriculum.rehearsal_share", self.rehearsal_share, 0.0, 1.0)
    }

    /// Whether the choice depends on how single groups went, and not on totals alone.
    pub fn looks_back(&self) -> bool {
        let by_score = matches!(self.sampler, SamplerName::Exit | SamplerName::ExitPermuted);
        by_score || self.improve_share > 0.0 || self.park_after > 0 || self.retire_attempts > 0
    }
}
