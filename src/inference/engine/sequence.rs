//! One row of the batch: a sequence being read, continued or scored.

use std::ops::Range;
use std::sync::Arc;

use super::job::Outcome;
use super::job::Work;
use super::pages::Held;
use crate::inference::Generation;
use crate::inference::StopMatcher;
use crate::inference::TokenScore;
use crate::model::Model;
use crate::model::runner::AdapterSlot;
use crate::model::runner::Wanted;
use crate::rng;
use crate::rng::Rng;
use crate::rollout::StopReason;

/// What a sequence is for.
enum Purpose {
    /// A sample of a request.
    Sample(Box<Sample>),
    /// Scores of a given continuation.
    Score(Vec<TokenScore>),
}

/// A continuation being written.
struct Sample {
    index: usize,
    rng: Rng,
    generation: Generation,
    matcher: StopMatcher,
}

/// Tokens of a sequence that a step reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) range: Range<usize>,
    pub(super) wanted: Wanted,
}

impl Chunk {
    /// Rows of logits that it gives.
    pub(super) fn logits(&self) -> usize {
        match self.wanted {
            Wanted::Nothing => 0,
            Wanted::Last => 1,
            Wanted::All => self.range.len(),
        }
    }
}

/// A sequence.
pub(super) struct Sequence {
    pub(super) job: u64,
    work: Arc<Work>,
    pub(super) adapter: Option<AdapterSlot>,
    /// The prompt and what follows it.
    pub(super) tokens: Vec<u32>,
    /// How many of them were read.
    pub(super) filled: usize,
    pub(super) held: Held,
    /// Whether other samples wait for the logits behind its prompt.
    pub(super) leads: bool,
    /// Those logits.
    pub(super) kept: Option<Vec<f32>>,
    purpose: Purpose,
    /// Why it has ended.
    stop: Option<StopReason>,
}

impl Sequence {
    /// A sequence of `work` with its pages, of which the first `filled` positions are there.
    pub(super) fn new(
        job: u64,
        work: &Arc<Work>,
        sample: usize,
        adapter: Option<AdapterSlot>,
        (held, filled): (Held, usize),
    ) -> Self {
        let mut tokens = work.prompt().to_vec();
        let purpose = match &**work {
            Work::Generate(request) => Purpose::Sample(Box::new(Sample {
                index: sample,
                rng: rng::stream(request.seed, &["sample", &sample.to_string()]),
                generation: Generation::empty(StopReason::Length),
                matcher: StopMatcher::new(&request.stop, &request.stop_tokens),
            })),
            Work::Score(given) => {
                tokens.extend_from_slice(&given.tokens);
                Purpose::Score(Vec::with_capacity(given.tokens.len()))
            }
        };
        let work = work.clone();
        let (leads, kept, stop) = (false, None, None);
        Self { job, work, adapter, tokens, filled, held, leads, kept, purpose, stop }
    }

    /// Tokens of the prompt, or of what is scored, that are yet to be read.
    pub(super) fn unread_prompt(&self) -> usize {
        let end = match self.purpose {
            Purpose::Sample(_) => self.work.prompt().len(),
            Purpose::Score(_) => self.tokens.len() - 1,
        };
        end.saturating_sub(self.filled)
    }

    /// Whether its prompt is all read and what comes next has not been drawn yet.
    pub(super) fn is_due(&self) -> bool {
        self.filled == self.tokens.len()
    }

    /// What it reads next: at most `tokens` of its prompt, for at most `logits` rows of scores.
    pub(super) fn chunk(&self, tokens: usize, logits: usize) -> Option<Chunk> {
        let (start, prompt) = (self.filled, self.work.prompt().len());
        let end = |limit: usize| start + tokens.min(limit - start);
        let chunk = match self.purpose {
            Purpose::Sample(_) if start >= prompt => {
                Chunk { range: start..self.tokens.len(), wanted: Wanted::Last }
            }
            Purpose::Sample(_) => {
                let end = end(prompt);
                let wanted = if end == prompt { Wanted::Last } else { Wanted::Nothing };
                Chunk { range: start..end, wanted }
            }
            // A span has the logits of all its tokens or of none: the prompt first.
            Purpose::Score(_) if start + 1 < prompt => {
                Chunk { range: start..end(prompt - 1), wanted: Wanted::Nothing }
            }
            Purpose::Score(_) => {
                let end = end(self.tokens.len() - 1).min(start + logits);
                Chunk { range: start..end, wanted: Wanted::All }
            }
        };
        (!chunk.range.is_empty()).then_some(chunk)
    }

    /// Goes on with the logits behind `filled` tokens, (n, vocabulary): draws a token, or scores
    /// those that follow.
    pub(super) fn advance(&mut self, logits: &mut [f32], rows: usize, model: &Model) {
        if self.leads {
            self.kept = Some(logits.to_vec());
        }
        match (&mut self.purpose, &*self.work) {
            (Purpose::Sample(sample), Work::Generate(request)) => {
                let Sample { rng, generation, matcher, .. } = &mut **sample;
                let (sampling, mask) = (&request.sampling, request.mask.as_deref());
                let drawn = sampling.draw(logits, &self.tokens, mask, rng);
                self.tokens.push(drawn.token);
                generation.tokens.push(drawn.token);
                generation.logprobs.push(drawn.logprob);
                generation.scores.push(drawn.score);
                let full = generation.tokens.len() >= request.max_tokens;
                self.stop = matcher
                    .push(&model.tokenizer, drawn.token)
                    .or(full.then_some(StopReason::Length));
            }
            (Purpose::Score(scores), _) => {
                let vocabulary = logits.len() / rows;
                let targets = self.tokens[self.filled + 1 - rows..].iter();
                let new = logits.chunks_exact(vocabulary).zip(targets);
                scores.extend(new.map(|(logits, target)| TokenScore::of(logits, *target)));
                self.stop = (self.filled + 1 == self.tokens.len()).then_some(StopReason::Length);
            }
            (Purpose::Sample(_), Work::Score(_)) => {}
        }
    }

    /// Whether it has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.stop.is_some()
    }

    /// Ends it: its pages, and what it came to. `early` says why when it has not ended by itself.
    pub(super) fn end(self, early: StopReason) -> (Held, Outcome) {
        let outcome = match self.purpose {
            Purpose::Score(scores) => Outcome::Scores(scores),
            Purpose::Sample(sample) => {
                let Sample { index, mut generation, matcher, .. } = *sample;
                generation.stop = self.stop.unwrap_or(early);
                generation.text = matcher.into_text();
                Outcome::Sample(index, generation)
            }
        };
        (self.held, outcome)
    }
}
