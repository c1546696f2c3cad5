//! Checks that ask the model: closed-book failure, RAG with noise passages, whether all of the
//! evidence is needed, and whether another answer is as well supported.

mod reading;
mod uniqueness;

use std::collections::BTreeMap;

use rand::seq::IndexedRandom;
use rand::seq::SliceRandom;
use serde_json::Value;
use serde_json::json;

use self::reading::Check;
use self::reading::View;
use super::Candidate;
use super::Passages;
use crate::answer;
use crate::config::Verify;
use crate::inference::GenerateError;
use crate::inference::Generator;
use crate::protocol::Reader;
use crate::retrieval::Retriever;
use crate::rng;
use crate::task::Passage;
use crate::task::Rejection;
use crate::task::Verdict;

/// From memory.
pub const CLOSED_BOOK: &str = "closed_book";
/// With documents, noise among them.
pub const RAG: &str = "rag";
/// With a passage of the evidence taken out.
pub const EVIDENCE_NEEDED: &str = "evidence_needed";
/// With each of the passages that a search finds beside the evidence.
pub const UNIQUENESS: &str = "uniqueness";

/// The model checks, over batches of candidates that passed the rules.
pub struct ModelChecks<'a> {
    /// Bounds of the checks.
    pub settings: &'a Verify,
    /// Active passages: evidence and noise.
    pub passages: &'a Passages,
    /// Ids of `passages`, sorted, so that noise is drawn the same way every time.
    pub ids: &'a [String],
    /// Finds passages that resemble the evidence.
    pub retriever: &'a dyn Retriever,
    /// Reads passages.
    pub open_book: Reader<'a>,
    /// Answers from memory.
    pub closed_book: Reader<'a>,
    /// Seed of all draws.
    pub seed: u64,
}

/// What a check asked of the model.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cost {
    /// Prompts, and given texts to be scored.
    pub requests: u64,
    /// Their tokens, those included that the engine had read for another.
    pub prompt_tokens: u64,
    /// Tokens written or scored.
    pub tokens: u64,
    /// Wall-clock time.
    pub seconds: f64,
}

impl Cost {
    /// Adds what another batch asked.
    pub fn add(&mut self, more: &Self) {
        self.requests += more.requests;
        self.prompt_tokens += more.prompt_tokens;
        self.tokens += more.tokens;
        self.seconds += more.seconds;
    }
}

/// What each check asked of the model.
pub type Costs = BTreeMap<&'static str, Cost>;

