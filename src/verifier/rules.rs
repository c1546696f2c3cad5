//! Checks that need no model: format, length, leak, evidence, duplicate and near duplicate.

use std::collections::HashSet;

use serde_json::json;

use super::Candidate;
use super::KnownQuestion;
use super::KnownQuestions;
use super::Passages;
use super::minhash;
use super::minhash::Shingles;
use crate::answer;
use crate::config::Verify;
use crate::task::Origin;
use crate::task::Rejection;
use crate::task::Verdict;

/// One question, ending with its mark.
pub const FORMAT: &str = "format";
/// Neither too short nor too long.
pub const LENGTH: &str = "length";
/// It does not give its answer away.
pub const LEAK: &str = "leak";
/// The last passage of the evidence states the answer, and all are there.
pub const EVIDENCE: &str = "evidence";
/// It was not asked before.
pub const DUPLICATE: &str = "duplicate";
/// Nor nearly so, with the same answer.
pub const NEAR_DUPLICATE: &str = "near_duplicate";

/// What decides also where the gate is not enforced: without these there is no question with a
/// known answer, or it was asked before, by a suite perhaps.
const INDISPENSABLE: [&str; 3] = [FORMAT, EVIDENCE, DUPLICATE];

/// The rule checks, in order, over one batch after another.
pub struct RuleChecks<'a> {
    settings: &'a Verify,
    passages: &'a Passages,
    known: &'a dyn KnownQuestions,
    /// Questions that passed in this phase and may not be in the archive yet, by their words.
    accepted: HashSet<String>,
    /// The same for near duplicates.
    similar: Vec<(Shingles, KnownQuestion)>,
}

