//! The game: pick tasks, solve them in groups, train on the groups.

use std::collections::BTreeMap;

use rand::seq::SliceRandom as _;

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
use crate::archive::StoredTask;
use crate::archive::TrainPhase;
use crate::config::ObjectiveName;
use crate::config::Order;
use crate::config::ProposerObjective;
use crate::config::ProtocolName;
use crate::config::Role;
use crate::curriculum::Entry;
use crate::curriculum::Learnability;
use crate::curriculum::Sampler;
use crate::progress::Progress;
use crate::protocol::blocks;
use crate::reward;
use crate::reward::Turns;
use crate::rng;
use crate::rollout::Rollout;
use crate::rollout::Score;
use crate::solver::Solver;
use crate::task::Origin;
use crate::task::Task;
use crate::trainer::Trainer;
use crate::trainer::batch::Example;
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
            self.propose_by_model(round, policy)?;
            let tasks = self.pick(round)?;
            if tasks.is_empty() {
                tracing::warn!(round, "no task to play");
                return Ok(true);
            }
            self.roll_out(round, &tasks, policy)?;
            self.score_proposals(round)?;
            self.train_both(round, &tasks, policy)?;
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

    /// The tasks of a round: the model's new ones, whose worth is to be found out, then others.
    /// Chosen once and kept, because playing them changes what the choice is made from.
    fn pick(&self, round: u32) -> anyhow::Result<Vec<Task>> {
        let key = format!("picks/{}/{round}", self.number);
        let mut tasks = self.training_tasks()?;
        let picked: Vec<String> = match self.archive.meta(&key)? {
            Some(stored) => serde_json::from_str(&stored)?,
            None => {
                let n = self.settings.solve.tasks;
                let is_new = |stored: &&StoredTask| {
                    let task = &stored.task;
                    (task.origin, task.night) == (Origin::Model, Some(self.number))
                        && stored.attempts == 0
                };
                let new = tasks.values().filter(is_new).take(n);
                let mut picked: Vec<String> = new.map(|stored| stored.task.id.clone()).collect();
                let entries: Vec<Entry> = tasks
                    .values()
                    .filter(|stored| !picked.contains(&stored.task.id))
                    .map(|stored| Entry {
                        task_id: stored.task.id.clone(),
                        attempts: stored.attempts,
                        solved: stored.solved,
                        model_made: stored.task.origin == Origin::Model,
                    })
                    .collect();
                let mut rng = rng::stream(self.seed(), &["picks", &round.to_string()]);
                picked.extend(Learnability.pick(&entries, n - picked.len(), &mut rng));
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
                            let score = self.score(&rollout, task);
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

    fn score(&self, rollout: &Rollout, task: &Task) -> Score {
        let turns = match self.settings.solve.protocol {
            ProtocolName::ScriptedSearch => Turns::default(),
            ProtocolName::Blocks => {
                let (malformed, repeated) = blocks::faults(&rollout.steps, &self.model.tokenizer);
                Turns { malformed, repeated }
            }
        };
        reward::score(rollout, &task.answer, turns, &self.settings.reward)
    }

    /// Trains proposer and solver on what the round brought, in the order of the settings.
    fn train_both(&self, round: u32, tasks: &[Task], policy: &mut Policy) -> anyhow::Result<()> {
        let mut baselines = self.baselines(round)?;
        let mut proposals = self.proposer_steps(round, &mut baselines)?;
        if let Some((steps, _)) = &mut proposals {
            let examples = steps.iter_mut().flat_map(|step| &mut step.examples);
            if self.settings.train_proposer.objective == ProposerObjective::PolicyGradient {
                self.score_before_update(Role::Proposer, examples, policy)?;
            }
        }
        let groups = self.groups(round, tasks, policy, &mut baselines)?;
        self.archive.put_meta(BASELINES, &serde_json::to_string(&baselines)?)?;
        let (of_proposer, of_solver) = (self.proposer_objective(), self.objective());
        let proposer = proposals.map(|steps| self.proposer_course(round, steps, &of_proposer));
        let solver = self.solver_course(round, &groups, &of_solver)?;
        let courses: Vec<Course<'_>> = match self.settings.train_proposer.order {
            Order::ProposerFirst => proposer.into_iter().chain([solver]).collect(),
            Order::SolverFirst => [solver].into_iter().chain(proposer).collect(),
        };
        for (place, course) in courses.iter().enumerate() {
            // A later course of the same adapter that has begun holds what the earlier one learnt.
            if !self.has_begun_after(&courses, place)? {
                self.train(policy, course)?;
            }
        }
        Ok(())
    }

    /// The round's groups that can teach, as training examples, in the order of the picks.
    fn groups(
        &self,
        round: u32,
        tasks: &[Task],
        policy: &Policy,
        baselines: &mut Baselines,
    ) -> anyhow::Result<Vec<ChosenGroup>> {
        let mut by_task: BTreeMap<String, Vec<StoredRollout>> = BTreeMap::new();
        let mut rollouts = self.archive.rollouts_in(self.number, round)?;
        if self.settings.train.permute_rewards {
            self.permute_rewards(round, &mut rollouts);
        }
        for stored in rollouts {
            by_task.entry(stored.rollout.task_id.clone()).or_default().push(stored);
        }
        let groups = tasks.iter().filter_map(|task| {
            let rollouts = by_task.remove(&task.id)?;
            Some(PlayedGroup { hops: task.evidence.len(), rollouts })
        });
        let train = &self.settings.train;
        let (mut chosen, counts) =
            selection::select(train, &self.settings.reward, groups.collect(), baselines);
        self.archive.put_meta(&self.counts_key(round), &serde_json::to_string(&counts)?)?;
        metrics::count_left_out(&counts);
        if train.objective == ObjectiveName::PolicyGradient {
            let examples = chosen.iter_mut().map(|group| &mut group.example);
            self.score_before_update(Role::Solver, examples, policy)?;
        }
        Ok(chosen)
    }

    /// Deals the rewards out again; what is stored stays as it is.
    fn permute_rewards(&self, round: u32, rollouts: &mut [StoredRollout]) {
        let mut rewards: Vec<f32> = rollouts.iter().map(|stored| stored.score.reward).collect();
        rewards.shuffle(&mut rng::stream(self.seed(), &["permuted", &round.to_string()]));
        for (stored, reward) in rollouts.iter_mut().zip(rewards) {
            stored.score.reward = reward;
        }
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

    /// The moving averages as they were before this round, also when it is gone through again.
    fn baselines(&self, round: u32) -> anyhow::Result<Baselines> {
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

    /// Computes what the trainer itself thinks of sampled tokens, with the weights as they were
    /// stored last, where the objective corrects by it.
    fn score_before_update<'e>(
        &self,
        role: Role,
        examples: impl IntoIterator<Item = &'e mut Example>,
        policy: &Policy,
    ) -> anyhow::Result<()> {
        if self.settings.train.correction == Correction::None {
            return Ok(());
        }
        let sampled_from = self.load_adapters(&policy.version)?;
        let sampled_from = sampled_from.as_ref().unwrap_or(&policy.adapters);
        // Frozen: nothing is learnt here, so nothing is kept for a gradient.
        let adapter = sampled_from.of(role).frozen()?;
        let optimizer = AdamW::new(self.optimizer_settings());
        let trainer = Trainer::new(&self.model.decoder, &adapter, optimizer, self.limits());
        Ok(trainer.score_before_update(examples)?)
    }

    fn solver_course<'a>(
        &self,
        round: u32,
        groups: &[ChosenGroup],
        objective: &'a Objective,
    ) -> anyhow::Result<Course<'a>> {
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
        Ok(Course {
            title: format!("training on rollouts, round {}", round + 1),
            phase: TrainPhase::Policy,
            role: Role::Solver,
            steps: steps.collect(),
            // A step on rollouts is dear.
            stretch: 1,
            objective,
            named: train.objective,
            about: RoundStatistics::of(&rollouts, &self.settings.reward).recorded(),
        })
    }

    /// What training on rollouts minimises.
    fn objective(&self) -> Objective {
        let train = &self.settings.train;
        match train.objective {
            ObjectiveName::Likelihood => Objective::Likelihood,
            ObjectiveName::Preference => {
                Objective::Preference(Preference { beta: train.preference_beta })
            }
            ObjectiveName::PolicyGradient => {
                Objective::PolicyGradient(self.policy_gradient(self.settings.solve.max_tokens))
            }
        }
    }

    /// The policy gradient of the settings; `constant_length` is the length that counts where all
    /// count the same.
    pub(super) fn policy_gradient(&self, constant_length: usize) -> PolicyGradient {
        let train = &self.settings.train;
        PolicyGradient {
            clip_low: train.clip_low,
            clip_high: train.clip_high,
            dual_clip: train.dual_clip,
            kl_coefficient: train.kl_coefficient,
            // A limit that is set is checked, whatever the weight.
            measure_kl: self.settings.tripwires.kl_max.is_some(),
            entropy_coefficient: train.entropy_coefficient,
            aggregation: train.aggregation,
            constant_length,
            correction: train.correction,
            correction_limit: train.correction_limit,
        }
    }
}
