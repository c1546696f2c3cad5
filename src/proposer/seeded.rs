//! The answer-seeded proposer of Search Self-play: the model is given the answer and its evidence,
//! and writes the question.

use std::collections::HashMap;

use super::ProposeError;
use super::Proposer;
use super::Written;
use super::draft_id;
use crate::inference::Generation;
use crate::inference::Generator;
use crate::inference::Request;
use crate::inference::Sampling;
use crate::model::tokenizer::Tokenizer;
use crate::protocol::Prompts;
use crate::rng;
use crate::rollout::Owner;
use crate::rollout::Step;
use crate::rollout::StopReason;
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
    fn propose(&self, seeds: &[Seed]) -> Result<Vec<Written>, ProposeError> {
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
        let written = seeds.iter().zip(requests).zip(generations);
        Ok(written
            .map(|((seed, request), samples)| {
                self.written(seed, request.prompt, samples.into_iter().next())
            })
            .collect())
    }

    fn sampling(&self) -> serde_json::Value {
        serde_json::json!({
            "proposer": "answer_seeded",
            "prompt": self.prompt,
            "temperature": self.sampling.temperature,
            "max_tokens": self.max_tokens,
        })
    }
}

impl AnswerSeeded<'_> {
    fn written(&self, seed: &Seed, prompt: Vec<u32>, generation: Option<Generation>) -> Written {
        let draft = Draft {
            id: draft_id(Origin::Model, self.night, seed),
            origin: Origin::Model,
            seed: seed.clone(),
            question: generation.as_ref().and_then(question_of),
            transcript: generation.as_ref().map(|generation| generation.text.clone()),
            model_version: self.generator.model_version().to_string(),
        };
        let stop = generation.as_ref().map_or(StopReason::Cancelled, |generation| generation.stop);
        let steps = match generation {
            Some(Generation { tokens, logprobs, .. }) if tokens.len() == logprobs.len() => vec![
                Step { owner: Owner::Tool, tokens: prompt, logprobs: Vec::new() },
                Step { owner: Owner::Model, tokens, logprobs },
            ],
            _ => Vec::new(),
        };
        Written { draft, steps, stop }
    }
}

/// The question in a generation: its line up to the first question mark; `None` when there is no
/// question mark or the text was cut off.
fn question_of(generation: &Generation) -> Option<String> {
    let text = generation.text.trim();
    let end = text.find('?')?;
    (!generation.stop.is_cut()).then(|| text[..=end].to_string())
}
