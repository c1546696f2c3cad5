//! A person's corrections, through the gate's rules like everything else.

use super::home::Home;
use super::ingest;
use super::known::ArchivedQuestions;
use crate::answer;
use crate::archive::Archive;
use crate::archive::GatedDraft;
use crate::archive::TaskDetail;
use crate::config::Verify;
use crate::rng::content_id;
use crate::task::Draft;
use crate::task::Origin;
use crate::task::Seed;
use crate::task::Task;
use crate::verifier::Candidate;
use crate::verifier::KnownQuestion;
use crate::verifier::KnownQuestions;
use crate::verifier::Passages;
use crate::verifier::RuleChecks;
use crate::verifier::minhash::Signature;

/// What is known as the hand of a person where a model version stands otherwise.
pub const PERSON: &str = "person";

/// The archive's questions but for the one that is edited.
struct Others<'a> {
    all: ArchivedQuestions<'a>,
    own: &'a Task,
}

impl KnownQuestions for Others<'_> {
    fn contains(&self, question: &str) -> anyhow::Result<bool> {
        let same = answer::normalise(question) == answer::normalise(&self.own.question);
        Ok(!same && self.all.contains(question)?)
    }

    fn alike(&self, signature: &Signature, matches: usize) -> anyhow::Result<Vec<KnownQuestion>> {
        let mut alike = self.all.alike(signature, matches)?;
        alike.retain(|known| known.id != self.own.id);
        Ok(alike)
    }
}

/// The task with another question or answer, after the gate's rules have seen it. The model's
/// checks are left out: a person vouches for it.
pub fn edited(
    archive: &Archive,
    settings: &Verify,
    detail: &TaskDetail,
    question: &str,
    answer: &str,
) -> GatedDraft {
    let old = &detail.task.task;
    let draft = Draft {
        id: content_id(&["edit", &old.id, question, answer]),
        origin: Origin::Person,
        seed: Seed { answer: answer.into(), kind: old.kind, path: old.evidence.clone() },
        question: Some(question.into()),
        transcript: None,
        model_version: PERSON.into(),
    };
    let passages: Passages = detail
        .passages
        .iter()
        .filter(|passage| !passage.retired)
        .map(|passage| (passage.passage.id.clone(), passage.passage.clone()))
        .collect();
    let mut candidate = Candidate::new(draft);
    let others = Others { all: ArchivedQuestions::of(archive), own: old };
    RuleChecks::new(settings, &passages, &others).run(&mut candidate);
    let stands = candidate.stands();
    let Candidate { draft, verdicts, .. } = candidate;
    let task = stands.then(|| Task {
        id: draft.id.clone(),
        origin: Origin::Person,
        question: question.into(),
        answer: answer.into(),
        kind: old.kind,
        evidence: old.evidence.clone(),
        split: old.split,
        night: None,
    });
    GatedDraft { draft, verdicts, task, parents: vec![old.id.clone()] }
}

/// Takes out a document, with what was made of it if `derived`, and brings the search index in
/// line.
///
/// # Errors
/// When there is no such document, or archive or index cannot be written.
pub fn remove_document(
    home: &Home,
    archive: &Archive,
    id: &str,
    derived: bool,
) -> anyhow::Result<crate::archive::Removal> {
    let removal = archive.remove_document(id, derived)?;
    // The old index holds the words. It is built again with the next search.
    let index = home.index();
    if index.exists() {
        std::fs::remove_dir_all(&index)?;
    }
    if !archive.passages()?.is_empty() {
        ingest::open_index(home, archive)?;
    }
    Ok(removal)
}
