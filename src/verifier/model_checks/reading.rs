//! Putting the questions of candidates to the model, in one batch, and what it answers.

use std::time::Instant;

use serde_json::Value;
use serde_json::json;

use super::Candidate;
use super::Costs;
use super::ModelChecks;
use super::push_failure;
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

/// A check, and whom it asks.
pub(super) struct Check<'c> {
    pub(super) name: &'static str,
    pub(super) generator: &'c dyn Generator,
    pub(super) reader: Reader<'c>,
    /// Whether the likeliest answer alone is wanted, whatever the settings say.
    pub(super) greedy: bool,
}

/// What the model is shown with a question: one prompt.
#[derive(Debug, Clone, Default)]
pub(super) struct View<'p> {
    pub(super) passages: Vec<&'p Passage>,
    /// The passage of the evidence that is left out.
    pub(super) without: Option<String>,
}

/// What the model answered to a view.
pub(super) struct Reading<'p> {
    pub(super) view: View<'p>,
    pub(super) samples: Vec<Sample>,
}

/// One of its answers; empty where it gave none, or was cut off.
pub(super) struct Sample {
    pub(super) answer: String,
    /// Against the seed's answer.
    pub(super) f1: f32,
    /// Mean log-probability of its tokens in nats; none where a server does not tell.
    pub(super) logprob: Option<f64>,
}

impl Sample {
    fn new(generation: &Generation, seed: &str) -> Self {
        let answer = answer_of(generation).unwrap_or_default();
        let f1 = answer::f1(&answer, seed);
        let scores = generation.scores.iter().map(|score| score.logprob);
        // A greedy sample was drawn from the untempered distribution.
        let logprobs: Vec<f32> = match generation.scores.is_empty() {
            true => generation.logprobs.clone(),
            false => scores.collect(),
        };
        Self { answer, f1, logprob: mean(&logprobs) }
    }
}

/// The mean; none for no values.
pub(super) fn mean(values: &[f32]) -> Option<f64> {
    let sum: f64 = values.iter().copied().map(f64::from).sum();
    (!values.is_empty()).then(|| sum / values.len() as f64)
}

impl Reading<'_> {
    /// The share of the samples that agree with the seed's answer.
    fn share(&self, settings: &Verify) -> f32 {
        let agree = self.samples.iter().filter(|sample| sample.f1 >= settings.min_f1).count();
        agree as f32 / self.samples.len().max(1) as f32
    }

    /// Whether enough of them do.
    pub(super) fn finds(&self, settings: &Verify) -> bool {
        // Two thirds as written in a file are a little more or less than two of three.
        self.share(settings) > settings.majority - 1e-3
    }

    /// What was shown and answered, as a verdict keeps it.
    pub(super) fn told(&self) -> Value {
        let answers = self.samples.iter().map(|s| json!({ "answer": s.answer, "f1": s.f1 }));
        let passages = self.view.passages.iter().map(|passage| passage.id.as_str());
        let mut told = json!({
            "answers": answers.collect::<Vec<_>>(),
            "passages": passages.collect::<Vec<_>>(),
        });
        if let Some(without) = &self.view.without {
            told["without"] = without.as_str().into();
        }
        told
    }
}

impl ModelChecks<'_> {
    /// Puts the questions of all candidates that stand to the model, with the views of each, and
    /// returns the readings of those for whom that worked, by their place. The others are rejected.
    pub(super) fn read<'p>(
        &self,
        candidates: &mut [Candidate],
        check: &Check<'_>,
        views: impl Fn(&Candidate) -> anyhow::Result<Vec<View<'p>>>,
        costs: &mut Costs,
    ) -> Result<Vec<(usize, Vec<Reading<'p>>)>, GenerateError> {
        let start = Instant::now();
        let mut asked = Vec::new();
        let mut requests = Vec::new();
        for (index, candidate) in candidates.iter_mut().enumerate() {
            if !candidate.stands() {
                continue;
            }
            let made = views(candidate).and_then(|views| {
                let requests = self.requests(check, candidate, &views)?;
                Ok((views, requests))
            });
            match made {
                Ok((views, mut more)) => {
                    asked.push((index, views));
                    requests.append(&mut more);
                }
                Err(error) => push_failure(candidate, check.name, &format!("{error:#}")),
            }
        }
        let generated = match check.generator.generate(&requests) {
            // Nobody's drafts are at fault.
            Err(error @ (GenerateError::Interrupted | GenerateError::Stopped(_))) => {
                return Err(error);
            }
            Err(error) => Err(error.to_string()),
            Ok(all) if all.len() != requests.len() || all.iter().any(Vec::is_empty) => {
                Err("a request was not answered".to_string())
            }
            Ok(all) => Ok(all),
        };
        let cost = costs.entry(check.name).or_default();
        cost.requests += requests.len() as u64;
        cost.prompt_tokens +=
            requests.iter().map(|request| request.prompt.len() as u64).sum::<u64>();
        cost.seconds += start.elapsed().as_secs_f64();
        let mut generated = match generated {
            Ok(generated) => generated.into_iter(),
            Err(why) => {
                asked
                    .iter()
                    .for_each(|(at, _)| push_failure(&mut candidates[*at], check.name, &why));
                return Ok(Vec::new());
            }
        };
        let readings = asked.into_iter().map(|(index, views)| {
            let seed = &candidates[index].draft.seed.answer;
            let read = views.into_iter().zip(generated.by_ref()).map(|(view, samples)| {
                cost.tokens += samples.iter().map(|sample| sample.tokens.len() as u64).sum::<u64>();
                let samples = samples.iter().map(|sample| Sample::new(sample, seed)).collect();
                Reading { view, samples }
            });
            (index, read.collect())
        });
        Ok(readings.collect())
    }

    fn requests(
        &self,
        check: &Check<'_>,
        candidate: &Candidate,
        views: &[View<'_>],
    ) -> anyhow::Result<Vec<Request>> {
        let samples = if check.greedy { 1 } else { self.settings.samples };
        let sampling = match samples {
            1 => Sampling::GREEDY,
            _ => Sampling::at(self.settings.temperature),
        };
        let requests = views.iter().enumerate().map(|(place, view)| {
            let seed =
                rng::derive(self.seed, &[check.name, &candidate.draft.id, &place.to_string()]);
            let question = candidate.question();
            Ok(check.reader.request(&view.passages, question, sampling, samples, seed)?)
        });
        requests.collect()
    }
}
