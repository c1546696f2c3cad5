//! Evaluation: answering a frozen suite, and deciding what goes live.

pub mod answers;
pub mod bootstrap;
pub mod general_text;
pub mod proportion;
pub mod standalone;

use serde::Deserialize;
use serde::Serialize;

use self::bootstrap::Interval;
use crate::answer;
use crate::inference::Generator;
use crate::inference::Sampling;
use crate::protocol::Reader;
use crate::retrieval::Retriever;
use crate::solver::SolveError;
use crate::task::Passage;

/// A question with the answers that count as right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Id within its file or suite.
    pub id: String,
    /// The question.
    pub question: String,
    /// Right answers; at least one.
    pub answers: Vec<String>,
    /// The document it came from: intervals are resampled by it.
    pub source_document: String,
}

/// How one question was answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answered {
    /// The question's id.
    pub id: String,
    /// The document it came from.
    pub source_document: String,
    /// What the model said.
    pub answer: String,
    /// Exact match, 0 or 1.
    pub exact_match: f64,
    /// Token F1, in [0, 1].
    pub f1: f64,
    /// Whether a retrieved passage contains a right answer.
    pub answer_in_retrieved: bool,
    /// Tokens the model wrote.
    pub tokens: u64,
}

/// Means over a suite; fractions of 1, intervals at 95 %.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Questions.
    pub n: usize,
    /// Mean exact match.
    pub em: f64,
    /// Mean token F1.
    pub f1: f64,
    /// Interval of the mean exact match.
    pub em_ci: Interval,
    /// Interval of the mean F1.
    pub f1_ci: Interval,
    /// Share of questions with a right answer in a retrieved passage.
    pub answer_in_retrieved: f64,
    /// Tokens the model wrote.
    pub tokens: u64,
    /// Wall-clock time.
    pub seconds: f64,
}

/// Answers questions by one search each (none when `retriever` is absent) and greedy reading.
///
/// # Errors
/// When generation or retrieval fails.
pub fn answer_all(
    questions: &[Question],
    generator: &dyn Generator,
    retriever: Option<&dyn Retriever>,
    reader: &Reader<'_>,
    passages: usize,
) -> Result<Vec<Answered>, SolveError> {
    let mut requests = Vec::with_capacity(questions.len());
    let mut found = Vec::with_capacity(questions.len());
    for question in questions {
        let hits = match retriever {
            Some(retriever) => retriever.search(&question.question, passages)?,
            None => Vec::new(),
        };
        let shown: Vec<&Passage> = hits.iter().map(|hit| &hit.passage).collect();
        let right = |passage: &&Passage| {
            question.answers.iter().any(|answer| answer::contains(&passage.text, answer))
        };
        found.push(shown.iter().any(right));
        requests.push(reader.request(&shown, &question.question, Sampling::GREEDY, 1, 0)?);
    }
    let generations = generator.generate(&requests)?;
    let answered = questions.iter().zip(generations).zip(found);
    Ok(answered
        .map(|((question, samples), answer_in_retrieved)| {
            let generation = samples.into_iter().next();
            let text = generation.as_ref().map_or("", |g| g.text.trim()).to_string();
            let (exact_match, f1) = answer::best_match(&text, &question.answers);
            Answered {
                id: question.id.clone(),
                source_document: question.source_document.clone(),
                answer: text,
                exact_match: f64::from(exact_match),
                f1: f64::from(f1),
                answer_in_retrieved,
                tokens: generation.map_or(0, |g| g.tokens.len() as u64),
            }
        })
        .collect())
}

/// Means and intervals; `clusters` are the questions' documents.
pub fn metrics(answered: &[Answered], resamples: usize, seed: u64, seconds: f64) -> Metrics {
    let clusters: Vec<&str> = answered.iter().map(|a| a.source_document.as_str()).collect();
    let em: Vec<f64> = answered.iter().map(|a| a.exact_match).collect();
    let f1: Vec<f64> = answered.iter().map(|a| a.f1).collect();
    let n = answered.len();
    let found = answered.iter().filter(|a| a.answer_in_retrieved).count();
    Metrics {
        n,
        em: bootstrap::mean(&em),
        f1: bootstrap::mean(&f1),
        em_ci: bootstrap::interval(&em, &clusters, resamples, seed),
        f1_ci: bootstrap::interval(&f1, &clusters, resamples, seed),
        answer_in_retrieved: found as f64 / n.max(1) as f64,
        tokens: answered.iter().map(|a| a.tokens).sum(),
        seconds,
    }
}

