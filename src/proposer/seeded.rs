//! The answer-seeded proposer of Search Self-play: the model is given the answer and its evidence,
//! and writes the question.

use std::collections::HashMap;

use super::ProposeError;
use super::Proposer;
use super::draft_id;
use crate::inference::Generation;
use crate::inference::Generator;
use crate::inference::Request;
use crate::inference::Sampling;
use crate::model::tokenizer::Tokenizer;
use crate::protocol::Prompts;
use crate::rng;
use crate::task::Draft;
use crate::task::Origin;
use crate::task::Passage;
use crate::task::Seed;

/// Asks the model for a question per seed.
pub struct AnswerSeeded<'a> {
    /// The policy in its proposer role.
    pub generator: &'a dyn Generator,
    /// The model's tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// The prompts in use.
    pub prompts: &'a Prompts,
    /// Name of the proposer's prompt.
    pub prompt: &'a str,
    /// Passages by id: the evidence shown.
    pub passages: &'a HashMap<String, Passage>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Longest question, in tokens.
    pub max_tokens: usize,
    /// Seed of all draws.
    pub seed: u64,
    /// The night, part of the drafts' ids.
    pub night: u32,
}

impl Proposer for AnswerSeeded<'_> {
    fn propose(&self, seeds: &[Seed]) -> Result<Vec<Draft>, ProposeError> {
        let mut requests = Vec::with_capacity(seeds.len());
        for seed in seeds {
            let evidence: Vec<&Passage> =
                seed.path.iter().filter_map(|id| self.passages.get(id)).collect();
            let prompt =
                self.prompts.render(self.prompt, self.tokenizer, &evidence, "", &seed.answer)?;
            let id = draft_id(Origin::Model, self.night, seed);
            requests.push(Request {
                sampling: self.sampling,
                stop: vec!["\n".into()],
                seed: rng::derive(self.seed, &["draft", &id]),
                ..Request::new(prompt.tokens(), self.max_tokens)
            });
        }
        let generations = self.generator.generate(&requests)?;
        let drafts = seeds.iter().zip(generations).map(|(seed, samples)| {
            let generation = samples.into_iter().next();
            Draft {
                id: draft_id(Origin::Model, self.night, seed),
                origin: Origin::Model,
                seed: seed.clone(),
                question: generation.as_ref().and_then(question_of),
                transcript: generation.map(|generation| generation.text),
                model_version: self.generator.model_version().to_string(),
            }
        });
        Ok(drafts.collect())
    }
}

/// The question in a generation: its line up to the first question mark; `None` when there is no
/// question mark or the text was cut off.
fn question_of(generation: &Generation) -> Option<String> {
    let text = generation.text.trim();
    let end = text.find('?')?;
    (!generation.stop.is_cut()).then(|| text[..=end].to_string())
}
