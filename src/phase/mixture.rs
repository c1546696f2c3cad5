//! Demonstrations mixed into the game: steps of masked likelihood on code-made tasks among the
//! steps of a round, with the same optimiser and learning rate, at a share that falls.

use std::collections::HashSet;

use serde::Deserialize;
use serde::Serialize;

use super::night::Night;
use super::train::Course;
use super::train::PlannedStep;
use crate::archive::TrainPhase;
use crate::config::Order;
use crate::config::Role;
use crate::curriculum;
use crate::task::Origin;

/// What rounding has left over before a night's first round, so that shares are rounded to the
/// nearest whole step there.
const HALF: f64 = 0.5;

/// What is mixed into a round: decided once, before it is trained on, and kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Mixture {
    /// Steps on demonstrations that are wanted for each step of the game.
    pub share: f64,
    /// Training tasks made by code, from which it follows.
    pub code_tasks: usize,
    /// Training tasks that the model wrote, from which it follows.
    pub own_tasks: usize,
    /// Among the steps of the solver.
    pub solver: Mixed,
    /// Among the steps of the proposer.
    pub proposer: Mixed,
}

/// What is mixed into the steps of one role.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Mixed {
    /// Steps of the game.
    pub steps: usize,
    /// Steps on demonstrations among them.
    pub demonstrations: usize,
    /// The part of a step that rounding leaves over for the next round.
    pub left_over: f64,
}

impl Mixture {
    /// Steps on demonstrations, of both roles.
    pub fn demonstrations(&self) -> usize {
        self.solver.demonstrations + self.proposer.demonstrations
    }

    fn of(&self, role: Role) -> Mixed {
        match role {
            Role::Solver => self.solver,
            Role::Proposer => self.proposer,
        }
    }

    fn of_mut(&mut self, role: Role) -> &mut Mixed {
        match role {
            Role::Solver => &mut self.solver,
            Role::Proposer => &mut self.proposer,
        }
    }
}

