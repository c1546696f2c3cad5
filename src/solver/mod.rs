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
use crate::protocol::blocks::Conversation;
use crate::protocol::blocks::Goal;
use crate::retrieval::RetrievalError;
use crate::retrieval::Retriever;
use crate::rng;
use crate::rollout::Owner;
use crate::rollout::Rollout;
use crate::rollout::Start;
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

/// What a group of rollouts begins with: a task, or a start within one.
#[derive(Debug, Clone, PartialEq)]
pub struct Instance {
    /// The task.
    pub task: Task,
    /// What has happened before; none where rollouts begin with the question.
    pub history: Option<History>,
}

impl From<Task> for Instance {
    fn from(task: Task) -> Self {
        Self { task, history: None }
    }
}

/// An earlier rollout of a task, or the beginning of one, from which others go on.
#[derive(Debug, Clone, PartialEq)]
pub struct History {
    /// Which, and how they go on.
    pub start: Start,
    /// Its queries.
    pub queries: Vec<String>,
    /// What they found, best first.
    pub passages: Vec<Passage>,
    /// Its answer.
    pub answer: String,
    /// The steps of it that are kept; what its groups began with is the first.
    pub steps: Vec<Step>,
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
    /// One group of rollouts per instance, in their order.
    ///
    /// # Errors
    /// When generation or retrieval fails; an empty or cut-off answer is an outcome.
    pub fn solve(&self, instances: &[Instance]) -> Result<Vec<Vec<Rollout>>, SolveError> {
        match self.settings.protocol {
            ProtocolName::ScriptedSearch => self.scripted(instances),
            ProtocolName::Blocks => self.blocks(instances),
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

    /// One search with the question, made by the program; then the answer. Where there is a
    /// history, its passages, its answer, and another answer.
    fn scripted(&self, instances: &[Instance]) -> Result<Vec<Vec<Rollout>>, SolveError> {
        let mut requests = Vec::with_capacity(instances.len());
        let mut searches = Vec::with_capacity(instances.len());
        for Instance { task, history } in instances {
            let sampling = Sampling::at(self.settings.temperature);
            let seed = rng::derive(self.seed, &[&self.round, &task.id]);
            let (n, question) = (self.settings.rollouts, &task.question);
            let search = match history {
                None => {
                    let found = self.retriever.find(question, self.passages)?;
                    let shown: Vec<&Passage> = found.iter().collect();
                    requests.push(self.reader.request(&shown, question, sampling, n, seed)?);
                    (vec![question.clone()], ids(&found))
                }
                Some(history) => {
                    let shown: Vec<&Passage> = history.passages.iter().collect();
                    let reader = Reader { prompt: history.start.kind.as_str(), ..self.reader };
                    let prompt = reader.revision(&shown, question, &history.answer)?;
                    requests.push(reader.request_for(&prompt, sampling, n, seed));
                    (history.queries.clone(), ids(&history.passages))
                }
            };
            searches.push(search);
        }
        let groups = self.generator.generate(&requests)?;
        let mut all = Vec::with_capacity(instances.len());
        for (((Instance { task, history }, request), group), (queries, retrieved)) in
            instances.iter().zip(requests).zip(groups).zip(searches)
        {
            let rollouts = group.into_iter().enumerate().map(|(index, generation)| Rollout {
                task_id: task.id.clone(),
                index: index as u32,
                model_version: self.generator.model_version().to_string(),
                queries: queries.clone(),
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
                start: history.as_ref().map(|history| history.start),
            });
            all.push(rollouts.collect());
        }
        Ok(all)
    }

    /// Conversations in blocks, side by side: while one searches, others write.
    fn blocks(&self, instances: &[Instance]) -> Result<Vec<Vec<Rollout>>, SolveError> {
        let n = self.settings.rollouts;
        let all = in_order(instances.len() * n, CONVERSATIONS, |conversation| {
            self.conversation(&instances[conversation / n], conversation % n)
        });
        let mut all = all?.into_iter();
        Ok(instances.iter().map(|_| all.by_ref().take(n).collect()).collect())
    }

    /// A conversation from its beginning, or from where its history ends: the turns that are kept
    /// are given, like a prompt.
    fn conversation(&self, instance: &Instance, index: usize) -> Result<Rollout, SolveError> {
        let Instance { task, history } = instance;
        let tokenizer = self.reader.tokenizer;
        let begun = match history {
            None => Conversation::with(tokenizer.encode(&blocks::instruction(&task.question))),
            Some(history) => {
                let kept = history.steps.iter().flat_map(|step| step.tokens.iter().copied());
                Conversation {
                    queries: history.queries.clone(),
                    retrieved: ids(&history.passages),
                    ..Conversation::with(kept.collect())
                }
            }
        };
        let number = index.to_string();
        let limits = blocks::Limits {
            goal: Goal::Answer,
            turns: BLOCK_TURNS,
            turn_tokens: self.settings.max_tokens,
            sampling: Sampling::at(self.settings.temperature),
            seed: rng::derive(self.seed, &[&self.round, &task.id, &number]),
        };
        let search = |query: &str| -> Result<Vec<Passage>, SolveError> {
            Ok(self.retriever.find(query, self.passages)?)
        };
        let talk = blocks::converse(self.generator, tokenizer, begun, &limits, search)?;
        Ok(Rollout {
            task_id: task.id.clone(),
            index: index as u32,
            model_version: self.generator.model_version().to_string(),
            steps: talk.steps,
            queries: talk.queries,
            retrieved: talk.retrieved,
            answer: talk.end,
            stop: talk.stop,
            start: history.as_ref().map(|history| history.start),
        })
    }
}

fn ids(passages: &[Passage]) -> Vec<String> {
    passages.iter().map(|passage| passage.id.clone()).collect()
}
