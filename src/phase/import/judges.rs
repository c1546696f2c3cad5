//! The model's part of the gate, for a person's questions: what a night asks about its drafts, of
//! the version that is live.

use anyhow::Context as _;

use crate::archive::Archive;
use crate::config::Settings;
use crate::inference::Generator;
use crate::inference::remote;
use crate::inference::remote::ServedModel;
use crate::phase::gate::Gate;
use crate::phase::gate::Models;
use crate::phase::home::Home;
use crate::phase::open_model;
use crate::phase::open_model::ModelContext;
use crate::phase::open_model::OpenModel;
use crate::retrieval::Retriever;
use crate::rng;
use crate::verifier::Candidate;
use crate::verifier::Passages;

/// Who answers a person's questions.
pub(super) struct Judges<'a> {
    open: &'a OpenModel<'a>,
    gate: Gate<'a>,
    /// The live version, which reads passages.
    reader: Box<dyn Generator + 'a>,
    /// The base model, which answers from memory.
    base: Box<dyn Generator + 'a>,
}

/// Opens the home's model.
pub(super) fn open<'a>(
    home: &'a Home,
    archive: &'a Archive,
    settings: &Settings,
    context: &ModelContext,
) -> anyhow::Result<OpenModel<'a>> {
    let (found, _) = open_model::find(archive, settings, context)?;
    let servers = remote::connect(&settings.remote, || ServedModel::of_outline(&found.outline))?;
    OpenModel::new(home, archive, settings.clone(), found, servers, context)
}

impl<'a> Judges<'a> {
    pub(super) fn new(
        open: &'a OpenModel<'a>,
        passages: &'a Passages,
        passage_ids: &'a [String],
        retriever: &'a dyn Retriever,
    ) -> anyhow::Result<Self> {
        let live = open.archive.live_model()?.context("no live model")?;
        let seed = rng::derive(open.settings.seed, &["import"]);
        let gate = open.gate(passages, passage_ids, retriever, seed);
        Ok(Self { open, gate, reader: open.solver(&live)?, base: open.base()? })
    }

    /// Runs the model's checks on the candidates that passed the rules.
    pub(super) fn check(&self, candidates: &mut [Candidate]) -> anyhow::Result<()> {
        self.open.check_interrupt()?;
        let models = Models { with_documents: &self.reader, from_memory: &self.base };
        self.gate.ask_model(candidates, models)?;
        Ok(())
    }
}
