//! Checks that ask the model: RAG with noise passages, and closed-book failure.

use rand::seq::IndexedRandom;
use rand::seq::SliceRandom;
use serde_json::json;

use super::Candidate;
use super::Passages;
use crate::answer;
use crate::config::Verify;
use crate::inference::GenerateError;
use crate::inference::Generation;
use crate::inference::Generator;
use crate::inference::Request;
use crate::inference::Sampling;
use crate::protocol::Reader;
use crate::protocol::answer_of;
use crate::rng;
use crate::task::Passage;
use crate::task::Rejection;
use crate::task::Verdict;

/// The model checks, over batches of candidates that passed the rules.
pub struct ModelChecks<'a> {
    /// Bounds of the checks.
    pub settings: &'a Verify,
    /// Active passages: evidence and noise.
    pub passages: &'a Passages,
    /// Ids of `passages`, sorted, so that noise is drawn the same way every time.
    pub ids: &'a [String],
    /// Reads passages for the RAG check.
    pub open_book: Reader<'a>,
    /// Answers from memory.
    pub closed_book: Reader<'a>,
    /// Seed of the noise draw.
    pub seed: u64,
}

/// The request of a check, with the ids of the passages it shows.
type MakeRequest<C> = fn(&C, &Candidate) -> anyhow::Result<(Request, Vec<String>)>;
/// Whether the model's answer, with its F1 against the seed's, fails the check.
type Judge<C> = fn(&C, &str, f32) -> Option<Rejection>;

/// With documents, noise among them.
const RAG: &str = "rag";
/// From memory.
const CLOSED_BOOK: &str = "closed_book";

impl ModelChecks<'_> {
    /// Whether a verdict is that of one of these checks, and was not only recorded.
    pub fn decided(verdict: &Verdict) -> bool {
        verdict.required && [RAG, CLOSED_BOOK].contains(&verdict.check.as_str())
    }

    /// Runs both checks on every candidate that stands: `with_documents` for the first,
    /// `from_memory` for the second.
    ///
    /// # Errors
    /// Only when stopped on request, or when nothing is generated any more; any other failure
    /// rejects the drafts it concerns.
    pub fn run(
        &self,
        candidates: &mut [Candidate],
        with_documents: &dyn Generator,
        from_memory: &dyn Generator,
    ) -> Result<(), GenerateError> {
        self.check(candidates, RAG, with_documents, Self::rag_request, Self::judge_rag)?;
        self.check(
            candidates,
            CLOSED_BOOK,
            from_memory,
            Self::closed_book_request,
            Self::judge_closed_book,
        )
    }

    fn check(
        &self,
        candidates: &mut [Candidate],
        name: &str,
        generator: &dyn Generator,
        request: MakeRequest<Self>,
        judge: Judge<Self>,
    ) -> Result<(), GenerateError> {
        let mut standing: Vec<&mut Candidate> =
            candidates.iter_mut().filter(|candidate| candidate.stands()).collect();
        let mut requests = Vec::new();
        let mut shown = Vec::new();
        let mut asked = Vec::new();
        for (index, candidate) in standing.iter_mut().enumerate() {
            match request(self, candidate) {
                Ok((request, passages)) => {
                    requests.push(request);
                    shown.push(passages);
                    asked.push(index);
                }
                Err(error) => push_failure(candidate, name, &format!("{error:#}")),
            }
        }
        let outcome = match generator.generate(&requests) {
            // Nobody's drafts are at fault.
            Err(error @ (GenerateError::Interrupted | GenerateError::Stopped(_))) => {
                return Err(error);
            }
            other => other,
        };
        for (place, index) in asked.into_iter().enumerate() {
            let candidate = &mut *standing[index];
            let generation = match &outcome {
                Ok(all) => all.get(place).and_then(|samples| samples.first()),
                Err(error) => {
                    push_failure(candidate, name, &error.to_string());
                    continue;
                }
            };
            self.judge(candidate, name, generation, &shown[place], judge);
        }
        Ok(())
    }

    fn judge(
        &self,
        candidate: &mut Candidate,
        name: &str,
        generation: Option<&Generation>,
        passages: &[String],
        judge: Judge<Self>,
    ) {
        let predicted = generation.and_then(answer_of).unwrap_or_default();
        let f1 = answer::f1(&predicted, &candidate.draft.seed.answer);
        let required = candidate.model_decides;
        candidate.verdicts.push(Verdict {
            check: name.to_string(),
            rejection: judge(self, &predicted, f1),
            required,
            evidence: json!({ "answer": predicted, "f1": f1, "passages": passages }),
        });
    }

    fn rag_request(&self, candidate: &Candidate) -> anyhow::Result<(Request, Vec<String>)> {
        let draft = &candidate.draft;
        let mut rng = rng::stream(self.seed, &["noise", &draft.id]);
        let path = &draft.seed.path;
        let wanted = self.settings.noise_passages;
        // A few more than needed, because some may be evidence themselves or state the answer.
        let drawn = self.ids.choose_multiple(&mut rng, wanted + path.len() + 8);
        let noise = drawn.filter(|id| {
            let states = |passage: &Passage| answer::contains(&passage.text, &draft.seed.answer);
            !path.contains(id) && !self.passages.get(*id).is_some_and(states)
        });
        let mut ids: Vec<&String> = path.iter().chain(noise.take(wanted)).collect();
        ids.shuffle(&mut rng);
        let passages: Vec<&Passage> =
            ids.iter().filter_map(|id| self.passages.get(id.as_str())).collect();
        let shown = passages.iter().map(|passage| passage.id.clone()).collect();
        let question = draft.question.as_deref().unwrap_or_default();
        let request = self.open_book.request(&passages, question, Sampling::GREEDY, 1, 0)?;
        Ok((request, shown))
    }

    fn judge_rag(&self, _predicted: &str, f1: f32) -> Option<Rejection> {
        (f1 < self.settings.min_f1).then_some(Rejection::Unsolved)
    }

    fn closed_book_request(&self, candidate: &Candidate) -> anyhow::Result<(Request, Vec<String>)> {
        let question = candidate.draft.question.as_deref().unwrap_or_default();
        let request = self.closed_book.request(&[], question, Sampling::GREEDY, 1, 0)?;
        Ok((request, Vec::new()))
    }

    fn judge_closed_book(&self, _predicted: &str, f1: f32) -> Option<Rejection> {
        (f1 >= self.settings.min_f1).then_some(Rejection::ClosedBook)
    }
}

fn push_failure(candidate: &mut Candidate, check: &str, why: &str) {
    let required = candidate.model_decides;
    candidate.verdicts.push(Verdict {
        check: check.to_string(),
        rejection: Some(Rejection::CheckFailed),
        required,
        evidence: json!({ "error": why }),
    });
}
