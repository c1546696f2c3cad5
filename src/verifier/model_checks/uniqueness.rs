//! Whether another answer is as well supported: what the model reads in passages beside the
//! evidence, and how sure it is of it.

use std::time::Instant;

use serde_json::Value;
use serde_json::json;

use super::Costs;
use super::ModelChecks;
use super::UNIQUENESS;
use super::push;
use super::push_failure;
use super::reading::Check;
use super::reading::Reading;
use super::reading::View;
use super::reading::mean;
use crate::answer;
use crate::inference::Continuation;
use crate::inference::GenerateError;
use crate::inference::Generator;
use crate::task::Passage;
use crate::task::Rejection;
use crate::verifier::Candidate;

/// Another answer that its passage states.
struct Rival<'p> {
    passage: &'p Passage,
    answer: String,
    /// Mean log-probability of its tokens; none where a server does not tell.
    logprob: Option<f64>,
}

impl ModelChecks<'_> {
    /// The model reads each of the first passages that a search finds beside the evidence. Another
    /// answer of which it is as sure as of the seed's, given the evidence, makes the question
    /// ambiguous.
    pub(super) fn uniqueness(
        &self,
        candidates: &mut [Candidate],
        generator: &dyn Generator,
        costs: &mut Costs,
    ) -> Result<(), GenerateError> {
        let check = Check { name: UNIQUENESS, generator, reader: self.open_book, greedy: true };
        let n = self.settings.uniqueness_passages;
        let views = |candidate: &Candidate| {
            let found = self.found_beside(candidate, n)?;
            let alone = |passage| View { passages: vec![passage], without: None };
            Ok(found.into_iter().take(n).map(alone).collect())
        };
        let mut questioned = Vec::new();
        for (index, readings) in self.read(candidates, &check, views, costs)? {
            let told: Vec<Value> = readings.iter().map(Reading::told).collect();
            let rivals = self.rivals(&candidates[index], readings);
            match rivals.is_empty() {
                true => push(&mut candidates[index], UNIQUENESS, None, json!({ "readings": told })),
                false => questioned.push((index, rivals, told)),
            }
        }
        // Only for these does it matter how sure the model is of the seed's answer.
        let places = questioned.iter().map(|(index, ..)| *index);
        let own = self.own_logprobs(candidates, places, generator, costs)?;
        for ((index, rivals, told), own) in questioned.into_iter().zip(own) {
            let candidate = &mut candidates[index];
            match own.and_then(|own| self.judge(own, &rivals)) {
                Ok((rejection, mut evidence)) => {
                    evidence["readings"] = told.into();
                    push(candidate, UNIQUENESS, rejection, evidence);
                }
                Err(why) => push_failure(candidate, UNIQUENESS, &why),
            }
        }
        Ok(())
    }

    /// Answers that differ from the seed's and stand in their passage. What the question says
    /// itself is no answer to it.
    fn rivals<'p>(&self, candidate: &Candidate, readings: Vec<Reading<'p>>) -> Vec<Rival<'p>> {
        let rivals = readings.into_iter().filter_map(|reading| {
            let passage = *reading.view.passages.first()?;
            let sample = reading.samples.into_iter().next()?;
            let differs = sample.f1 < self.settings.min_f1;
            let stated = answer::contains(&passage.text, &sample.answer);
            let asked = answer::contains(candidate.question(), &sample.answer);
            let (answer, logprob) = (sample.answer, sample.logprob);
            (differs && stated && !asked).then_some(Rival { passage, answer, logprob })
        });
        rivals.collect()
    }

    /// The mean log-probability of the seed's answer given the evidence, for the candidates at
    /// these places.
    fn own_logprobs(
        &self,
        candidates: &[Candidate],
        places: impl Iterator<Item = usize>,
        generator: &dyn Generator,
        costs: &mut Costs,
    ) -> Result<Vec<Result<f64, String>>, GenerateError> {
        let start = Instant::now();
        let continuation = |index: usize| -> Result<Continuation, String> {
            let candidate = &candidates[index];
            let seed = &candidate.draft.seed;
            let evidence: Vec<&Passage> =
                seed.path.iter().filter_map(|id| self.passages.get(id)).collect();
            let prompt = self.open_book.prompt(&evidence, candidate.question());
            let prompt = prompt.map_err(|error| error.to_string())?.tokens();
            Ok(Continuation { prompt, tokens: self.open_book.demonstration(&seed.answer) })
        };
        let all: Vec<Result<Continuation, String>> = places.map(continuation).collect();
        let given: Vec<Continuation> = all.iter().flatten().cloned().collect();
        let scored = match given.is_empty() {
            true => Ok(Vec::new()),
            false => generator.score(&given),
        };
        let scored = match scored {
            Err(error @ (GenerateError::Interrupted | GenerateError::Stopped(_))) => {
                return Err(error);
            }
            other => other.map_err(|error| error.to_string()),
        };
        let cost = costs.entry(UNIQUENESS).or_default();
        cost.requests += given.len() as u64;
        cost.prompt_tokens += given.iter().map(|one| one.prompt.len() as u64).sum::<u64>();
        cost.tokens += given.iter().map(|one| one.tokens.len() as u64).sum::<u64>();
        cost.seconds += start.elapsed().as_secs_f64();
        let mut scored = scored.map(Vec::into_iter);
        let own = all.into_iter().map(|one| {
            one?;
            let scores = scored.as_mut().map_err(|why| why.clone())?.next().unwrap_or_default();
            let logprobs: Vec<f32> = scores.iter().map(|score| score.logprob).collect();
            mean(&logprobs).ok_or_else(|| "the seed's answer was not scored".to_string())
        });
        Ok(own.collect())
    }

    fn judge(&self, own: f64, rivals: &[Rival<'_>]) -> Result<(Option<Rejection>, Value), String> {
        let least = own - f64::from(self.settings.uniqueness_margin);
        let mut as_sure = false;
        let mut told = Vec::with_capacity(rivals.len());
        for rival in rivals {
            let logprob = rival.logprob.ok_or("the server does not tell log-probabilities")?;
            as_sure |= logprob >= least;
            let (passage, answer) = (&rival.passage.id, &rival.answer);
            told.push(json!({ "answer": answer, "passage": passage, "logprob": logprob }));
        }
        let evidence = json!({ "logprob": own, "rivals": told });
        Ok((as_sure.then_some(Rejection::Ambiguous), evidence))
    }
}
