//! The warm start: masked likelihood on code-made tasks, before the first game.
//!
//! Each prompt is a real search: the passages found for one task's question. Every code-made task
//! about any of these passages is a branch of it, so the passages are read once for all of them,
//! and the right passage stands at every rank.

use std::collections::HashMap;
use std::collections::HashSet;

use rand::seq::SliceRandom;

use super::night::Night;
use super::train::Policy;
use super::train::Stretch;
use crate::archive::ModelKind;
use crate::archive::ModelVersion;
use crate::archive::TrainPhase;
use crate::progress::Progress;
use crate::proposer::cloze;
use crate::protocol::Prompt;
use crate::retrieval::Retriever;
use crate::rng;
use crate::task::Passage;
use crate::task::Task;
use crate::trainer::batch::Branch;
use crate::trainer::batch::Example;
use crate::trainer::objective::Objective;
use crate::trainer::optimizer::AdamW;
use crate::trainer::optimizer::RateSchedule;

impl Night<'_> {
    /// Trains on code-made tasks when the night starts from the base model.
    pub(super) fn warm_start(
        &self,
        incumbent: &ModelVersion,
        policy: &mut Policy,
    ) -> anyhow::Result<()> {
        let settings = &self.settings.warm_start;
        if incumbent.kind != ModelKind::Base || settings.steps == 0 {
            return Ok(());
        }
        let examples = self.demonstrations(settings.steps * settings.searches)?;
        if examples.is_empty() {
            tracing::warn!("no code-made task to warm up on; going on without a warm start");
            return Ok(());
        }
        let progress = Progress::start("warm start on tasks made by code", settings.steps as u64);
        let mut optimizer = AdamW::new(self.optimizer_settings());
        let stretch_steps = self.settings.train.checkpoint_steps;
        let rates = RateSchedule {
            decay: settings.decay,
            peak: settings.learning_rate,
            warm_up: settings.warm_up,
            total: settings.steps,
        };
        for first_step in (0..settings.steps).step_by(stretch_steps) {
            let last = (first_step + stretch_steps).min(settings.steps);
            let steps = (first_step..last).map(|step| {
                let rate = rates.at(step);
                let first = step * settings.searches;
                let chosen = (first..first + settings.searches)
                    .map(|index| examples[index % examples.len()].clone());
                (rate, chosen.collect())
            });
            let stretch = Stretch {
                phase: TrainPhase::WarmStart,
                key: format!("{first_step:05}"),
                first_step,
                steps: steps.collect(),
                objective: &Objective::Likelihood,
                about: serde_json::Map::new(),
            };
            let mut shown = 0;
            optimizer = self.train(policy, optimizer, &stretch, |metrics| {
                shown += 1;
                progress.advance(1);
                progress.note(&format!("loss {:.3}", metrics.loss));
            })?;
            progress.advance(stretch.steps.len() as u64 - shown);
        }
        self.store_version(policy, "warm", "warm start on tasks made by code")
    }

    /// Up to `n` prompts with demonstrations, every task used once.
    fn demonstrations(&self, n: usize) -> anyhow::Result<Vec<Example>> {
        let by_passage = self.code_tasks_by_passage()?;
        let mut tasks: Vec<&Task> = by_passage.values().flatten().collect();
        tasks.sort_by(|a, b| a.id.cmp(&b.id));
        tasks.shuffle(&mut rng::stream(self.seed(), &["demonstrations"]));
        let mut used: HashSet<&str> = HashSet::new();
        let mut examples = Vec::new();
        for task in &tasks {
            if examples.len() == n {
                break;
            }
            if used.contains(task.id.as_str()) {
                continue;
            }
            if let Some(example) = self.demonstration(task, &by_passage, &mut used)? {
                examples.push(example);
            }
        }
        Ok(examples)
    }

    /// The search for one task, with all unused tasks about what it found: each is a question to
    /// answer, and some are taught the other way round too, as a question to write.
    fn demonstration<'t>(
        &self,
        task: &'t Task,
        by_passage: &'t HashMap<String, Vec<Task>>,
        used: &mut HashSet<&'t str>,
    ) -> anyhow::Result<Option<Example>> {
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
        let mut branches = Vec::new();
        for task in &chosen {
            let prompt = reader.prompt(&passages, &task.question)?;
            branches.push(demonstrated(&prompt, reader.demonstration(&task.answer)));
            context = prompt.context;
        }
        let name = &self.settings.propose.adapter_prompt;
        let natural = chosen.iter().filter(|task| cloze::asks_in_front(&task.question));
        for task in natural.take(self.settings.warm_start.proposals) {
            let tokenizer = &self.model.tokenizer;
            let prompt = self.prompts.render(name, tokenizer, &passages, "", &task.answer)?;
            // Only a prompt that shows passages as the reader's does can branch from them.
            if prompt.context == context {
                branches.push(demonstrated(&prompt, reader.demonstration(&task.question)));
            }
        }
        Ok((!branches.is_empty()).then_some(Example { prompt: context, branches }))
    }
}

/// A branch whose query is read and whose continuation is learnt.
fn demonstrated(prompt: &Prompt, continuation: Vec<u32>) -> Branch {
    let read = prompt.query.iter().map(|_| false);
    Branch {
        owned: read.chain(continuation.iter().map(|_| true)).collect(),
        tokens: [prompt.query.clone(), continuation].concat(),
        sampled_logprobs: Vec::new(),
        old_logprobs: Vec::new(),
        advantage: 1.0,
    }
}
