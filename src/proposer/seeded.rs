//! The proposer that writes at once: given an answer and its evidence, the question (Search
//! Self-play), or given the evidence alone, an answer and the question.

use super::Author;
use super::ProposeError;
use super::Proposer;
use super::Written;
use super::document;
use super::question_in;
use crate::config::ProposerMethod;
use crate::corpus::Miner;
use crate::inference::Generation;
use crate::inference::Request;
use crate::protocol::Prompts;
use crate::rollout::Owner;
use crate::rollout::Step;
use crate::rollout::StopReason;
use crate::task::Seed;

/// Asks the model for one text per seed.
pub struct Seeded<'a> {
    /// The model.
    pub author: Author<'a>,
    /// The prompts in use.
    pub prompts: &'a Prompts,
    /// Name of the proposer's prompt.
    pub prompt: &'a str,
    /// What it is given of a seed.
    pub given: Given<'a>,
}

/// What the model is given of a seed.
#[derive(Clone, Copy)]
pub enum Given<'a> {
    /// The answer and its evidence.
    Answer,
    /// The evidence; the miner tells what sort of thing the answer is that was written.
    Documents(&'a Miner),
}

impl Proposer for Seeded<'_> {
    fn propose(&self, seeds: &[Seed]) -> Result<Vec<Written>, ProposeError> {
        let Author { tokenizer, sampling, max_tokens, .. } = self.author;
        let mut requests = Vec::with_capacity(seeds.len());
        let mut begun = Vec::with_capacity(seeds.len());
        for seed in seeds {
            let evidence = self.author.evidence(seed);
            let examples = self.author.examples_beside(&evidence);
            let answer = match self.given {
                Given::Answer => seed.answer.as_str(),
                Given::Documents(_) => "",
            };
            let prompt = self.prompts.render_with_examples(
                self.prompt,
                tokenizer,
                &evidence,
                answer,
                &examples,
            )?;
            let query = tokenizer.decode(&prompt.query);
            let stop = match self.given {
                Given::Answer => vec!["\n".into()],
                Given::Documents(_) => document::ends(&query),
            };
            let seed = self.author.draws_of(seed);
            let request = Request::new(prompt.tokens(), max_tokens);
            requests.push(Request { sampling, stop, seed, ..request });
            begun.push(query);
        }
        let generations = self.author.generator.generate(&requests)?;
        let written = seeds.iter().zip(requests).zip(begun).zip(generations);
        Ok(written
            .map(|(((seed, request), query), samples)| {
                self.written(seed, request.prompt, &query, samples.into_iter().next())
            })
            .collect())
    }

    fn sampling(&self) -> serde_json::Value {
        let method = match self.given {
            Given::Answer => ProposerMethod::AnswerSeeded,
            Given::Documents(_) => ProposerMethod::DocumentSeeded,
        };
        self.author.sampling(method, 0, Some(self.prompt))
    }
}

impl Seeded<'_> {
    fn written(
        &self,
        drawn: &Seed,
        prompt: Vec<u32>,
        query: &str,
        generation: Option<Generation>,
    ) -> Written {
        let Some(generation) = generation else {
            let nothing = (drawn.clone(), None);
            return self.author.written(drawn, nothing, None, Vec::new(), StopReason::Cancelled);
        };
        let read = self.read(drawn, query, &generation);
        let Generation { tokens, logprobs, text, stop, .. } = generation;
        let steps = vec![
            Step { owner: Owner::Tool, tokens: prompt, logprobs: Vec::new() },
            Step { owner: Owner::Model, tokens, logprobs },
        ];
        self.author.written(drawn, read, Some(text), steps, stop)
    }

    /// The seed and the question in a generation; the seed as drawn and no question where it is
    /// malformed.
    fn read(&self, drawn: &Seed, query: &str, generation: &Generation) -> (Seed, Option<String>) {
        let cut = generation.stop.is_cut();
        match self.given {
            Given::Answer => {
                let question = question_in(&generation.text).filter(|_| !cut);
                (drawn.clone(), question)
            }
            Given::Documents(miner) => match document::read(query, &generation.text, cut) {
                Some((answer, question)) => {
                    let (kind, path) = (miner.kind_of(&answer), drawn.path.clone());
                    (Seed { answer, kind, path }, Some(question))
                }
                None => (drawn.clone(), None),
            },
        }
    }
}
