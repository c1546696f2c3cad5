//! The engine in this process: continuous batching over paged key/value memory (Yu et al. 2022,
//! Orca; Kwon et al. 2023, PagedAttention).
//!
//! One thread owns the [`Runner`]. In every step it runs all sequences that are being continued,
//! one token each, and parts of prompts that are being read, for any number of requests, of the
//! base model and of adapters side by side. Sequences join and leave between steps.
//!
//! - `scheduler`: the thread's loop; `admission`: who starts next; `budget`: how a step's room is
//!   shared among prompts; `sequence`: one row; `job`: one request;
//! - `pages`: memory, and prefixes that are shared;
//! - `inbox`: the bounded queue between handles and thread.

mod admission;
pub mod budget;
mod inbox;
mod job;
pub mod pages;
mod scheduler;
mod sequence;
mod start;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;

pub use self::admission::BYPASS;
use self::inbox::Command;
use self::inbox::Inbox;
use self::inbox::Known;
use self::job::Answer;
use self::job::Job;
use self::job::Work;
use self::scheduler::Scheduler;
pub use self::start::StartError;
pub use self::start::runner_for;
use super::Continuation;
use super::GenerateError;
use super::Generation;
use super::Generator;
use super::Request;
use super::TokenScore;
use crate::config;
use crate::model::Model;
use crate::model::lora::Adapter;
use crate::model::runner::Description;
use crate::model::runner::PAGE;
use crate::model::runner::Runner;
use crate::rollout::StopReason;

/// Bounds of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineSettings {
    /// Sequences that run at the same time at most; no more than half of `step_tokens`, so that
    /// prompts are read however many there are.
    pub rows: usize,
    /// Tokens of a step at most.
    pub step_tokens: usize,
    /// Requests that wait at most.
    pub queue: usize,
}

impl Default for EngineSettings {
    fn default() -> Self {
        Self { rows: 64, step_tokens: 512, queue: 1024 }
    }
}

impl From<&config::Inference> for EngineSettings {
    fn from(settings: &config::Inference) -> Self {
        let config::Inference { rows, step_tokens, queue, .. } = *settings;
        Self { rows, step_tokens, queue }
    }
}

/// What an engine has done and holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Steps run.
    pub steps: u64,
    /// Steps that failed.
    pub failed_steps: u64,
    /// Tokens of prompts, and of texts to be scored, that were read.
    pub prompt_tokens: u64,
    /// Sampled tokens that were read; the last of a sequence never is.
    pub sampled_tokens: u64,
    /// Positions of prompts that were there and were not read again.
    pub shared_positions: u64,
    /// Sequences running.
    pub rows: usize,
    /// Requests waiting to begin.
    pub waiting: usize,
    /// Pages of key/value memory.
    pub pages: usize,
    /// Those that running sequences hold.
    pub pages_in_use: usize,
    /// Those that keep prefixes for later.
    pub pages_cached: usize,
    /// Time by kind: the runner's (`linear`, `attention`, `head`, `other`), `sampling`,
    /// `scheduling`.
    pub times: BTreeMap<&'static str, Duration>,
}

/// What handles share.
struct Shared {
    inbox: Arc<Inbox>,
    model: Arc<Model>,
    interrupt: Arc<AtomicBool>,
    /// Pages that the runner has.
    pages: usize,
    description: Description,
}

/// A running engine. Dropping it ends its thread and fails what is under way.
pub struct Engine {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// A model version that the thread serves; forgotten with its last handle and request.
pub(in crate::inference) struct Loaded {
    known: Known,
    inbox: Arc<Inbox>,
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

impl Engine {
    /// Starts an engine. `interrupt` fails all requests while it is set.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        model: Arc<Model>,
        runner: Box<dyn Runner>,
        settings: EngineSettings,
        interrupt: Arc<AtomicBool>,
    ) -> std::io::Result<Self> {
        let step_tokens = settings.step_tokens.max(2);
        let rows = settings.rows.clamp(1, step_tokens / 2);
        let settings = EngineSettings { rows, step_tokens, queue: settings.queue.max(1) };
        let inbox = Arc::new(Inbox::new(settings.queue));
        let (pages, description) = (runner.pages(), runner.describe());
        let (own_model, own_inbox) = (model.clone(), inbox.clone());
        let scheduler = Scheduler::new(own_model, runner, settings, own_inbox, interrupt.clone());
        let thread = std::thread::Builder::new().name("engine".into());
        let thread = Some(thread.spawn(move || scheduler.run())?);
        let shared = Arc::new(Shared { inbox, model, interrupt, pages, description });
        Ok(Self { shared, thread })
    }

    /// The model behind it.
    pub fn model(&self) -> &Arc<Model> {
        &self.shared.model
    }

    /// A policy called `version`: the base model (`adapter` none) or an adapter of it, as it is
    /// now; training it further does not change the policy.
    ///
    /// # Errors
    /// When the runner cannot take the adapter, or the engine has ended.
    pub fn policy(
        &self,
        version: &str,
        adapter: Option<&Adapter>,
    ) -> Result<Policy, GenerateError> {
        let (reply, answer) = mpsc::channel();
        // The tensors are shared, but nobody trains them while this call waits for the copy.
        let adapter = adapter.map(|adapter| Box::new(adapter.clone()));
        let inbox = &self.shared.inbox;
        inbox.push(Command::Load(adapter, reply));
        let known = answer.recv().unwrap_or_else(|_| Err(inbox.stopped()))?;
        let loaded = Arc::new(Loaded { known, inbox: inbox.clone() });
        Ok(Policy { shared: self.shared.clone(), loaded, version: version.into() })
    }

    /// What it runs on.
    pub fn description(&self) -> &Description {
        &self.shared.description
    }

    /// What it has done and holds.
    pub fn statistics(&self) -> Statistics {
        self.shared.inbox.statistics()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shared.inbox.shut();
        if let Some(thread) = self.thread.take() {
            // It catches its own panics.
            let _ = thread.join();
        }
    }
}

impl Policy {
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

/// What candle says, without the backtrace that it may carry.
fn plain(error: &candle_core::Error) -> String {
    match error {
        candle_core::Error::WithBacktrace { inner, .. } => plain(inner),
        other => other.to_string(),
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
