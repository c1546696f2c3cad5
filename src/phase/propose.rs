//! The propose phases: drafts by code, drafts by the model, and their way through the gate.

use std::collections::HashMap;

use rand::seq::SliceRandom;

use super::examples;
use super::gate::Gate;
use super::gate::Models;
use super::known::ArchivedQuestions;
use super::night::Night;
use super::policy::Policy;
use crate::archive::GatedDraft;
use crate::archive::ModelKind;
use crate::archive::Proposal;
use crate::archive::TaskFilter;
use crate::config::ProposerMethod;
use crate::config::Role;
use crate::corpus::KnowledgeGraph;
use crate::corpus::Miner;
use crate::inference::Sampling;
use crate::model::adapter_set::is_untouched;
use crate::progress::Progress;
use crate::proposer::Author;
use crate::proposer::Proposer;
use crate::proposer::Written;
use crate::proposer::cloze;
use crate::proposer::searching::Searching;
use crate::proposer::seeded::Given;
use crate::proposer::seeded::Seeded;
use crate::protocol::Example;
use crate::rng;
use crate::task::Draft;
use crate::task::Origin;
use crate::task::Passage;
use crate::task::Seed;
use crate::task::Split;
use crate::task::Task;
use crate::verifier::Candidate;
use crate::verifier::KnownQuestions;

/// Drafts made by code per unit of work.
const CODE_UNIT: usize = 250;
/// Drafts that go through the model per unit of work: one batch of the engine.
pub(super) const MODEL_UNIT: usize = 16;

