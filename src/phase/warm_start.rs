//! Demonstrations: masked likelihood on code-made tasks. The warm start is made of them, before the
//! first game; `mixture` mixes others into the game.
//!
//! Each prompt is a real search: the passages found for one task's question. Every code-made task
//! about any of these passages is a branch of it, so the passages are read once for all of them,
//! and the right passage stands at every rank.

use std::collections::HashMap;
use std::collections::HashSet;

use rand::seq::SliceRandom;

use super::night::Night;
use super::policy::Policy;
use super::train::Course;
use super::train::PlannedStep;
use crate::archive::ModelKind;
use crate::archive::ModelVersion;
use crate::archive::TrainItem;
use crate::archive::TrainPhase;
use crate::config::Adapters;
use crate::config::ObjectiveName;
use crate::config::Role;
use crate::proposer::cloze;
use crate::protocol::Prompt;
use crate::retrieval::Retriever;
use crate::rng;
use crate::task::Passage;
use crate::task::Task;
use crate::trainer::batch::Branch;
use crate::trainer::batch::Example;
use crate::trainer::objective::Objective;
use crate::trainer::optimizer::RateSchedule;

/// What the version behind the warm start is called.
const STAGE: &str = "warm";

/// A search's passages, with the answers to questions about them and the questions themselves.
pub(super) struct Demonstration {
    prompt: Vec<u32>,
    answers: Vec<Branch>,
    questions: Vec<Branch>,
    /// The tasks that are answered, then those that are asked.
    tasks: [Vec<String>; 2],
}

