//! The game: pick tasks, solve them in groups, train on the groups.

use std::collections::BTreeMap;

use super::night::Night;
use super::statistics::RoundStatistics;
use super::train::Policy;
use super::train::Stretch;
use crate::archive::StoredRollout;
use crate::archive::TrainPhase;
use crate::curriculum::Entry;
use crate::curriculum::Learnability;
use crate::curriculum::Sampler;
use crate::progress::Progress;
use crate::reward;
use crate::rng;
use crate::rollout::Owner;
use crate::rollout::Rollout;
use crate::rollout::Score;
use crate::solver::Solver;
use crate::task::Origin;
use crate::task::Task;
use crate::trainer::Trainer;
use crate::trainer::batch::Branch;
use crate::trainer::batch::Example;
use crate::trainer::objective::Advantage;
use crate::trainer::objective::Correction;
use crate::trainer::objective::Objective;
use crate::trainer::objective::PolicyGradient;
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
        let tasks = self.pick(round)?;
        if tasks.is_empty() {
            tracing::warn!(round, "no task to play");
            return Ok(true);
        }
        self.roll_out(round, &tasks, policy)?;
        let mut groups = self.groups(round, &tasks)?;
        if self.settings.train.correction != Correction::None {
            self.score_before_update(&mut groups, policy)?;
        }
        self.train_on_groups(round, &groups, policy)?;
        if let Some((step, crossed)) = self.tripped()? {
            tracing::warn!(round, step, "training stopped: {crossed}");
            let kept = policy.version.clone();
            *policy = self.start_policy(&kept)?;
            return Ok(false);
        }
        self.store_version(policy, &format!("round{round}"), "policy gradient on rollouts")?;
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
        let engine = self.engine(Some(&policy.adapter), &policy.version.id)?;
        let solver = Solver {
            generator: &engine,
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
                self.archive.record_rollouts(&self.unit(&phase, &key), round, &scored)?;
            }
            progress.advance((tasks.len() * self.settings.solve.rollouts) as u64);
        }
        Ok(())
    }

    /// The round's groups that can teach, as training examples, in the order of the picks.
    fn groups(&self, round: u32, tasks: &[Task]) -> anyhow::Result<Vec<Example>> {
        let mut by_task: BTreeMap<String, Vec<StoredRollout>> = BTreeMap::new();
        for stored in self.archive.rollouts_in(self.number, round)? {
            by_task.entry(stored.rollout.task_id.clone()).or_default().push(stored);
        }
        let rule = self.settings.train.advantage;
        let mut baselines = self.baselines(round)?;
        let groups = tasks
            .iter()
            .filter_map(|task| {
                let stratum = format!("solver/hops {}", task.evidence.len());
                example(by_task.remove(&task.id)?, |rewards| {
                    rule.of(rewards, &stratum, &mut baselines)
                })
            })
            .collect();
        if rule == Advantage::Reinforce {
            self.archive.put_meta(BASELINES, &serde_json::to_string(&baselines)?)?;
        }
        Ok(groups)
    }

    /// The moving averages as they were before this round, also when it is gone through again.
    fn baselines(&self, round: u32) -> anyhow::Result<Baselines> {
        if self.settings.train.advantage != Advantage::Reinforce {
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
    fn score_before_update(&self, groups: &mut [Example], policy: &Policy) -> anyhow::Result<()> {
        let sampled_from = self.load_adapter(&policy.version)?;
        // Frozen: nothing is learnt here, so nothing is kept for a gradient.
        let adapter = sampled_from.as_ref().unwrap_or(&policy.adapter).frozen()?;
        let optimizer = AdamW::new(self.optimizer_settings());
        let trainer = Trainer::new(&self.model.decoder, &adapter, optimizer, self.limits());
        Ok(trainer.score_before_update(groups)?)
    }

    fn train_on_groups(
        &self,
        round: u32,
        groups: &[Example],
        policy: &mut Policy,
    ) -> anyhow::Result<()> {
        let train = &self.settings.train;
        let objective = Objective::PolicyGradient(PolicyGradient {
            clip_low: train.clip_low,
            clip_high: train.clip_high,
            dual_clip: train.dual_clip,
            kl_coefficient: train.kl_coefficient,
            entropy_coefficient: train.entropy_coefficient,
            aggregation: train.aggregation,
            constant_length: self.settings.solve.max_tokens,
            correction: train.correction,
            correction_limit: train.correction_limit,
        });
        let what = format!("training on rollouts, round {}", round + 1);
        let chunks = groups.chunks(train.groups);
        let progress = Progress::start(&what, chunks.len() as u64);
        let steps_per_round = self.settings.solve.tasks.div_ceil(train.groups);
        let rates = RateSchedule {
            decay: train.decay,
            peak: train.learning_rate,
            warm_up: train.warm_up,
            total: self.settings.solve.rounds * steps_per_round,
        };
        let mut optimizer = AdamW::new(self.optimizer_settings());
        let about = RoundStatistics::of(&self.archive.rollouts_in(self.number, round)?);
        let about = about.recorded();
        for (index, chunk) in chunks.enumerate() {
            let step = round as usize * steps_per_round + index;
            let stretch = Stretch {
                phase: TrainPhase::Policy,
                key: format!("{round:02}/{index:04}"),
                first_step: step,
                steps: vec![(rates.at(step), chunk.to_vec())],
                objective: &objective,
                about: about.clone(),
            };
            optimizer = self.train(policy, optimizer, &stretch, |metrics| {
                progress.note(&format!("loss {:.3}, KL {:.3}", metrics.loss, metrics.kl));
            })?;
            progress.advance(1);
            if self.tripped()?.is_some() {
                break;
            }
        }
        Ok(())
    }
}

/// A group as one prompt with a branch per rollout that counts; `None` when its rewards teach
/// nothing, or when its rollouts do not share the prompt's tokens.
fn example(
    group: Vec<StoredRollout>,
    advantages: impl FnOnce(&[f32]) -> Option<Vec<f32>>,
) -> Option<Example> {
    let counted: Vec<StoredRollout> =
        group.into_iter().filter(|stored| reward::counts(&stored.rollout)).collect();
    let rewards: Vec<f32> = counted.iter().map(|stored| stored.score.reward).collect();
    let advantages = advantages(&rewards)?;
    let prompt = counted.first()?.rollout.steps.first()?.tokens.clone();
    let mut branches = Vec::with_capacity(counted.len());
    for (stored, advantage) in counted.iter().zip(advantages) {
        let (first, rest) = stored.rollout.steps.split_first()?;
        if first.tokens != prompt {
            return None;
        }
        let mut branch = Branch {
            tokens: Vec::new(),
            owned: Vec::new(),
            sampled_logprobs: Vec::new(),
            old_logprobs: Vec::new(),
            advantage,
        };
        for step in rest {
            let owned = step.owner == Owner::Model;
            branch.tokens.extend_from_slice(&step.tokens);
            branch.owned.extend(step.tokens.iter().map(|_| owned));
            match owned {
                true => branch.sampled_logprobs.extend_from_slice(&step.logprobs),
                false => branch.sampled_logprobs.extend(step.tokens.iter().map(|_| 0.0)),
            }
        }
        branches.push(branch);
    }
    Some(Example { prompt, branches })
}
