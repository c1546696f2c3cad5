//! Handles: a model version to write with, and a request under way.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;
use std::time::Instant;

use super::Shared;
use super::inbox::Command;
use super::inbox::Inbox;
use super::inbox::Known;
use super::job::Answer;
use super::job::Job;
use super::job::Work;
use crate::inference::Continuation;
use crate::inference::GenerateError;
use crate::inference::Generation;
use crate::inference::Generator;
use crate::inference::Request;
use crate::inference::TokenScore;
use crate::model::runner::PAGE;
use crate::rollout::StopReason;

/// A model version that the thread serves; forgotten with its last handle and request.
pub(super) struct Loaded {
    pub(super) known: Known,
    inbox: Arc<Inbox>,
}

impl Loaded {
    pub(super) fn new(known: Known, inbox: Arc<Inbox>) -> Self {
        Self { known, inbox }
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        self.inbox.push(Command::Forget(self.known));
    }
}

/// One model version of an engine: writes with the base model or with an adapter. When the last
/// handle and the last request are gone, the adapter is unloaded and its prefixes are forgotten.
#[derive(Clone)]
pub struct Policy {
    shared: Arc<Shared>,
    loaded: Arc<Loaded>,
    version: Arc<str>,
}

/// A submitted request. Dropping it cancels the request.
pub struct Ticket {
    answer: mpsc::Receiver<Result<Answer, GenerateError>>,
    cancelled: Arc<AtomicBool>,
    inbox: Arc<Inbox>,
}

impl Policy {
    pub(super) fn new(shared: Arc<Shared>, loaded: Arc<Loaded>, version: &str) -> Self {
        Self { shared, loaded, version: version.into() }
    }

    /// Queues a request.
    ///
    /// # Errors
    /// When the queue is full, the request can never be served, or the engine has ended.
    pub fn submit(&self, request: Request) -> Result<Ticket, GenerateError> {
        let (ticket, job) = self.prepare(Work::Generate(request))?;
        if let Some(job) = job {
            self.shared.inbox.submit(job)?;
        }
        Ok(ticket)
    }

    /// Queues all of it, as there is room.
    fn submit_all(&self, work: Vec<Work>) -> Result<Vec<Ticket>, GenerateError> {
        let prepared = work.into_iter().map(|work| self.prepare(work));
        let prepared = prepared.collect::<Result<Vec<_>, _>>()?;
        let (tickets, jobs): (Vec<Ticket>, Vec<Option<Job>>) = prepared.into_iter().unzip();
        self.shared.inbox.submit_all(jobs.into_iter().flatten().collect())?;
        Ok(tickets)
    }

    /// A ticket for some work, and the work for the thread, unless it is answered already.
    fn prepare(&self, work: Work) -> Result<(Ticket, Option<Job>), GenerateError> {
        let (given, allowed) = match &work {
            Work::Generate(request) => (&[][..], request.deadline),
            Work::Score(given) => (&*given.tokens, None),
        };
        self.check(work.prompt(), given, work.more())?;
        if let Work::Generate(request) = &work {
            request.sampling.check()?;
            let vocabulary = self.shared.model.decoder.config().vocabulary;
            request.mask.as_deref().map(|mask| mask.check(vocabulary)).transpose()?;
        }
        let (reply, answer) = mpsc::channel();
        let cancelled = Arc::new(AtomicBool::new(false));
        let inbox = self.shared.inbox.clone();
        let ticket = Ticket { answer, cancelled: cancelled.clone(), inbox };
        if work.more() == 0 || work.samples() == 0 {
            // The receiver is there.
            let _ = reply.send(Ok(nothing(&work)));
            return Ok((ticket, None));
        }
        let (deadline, version) = (deadline(allowed), self.loaded.clone());
        let work = Arc::new(work);
        Ok((ticket, Some(Job { work, version, deadline, cancelled, reply })))
    }

    /// Fails when a prompt with `more` tokens behind it, those `given` among them, can never be
    /// served.
    fn check(&self, prompt: &[u32], given: &[u32], more: usize) -> Result<(), GenerateError> {
        if self.shared.interrupt.load(Ordering::Relaxed) {
            return Err(GenerateError::Interrupted);
        }
        if prompt.is_empty() {
            return Err(GenerateError::EmptyPrompt);
        }
        let config = self.shared.model.decoder.config();
        let (limit, vocabulary) = (config.max_positions, config.vocabulary);
        if prompt.len().saturating_add(more) > limit {
            return Err(GenerateError::TooLong { prompt: prompt.len(), max_tokens: more, limit });
        }
        let unknown = |token: &&u32| **token as usize >= vocabulary;
        if let Some(&token) = prompt.iter().chain(given).find(unknown) {
            return Err(GenerateError::UnknownToken { token, vocabulary });
        }
        let (positions, room) = ((prompt.len() + more).saturating_sub(1), self.shared.pages * PAGE);
        if positions > room {
            return Err(GenerateError::NoMemory { positions, room });
        }
        Ok(())
    }
}

/// The answer to a request for nothing.
fn nothing(work: &Work) -> Answer {
    match work {
        Work::Generate(request) => {
            Answer::Generations(vec![Generation::empty(StopReason::Length); request.samples])
        }
        Work::Score(_) => Answer::Scores(Vec::new()),
    }
}

/// When a request that may take this long must end. What is beyond the clock is never.
fn deadline(allowed: Option<Duration>) -> Option<Instant> {
    Instant::now().checked_add(allowed?)
}

impl Ticket {
    /// Waits for the end of the request. What was cancelled or ran out of time has what was
    /// written by then.
    ///
    /// # Errors
    /// When the step it was in failed, the user asked to stop, or the engine has ended.
    pub fn wait(self) -> Result<Vec<Generation>, GenerateError> {
        match self.answer()? {
            Answer::Generations(generations) => Ok(generations),
            Answer::Scores(_) => Ok(Vec::new()),
        }
    }

    fn answer(&self) -> Result<Answer, GenerateError> {
        self.answer.recv().unwrap_or_else(|_| Err(self.inbox.stopped()))
    }

    /// Ends the request at the next step.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.cancel();
    }
}

impl Generator for Policy {
    fn generate(&self, requests: &[Request]) -> Result<Vec<Vec<Generation>>, GenerateError> {
        let work = requests.iter().cloned().map(Work::Generate).collect();
        self.submit_all(work)?.into_iter().map(Ticket::wait).collect()
    }

    fn score(&self, given: &[Continuation]) -> Result<Vec<Vec<TokenScore>>, GenerateError> {
        let tickets = self.submit_all(given.iter().cloned().map(Work::Score).collect())?;
        let answers = tickets.iter().map(|ticket| match ticket.answer()? {
            Answer::Scores(scores) => Ok(scores),
            Answer::Generations(_) => Err(self.shared.inbox.stopped()),
        });
        answers.collect()
    }

    fn model_version(&self) -> &str {
        &self.version
    }
}