impl Night<'_> {
    /// Trains on code-made tasks when the night starts from the base model. Where the roles have an
    /// adapter each, the answers train the solver's and the questions the proposer's.
    pub(super) fn warm_start(
        &self,
        incumbent: &ModelVersion,
        policy: &mut Policy,
    ) -> anyhow::Result<()> {
        if incumbent.kind != ModelKind::Base || self.settings.warm_start.steps == 0 {
            return Ok(());
        }
        if let Some(stored) = self.stored_policy(STAGE)? {
            *policy = stored;
            return Ok(());
        }
        let settings = &self.settings.warm_start;
        let demonstrations = self.demonstrations(settings.steps * settings.searches)?;
        if demonstrations.is_empty() {
            tracing::warn!("no code-made task to warm up on; going on without a warm start");
            return Ok(());
        }
        let title = "warm start on tasks made by code";
        match self.settings.train.adapters {
            Adapters::Shared => {
                let both = [Role::Solver, Role::Proposer];
                self.warm_up(policy, Role::Solver, &both, &demonstrations, title)?;
            }
            Adapters::PerRole => {
                for role in [Role::Solver, Role::Proposer] {
                    let title = format!("{title}: {}", role.as_str());
                    self.warm_up(policy, role, &[role], &demonstrations, &title)?;
                }
            }
        }
        if let Some(stop) = self.stop()? {
            tracing::warn!("training stopped at {stop}");
            *policy = self.policy_at(incumbent)?;
            return Ok(());
        }
        self.store_version(policy, STAGE, title)
    }

    /// Trains the adapter that plays `role` on what the demonstrations show of the roles `taught`.
    fn warm_up(
        &self,
        policy: &mut Policy,
        role: Role,
        taught: &[Role],
        demonstrations: &[Demonstration],
        title: &str,
    ) -> anyhow::Result<()> {
        let settings = &self.settings.warm_start;
        let rates = RateSchedule {
            decay: settings.decay,
            peak: settings.learning_rate,
            warm_up: settings.warm_up,
            total: settings.steps,
        };
        let prefix = self.key_prefix(role);
        let steps = (0..settings.steps).filter_map(|number| {
            let (examples, items) = self.lesson(demonstrations, number, taught);
            let (key, rate) = (format!("{prefix}{number:05}"), rates.at(number));
            let phase = TrainPhase::WarmStart;
            // A proposer learns nothing from searches whose tasks make no natural question.
            let step = PlannedStep { phase, key, number, rate, examples, items };
            (!step.examples.is_empty()).then_some(step)
        });
        let mut left = self.warm_start_budget()?;
        let affordable = steps.take_while(|step| {
            let tokens = step.examples.iter().map(|example| example.token_count() as u64).sum();
            let affordable = left.is_none_or(|left| tokens <= left);
            left = left.map(|left| left.saturating_sub(tokens));
            affordable
        });
        let course = Course {
            title: title.to_string(),
            role,
            steps: affordable.collect(),
            stretch: self.settings.train.checkpoint_steps,
            objective: &Objective::Likelihood,
            named: ObjectiveName::Likelihood,
            about: serde_json::Map::new(),
        };
        self.train(policy, &course)
    }

    /// What the `number`-th step on these demonstrations shows of the roles `taught`, and what that
    /// is made of. When all were shown it begins again; there is one at least.
    pub(super) fn lesson(
        &self,
        demonstrations: &[Demonstration],
        number: usize,
        taught: &[Role],
    ) -> (Vec<Example>, Vec<TrainItem>) {
        let searches = self.settings.warm_start.searches;
        let first = number * searches;
        let shown =
            (first..first + searches).map(|index| &demonstrations[index % demonstrations.len()]);
        let examples = shown.clone().filter_map(|one| one.of(taught)).collect();
        (examples, shown.flat_map(|one| one.items(taught)).collect())
    }

    /// Up to `n` prompts with demonstrations, every task used once.
    fn demonstrations(&self, n: usize) -> anyhow::Result<Vec<Demonstration>> {
        let by_passage = self.code_tasks_by_passage()?;
        let tasks = self.shuffled(&by_passage, &["demonstrations"]);
        self.draw(&tasks, &by_passage, &mut HashSet::new(), n, Role::Solver)
    }

    /// The tasks in an order of their own for each purpose.
    pub(super) fn shuffled<'t>(
        &self,
        by_passage: &'t HashMap<String, Vec<Task>>,
        purpose: &[&str],
    ) -> Vec<&'t Task> {
        let mut tasks: Vec<&Task> = by_passage.values().flatten().collect();
        tasks.sort_by(|a, b| a.id.cmp(&b.id));
        tasks.shuffle(&mut rng::stream(self.seed(), purpose));
        tasks
    }

    /// Up to `n` prompts that show something of `role`, from the searches for these tasks in their
    /// order. None shows a task that is `used`, and those that are shown are used then.
    pub(super) fn draw<'t>(
        &self,
        tasks: &[&'t Task],
        by_passage: &'t HashMap<String, Vec<Task>>,
        used: &mut HashSet<&'t str>,
        n: usize,
        role: Role,
    ) -> anyhow::Result<Vec<Demonstration>> {
        let mut demonstrations = Vec::new();
        for task in tasks {
            if demonstrations.len() == n {
                break;
            }
            // Only some tasks make questions to be written.
            let natural = role == Role::Solver || cloze::asks_in_front(&task.question);
            if !natural || used.contains(task.id.as_str()) {
                continue;
            }
            let shown = self.demonstration(task, by_passage, used)?;
            demonstrations.extend(shown.filter(|shown| shown.of(&[role]).is_some()));
        }
        Ok(demonstrations)
    }

    /// The search for one task, with all unused tasks about what it found: each is a question to
    /// answer, and some are taught the other way round too, as a question to write.
    fn demonstration<'t>(
        &self,
        task: &'t Task,
        by_passage: &'t HashMap<String, Vec<Task>>,
        used: &mut HashSet<&'t str>,
    ) -> anyhow::Result<Option<Demonstration>> {
        let hits = self.index.search(&task.question, self.settings.retrieval.passages)?;
        let passages: Vec<&Passage> = hits.iter().map(|hit| &hit.passage).collect();
        let about = passages.iter().filter_map(|passage| by_passage.get(&passage.id)).flatten();
        let mut chosen: Vec<&Task> = Vec::new();
        for task in about {
            if chosen.len() < self.settings.warm_start.questions && used.insert(task.id.as_str()) {
                chosen.push(task);
            }
        }
        let evaluate = &self.settings.evaluate;
        let reader = self.reader(&evaluate.adapter_prompt, evaluate.max_tokens);
        let mut context = Vec::new();
        let (mut answers, mut questions) = (Vec::new(), Vec::new());
        let mut asked = Vec::new();
        for task in &chosen {
            let prompt = reader.prompt(&passages, &task.question)?;
            answers.push(demonstrated(&prompt, reader.demonstration(&task.answer)));
            context = prompt.context;
        }
        let natural = chosen.iter().filter(|task| cloze::asks_in_front(&task.question));
        for task in natural.take(self.settings.warm_start.proposals) {
            let (shown, branch) = self.proposal_shown(&passages, &task.question, &task.answer)?;
            // Only a prompt that shows passages as the reader's does can branch from them.
            if shown == context {
                questions.push(branch);
                asked.push(task.id.clone());
            }
        }
        let tasks = [chosen.iter().map(|task| task.id.clone()).collect(), asked];
        let shown = Demonstration { prompt: context, answers, questions, tasks };
        Ok((!shown.answers.is_empty()).then_some(shown))
    }
}

impl Demonstration {
    /// What it shows of these roles, if it shows anything.
    fn of(&self, roles: &[Role]) -> Option<Example> {
        let branches = roles.iter().flat_map(|role| match role {
            Role::Solver => &self.answers,
            Role::Proposer => &self.questions,
        });
        let branches: Vec<Branch> = branches.cloned().collect();
        (!branches.is_empty()).then(|| Example { prompt: self.prompt.clone(), branches })
    }

    /// What that is made of.
    fn items(&self, roles: &[Role]) -> Vec<TrainItem> {
        let [answered, asked] = &self.tasks;
        let tasks = roles.iter().flat_map(|role| match role {
            Role::Solver => answered,
            Role::Proposer => asked,
        });
        tasks.map(|task_id| TrainItem::Task { task_id: task_id.clone() }).collect()
    }
}

/// A branch whose query is read and whose continuation is learnt.
pub(super) fn demonstrated(prompt: &Prompt, continuation: Vec<u32>) -> Branch {
    let read = prompt.query.iter().map(|_| false);
    Branch {
        owned: read.chain(continuation.iter().map(|_| true)).collect(),
        tokens: [prompt.query.clone(), continuation].concat(),
        sampled_logprobs: Vec::new(),
        old_logprobs: Vec::new(),
        advantage: 1.0,
    }
}