impl ModelChecks<'_> {
    /// Whether a verdict is that of one of these checks, and was not only recorded.
    pub fn decided(verdict: &Verdict) -> bool {
        let names = [CLOSED_BOOK, RAG, EVIDENCE_NEEDED, UNIQUENESS];
        verdict.required && names.contains(&verdict.check.as_str())
    }

    /// Runs the checks, each on every candidate that stands by then: `from_memory` is asked
    /// without documents, `with_documents` for all others.
    ///
    /// # Errors
    /// Only when stopped on request, or when nothing is generated any more; any other failure
    /// rejects the drafts it concerns.
    pub fn run(
        &self,
        candidates: &mut [Candidate],
        with_documents: &dyn Generator,
        from_memory: &dyn Generator,
    ) -> Result<Costs, GenerateError> {
        let mut costs = Costs::new();
        self.closed_book(candidates, from_memory, &mut costs)?;
        self.rag(candidates, with_documents, &mut costs)?;
        if self.settings.evidence_needed {
            self.evidence_needed(candidates, with_documents, &mut costs)?;
        }
        if self.settings.uniqueness {
            self.uniqueness(candidates, with_documents, &mut costs)?;
        }
        Ok(costs)
    }

    fn closed_book(
        &self,
        candidates: &mut [Candidate],
        generator: &dyn Generator,
        costs: &mut Costs,
    ) -> Result<(), GenerateError> {
        let check = Check { name: CLOSED_BOOK, generator, reader: self.closed_book, greedy: false };
        let views = |_: &Candidate| Ok(vec![View::default()]);
        for (index, readings) in self.read(candidates, &check, views, costs)? {
            let known = readings.iter().any(|reading| reading.finds(self.settings));
            let evidence = readings.first().map_or(Value::Null, |reading| reading.told());
            let rejection = known.then_some(Rejection::ClosedBook);
            push(&mut candidates[index], CLOSED_BOOK, rejection, evidence);
        }
        Ok(())
    }

    fn rag(
        &self,
        candidates: &mut [Candidate],
        generator: &dyn Generator,
        costs: &mut Costs,
    ) -> Result<(), GenerateError> {
        let check = Check { name: RAG, generator, reader: self.open_book, greedy: false };
        let views = |candidate: &Candidate| {
            Ok(vec![View { passages: self.evidence_in_noise(candidate)?, without: None }])
        };
        for (index, readings) in self.read(candidates, &check, views, costs)? {
            let found = readings.iter().all(|reading| reading.finds(self.settings));
            let evidence = readings.first().map_or(Value::Null, |reading| reading.told());
            let rejection = (!found).then_some(Rejection::Unsolved);
            push(&mut candidates[index], RAG, rejection, evidence);
        }
        Ok(())
    }

    /// One reading for each passage of the evidence, without it, in the order of the RAG check: up
    /// to the gap the prompt is the same.
    fn evidence_needed(
        &self,
        candidates: &mut [Candidate],
        generator: &dyn Generator,
        costs: &mut Costs,
    ) -> Result<(), GenerateError> {
        let check =
            Check { name: EVIDENCE_NEEDED, generator, reader: self.open_book, greedy: false };
        let views = |candidate: &Candidate| {
            let all = self.evidence_in_noise(candidate)?;
            let without = |id: &String| View {
                passages: all.iter().copied().filter(|passage| passage.id != *id).collect(),
                without: Some(id.clone()),
            };
            Ok(candidate.draft.seed.path.iter().map(without).collect())
        };
        for (index, readings) in self.read(candidates, &check, views, costs)? {
            let found = readings.iter().any(|reading| reading.finds(self.settings));
            let told: Vec<Value> = readings.iter().map(|reading| reading.told()).collect();
            let rejection = found.then_some(Rejection::EvidenceNotNeeded);
            push(&mut candidates[index], EVIDENCE_NEEDED, rejection, json!({ "readings": told }));
        }
        Ok(())
    }

    /// The evidence among passages that do not state the answer: half of them what a search for
    /// the question finds beside it, the others drawn.
    fn evidence_in_noise(&self, candidate: &Candidate) -> anyhow::Result<Vec<&Passage>> {
        let draft = &candidate.draft;
        let path = &draft.seed.path;
        let wanted = self.settings.noise_passages;
        let is_noise = |passage: &&Passage| {
            !path.contains(&passage.id) && !answer::contains(&passage.text, &draft.seed.answer)
        };
        let similar = self.found_beside(candidate, wanted / 2)?.into_iter().filter(is_noise);
        let mut noise: Vec<&Passage> = similar.take(wanted / 2).collect();
        let mut rng = rng::stream(self.seed, &["noise", &draft.id]);
        // More than needed, because some may be evidence themselves or state the answer.
        let drawn = self.ids.choose_multiple(&mut rng, 2 * wanted + path.len() + 8);
        for passage in drawn.filter_map(|id| self.passages.get(id)).filter(is_noise) {
            if noise.len() < wanted && noise.iter().all(|one| one.id != passage.id) {
                noise.push(passage);
            }
        }
        let evidence = path.iter().filter_map(|id| self.passages.get(id));
        let mut all: Vec<&Passage> = evidence.chain(noise).collect();
        all.shuffle(&mut rng);
        Ok(all)
    }

    /// What a search for the question finds beside the evidence, best first: some more than `n`.
    fn found_beside(&self, candidate: &Candidate, n: usize) -> anyhow::Result<Vec<&Passage>> {
        if n == 0 {
            return Ok(Vec::new());
        }
        let path = &candidate.draft.seed.path;
        let hits = self.retriever.search(candidate.question(), n + path.len() + 8)?;
        let found = hits.iter().filter_map(|hit| self.passages.get(&hit.passage.id));
        Ok(found.filter(|passage| !path.contains(&passage.id)).collect())
    }
}

fn push(candidate: &mut Candidate, check: &str, rejection: Option<Rejection>, evidence: Value) {
    let (check, required) = (check.to_string(), candidate.model_decides);
    candidate.verdicts.push(Verdict { check, rejection, required, evidence });
}

fn push_failure(candidate: &mut Candidate, check: &str, why: &str) {
    push(candidate, check, Some(Rejection::CheckFailed), json!({ "error": why }));
}
