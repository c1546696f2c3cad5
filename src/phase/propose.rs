//! The propose phases: drafts by code, drafts by the model, and their way through the gate.

use std::collections::HashMap;

use rand::seq::SliceRandom;

use super::gate::Gate;
use super::night::Night;
use super::policy::Policy;
use crate::archive::Archive;
use crate::archive::GatedDraft;
use crate::archive::ModelKind;
use crate::archive::TaskFilter;
use crate::config::Role;
use crate::corpus::KnowledgeGraph;
use crate::inference::Generator;
use crate::inference::Sampling;
use crate::model::adapter_set::is_untouched;
use crate::progress::Progress;
use crate::proposer::Proposer;
use crate::proposer::cloze;
use crate::proposer::seeded::AnswerSeeded;
use crate::rng;
use crate::task::Draft;
use crate::task::Origin;
use crate::task::Passage;
use crate::task::Seed;
use crate::task::Split;
use crate::task::Task;
use crate::verifier::Candidate;
use crate::verifier::KnownQuestions;
use crate::verifier::RuleChecks;

/// Drafts made by code per unit of work.
const CODE_UNIT: usize = 250;
/// Drafts that go through the model per unit of work: one batch of the engine.
pub(super) const MODEL_UNIT: usize = 16;

impl KnownQuestions for Archive {
    fn contains(&self, question: &str) -> anyhow::Result<bool> {
        Ok(self.has_question(question)?)
    }
}

