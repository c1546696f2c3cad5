//! A request on its way through the engine.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Instant;

use super::policy::Loaded;
use crate::inference::Continuation;
use crate::inference::GenerateError;
use crate::inference::Generation;
use crate::inference::Request;
use crate::inference::TokenScore;
use crate::model::runner::PAGE;
use crate::rollout::StopReason;

/// What is asked for.
pub(super) enum Work {
    /// Continuations of a prompt.
    Generate(Request),
    /// Scores of a given one.
    Score(Continuation),
}

impl Work {
    pub(super) fn prompt(&self) -> &[u32] {
        match self {
            Self::Generate(request) => &request.prompt,
            Self::Score(given) => &given.prompt,
        }
    }

    /// Tokens that follow the prompt at most.
    pub(super) fn more(&self) -> usize {
        match self {
            Self::Generate(request) => request.max_tokens,
            Self::Score(given) => given.tokens.len(),
        }
    }

    /// Sequences.
    pub(super) fn samples(&self) -> usize {
        match self {
            Self::Generate(request) => request.samples,
            Self::Score(_) => 1,
        }
    }

    /// Positions of one sequence: its last token is never read.
    pub(super) fn positions(&self) -> usize {
        (self.prompt().len() + self.more()).saturating_sub(1)
    }

    /// Pages of one sequence.
    pub(super) fn pages(&self) -> usize {
        self.positions().div_ceil(PAGE)
    }
}

/// What came of it.
pub(super) enum Answer {
    Generations(Vec<Generation>),
    Scores(Vec<TokenScore>),
}

/// A request with what is needed to serve and answer it.
pub(super) struct Job {
    pub(super) work: Arc<Work>,
    /// The version it was submitted with, which it keeps loaded.
    pub(super) version: Arc<Loaded>,
    pub(super) deadline: Option<Instant>,
    pub(super) cancelled: Arc<AtomicBool>,
    pub(super) reply: mpsc::Sender<Result<Answer, GenerateError>>,
}

impl Job {
    /// Whether it must end now, and why.
    pub(super) fn expired(&self, now: Instant) -> Option<StopReason> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Some(StopReason::Cancelled);
        }
        self.deadline.is_some_and(|deadline| deadline <= now).then_some(StopReason::Deadline)
    }
}

/// What a sequence came to.
pub(super) enum Outcome {
    /// A sample, by its index.
    Sample(usize, Generation),
    Scores(Vec<TokenScore>),
}

/// A request that the engine's thread has taken on.
pub(super) struct Active {
    pub(super) job: Job,
    generations: Vec<Option<Generation>>,
    scores: Option<Vec<TokenScore>>,
    /// Sequences that were started.
    pub(super) started: usize,
    /// Whether a sequence reads the prompt for others that will start with its logits.
    pub(super) reading: bool,
    /// The logits behind the prompt (vocabulary), while there are sequences to start with them.
    pub(super) logits: Option<Vec<f32>>,
    /// Sequences of later requests that started while this one had no room.
    pub(super) passed: usize,
}

impl Active {
    pub(super) fn new(job: Job) -> Self {
        let generations = match &*job.work {
            Work::Generate(request) => vec![None; request.samples],
            Work::Score(_) => Vec::new(),
        };
        let (started, passed, reading) = (0, 0, false);
        Self { job, generations, scores: None, started, reading, logits: None, passed }
    }

    /// Sequences yet to be started.
    pub(super) fn left(&self) -> usize {
        self.job.work.samples() - self.started
    }

    pub(super) fn store(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Sample(index, generation) => self.generations[index] = Some(generation),
            Outcome::Scores(scores) => self.scores = Some(scores),
        }
    }

    pub(super) fn is_complete(&self) -> bool {
        match &*self.job.work {
            Work::Generate(_) => self.generations.iter().all(Option::is_some),
            Work::Score(_) => self.scores.is_some(),
        }
    }

    /// Answers: with what there is, or with an error. Samples that never started are empty and
    /// ended for the reason given.
    pub(super) fn answer(self, how: Result<StopReason, GenerateError>) {
        let answer = how.map(|reason| match self.scores {
            Some(scores) => Answer::Scores(scores),
            None => {
                let empty = || Generation::empty(reason);
                let all = self.generations.into_iter().map(|one| one.unwrap_or_else(empty));
                Answer::Generations(all.collect())
            }
        });
        let Job { version, reply, .. } = self.job;
        // First, so that whoever has the answer finds the version forgotten if it was the last.
        drop(version);
        // Nobody may be waiting any more.
        let _ = reply.send(answer);
    }
}