impl Night<'_> {
    /// Questions by rules, from sentences of the corpus. The rule checks decide; on the first few
    /// the model's checks are run too, and only recorded.
    pub(super) fn propose_by_code(&self) -> anyhow::Result<()> {
        const PHASE: &str = "propose_code";
        if self.done(PHASE, "all")? {
            return Ok(());
        }
        let seeds = self.seeds("code", &[self.settings.propose.code_drafts])?;
        let checked = self.settings.verify.record_on_code.min(seeds.len());
        let progress = Progress::start("tasks made by code", seeds.len() as u64);
        let (with_model, by_rules) = seeds.split_at(checked);
        let base = self.base()?;
        let models = Models { with_documents: &base, from_memory: &base };
        let known = ArchivedQuestions::of(self.archive);
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
                    let models = (name == "checked").then_some(models);
                    let gated = self.gated_drafts(drafts.collect(), &known, models)?;
                    self.archive.record_drafts(&self.unit(PHASE, &key), &gated)?;
                }
                progress.advance(seeds.len() as u64);
            }
        }
        self.archive.record_unit(&self.unit(PHASE, "all"))?;
        Ok(())
    }

    /// A round's questions by the policy; the whole gate decides.
    pub(super) fn propose_by_model(&self, round: u32, policy: &Policy) -> anyhow::Result<()> {
        let phase = format!("propose/{round}");
        if self.done(&phase, "all")? {
            return Ok(());
        }
        let settings = &self.settings.propose;
        let seeds = self.seeds("model", &settings.hops.counts(settings.model_drafts))?;
        let per_round = settings.model_drafts.div_ceil(self.settings.solve.rounds.max(1));
        let seeds = seeds.chunks(per_round.max(1)).nth(round as usize).unwrap_or_default();
        let title = format!("drafts by the model, and their gate, round {}", round + 1);
        let progress = Progress::start(&title, seeds.len() as u64);
        let base = self.base()?;
        let version = &policy.version.id;
        let generator = |role| self.generator(Some(policy.adapter(role)), version, role);
        let (reader, writer) = (generator(Role::Solver)?, generator(Role::Proposer)?);
        // An adapter that no training has touched is the base model.
        let trained = policy.version.kind == ModelKind::Adapter
            && !is_untouched(policy.adapter(Role::Proposer))?;
        let with_adapter = settings.with_adapter && trained;
        let examples = self.examples(with_adapter)?;
        let miner = (settings.method == ProposerMethod::DocumentSeeded)
            .then(|| Miner::new(self.passages.values()));
        let author = Author {
            generator: if with_adapter { &writer } else { &base },
            tokenizer: &self.outline.tokenizer,
            passages: &self.passages,
            examples: &examples,
            sampling: Sampling::at(settings.temperature),
            max_tokens: settings.max_tokens,
            seed: self.seed(),
            night: self.number,
        };
        let proposer = self.proposer(author, settings.prompt(with_adapter), miner.as_ref());
        let models = Models { with_documents: &reader, from_memory: &base };
        let known = ArchivedQuestions::of(self.archive);
        for (index, seeds) in seeds.chunks(MODEL_UNIT).enumerate() {
            let key = format!("{index:04}");
            if !self.done(&phase, &key)? {
                self.check_interrupt()?;
                let written = proposer.propose(seeds)?;
                let drafts = written.iter().map(|written| written.draft.clone()).collect();
                let gated = self.gated_drafts(drafts, &known, Some(models))?;
                let proposals: Vec<Proposal> = gated
                    .into_iter()
                    .zip(written)
                    .map(|(gated, Written { steps, stop, .. })| Proposal { gated, steps, stop })
                    .collect();
                let (unit, sampling) = (self.unit(&phase, &key), proposer.sampling());
                self.archive.record_proposals(&unit, round, &sampling, &proposals)?;
            }
            progress.advance(seeds.len() as u64);
        }
        self.archive.record_unit(&self.unit(&phase, "all"))?;
        Ok(())
    }

    /// The way to write that the settings name.
    fn proposer<'p>(
        &'p self,
        author: Author<'p>,
        prompt: &'p str,
        miner: Option<&'p Miner>,
    ) -> Box<dyn Proposer + 'p> {
        let (turns, prompts) = (self.settings.propose.turns, &self.prompts);
        if turns > 0 {
            let passages = self.settings.retrieval.passages;
            return Box::new(Searching { author, retriever: &self.index, passages, turns });
        }
        let given = miner.map_or(Given::Answer, Given::Documents);
        Box::new(Seeded { author, prompts, prompt, given })
    }

    /// The tasks that a round's prompts show. What earlier rounds played decides, so a round that
    /// was cut off has the same. An adapter's prompt shows none; a conversation is opened for it
    /// as for the base model.
    fn examples(&self, with_adapter: bool) -> anyhow::Result<Vec<Example>> {
        let settings = &self.settings.propose;
        if settings.archive_examples == 0 || (with_adapter && settings.turns == 0) {
            return Ok(Vec::new());
        }
        let tasks = self.training_tasks()?.into_values();
        Ok(examples::choose(tasks, &self.passages, settings.archive_examples))
    }

    /// The gate over tonight's corpus.
    pub(super) fn tonights_gate(&self) -> Gate<'_> {
        self.open.gate(&self.passages, &self.passage_ids, &self.index, self.seed())
    }

    /// Seeds for tonight, `counts[h - 1]` of h passages, spread over the corpus; what earlier
    /// nights drew comes last.
    fn seeds(&self, purpose: &str, counts: &[usize]) -> anyhow::Result<Vec<Seed>> {
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
        let mut seeds = graph.seeds_of_lengths(&mut rng, counts, &mut draws);
        // Drawn by kind and document in turn; shuffled, so that every unit has a bit of all.
        seeds.shuffle(&mut rng);
        Ok(seeds)
    }

    /// Takes drafts through the gate, in their order; without models only the rules are checked.
    fn gated_drafts(
        &self,
        drafts: Vec<Draft>,
        known: &dyn KnownQuestions,
        models: Option<Models<'_>>,
    ) -> anyhow::Result<Vec<GatedDraft>> {
        let mut candidates: Vec<Candidate> = drafts.into_iter().map(Candidate::new).collect();
        self.tonights_gate().run(&mut candidates, known, models)?;
        Ok(candidates.into_iter().map(|candidate| self.gated(candidate)).collect())
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
