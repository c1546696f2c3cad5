//! The rounds of a night, as the morning report tells them.

use serde::Deserialize;
use serde::Serialize;

use super::mixture::Mixture;
use super::night::Night;
use super::pick::Pick;
use super::pick::PickReason;
use super::pick::Picks;
use super::statistics::RoundStatistics;
use crate::archive::PlayedProposal;
use crate::archive::StoredRollout;
use crate::config::SamplerName;
use crate::curriculum::balance::Decision;
use crate::rollout::StartKind;

/// What a round brought.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RoundReport {
    /// The model's drafts.
    pub drafts: usize,
    /// Those that became tasks.
    pub accepted: usize,
    /// Mean reward of those whose worth was found out, for their proposer.
    pub proposal_reward: Option<f64>,
    /// Tasks that were played.
    pub groups: usize,
    /// Those whose rewards were all equal: they taught nothing.
    pub without_variance: usize,
    /// Rollouts of them.
    pub rollouts: usize,
    /// Rollouts whose answer matched exactly.
    pub solved: usize,
    /// Mean reward of the rollouts.
    pub reward: f64,
    /// How its tasks were chosen; none where none were.
    #[serde(default)]
    pub curriculum: Option<CurriculumReport>,
    /// How its temperature was chosen; none where the settings' own held.
    #[serde(default)]
    pub balance: Option<Decision>,
    /// Demonstrations among its steps; none where the settings mix none in.
    #[serde(default)]
    pub mixture: Option<Mixture>,
}

/// How the tasks of a round were chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CurriculumReport {
    /// By which sampler.
    pub sampler: SamplerName,
    /// Tasks that it drew from; none where it took the best.
    pub eligible: Option<usize>,
    /// Effective sample size of the distribution over them.
    pub effective_sample_size: Option<f64>,
    /// Tasks that the model wrote in the night and nobody had tried.
    pub new: usize,
    /// Tasks that the sampler chose.
    pub sampled: usize,
    /// Tasks that were made by code, however they were chosen.
    #[serde(default)]
    pub code_made: usize,
    /// Groups, of tasks and of starts, that were drawn by an estimated score.
    pub estimated: usize,
    /// Groups that asked for a better answer than an earlier one.
    pub improved: usize,
    /// Groups that asked for another answer than an earlier one.
    pub diverged: usize,
    /// Groups that went on in the middle of an earlier conversation.
    pub continued: usize,
    /// Largest depth of a group: rollouts that lay before it.
    pub depth: u32,
    /// Tasks that were left out because nobody solves them.
    pub parked: usize,
    /// Tasks that rested.
    pub resting: usize,
    /// What became of those of them that were played; none where none was.
    pub rehearsal: Option<RehearsalReport>,
}

/// Whether resting tasks were still solved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RehearsalReport {
    /// Tasks that were played.
    pub tasks: usize,
    /// Mean share of the attempts that solved them when they came to rest.
    pub solved_then: f64,
    /// The same in this round.
    pub solved_now: f64,
}

impl RoundReport {
    /// What a person should know of how its tasks and its temperature were chosen, and of what was
    /// mixed into its training: nothing where that was done as by default.
    pub(super) fn about(&self) -> Vec<String> {
        let mut about = Vec::new();
        if let Some(curriculum) = &self.curriculum {
            if let (Some(n), Some(effective)) =
                (curriculum.eligible, curriculum.effective_sample_size)
            {
                let sampler = curriculum.sampler.as_str();
                about.push(format!("{sampler} from {n} tasks, effectively {effective:.1}"));
            }
            for (n, what) in [
                (curriculum.improved, "improved on"),
                (curriculum.diverged, "diverged from"),
                (curriculum.continued, "continued"),
                (curriculum.parked, "parked"),
                (curriculum.resting, "resting"),
            ] {
                about.extend((n > 0).then(|| format!("{n} {what}")));
            }
            about.extend(curriculum.rehearsal.as_ref().map(|rehearsal| {
                let RehearsalReport { tasks, solved_then, solved_now } = rehearsal;
                let (then, now) = (solved_then * 100.0, solved_now * 100.0);
                format!("{tasks} of them played, solved {then:.0} % then and {now:.0} % now")
            }));
        }
        about.extend(self.balance.as_ref().map(|balance| {
            let chosen = balance.chosen;
            format!(
                "temperature {}, learnt from reward {} on (balance {:.2})",
                chosen.temperature, chosen.threshold, chosen.score
            )
        }));
        about.extend(self.mixture.as_ref().map(|mixture| {
            format!(
                "{} steps on demonstrations mixed into {}, a share of {:.3} ({} tasks by code, \
                 {} by the model)",
                mixture.demonstrations(),
                mixture.solver.steps + mixture.proposer.steps,
                mixture.share,
                mixture.code_tasks,
                mixture.own_tasks,
            )
        }));
        about
    }
}