impl Night<'_> {
    /// Mixes steps on demonstrations into the courses of a round, which are given in the order in
    /// which they are trained. They show tasks that the night has not shown, as long as there are
    /// some.
    pub(super) fn mix_in(&self, round: u32, courses: &mut [Course<'_>]) -> anyhow::Result<()> {
        if self.settings.warm_start.share <= 0.0 {
            return Ok(());
        }
        let kept = self.mixture(round)?;
        let is_new = kept.is_none();
        let mut mixture = match kept {
            Some(mixture) => mixture,
            None => self.plan_mixture(round, courses)?,
        };
        let by_passage = self.code_tasks_by_passage()?;
        let tasks = self.shuffled(&by_passage, &["demonstrations", &round.to_string()]);
        let first = self.first_mixed(round);
        let shown = self.archive.demonstrated(self.number, first as u32)?;
        let ids = tasks.iter().map(|task| task.id.as_str());
        let mut used: HashSet<&str> = ids.filter(|id| shown.contains(*id)).collect();
        let searches = self.settings.warm_start.searches;
        for course in courses.iter_mut() {
            let role = course.role;
            let wanted = searches * mixture.of(role).demonstrations;
            let mut drawn = self.draw(&tasks, &by_passage, &mut used, wanted, role)?;
            if drawn.len() < wanted && !used.is_empty() {
                // All were shown: they may be shown again.
                used.clear();
                let missing = wanted - drawn.len();
                drawn.extend(self.draw(&tasks, &by_passage, &mut used, missing, role)?);
            }
            if drawn.is_empty() {
                mixture.of_mut(role).demonstrations = 0;
            }
            let number = first + self.mixed_before(role);
            let prefix = self.key_prefix(role);
            let demonstrations = (0..mixture.of(role).demonstrations).map(|index| {
                let (examples, items) = self.lesson(&drawn, index, &[role]);
                PlannedStep {
                    phase: TrainPhase::WarmStart,
                    key: format!("{prefix}{round:02}/{}/{index:04}", role.as_str()),
                    number: number + index,
                    // That of the step which it comes after.
                    rate: 0.0,
                    examples,
                    items,
                }
            });
            let demonstrations = demonstrations.collect();
            course.steps = mixed(std::mem::take(&mut course.steps), demonstrations);
        }
        if is_new {
            self.archive.put_meta(&self.mixture_key(round), &serde_json::to_string(&mixture)?)?;
        }
        let Mixture { share, code_tasks, own_tasks, solver, proposer } = &mixture;
        tracing::info!(
            round,
            share,
            code_tasks,
            own_tasks,
            solver = solver.demonstrations,
            proposer = proposer.demonstrations,
            "mixing in demonstrations"
        );
        Ok(())
    }

    /// How much is to be mixed into a round.
    fn plan_mixture(&self, round: u32, courses: &[Course<'_>]) -> anyhow::Result<Mixture> {
        let tasks = self.training_tasks()?;
        let count = |origin| tasks.values().filter(|stored| stored.task.origin == origin).count();
        let (code_tasks, own_tasks) = (count(Origin::Code), count(Origin::Model));
        let rounds = self.settings.solve.rounds.max(1) as f64;
        let age = f64::from(self.number.saturating_sub(1)) + f64::from(round) / rounds;
        let settings = &self.settings.warm_start;
        let share = curriculum::demonstration_share(settings, age, code_tasks, own_tasks);
        let before = match round.checked_sub(1) {
            Some(before) => self.mixture(before)?,
            None => None,
        };
        let spent = self.is_spent()?;
        let of = |role| {
            let course = courses.iter().find(|course| course.role == role);
            let steps = course.map_or(0, |course| course.steps.len());
            let left_over = before.as_ref().map_or(HALF, |before| before.of(role).left_over);
            let (demonstrations, left_over) = match spent {
                true => (0, left_over),
                false => curriculum::whole_steps(share, steps, left_over),
            };
            Mixed { steps, demonstrations, left_over }
        };
        let (solver, proposer) = (of(Role::Solver), of(Role::Proposer));
        Ok(Mixture { share, code_tasks, own_tasks, solver, proposer })
    }

    fn mixture_key(&self, round: u32) -> String {
        format!("mixture/{}/{round}", self.number)
    }

    /// What was mixed into a round, if anything was to be.
    pub(super) fn mixture(&self, round: u32) -> anyhow::Result<Option<Mixture>> {
        let stored = self.archive.meta(&self.mixture_key(round))?;
        Ok(stored.map(|stored| serde_json::from_str(&stored)).transpose()?)
    }

    /// The number of the first step on demonstrations that can be mixed into a round: behind all of
    /// the warm start, and of the rounds before.
    fn first_mixed(&self, round: u32) -> usize {
        let per_round = self.solver_steps_per_round() + self.proposer_steps_per_round();
        self.settings.warm_start.steps + round as usize * per_round
    }

    /// Numbers that a round keeps free for the role that is trained before this one.
    fn mixed_before(&self, role: Role) -> usize {
        match (self.settings.train_proposer.order, role) {
            (Order::ProposerFirst, Role::Solver) => self.proposer_steps_per_round(),
            (Order::SolverFirst, Role::Proposer) => self.solver_steps_per_round(),
            (Order::ProposerFirst, Role::Proposer) | (Order::SolverFirst, Role::Solver) => 0,
        }
    }
}

/// The steps with the demonstrations among them, as evenly as can be, each at the learning rate of
/// the step that it comes after. There are no more of them than steps.
fn mixed(steps: Vec<PlannedStep>, demonstrations: Vec<PlannedStep>) -> Vec<PlannedStep> {
    let (n, k) = (steps.len(), demonstrations.len());
    let mut demonstrations = demonstrations.into_iter();
    let mut all = Vec::with_capacity(n + k);
    for (index, step) in steps.into_iter().enumerate() {
        let (rate, due) = (step.rate, (index + 1) * k / n - index * k / n);
        all.push(step);
        all.extend(demonstrations.by_ref().take(due).map(|step| PlannedStep { rate, ..step }));
    }
    all
}
