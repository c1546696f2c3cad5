//! The gate: the one place that opens its checks, for drafts of a night, tasks whose evidence
//! changed, questions of a person and what a benchmark puts to it.

use super::open_model::OpenModel;
use crate::config::Evaluate;
use crate::config::Verify;
use crate::inference::GenerateError;
use crate::inference::Generator;
use crate::model::tokenizer::Tokenizer;
use crate::protocol::Prompts;
use crate::protocol::Reader;
use crate::retrieval::Retriever;
use crate::verifier::Candidate;
use crate::verifier::KnownQuestions;
use crate::verifier::ModelChecks;
use crate::verifier::Passages;
use crate::verifier::RuleChecks;
use crate::verifier::model_checks::Costs;

/// Who answers the model's checks.
#[derive(Clone, Copy)]
pub(super) struct Models<'a> {
    /// Reads passages.
    pub(super) with_documents: &'a dyn Generator,
    /// The base model, which answers without documents.
    pub(super) from_memory: &'a dyn Generator,
}

/// What the checks look at.
pub(super) struct Gate<'a> {
    pub(super) verify: &'a Verify,
    /// How versions are asked.
    pub(super) evaluate: &'a Evaluate,
    /// Active passages by id.
    pub(super) passages: &'a Passages,
    /// Their ids, sorted.
    pub(super) passage_ids: &'a [String],
    /// Searches in them.
    pub(super) retriever: &'a dyn Retriever,
    pub(super) prompts: &'a Prompts,
    pub(super) tokenizer: &'a Tokenizer,
    /// Seed of all draws.
    pub(super) seed: u64,
}

impl OpenModel<'_> {
    /// The gate over a corpus.
    pub(super) fn gate<'g>(
        &'g self,
        passages: &'g Passages,
        passage_ids: &'g [String],
        retriever: &'g dyn Retriever,
        seed: u64,
    ) -> Gate<'g> {
        Gate {
            verify: &self.settings.verify,
            evaluate: &self.settings.evaluate,
            passages,
            passage_ids,
            retriever,
            prompts: &self.prompts,
            tokenizer: &self.outline.tokenizer,
            seed,
        }
    }
}

impl Gate<'_> {
    /// Takes a batch through the whole gate; without models through its rules alone.
    pub(super) fn run(
        &self,
        candidates: &mut [Candidate],
        known: &dyn KnownQuestions,
        models: Option<Models<'_>>,
    ) -> Result<Costs, GenerateError> {
        let mut rules = RuleChecks::new(self.verify, self.passages, known);
        candidates.iter_mut().for_each(|candidate| rules.run(candidate));
        match models {
            Some(models) => self.ask_model(candidates, models),
            None => Ok(Costs::new()),
        }
    }

    /// Runs the model's checks on the candidates that passed the rules.
    pub(super) fn ask_model(
        &self,
        candidates: &mut [Candidate],
        models: Models<'_>,
    ) -> Result<Costs, GenerateError> {
        let Models { with_documents, from_memory } = models;
        let base_reads = with_documents.model_version() == from_memory.model_version();
        let Evaluate { base_prompt, adapter_prompt, max_tokens, .. } = self.evaluate;
        let reader = |prompt| Reader {
            prompts: self.prompts,
            prompt,
            tokenizer: self.tokenizer,
            max_tokens: *max_tokens,
        };
        let checks = ModelChecks {
            settings: self.verify,
            passages: self.passages,
            ids: self.passage_ids,
            retriever: self.retriever,
            open_book: reader(if base_reads { base_prompt } else { adapter_prompt }),
            closed_book: reader("closed_book"),
            seed: self.seed,
        };
        checks.run(candidates, with_documents, from_memory)
    }
}