impl Night<'_> {
    /// The rounds that were played, in order.
    pub(super) fn round_reports(&self) -> anyhow::Result<Vec<RoundReport>> {
        (0..self.settings.solve.rounds as u32).map(|round| self.round_report(round)).collect()
    }

    fn round_report(&self, round: u32) -> anyhow::Result<RoundReport> {
        let proposals = self.archive.proposals(self.number, round..=round)?;
        let rollouts = self.archive.rollouts_in(self.number, round)?;
        let statistics = RoundStatistics::of(&rollouts, &self.settings.reward);
        let solved = rollouts.iter().filter(|stored| stored.score.exact_match >= 0.5).count();
        Ok(RoundReport {
            drafts: proposals.len(),
            accepted: proposals.iter().filter(|one| one.rejection.is_none()).count(),
            proposal_reward: mean_reward(&proposals),
            groups: statistics.groups,
            without_variance: statistics.without_variance,
            rollouts: rollouts.len(),
            solved,
            reward: statistics.reward_mean,
            curriculum: self.picks(round)?.map(|picks| curriculum_report(picks, &rollouts)),
            balance: self.balance_report(round)?,
            mixture: self.mixture(round)?,
        })
    }

    fn balance_report(&self, round: u32) -> anyhow::Result<Option<Decision>> {
        let decision = self.archive.balance_decision(self.number, round)?;
        Ok(decision.map(|decision| serde_json::from_value(decision.figures)).transpose()?)
    }
}

fn curriculum_report(picks: Picks, rollouts: &[StoredRollout]) -> CurriculumReport {
    let count = |reason| picks.tasks.iter().filter(|pick| pick.reason == reason).count();
    let estimated = |pick: &&Pick| pick.scored.is_some_and(|scored| scored.estimated);
    let starts = || picks.tasks.iter().filter_map(|pick| pick.start);
    let started = |kind| starts().filter(|start| start.kind == kind).count();
    CurriculumReport {
        sampler: picks.sampler,
        eligible: picks.eligible,
        effective_sample_size: picks.effective_sample_size,
        new: count(PickReason::New),
        sampled: count(PickReason::Sampled),
        code_made: picks.code_made,
        estimated: picks.tasks.iter().filter(estimated).count(),
        improved: started(StartKind::Improve),
        diverged: started(StartKind::Diverge),
        continued: started(StartKind::Continue),
        depth: starts().map(|start| start.depth).max().unwrap_or(0),
        parked: picks.parked,
        resting: picks.resting,
        rehearsal: rehearsal(&picks, rollouts),
    }
}

/// What became of the resting tasks that were played.
fn rehearsal(picks: &Picks, rollouts: &[StoredRollout]) -> Option<RehearsalReport> {
    let mean = |shares: &[f64]| shares.iter().sum::<f64>() / shares.len().max(1) as f64;
    let (mut then, mut now) = (Vec::new(), Vec::new());
    for pick in &picks.tasks {
        let Some(before) = pick.solved_then else { continue };
        let of_task = |stored: &&StoredRollout| stored.rollout.task_id == pick.task_id;
        let scores = rollouts.iter().filter(of_task).map(|one| one.score.exact_match >= 0.5);
        let solved: Vec<f64> = scores.map(|solved| f64::from(u8::from(solved))).collect();
        if !solved.is_empty() {
            then.push(before);
            now.push(mean(&solved));
        }
    }
    let (solved_then, solved_now) = (mean(&then), mean(&now));
    (!now.is_empty()).then_some(RehearsalReport { tasks: now.len(), solved_then, solved_now })
}

fn mean_reward(proposals: &[PlayedProposal]) -> Option<f64> {
    let rewards: Vec<f64> = proposals.iter().filter_map(|one| one.reward).map(f64::from).collect();
    (!rewards.is_empty()).then(|| rewards.iter().sum::<f64>() / rewards.len() as f64)
}
