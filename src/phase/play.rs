//! The game: pick tasks, solve them in groups, train on the groups.

use std::collections::BTreeMap;

use super::metrics;
use super::night::Night;
use super::policy::Policy;
use super::selection;
use super::selection::ChosenGroup;
use super::selection::Counts;
use super::selection::PlayedGroup;
use super::statistics::RoundStatistics;
use super::train::Course;
use super::train::PlannedStep;
use crate::archive::StoredRollout;
use crate::archive::TrainPhase;
use crate::config::ObjectiveName;
use crate::config::Role;
use crate::curriculum::Entry;
use crate::curriculum::Learnability;
use crate::curriculum::Sampler;
use crate::progress::Progress;
use crate::reward;
use crate::rng;
use crate::rollout::Rollout;
use crate::rollout::Score;
use crate::solver::Solver;
use crate::task::Origin;
use crate::task::Task;
use crate::trainer::Trainer;
use crate::trainer::objective::Advantage;
use crate::trainer::objective::Correction;
use crate::trainer::objective::Objective;
use crate::trainer::objective::PolicyGradient;
use crate::trainer::objective::Preference;
use crate::trainer::objective::advantage::Baselines;
use crate::trainer::optimizer::AdamW;
use crate::trainer::optimizer::RateSchedule;

/// Tasks whose rollouts are one unit of work.
const UNIT: usize = 4;
/// Where the archive keeps the moving averages of rewards.
const BASELINES: &str = "baselines";

