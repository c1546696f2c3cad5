//! The gate's checks by the model, for drafts of a night, tasks whose evidence changed and
//! questions of a person alike.

use super::open_model::OpenModel;
use crate::inference::GenerateError;
use crate::inference::Generator;
use crate::verifier::Candidate;
use crate::verifier::ModelChecks;
use crate::verifier::Passages;

/// What the checks look at.
pub(super) struct Gate<'a> {
    pub(super) open: &'a OpenModel<'a>,
    /// Active passages by id.
    pub(super) passages: &'a Passages,
    /// Their ids, sorted.
    pub(super) passage_ids: &'a [String],
    /// Seed of all draws.
    pub(super) seed: u64,
}

impl Gate<'_> {
    /// Runs the model's checks on the candidates that passed the rules: `with_documents` reads,
    /// `from_memory`, the base model, answers without documents.
    pub(super) fn ask_model(
        &self,
        candidates: &mut [Candidate],
        with_documents: &dyn Generator,
        from_memory: &dyn Generator,
    ) -> Result<(), GenerateError> {
        let base_reads = with_documents.model_version() == from_memory.model_version();
        let evaluate = &self.open.settings.evaluate;
        let prompt = if base_reads { &evaluate.base_prompt } else { &evaluate.adapter_prompt };
        let checks = ModelChecks {
            settings: &self.open.settings.verify,
            passages: self.passages,
            ids: self.passage_ids,
            open_book: self.open.reader(prompt, evaluate.max_tokens),
            closed_book: self.open.reader("closed_book", evaluate.max_tokens),
            seed: self.seed,
        };
        checks.run(candidates, with_documents, from_memory)
    }
}
