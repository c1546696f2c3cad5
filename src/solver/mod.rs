//! The solver: groups of rollouts that search and answer.

use crate::config::ProtocolName;
use crate::config::Solve;
use crate::inference::GenerateError;
use crate::inference::Generator;
use crate::inference::Sampling;
use crate::inference::concurrent::in_order;
use crate::protocol::PromptError;
use crate::protocol::Reader;
use crate::protocol::answer_of;
use crate::protocol::blocks;
use crate::retrieval::RetrievalError;
use crate::retrieval::Retriever;
use crate::rng;
use crate::rollout::Owner;
use crate::rollout::Rollout;
use crate::rollout::Step;
use crate::task::Passage;
use crate::task::Task;

/// Conversations at the same time at most: a unit of a night's work.
const CONVERSATIONS: usize = 32;
/// Turns of a block conversation at most.
const BLOCK_TURNS: usize = 4;

/// Why no rollouts were made.
#[derive(Debug, thiserror::Error)]
pub enum SolveError {
    /// Generation failed.
    #[error(transparent)]
    Generate(#[from] GenerateError),
    /// Retrieval failed.
    #[error(transparent)]
    Retrieve(#[from] RetrievalError),
    /// The prompt failed.
    #[error(transparent)]
    Prompt(#[from] PromptError),
}

/// Attempts tasks with one policy.
pub struct Solver<'a> {
    /// The policy.
    pub generator: &'a dyn Generator,
    /// Where it searches.
    pub retriever: &'a dyn Retriever,
    /// How a question with passages is put to it.
    pub reader: Reader<'a>,
    /// Rollouts, temperature, protocol.
    pub settings: &'a Solve,
    /// Passages per search.
    pub passages: usize,
    /// Seed of all draws.
    pub seed: u64,
    /// Distinguishes this round's draws and ids from others': night and round.
    pub round: String,
}

impl Solver<'_> {
    /// One group of rollouts per task, in the tasks' order.
    ///
    /// # Errors
    /// When generation or retrieval fails; an empty or cut-off answer is an outcome.
    pub fn solve(&self, tasks: &[Task]) -> Result<Vec<Vec<Rollout>>, SolveError> {
        match self.settings.protocol {
            ProtocolName::ScriptedSearch => self.scripted(tasks),
            ProtocolName::Blocks => self.blocks(tasks),
        }
    }

    /// How its rollouts are drawn, as the archive keeps it.
    pub fn sampling(&self) -> serde_json::Value {
        serde_json::json!({
            "protocol": self.settings.protocol,
            "prompt": self.reader.prompt,
            "passages": self.passages,
            "temperature": self.settings.temperature,
            "max_tokens": self.settings.max_tokens,
        })
    }

    /// One search with the question, made by the program; then the answer.
    fn scripted(&self, tasks: &[Task]) -> Result<Vec<Vec<Rollout>>, SolveError> {
        let mut requests = Vec::with_capacity(tasks.len());
        let mut retrieved = Vec::with_capacity(tasks.len());
        for task in tasks {
            let hits = self.retriever.search(&task.question, self.passages)?;
            let passages: Vec<&Passage> = hits.iter().map(|hit| &hit.passage).collect();
            let sampling = Sampling::at(self.settings.temperature);
            requests.push(self.reader.request(
                &passages,
                &task.question,
                sampling,
                self.settings.rollouts,
                rng::derive(self.seed, &[&self.round, &task.id]),
            )?);
            retrieved.push(passages.iter().map(|p| p.id.clone()).collect::<Vec<_>>());
        }
        let groups = self.generator.generate(&requests)?;
        let mut all = Vec::with_capacity(tasks.len());
        for (((task, request), group), retrieved) in
            tasks.iter().zip(requests).zip(groups).zip(retrieved)
        {
            let rollouts = group.into_iter().enumerate().map(|(index, generation)| Rollout {
                task_id: task.id.clone(),
                index: index as u32,
                model_version: self.generator.model_version().to_string(),
                queries: vec![task.question.clone()],
                retrieved: retrieved.clone(),
                answer: answer_of(&generation),
                stop: generation.stop,
                steps: vec![
                    Step {
                        owner: Owner::Tool,
                        tokens: request.prompt.clone(),
                        logprobs: Vec::new(),
                    },
                    Step {
                        owner: Owner::Model,
                        tokens: generation.tokens,
                        logprobs: generation.logprobs,
                    },
                ],
            });
            all.push(rollouts.collect());
        }
        Ok(all)
    }

    /// Conversations in blocks, side by side: while one searches, others write.
    fn blocks(&self, tasks: &[Task]) -> Result<Vec<Vec<Rollout>>, SolveError> {
        let n = self.settings.rollouts;
        let all = in_order(tasks.len() * n, CONVERSATIONS, |conversation| {
            self.conversation(&tasks[conversation / n], conversation % n)
        });
        let mut all = all?.into_iter();
        Ok(tasks.iter().map(|_| all.by_ref().take(n).collect()).collect())
    }

    fn conversation(&self, task: &Task, index: usize) -> Result<Rollout, SolveError> {
        let tokenizer = self.reader.tokenizer;
        let prompt = tokenizer.encode(&blocks::instruction(&task.question));
        let number = index.to_string();
        let limits = blocks::Limits {
            turns: BLOCK_TURNS,
            turn_tokens: self.settings.max_tokens,
            sampling: Sampling::at(self.settings.temperature),
            seed: rng::derive(self.seed, &[&self.round, &task.id, &number]),
        };
        let search = |query: &str| -> Result<Vec<Passage>, SolveError> {
            let hits = self.retriever.search(query, self.passages)?;
            Ok(hits.into_iter().map(|hit| hit.passage).collect())
        };
        let talk = blocks::converse(self.generator, tokenizer, prompt, &limits, search)?;
        Ok(Rollout {
            task_id: task.id.clone(),
            index: index as u32,
            model_version: self.generator.model_version().to_string(),
            steps: talk.steps,
            queries: talk.queries,
            retrieved: talk.retrieved,
            answer: talk.answer,
            stop: talk.stop,
        })
    }
}
