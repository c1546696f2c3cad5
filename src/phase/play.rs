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
use super::train_proposer::ProposerSteps;
use crate::archive::StoredRollout;
use crate::archive::TrainPhase;
use crate::config::ObjectiveName;
use crate::config::Order;
use crate::config::ProposerObjective;
use crate::config::ProtocolName;
use crate::config::Role;
use crate::config::Solve;
use crate::inference::Generator;
use crate::progress::Progress;
use crate::protocol::blocks;
use crate::reward;
use crate::reward::Turns;
use crate::rng;
use crate::rollout::Rollout;
use crate::rollout::Score;
use crate::solver::Instance;
use crate::solver::Solver;
use crate::task::Task;
use crate::trainer::batch::Example;
use crate::trainer::objective::Correction;
use crate::trainer::objective::Objective;
use crate::trainer::objective::PolicyGradient;
use crate::trainer::objective::Preference;
use crate::trainer::objective::advantage::Baselines;
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
            self.balance(round, policy)?;
            let instances = self.pick(round)?;
            if instances.is_empty() {
                tracing::warn!(round, "no task to play");
                return Ok(true);
            }
            self.roll_out(round, &instances, policy)?;
            self.score_proposals(round)?;
            self.train_both(round, &instances, policy)?;
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

    fn roll_out(&self, round: u32, instances: &[Instance], policy: &Policy) -> anyhow::Result<()> {
        let phase = format!("solve/{round}");
        let (adapter, version) = (policy.adapter(Role::Solver), &policy.version.id);
        let generator = self.rollout_generator(Some(adapter), version, Role::Solver)?;
        let settings = self.solve_settings(round)?;
        let label = format!("night {} round {round}", self.number);
        let solver = self.rollout_solver(&*generator, &settings, label);
        let what = format!("rollouts, round {}", round + 1);
        let progress = Progress::start(&what, (instances.len() * settings.rollouts) as u64);
        for (index, instances) in instances.chunks(UNIT).enumerate() {
            let key = format!("{index:04}");
            if !self.done(&phase, &key)? {
                self.check_interrupt()?;
                let groups = solver.solve(instances)?;
                let scored: Vec<(Rollout, Score)> = instances
                    .iter()
                    .zip(groups)
                    .flat_map(|(instance, group)| {
                        group.into_iter().map(|rollout| {
                            // That of the answer, also where it goes on from a right one.
                            let score = self.score(&rollout, &instance.task);
                            (rollout, score)
                        })
                    })
                    .collect();
                let (unit, sampling) = (self.unit(&phase, &key), solver.sampling());
                self.archive.record_rollouts(&unit, round, &sampling, &scored)?;
            }
            progress.advance((instances.len() * settings.rollouts) as u64);
        }
        Ok(())
    }

    /// What a rollout is worth.
    pub(super) fn score(&self, rollout: &Rollout, task: &Task) -> Score {
        let turns = match self.settings.solve.protocol {
            ProtocolName::ScriptedSearch => Turns::default(),
            ProtocolName::Blocks => {
                let (malformed, repeated) = blocks::faults(&rollout.steps, &self.outline.tokenizer);
                Turns { malformed, repeated }
            }
        };
        reward::score(rollout, &task.answer, turns, &self.settings.reward)
    }

    /// A solver on tonight's corpus; `round` tells its draws from others'.
    pub(super) fn rollout_solver<'s>(
        &'s self,
        generator: &'s dyn Generator,
        settings: &'s Solve,
        round: String,
    ) -> Solver<'s> {
        Solver {
            generator,
            retriever: &self.index,
            reader: self.reader(&self.settings.evaluate.adapter_prompt, settings.max_tokens),
            settings,
            passages: self.settings.retrieval.passages,
            seed: self.seed(),
            round,
        }
    }

    /// Trains proposer and solver on what the round brought, in the order of the settings.
    fn train_both(
        &self,
        round: u32,
        instances: &[Instance],
        policy: &mut Policy,
    ) -> anyhow::Result<()> {
        let mut baselines = self.baselines(round)?;
        let mut proposals = self.proposer_steps(round, &mut baselines)?;
        if let Some(ProposerSteps { steps, .. }) = &mut proposals {
            let examples = steps.iter_mut().flat_map(|step| &mut step.examples);
            if self.settings.train_proposer.objective == ProposerObjective::PolicyGradient {
                self.score_before_update(Role::Proposer, examples, policy)?;
            }
        }
        let groups = self.groups(round, instances, policy, &mut baselines)?;
        self.archive.put_meta(BASELINES, &serde_json::to_string(&baselines)?)?;
        let (of_proposer, of_solver) = (self.proposer_objective(), self.objective());
        let proposer = proposals.map(|steps| self.proposer_course(round, steps, &of_proposer));
        let solver = self.solver_course(round, &groups, &of_solver)?;
        let mut courses: Vec<Course<'_>> = match self.settings.train_proposer.order {
            Order::ProposerFirst => proposer.into_iter().chain([solver]).collect(),
            Order::SolverFirst => [solver].into_iter().chain(proposer).collect(),
        };
        self.mix_in(round, &mut courses)?;
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
        instances: &[Instance],
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
        let groups = instances.iter().filter_map(|Instance { task, .. }| {
            let rollouts = by_task.remove(&task.id)?;
            Some(PlayedGroup { hops: task.evidence.len(), rollouts })
        });
        let (train, curriculum) = (self.train_settings(round)?, &self.settings.curriculum);
        let reward = &self.settings.reward;
        let (mut chosen, counts) =
            selection::select(&train, reward, curriculum, groups.collect(), baselines);
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
        let mut examples: Vec<&mut Example> = examples.into_iter().collect();
        let limits = self.limits();
        Ok(self.host.score_before_update(sampled_from.of(role), limits, &mut examples)?)
    }

    fn solver_course<'a>(
        &self,
        round: u32,
        groups: &[ChosenGroup],
        objective: &'a Objective,
    ) -> anyhow::Result<Course<'a>> {
        let train = &self.settings.train;
        let steps_per_round = self.solver_steps_per_round();
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
                phase: TrainPhase::Policy,
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
            role: Role::Solver,
            steps: steps.collect(),
            // A step on rollouts is dear.
            stretch: 1,
            objective,
            named: train.objective,
            about: RoundStatistics::of(&rollouts, &self.settings.reward).recorded(),
        })
    }

    /// Steps of the solver in a round at most.
    pub(super) fn solver_steps_per_round(&self) -> usize {
        self.settings.solve.tasks.div_ceil(self.settings.train.groups)
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
