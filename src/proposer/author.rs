//! The model in its proposer role: what all of its ways to write a question share.

use std::collections::HashMap;

use serde_json::Value;
use serde_json::json;

use super::Written;
use super::draft_id;
use crate::config::ProposerMethod;
use crate::inference::Generator;
use crate::inference::Sampling;
use crate::model::tokenizer::Tokenizer;
use crate::protocol::Example;
use crate::rng;
use crate::rollout::Owner;
use crate::rollout::Step;
use crate::rollout::StopReason;
use crate::task::Draft;
use crate::task::Origin;
use crate::task::Passage;
use crate::task::Seed;

/// A model that writes questions, and what it works on.
#[derive(Clone, Copy)]
pub struct Author<'a> {
    /// The policy in its proposer role.
    pub generator: &'a dyn Generator,
    /// The model's tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// Passages by id: the evidence shown.
    pub passages: &'a HashMap<String, Passage>,
    /// Tasks that it is shown as examples, those from a seed's own documents left out.
    pub examples: &'a [Example],
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Longest text, or turn, in tokens.
    pub max_tokens: usize,
    /// Seed of all draws.
    pub seed: u64,
    /// The night, part of the drafts' ids.
    pub night: u32,
}

impl<'a> Author<'a> {
    pub(super) fn evidence(&self, seed: &Seed) -> Vec<&'a Passage> {
        seed.path.iter().filter_map(|id| self.passages.get(id)).collect()
    }

    /// The examples beside this evidence: always in the same order, so that prompts begin alike.
    pub(super) fn examples_beside(&self, evidence: &[&Passage]) -> Vec<&'a Example> {
        let shared = |example: &&Example| {
            let mut documents = example.passages.iter().map(|passage| &passage.document_id);
            documents.any(|id| evidence.iter().any(|passage| passage.document_id == *id))
        };
        self.examples.iter().filter(|example| !shared(example)).collect()
    }

    /// The seed of what is drawn for a seed.
    pub(super) fn draws_of(&self, seed: &Seed) -> u64 {
        rng::derive(self.seed, &["draft", &draft_id(Origin::Model, self.night, seed)])
    }

    /// The draft for the seed as it was `drawn`, from the seed and question that were read from
    /// what was written.
    pub(super) fn written(
        &self,
        drawn: &Seed,
        (seed, question): (Seed, Option<String>),
        transcript: Option<String>,
        steps: Vec<Step>,
        stop: StopReason,
    ) -> Written {
        let told = steps
            .iter()
            .all(|step| step.owner == Owner::Tool || step.logprobs.len() == step.tokens.len());
        let draft = Draft {
            id: draft_id(Origin::Model, self.night, drawn),
            origin: Origin::Model,
            seed,
            question,
            transcript,
            model_version: self.generator.model_version().to_string(),
        };
        Written { draft, steps: if told { steps } else { Vec::new() }, stop }
    }

    pub(super) fn sampling(
        &self,
        method: ProposerMethod,
        turns: usize,
        prompt: Option<&str>,
    ) -> Value {
        let examples = self.examples.iter().map(|example| example.task_id.as_str());
        json!({
            "method": method,
            "turns": turns,
            "prompt": prompt,
            "examples": examples.collect::<Vec<_>>(),
            "temperature": self.sampling.temperature,
            "max_tokens": self.max_tokens,
        })
    }
}