type Outcome = (Option<Rejection>, serde_json::Value);
type Check<C> = (&'static str, fn(&C, &Candidate) -> Outcome);

impl<'a> RuleChecks<'a> {
    /// Checks against these passages and known questions.
    pub fn new(
        settings: &'a Verify,
        passages: &'a Passages,
        known: &'a dyn KnownQuestions,
    ) -> Self {
        Self { settings, passages, known, accepted: HashSet::new(), similar: Vec::new() }
    }

    /// Runs the checks on one candidate, up to the first rejection that decides. Where the gate is
    /// not enforced, it sees to it that the model's checks do not decide either.
    pub fn run(&mut self, candidate: &mut Candidate) {
        let enforced = self.settings.enforce || candidate.draft.origin != Origin::Model;
        candidate.model_decides &= enforced;
        let checks: [Check<Self>; 6] = [
            (FORMAT, Self::format),
            (LENGTH, Self::length),
            (LEAK, Self::leak),
            (EVIDENCE, Self::evidence),
            (DUPLICATE, Self::duplicate),
            (NEAR_DUPLICATE, Self::near_duplicate),
        ];
        for (name, check) in checks {
            if name == NEAR_DUPLICATE && !self.looks_for_near_duplicates() {
                continue;
            }
            let (rejection, evidence) = check(self, candidate);
            let required = enforced
                || INDISPENSABLE.contains(&name)
                // Nearly what is held out, or nobody knows.
                || evidence["heldout"] == true
                || rejection == Some(Rejection::CheckFailed);
            let check = name.to_string();
            candidate.verdicts.push(Verdict { check, rejection, required, evidence });
            if required && rejection.is_some() {
                return;
            }
        }
        self.accept(candidate);
    }

    fn looks_for_near_duplicates(&self) -> bool {
        self.settings.duplicate_jaccard < 1.0
    }

    /// Notes the question of a candidate that passed.
    fn accept(&mut self, candidate: &Candidate) {
        let question = candidate.question();
        self.accepted.insert(answer::normalise(question));
        if self.looks_for_near_duplicates() {
            let known = KnownQuestion {
                id: candidate.draft.id.clone(),
                question: question.to_string(),
                answer: candidate.draft.seed.answer.clone(),
                heldout: false,
            };
            self.similar.push((Shingles::of(question), known));
        }
    }

    fn format(&self, candidate: &Candidate) -> Outcome {
        match &candidate.draft.question {
            Some(text) if text.ends_with('?') && text.matches('?').count() == 1 => {
                (None, json!({}))
            }
            _ => (Some(Rejection::Malformed), json!({ "text": candidate.draft.transcript })),
        }
    }

    fn length(&self, candidate: &Candidate) -> Outcome {
        let question = candidate.question();
        let (chars, words) = (question.chars().count(), question.split_whitespace().count());
        let Verify { min_chars, max_chars, min_words, .. } = *self.settings;
        let right = (min_chars..=max_chars).contains(&chars) && words >= min_words;
        (fails(right, Rejection::Length), json!({ "chars": chars, "words": words }))
    }

    fn leak(&self, candidate: &Candidate) -> Outcome {
        let answer = &candidate.draft.seed.answer;
        let question = candidate.question();
        let substring = question.to_lowercase().contains(&answer.to_lowercase());
        let leaks = substring || answer::contains(question, answer);
        (fails(!leaks, Rejection::Leak), json!({ "answer": answer }))
    }

    fn evidence(&self, candidate: &Candidate) -> Outcome {
        let seed = &candidate.draft.seed;
        let stated = seed.path.last().and_then(|id| self.passages.get(id));
        let complete = seed.path.iter().all(|id| self.passages.contains_key(id));
        let found = stated.is_some_and(|passage| answer::contains(&passage.text, &seed.answer));
        (fails(found && complete, Rejection::NoEvidence), json!({ "passages": seed.path }))
    }

    fn duplicate(&self, candidate: &Candidate) -> Outcome {
        let question = candidate.question();
        if self.accepted.contains(&answer::normalise(question)) {
            return (Some(Rejection::Duplicate), json!({ "of": "this night" }));
        }
        match self.known.contains(question) {
            Ok(false) => (None, json!({})),
            Ok(true) => (Some(Rejection::Duplicate), json!({ "of": "the archive" })),
            Err(error) => (Some(Rejection::CheckFailed), json!({ "error": format!("{error:#}") })),
        }
    }

    /// The most similar question with the same answer, here or in the archive. One with another
    /// answer may differ in the one word that matters, such as a year.
    fn near_duplicate(&self, candidate: &Candidate) -> Outcome {
        let (least, answer) = (self.settings.duplicate_jaccard, &candidate.draft.seed.answer);
        let own = Shingles::of(candidate.question());
        let known = self.known.alike(&own.signature(), minhash::matches_at(least));
        let known = match known {
            Ok(known) => known,
            Err(error) => {
                let evidence = json!({ "error": format!("{error:#}") });
                return (Some(Rejection::CheckFailed), evidence);
            }
        };
        let known: Vec<(Shingles, KnownQuestion)> =
            known.into_iter().map(|known| (Shingles::of(&known.question), known)).collect();
        let agrees = |other: &&(Shingles, KnownQuestion)| {
            answer::f1(&other.1.answer, answer) >= self.settings.min_f1
        };
        let nearest = known
            .iter()
            .chain(&self.similar)
            .map(|other| (own.jaccard(&other.0), other))
            .filter(|(jaccard, other)| *jaccard >= least && agrees(other))
            // What is held out weighs most. Of equal ones the first by id, wherever it was found.
            .max_by(|(one, (_, a)), (other, (_, b))| {
                a.heldout.cmp(&b.heldout).then(one.total_cmp(other)).then(b.id.cmp(&a.id))
            });
        match nearest {
            None => (None, json!({})),
            Some((jaccard, (_, known))) => {
                let KnownQuestion { id, question, heldout, .. } = known;
                let mut evidence = json!({ "of": id, "question": question, "jaccard": jaccard });
                if *heldout {
                    evidence["heldout"] = true.into();
                }
                (Some(Rejection::NearDuplicate), evidence)
            }
        }
    }
}

fn fails(right: bool, reason: Rejection) -> Option<Rejection> {
    (!right).then_some(reason)
}