impl Night<'_> {
    /// Questions by rules, from sentences of the corpus. The rule checks decide; on the first few
    /// the model's checks are run too, and only recorded.
    pub(super) fn propose_by_code(&self) -> anyhow::Result<()> {
        const PHASE: &str = "propose_code";
        if self.done(PHASE, "all")? {
            return Ok(());
        }
        let seeds = self.seeds("code", self.settings.propose.code_drafts, 1)?;
        let checked = self.settings.verify.record_on_code.min(seeds.len());
        let progress = Progress::start("tasks made by code", seeds.len() as u64);
        let (with_model, by_rules) = seeds.split_at(checked);
        let base = self.base()?;
        for (size, group, name) in
            [(MODEL_UNIT, with_model, "checked"), (CODE_UNIT, by_rules, "rules")]
        {
            for (index, seeds) in group.chunks(size).enumerate() {
                let key = format!("{name}/{index:04}");
                if !self.done(PHASE, &key)? {
                    self.check_interrupt()?;
                    let drafts = seeds.iter().filter_map(|seed| {
                        let passage = self.passages.get(seed.path.last()?)?;
                        Some(cloze::draft(seed, passage, self.number))
                    });
                    let model: Option<&dyn Generator> = (name == "checked").then_some(&base);
                    self.gate(PHASE, &key, drafts.collect(), model.map(|model| (model, model)))?;
                }
                progress.advance(seeds.len() as u64);
            }
        }
        self.archive.record_unit(&self.unit(PHASE, "all"))?;
        Ok(())
    }

    /// Questions by the model, for given answers; the whole gate decides.
    pub(super) fn propose_by_model(&self, policy: &Policy) -> anyhow::Result<()> {
        const PHASE: &str = "propose_model";
        if self.done(PHASE, "all")? {
            return Ok(());
        }
        let settings = &self.settings.propose;
        let seeds = self.seeds("model", settings.model_drafts, settings.hops)?;
        let progress = Progress::start("drafts by the model, and their gate", seeds.len() as u64);
        let base = self.base()?;
        let version = &policy.version.id;
        let generator = |role| self.generator(Some(policy.adapter(role)), version, role);
        let (reader, writer) = (generator(Role::Solver)?, generator(Role::Proposer)?);
        // An adapter that no training has touched is the base model.
        let trained = policy.version.kind == ModelKind::Adapter
            && !is_untouched(policy.adapter(Role::Proposer))?;
        let (generator, prompt) = match settings.with_adapter && trained {
            true => (&writer, &settings.adapter_prompt),
            false => (&base, &settings.base_prompt),
        };
        let proposer = AnswerSeeded {
            generator,
            tokenizer: &self.model.tokenizer,
            prompts: &self.prompts,
            prompt,
            passages: &self.passages,
            sampling: Sampling::at(settings.temperature),
            max_tokens: settings.max_tokens,
            seed: self.seed(),
            night: self.number,
        };
        for (index, seeds) in seeds.chunks(MODEL_UNIT).enumerate() {
            let key = format!("{index:04}");
            if !self.done(PHASE, &key)? {
                self.check_interrupt()?;
                let drafts = proposer.propose(seeds)?;
                self.gate(PHASE, &key, drafts, Some((&reader, &base)))?;
            }
            progress.advance(seeds.len() as u64);
        }
        self.archive.record_unit(&self.unit(PHASE, "all"))?;
        Ok(())
    }

    /// The model's checks on tonight's corpus.
    pub(super) fn checks(&self) -> Gate<'_> {
        let (passages, passage_ids) = (&self.passages, &self.passage_ids);
        Gate { open: &self.open, passages, passage_ids, seed: self.seed() }
    }

    /// Seeds for tonight, spread over the corpus; what earlier nights drew comes last.
    fn seeds(&self, purpose: &str, n: usize, hops: usize) -> anyhow::Result<Vec<Seed>> {
        let passages: Vec<Passage> = self.passages.values().cloned().collect();
        let graph = KnowledgeGraph::build(&passages);
        let earlier = self.archive.tasks(&TaskFilter::default())?;
        let earlier: Vec<Seed> = earlier
            .into_iter()
            .filter(|stored| stored.task.night.is_some_and(|night| night < self.number))
            .map(|stored| {
                let Task { answer, kind, evidence, .. } = stored.task;
                Seed { answer, kind, path: evidence }
            })
            .collect();
        let mut draws = graph.draws(&earlier);
        let mut rng = rng::stream(self.seed(), &["seeds", purpose]);
        let mut seeds = graph.seeds_after(&mut rng, n, hops, &mut draws);
        // Drawn by kind and document in turn; shuffled, so that every unit has a bit of all.
        seeds.shuffle(&mut rng);
        Ok(seeds)
    }

    /// Takes drafts through the gate and stores them with their verdicts. `models` are the reader
    /// with documents and the one from memory; without them only the rules are checked.
    fn gate(
        &self,
        phase: &str,
        key: &str,
        drafts: Vec<Draft>,
        models: Option<(&dyn Generator, &dyn Generator)>,
    ) -> anyhow::Result<()> {
        let mut candidates: Vec<Candidate> = drafts.into_iter().map(Candidate::new).collect();
        let mut rules = RuleChecks::new(&self.settings.verify, &self.passages, self.archive);
        for candidate in &mut candidates {
            rules.run(candidate);
        }
        if let Some((with_documents, from_memory)) = models {
            self.checks().ask_model(&mut candidates, with_documents, from_memory)?;
        }
        let gated: Vec<GatedDraft> =
            candidates.into_iter().map(|candidate| self.gated(candidate)).collect();
        self.archive.record_drafts(&self.unit(phase, key), &gated)?;
        Ok(())
    }

    fn gated(&self, candidate: Candidate) -> GatedDraft {
        let accepted = candidate.stands();
        let Candidate { draft, verdicts, .. } = candidate;
        let heldout = draft.seed.path.iter().any(|id| self.split_of(id) == Split::Heldout);
        let task = draft.question.clone().filter(|_| accepted).map(|question| Task {
            id: draft.id.clone(),
            origin: draft.origin,
            question,
            answer: draft.seed.answer.clone(),
            kind: draft.seed.kind,
            evidence: draft.seed.path.clone(),
            split: if heldout { Split::Heldout } else { Split::Train },
            night: Some(self.number),
        });
        GatedDraft { draft, verdicts, task, parents: Vec::new() }
    }

    /// Code-made training tasks by the passage that states their answer.
    pub(super) fn code_tasks_by_passage(&self) -> anyhow::Result<HashMap<String, Vec<Task>>> {
        let mut by_passage: HashMap<String, Vec<Task>> = HashMap::new();
        for (_, stored) in self.training_tasks()? {
            let task = stored.task;
            if let (Origin::Code, Some(passage)) = (task.origin, task.evidence.last().cloned()) {
                by_passage.entry(passage).or_default().push(task);
            }
        }
        Ok(by_passage)
    }
}
