//! The engine's thread: takes requests, composes steps, runs them, and hands out results.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;
use std::time::Instant;

use super::EngineSettings;
use super::Statistics;
use super::inbox::Command;
use super::inbox::Inbox;
use super::inbox::Known;
use super::job::Active;
use super::pages::PagePool;
use super::pages::VersionId;
use super::plain;
use super::sequence::Sequence;
use crate::inference::GenerateError;
use crate::model::Model;
use crate::model::lora::Adapter;
use crate::model::runner::Runner;
use crate::rollout::StopReason;

type LoadReply = mpsc::Sender<Result<Known, GenerateError>>;

/// The state of the engine's thread.
pub(super) struct Scheduler {
    pub(super) model: Arc<Model>,
    pub(super) runner: Box<dyn Runner>,
    pub(super) limits: EngineSettings,
    pub(super) inbox: Arc<Inbox>,
    interrupt: Arc<AtomicBool>,
    pub(super) pages: PagePool,
    /// Requests taken on, by number.
    pub(super) active: BTreeMap<u64, Active>,
    /// Those with sequences yet to be started, in the order they came.
    pub(super) queue: VecDeque<u64>,
    /// The rows, oldest first.
    pub(super) sequences: Vec<Sequence>,
    pub(super) statistics: Statistics,
    /// Requests to be answered, and versions to be handed over, once the statistics are published:
    /// who has an answer finds it counted.
    pub(super) outbox: Vec<(Active, Result<StopReason, GenerateError>)>,
    loaded: Vec<(LoadReply, Result<Known, GenerateError>)>,
    /// Why sequences are being ended that have not ended by themselves.
    pub(super) early: StopReason,
    next_job: u64,
    next_version: u64,
}

impl Scheduler {
    pub(super) fn new(
        model: Arc<Model>,
        runner: Box<dyn Runner>,
        limits: EngineSettings,
        inbox: Arc<Inbox>,
        interrupt: Arc<AtomicBool>,
    ) -> Self {
        let pages = PagePool::new(runner.pages());
        Self {
            model,
            runner,
            limits,
            inbox,
            interrupt,
            pages,
            active: BTreeMap::new(),
            queue: VecDeque::new(),
            sequences: Vec::new(),
            statistics: Statistics::default(),
            outbox: Vec::new(),
            loaded: Vec::new(),
            early: StopReason::Cancelled,
            next_job: 0,
            next_version: 0,
        }
    }

    /// Serves until the inbox is closed. A panic closes it: all who wait are told, none hangs.
    pub(super) fn run(mut self) {
        let served = std::panic::catch_unwind(AssertUnwindSafe(|| self.serve()));
        let reason = match served {
            Ok(()) => "it was shut down".to_string(),
            Err(panic) => {
                let text = panic_text(&*panic);
                tracing::error!("the generation engine panicked: {text}");
                format!("it panicked: {text}")
            }
        };
        let left = self.inbox.close(&reason);
        let stopped = || GenerateError::Stopped(reason.clone());
        for command in left {
            match command {
                Command::Submit(job) => Active::new(job).answer(Err(stopped())),
                Command::Load(_, reply) => drop(reply.send(Err(stopped()))),
                Command::Forget(_) => {}
            }
        }
        self.send();
        for (_, active) in std::mem::take(&mut self.active) {
            active.answer(Err(stopped()));
        }
    }

    fn serve(&mut self) {
        loop {
            let taken = self.inbox.take(self.active.is_empty());
            let start = Instant::now();
            for command in taken.commands {
                self.obey(command);
            }
            if taken.closed {
                return;
            }
            let begun = self.end_early() + self.admit();
            self.inbox.begun(begun);
            let (run, sampling) = self.step();
            let rest = start.elapsed().saturating_sub(run + sampling);
            self.publish(sampling, rest);
            self.send();
        }
    }

    /// Hands out answers.
    fn send(&mut self) {
        for (active, how) in self.outbox.drain(..) {
            active.answer(how);
        }
        for (reply, known) in std::mem::take(&mut self.loaded) {
            // Nobody may be waiting any more: then nothing was loaded.
            if let Err(mpsc::SendError(Ok(known))) = reply.send(known) {
                self.forget(known);
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Submit(job) => {
                self.active.insert(self.next_job, Active::new(job));
                self.queue.push_back(self.next_job);
                self.next_job += 1;
            }
            Command::Load(adapter, reply) => {
                let known = self.load(adapter.as_deref());
                self.loaded.push((reply, known));
            }
            Command::Forget(known) => self.forget(known),
        }
    }

    fn load(&mut self, adapter: Option<&Adapter>) -> Result<Known, GenerateError> {
        let adapter = adapter.map(|adapter| self.runner.add_adapter(adapter)).transpose();
        let adapter = adapter.map_err(|error| GenerateError::Adapter(plain(&error)))?;
        let id = VersionId(self.next_version);
        self.next_version += 1;
        Ok(Known { id, adapter })
    }

    fn forget(&mut self, known: Known) {
        self.pages.forget(known.id);
        if let Some(slot) = known.adapter {
            self.runner.remove_adapter(slot);
        }
    }

    /// Ends what was interrupted, cancelled or takes too long; returns how many had not begun.
    fn end_early(&mut self) -> usize {
        let mut fresh = 0;
        if self.interrupt.load(Ordering::Relaxed) {
            let all: Vec<u64> = self.active.keys().copied().collect();
            for id in all {
                fresh += self.fail(id, GenerateError::Interrupted);
            }
        }
        let now = Instant::now();
        let expired: Vec<(u64, StopReason)> = self
            .active
            .iter()
            .filter_map(|(id, active)| Some((*id, active.job.expired(now)?)))
            .collect();
        for (id, reason) in expired {
            self.early = reason;
            if let Some((active, not_begun)) = self.withdraw(id) {
                fresh += not_begun;
                self.outbox.push((active, Ok(reason)));
            }
        }
        fresh
    }

    fn publish(&mut self, sampling: Duration, scheduling: Duration) {
        let times = self.runner.take_times().into_iter();
        for (kind, time) in times.chain([("sampling", sampling), ("scheduling", scheduling)]) {
            *self.statistics.times.entry(kind).or_default() += time;
        }
        self.statistics.rows = self.sequences.len();
        self.statistics.pages = self.pages.pages();
        self.statistics.pages_in_use = self.pages.in_use();
        self.statistics.pages_cached = self.pages.cached();
        self.inbox.publish(self.statistics.clone());
    }
}

/// What a panic said.
fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message").to_string()
}
