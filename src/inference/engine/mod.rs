//! The engine in this process: continuous batching over paged key/value memory (Yu et al. 2022,
//! Orca; Kwon et al. 2023, PagedAttention).
//!
//! One thread owns the [`Runner`]. In every step it runs all sequences that are being continued,
//! one token each, and parts of prompts that are being read, for any number of requests, of the
//! base model and of adapters side by side. Sequences join and leave between steps.
//!
//! - `scheduler`: the thread's loop; `admission`: who starts next; `step`: one step; `budget`: how
//!   its room is shared among prompts;
//! - `sequence`: one row; `job`: one request;
//! - `pages`: memory, and prefixes that are shared;
//! - `policy`: the handles; `inbox`: the bounded queue between them and the thread.

mod admission;
pub mod budget;
mod inbox;
mod job;
pub mod pages;
mod policy;
mod scheduler;
mod sequence;
mod start;
mod step;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

pub use self::admission::BYPASS;
use self::inbox::Command;
use self::inbox::Inbox;
use self::policy::Loaded;
pub use self::policy::Policy;
pub use self::policy::Ticket;
use self::scheduler::Scheduler;
pub use self::start::StartError;
pub(super) use self::start::cpu_settings;
pub use self::start::runner_for;
use super::GenerateError;
use crate::config;
use crate::model::Model;
use crate::model::lora::Adapter;
use crate::model::runner::Description;
use crate::model::runner::Runner;

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
        let loaded = Arc::new(Loaded::new(known, inbox.clone()));
        Ok(Policy::new(self.shared.clone(), loaded, version))
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

/// What candle says, without the backtrace that it may carry.
fn plain(error: &candle_core::Error) -> String {
    match error {
        candle_core::Error::WithBacktrace { inner, .. } => plain(inner),
        other => other.to_string(),
    }
}
