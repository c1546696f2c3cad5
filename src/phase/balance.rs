//! The controller of exploration and exploitation: before a round's rollouts it tries some tasks at
//! several temperatures, and chooses the round's temperature and the reward that suffices.

use std::collections::BTreeMap;

use super::night::Night;
use super::policy::Policy;
use crate::archive::BalanceDecision;
use crate::archive::BalanceSample;
use crate::config::Role;
use crate::config::Solve;
use crate::config::Train;
use crate::curriculum::balance;
use crate::curriculum::balance::Drawn;
use crate::curriculum::balance::Sample;
use crate::progress::Progress;
use crate::rng;
use crate::rollout::Rollout;
use crate::rollout::Score;
use crate::solver::Instance;
use crate::task::Task;

/// Tasks tried at one temperature that are one unit of work.
const UNIT: usize = 8;

impl Night<'_> {
    /// Chooses the temperature and threshold of a round, once, if the settings ask for it.
    pub(super) fn balance(&self, round: u32, policy: &Policy) -> anyhow::Result<()> {
        let settings = &self.settings.balance;
        let phase = format!("balance/{round}");
        if !settings.enabled || self.done(&phase, "decision")? {
            return Ok(());
        }
        let tasks = self.tried_tasks()?;
        let all = settings.temperatures.len() * tasks.len() * settings.samples;
        let progress = Progress::start(&format!("temperatures, round {}", round + 1), all as u64);
        let version = &policy.version.id;
        let generator =
            self.generator(Some(policy.adapter(Role::Solver)), version, Role::Solver)?;
        for (place, temperature) in settings.temperatures.iter().enumerate() {
            let solve = Solve {
                temperature: *temperature as f32,
                rollouts: settings.samples,
                ..self.settings.solve.clone()
            };
            let label = format!("night {} round {round} temperature {place}", self.number);
            let solver = self.rollout_solver(&*generator, &solve, label);
            for (index, tasks) in tasks.chunks(UNIT).enumerate() {
                let key = format!("{place:02}/{index:04}");
                if !self.done(&phase, &key)? {
                    self.check_interrupt()?;
                    let instances: Vec<Instance> =
                        tasks.iter().cloned().map(Instance::from).collect();
                    let groups = solver.solve(&instances)?;
                    let samples: Vec<BalanceSample> = tasks
                        .iter()
                        .zip(groups)
                        .flat_map(|(task, group)| {
                            group.into_iter().map(|rollout| {
                                let score = self.score(&rollout, task);
                                sample(task, *temperature, &rollout, score)
                            })
                        })
                        .collect();
                    self.archive.record_balance_samples(
                        &self.unit(&phase, &key),
                        round,
                        &samples,
                    )?;
                }
                progress.advance((tasks.len() * settings.samples) as u64);
            }
        }
        self.decide_balance(round, version)
    }

    /// Chooses from what was drawn, and stores the choice with all its figures.
    fn decide_balance(&self, round: u32, version: &str) -> anyhow::Result<()> {
        let settings = &self.settings.balance;
        let samples = self.archive.balance_samples(self.number, round)?;
        let drawn: Vec<Drawn> = settings
            .temperatures
            .iter()
            .map(|temperature| {
                let mut queries: BTreeMap<&str, Vec<Sample>> = BTreeMap::new();
                for one in samples.iter().filter(|one| one.temperature == *temperature) {
                    queries.entry(&one.task_id).or_default().push(Sample {
                        reward: one.reward,
                        correct: one.exact_match >= 0.5,
                        trajectory: one.trajectory.clone(),
                    });
                }
                Drawn { temperature: *temperature, queries: queries.into_values().collect() }
            })
            .collect();
        let wanted = settings.target.div_ceil(self.settings.solve.tasks.max(1));
        let mut rng = rng::stream(self.seed(), &["balance", &round.to_string()]);
        let shuffle = settings.permute.then_some(&mut rng);
        // No task to try: the settings' own hold.
        let Some(decision) = balance::decide(&drawn, &settings.thresholds, wanted, shuffle) else {
            return Ok(());
        };
        let chosen = decision.chosen;
        tracing::info!(
            round,
            temperature = chosen.temperature,
            threshold = chosen.threshold,
            score = chosen.score,
            "chose the temperature"
        );
        let unit = format!("balance/{round}");
        let stored = BalanceDecision {
            night: self.number,
            round,
            model_version: version.to_string(),
            temperature: chosen.temperature,
            threshold: chosen.threshold,
            score: chosen.score,
            permuted: decision.permuted,
            figures: serde_json::to_value(&decision)?,
        };
        self.archive.record_balance_decision(&self.unit(&unit, "decision"), &stored)?;
        Ok(())
    }

    /// The tasks that are tried: the first in an order that is random and always the same, so that
    /// rounds and nights are compared on the same ones as long as they are there.
    fn tried_tasks(&self) -> anyhow::Result<Vec<Task>> {
        let all = self.training_tasks()?.into_values().map(|stored| stored.task);
        let mut all: Vec<Task> = all.collect();
        all.sort_by_cached_key(|task| {
            (rng::derive(self.settings.seed, &["balance", &task.id]), task.id.clone())
        });
        all.truncate(self.settings.balance.queries);
        Ok(all)
    }

    /// How a round's tasks are attempted: at the temperature that was chosen, if one was.
    pub(super) fn solve_settings(&self, round: u32) -> anyhow::Result<Solve> {
        let settings = self.settings.solve.clone();
        Ok(match self.archive.balance_decision(self.number, round)? {
            Some(chosen) => Solve { temperature: chosen.temperature as f32, ..settings },
            None => settings,
        })
    }

    /// How a round's rollouts are trained on: from the reward that was chosen, if one was.
    pub(super) fn train_settings(&self, round: u32) -> anyhow::Result<Train> {
        let settings = self.settings.train.clone();
        Ok(match self.archive.balance_decision(self.number, round)? {
            Some(chosen) => Train { likelihood_min_reward: chosen.threshold as f32, ..settings },
            None => settings,
        })
    }
}

/// What the choice needs of a rollout.
fn sample(task: &Task, temperature: f64, rollout: &Rollout, score: Score) -> BalanceSample {
    BalanceSample {
        task_id: task.id.clone(),
        temperature,
        index: rollout.index,
        reward: score.reward,
        exact_match: score.exact_match,
        trajectory: rollout.trajectory(),
    }
}