/// Paired differences, in F1 unless said otherwise, on the same questions, with the documents that
/// they are about.
#[derive(Debug, Clone, PartialEq)]
pub struct Gains<'a> {
    differences: Vec<f64>,
    documents: Vec<&'a str>,
}

impl<'a> Gains<'a> {
    /// Those of `later` over `earlier`, which answer the same questions in the same order.
    pub fn of(earlier: &'a [Answered], later: &[Answered]) -> Self {
        let pairs = earlier.iter().zip(later);
        let (differences, documents) = pairs
            .map(|(earlier, later)| (later.f1 - earlier.f1, earlier.source_document.as_str()))
            .unzip();
        Self { differences, documents }
    }

    /// Their mean.
    pub fn mean(&self) -> f64 {
        bootstrap::mean(&self.differences)
    }

    /// The same in exact match.
    pub fn of_exact_match(earlier: &'a [Answered], later: &[Answered]) -> Self {
        let pairs = earlier.iter().zip(later);
        let difference = |(earlier, later): (&'a Answered, &Answered)| {
            (later.exact_match - earlier.exact_match, earlier.source_document.as_str())
        };
        let (differences, documents) = pairs.map(difference).unzip();
        Self { differences, documents }
    }

    /// The 95 % interval of their mean, resampled by document.
    pub fn interval(&self, resamples: usize, seed: u64) -> Interval {
        bootstrap::interval(&self.differences, &self.documents, resamples, seed)
    }

    /// The 95 % interval of how much larger their mean is than that of others, on other questions.
    pub fn drift(&self, others: &Self, resamples: usize, seed: u64) -> Interval {
        let sides = [self, others].map(|of| (&of.differences[..], &of.documents[..]));
        bootstrap::difference(sides[0], sides[1], resamples, seed)
    }
}

/// Candidate against incumbent on the same questions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Mean difference in F1, candidate − incumbent.
    pub delta: f64,
    /// Its paired 95 % interval.
    pub ci: Interval,
    /// Whether the candidate goes live: the interval lies above zero.
    pub promoted: bool,
    /// Why, in a sentence.
    pub reason: String,
}

impl Comparison {
    /// The same, unless the candidate predicts general text by more than `most` nats per token
    /// worse than the base model: then it is not promoted, however much better it answers.
    pub fn unless_forgot(mut self, rise: f64, most: f64) -> Self {
        if self.promoted && rise > most {
            self.promoted = false;
            self.reason = format!(
                "it forgot too much: it predicts general text by {rise:.2} nats per token worse \
                 than the base model, and evaluate.text_loss_rise_max is {most}; {}",
                self.reason
            );
        }
        self
    }
}

/// Decides by the lower bound of the paired 95 % bootstrap interval of F1, resampled by source
/// document. Both lists answer the same questions in the same order.
pub fn compare(
    incumbent: &[Answered],
    candidate: &[Answered],
    resamples: usize,
    seed: u64,
) -> Comparison {
    let gains = Gains::of(incumbent, candidate);
    let delta = gains.mean();
    let ci = gains.interval(resamples, seed);
    let promoted = ci.0 > 0.0;
    let (low, high) = (ci.0 * 100.0, ci.1 * 100.0);
    let span = format!("{:+.1} F1 points, 95 % interval {low:+.1} to {high:+.1}", delta * 100.0);
    let reason = match (promoted, delta > 0.0) {
        (true, _) => format!("better on the held-out suite: {span}"),
        (false, true) => format!("the gain may be chance: {span}, which reaches below zero"),
        (false, false) => format!("no gain on the held-out suite: {span}"),
    };
    Comparison { delta, ci, promoted, reason }
}