impl Night<'_> {
    /// One round: rollouts of the policy as it is, then training on them. Returns whether the game
    /// goes on: not after a tripwire, which leaves the policy as it was stored last.
    pub(super) fn play_round(&self, round: u32, policy: &mut Policy) -> anyhow::Result<bool> {
        let stage = format!("round{round}");
        if let Some(stored) = self.stored_policy(&stage)? {
            *policy = stored;
            return Ok(true);
        }
        if self.stop()?.is_none() {
            let tasks = self.pick(round)?;
            if tasks.is_empty() {
                tracing::warn!(round, "no task to play");
                return Ok(true);
            }
            self.roll_out(round, &tasks, policy)?;
            let groups = self.groups(round, &tasks, policy)?;
            self.train_on_groups(round, groups, policy)?;
        }
        if let Some(stop) = self.stop()? {
            tracing::warn!(round, "training stopped at {stop}");
            *policy = self.policy_at(&policy.version)?;
            return Ok(false);
        }
        let objective = self.settings.train.objective.as_str().replace('_', " ");
        self.store_version(policy, &stage, &format!("{objective} on rollouts"))?;
        Ok(true)
    }

    /// The tasks of a round, chosen once and kept, because playing them changes what the choice
    /// is made from.
    fn pick(&self, round: u32) -> anyhow::Result<Vec<Task>> {
        let key = format!("picks/{}/{round}", self.number);
        let mut tasks = self.training_tasks()?;
        let picked: Vec<String> = match self.archive.meta(&key)? {
            Some(stored) => serde_json::from_str(&stored)?,
            None => {
                let entries: Vec<Entry> = tasks
                    .values()
                    .map(|stored| Entry {
                        task_id: stored.task.id.clone(),
                        attempts: stored.attempts,
                        solved: stored.solved,
                        model_made: stored.task.origin == Origin::Model,
                    })
                    .collect();
                let mut rng = rng::stream(self.seed(), &["picks", &round.to_string()]);
                let picked = Learnability.pick(&entries, self.settings.solve.tasks, &mut rng);
                self.archive.put_meta(&key, &serde_json::to_string(&picked)?)?;
                picked
            }
        };
        Ok(picked
            .into_iter()
            .filter_map(|id| tasks.remove(&id))
            .map(|stored| stored.task)
            .collect())
    }

    fn roll_out(&self, round: u32, tasks: &[Task], policy: &Policy) -> anyhow::Result<()> {
        let phase = format!("solve/{round}");
        let (adapter, version) = (policy.adapter(Role::Solver), &policy.version.id);
        let generator = self.rollout_generator(Some(adapter), version, Role::Solver)?;
        let solver = Solver {
            generator: &*generator,
            retriever: &self.index,
            reader: self
                .reader(&self.settings.evaluate.adapter_prompt, self.settings.solve.max_tokens),
            settings: &self.settings.solve,
            passages: self.settings.retrieval.passages,
            seed: self.seed(),
            round: format!("night {} round {round}", self.number),
        };
        let what = format!("rollouts, round {}", round + 1);
        let progress = Progress::start(&what, (tasks.len() * self.settings.solve.rollouts) as u64);
        for (index, tasks) in tasks.chunks(UNIT).enumerate() {
            let key = format!("{index:04}");
            if !self.done(&phase, &key)? {
                self.check_interrupt()?;
                let groups = solver.solve(tasks)?;
                let scored: Vec<(Rollout, Score)> = tasks
                    .iter()
                    .zip(groups)
                    .flat_map(|(task, group)| {
                        group.into_iter().map(|rollout| {
                            let score = reward::score(&rollout, &task.answer);
                            (rollout, score)
                        })
                    })
                    .collect();
                let (unit, sampling) = (self.unit(&phase, &key), solver.sampling());
                self.archive.record_rollouts(&unit, round, &sampling, &scored)?;
            }
            progress.advance((tasks.len() * self.settings.solve.rollouts) as u64);
        }
        Ok(())
    }

    /// The round's groups that can teach, as training examples, in the order of the picks.
    fn groups(
        &self,
        round: u32,
        tasks: &[Task],
        policy: &Policy,
    ) -> anyhow::Result<Vec<ChosenGroup>> {
        let mut by_task: BTreeMap<String, Vec<StoredRollout>> = BTreeMap::new();
        for stored in self.archive.rollouts_in(self.number, round)? {
            by_task.entry(stored.rollout.task_id.clone()).or_default().push(stored);
        }
        let groups = tasks.iter().filter_map(|task| {
            let rollouts = by_task.remove(&task.id)?;
            Some(PlayedGroup { hops: task.evidence.len(), rollouts })
        });
        let train = &self.settings.train;
        let mut baselines = self.baselines(round)?;
        let (mut chosen, counts) = selection::select(train, groups.collect(), &mut baselines);
        if self.has_baselines() {
            self.archive.put_meta(BASELINES, &serde_json::to_string(&baselines)?)?;
        }
        self.archive.put_meta(&self.counts_key(round), &serde_json::to_string(&counts)?)?;
        metrics::count_left_out(&counts);
        let policy_gradient = train.objective == ObjectiveName::PolicyGradient;
        if policy_gradient && train.correction != Correction::None {
            self.score_before_update(&mut chosen, policy)?;
        }
        Ok(chosen)
    }

    fn counts_key(&self, round: u32) -> String {
        format!("groups/{}/{round}", self.number)
    }

    /// How many of the night's groups were trained on, and why others were not.
    pub(super) fn group_counts(&self) -> anyhow::Result<Counts> {
        let mut all = Counts::default();
        for round in 0..self.settings.solve.rounds as u32 {
            if let Some(stored) = self.archive.meta(&self.counts_key(round))? {
                all.add(&serde_json::from_str(&stored)?);
            }
        }
        Ok(all)
    }

    /// Whether rewards are compared with moving averages.
    fn has_baselines(&self) -> bool {
        let train = &self.settings.train;
        (train.objective, train.advantage) == (ObjectiveName::PolicyGradient, Advantage::Reinforce)
    }

    /// The moving averages as they were before this round, also when it is gone through again.
    fn baselines(&self, round: u32) -> anyhow::Result<Baselines> {
        if !self.has_baselines() {
            return Ok(Baselines::default());
        }
        let key = format!("{BASELINES}/{}/{round}", self.number);
        let stored = match self.archive.meta(&key)? {
            Some(stored) => stored,
            None => {
                let latest = self.archive.meta(BASELINES)?.unwrap_or_else(|| "{}".into());
                self.archive.put_meta(&key, &latest)?;
                latest
            }
        };
        Ok(serde_json::from_str(&stored)?)
    }

    /// Computes what the trainer itself thinks of the rollouts' tokens, with the weights that
    /// sampled them.
    fn score_before_update(
        &self,
        groups: &mut [ChosenGroup],
        policy: &Policy,
    ) -> anyhow::Result<()> {
        let sampled_from = self.load_adapters(&policy.version)?;
        let sampled_from = sampled_from.as_ref().unwrap_or(&policy.adapters);
        // Frozen: nothing is learnt here, so nothing is kept for a gradient.
        let adapter = sampled_from.of(Role::Solver).frozen()?;
        let optimizer = AdamW::new(self.optimizer_settings());
        let trainer = Trainer::new(&self.model.decoder, &adapter, optimizer, self.limits());
        let examples = groups.iter_mut().map(|group| &mut group.example);
        Ok(trainer.score_before_update(examples)?)
    }

    fn train_on_groups(
        &self,
        round: u32,
        groups: Vec<ChosenGroup>,
        policy: &mut Policy,
    ) -> anyhow::Result<()> {
        let train = &self.settings.train;
        let steps_per_round = self.settings.solve.tasks.div_ceil(train.groups);
        let rates = RateSchedule {
            decay: train.decay,
            peak: train.learning_rate,
            warm_up: train.warm_up,
            total: self.settings.solve.rounds * steps_per_round,
        };
        let prefix = self.key_prefix(Role::Solver);
        let steps = groups.chunks(train.groups).enumerate().map(|(index, chunk)| {
            let number = round as usize * steps_per_round + index;
            PlannedStep {
                key: format!("{prefix}{round:02}/{index:04}"),
                number,
                rate: rates.at(number),
                examples: chunk.iter().map(|group| group.example.clone()).collect(),
                items: chunk.iter().flat_map(|group| group.items.clone()).collect(),
            }
        });
        let rollouts = self.archive.rollouts_in(self.number, round)?;
        let course = Course {
            title: format!("training on rollouts, round {}", round + 1),
            phase: TrainPhase::Policy,
            role: Role::Solver,
            steps: steps.collect(),
            // A step on rollouts is dear.
            stretch: 1,
            objective: &self.objective(),
            named: train.objective,
            about: RoundStatistics::of(&rollouts).recorded(),
        };
        self.train(policy, &course)
    }

    /// What training on rollouts minimises.
    fn objective(&self) -> Objective {
        let train = &self.settings.train;
        match train.objective {
            ObjectiveName::Likelihood => Objective::Likelihood,
            ObjectiveName::Preference => {
                Objective::Preference(Preference { beta: train.preference_beta })
            }
            ObjectiveName::PolicyGradient => Objective::PolicyGradient(PolicyGradient {
                clip_low: train.clip_low,
                clip_high: train.clip_high,
                dual_clip: train.dual_clip,
                kl_coefficient: train.kl_coefficient,
                // A limit that is set is checked, whatever the weight.
                measure_kl: self.settings.tripwires.kl_max.is_some(),
                entropy_coefficient: train.entropy_coefficient,
                aggregation: train.aggregation,
                constant_length: self.settings.solve.max_tokens,
                correction: train.correction,
                correction_limit: train.correction_limit,
            }),
        }
    }
}
