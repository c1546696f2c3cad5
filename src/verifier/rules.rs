//! Checks that need no model: format, length, leak, evidence, duplicate.

use std::collections::HashSet;

use serde_json::json;

use super::Candidate;
use super::KnownQuestions;
use super::Passages;
use crate::answer;
use crate::config::Verify;
use crate::task::Rejection;
use crate::task::Verdict;

/// The rule checks, in order, over one batch after another.
pub struct RuleChecks<'a> {
    settings: &'a Verify,
    passages: &'a Passages,
    known: &'a dyn KnownQuestions,
    /// Questions that passed in this phase and may not be in the archive yet.
    accepted: HashSet<String>,
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
        Self { settings, passages, known, accepted: HashSet::new() }
    }

    /// Runs the checks on one candidate, up to the first rejection.
    pub fn run(&mut self, candidate: &mut Candidate) {
        let checks: [Check<Self>; 5] = [
            ("format", Self::format),
            ("length", Self::length),
            ("leak", Self::leak),
            ("evidence", Self::evidence),
            ("duplicate", Self::duplicate),
        ];
        for (name, check) in checks {
            let (rejection, evidence) = check(self, candidate);
            let check = name.to_string();
            candidate.verdicts.push(Verdict { check, rejection, required: true, evidence });
            if rejection.is_some() {
                return;
            }
        }
        self.accepted.insert(answer::normalise(question(candidate)));
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
        let question = question(candidate);
        let (chars, words) = (question.chars().count(), question.split_whitespace().count());
        let Verify { min_chars, max_chars, min_words, .. } = *self.settings;
        let right = (min_chars..=max_chars).contains(&chars) && words >= min_words;
        (fails(right, Rejection::Length), json!({ "chars": chars, "words": words }))
    }

    fn leak(&self, candidate: &Candidate) -> Outcome {
        let answer = &candidate.draft.seed.answer;
        let question = question(candidate);
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
        let question = question(candidate);
        if self.accepted.contains(&answer::normalise(question)) {
            return (Some(Rejection::Duplicate), json!({ "of": "this night" }));
        }
        match self.known.contains(question) {
            Ok(false) => (None, json!({})),
            Ok(true) => (Some(Rejection::Duplicate), json!({ "of": "the archive" })),
            Err(error) => (Some(Rejection::CheckFailed), json!({ "error": format!("{error:#}") })),
        }
    }
}

fn question(candidate: &Candidate) -> &str {
    candidate.draft.question.as_deref().unwrap_or_default()
}

fn fails(right: bool, reason: Rejection) -> Option<Rejection> {
    (!right).then_some(reason)
}
