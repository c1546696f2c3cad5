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

use rayon::prelude::*;

use super::EngineSettings;
use super::Statistics;
use super::budget;
use super::inbox::Command;
use super::inbox::Inbox;
use super::inbox::Known;
use super::job::Active;
use super::pages::PagePool;
use super::pages::VersionId;
use super::plain;
use super::sequence::Chunk;
use super::sequence::Sequence;
use crate::inference::GenerateError;
use crate::model::Model;
use crate::model::lora::Adapter;
use crate::model::runner::PAGE;
use crate::model::runner::RunBatch;
use crate::model::runner::Runner;
use crate::rollout::StopReason;

/// Values of logits for scores in one step at most, beside one row for each sequence.
const SCORE_VALUES: usize = 1 << 23;

type LoadReply = mpsc::Sender<Result<Known, GenerateError>>;

/// The state of the engine's thread.
pub(super) struct Scheduler {
    pub(super) model: Arc<Model>,
    pub(super) runner: Box<dyn Runner>,
    pub(super) limits: EngineSettings,
    inbox: Arc<Inbox>,
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

    /// Runs one step; returns how long the runner and the sampling took.
    fn step(&mut self) -> (Duration, Duration) {
        if self.sequences.is_empty() {
            self.nothing_runs();
        }
        self.draw_due();
        self.hand_out();
        let chunks = self.plan();
        let batch = self.batch(&chunks);
        if batch.spans.is_empty() {
            return (Duration::ZERO, Duration::ZERO);
        }
        let start = Instant::now();
        let logits = match self.runner.run(&batch) {
            Ok(logits) => logits,
            Err(error) => {
                self.lose(&chunks, &plain(&error));
                return (start.elapsed(), Duration::ZERO);
            }
        };
        let run = start.elapsed();
        let start = Instant::now();
        let rows: usize = chunks.iter().flatten().map(Chunk::logits).sum();
        if rows > 0 && (logits.is_empty() || logits.len() % rows != 0) {
            let reason = format!("{} logits for {rows} rows", logits.len());
            self.lose(&chunks, &reason);
            return (run, start.elapsed());
        }
        let vocabulary = logits.len().checked_div(rows).unwrap_or_default();
        let mut left = logits;
        let mut work = Vec::with_capacity(self.sequences.len());
        for (sequence, chunk) in self.sequences.iter_mut().zip(&chunks) {
            let Some(chunk) = chunk else { continue };
            let (from, to) = (chunk.range.start, chunk.range.end);
            let prompt = sequence.unread_prompt().min(to - from);
            self.statistics.prompt_tokens += prompt as u64;
            self.statistics.sampled_tokens += (to - from - prompt) as u64;
            self.pages.commit(&sequence.held, &sequence.tokens, from, to);
            sequence.filled = to;
            let rows = chunk.logits();
            if rows > 0 {
                let (own, others) = left.split_at_mut(rows * vocabulary);
                left = others;
                work.push((sequence, own, rows));
            }
        }
        let model = &self.model;
        work.into_par_iter().for_each(|(sequence, own, rows)| sequence.advance(own, rows, model));
        self.statistics.steps += 1;
        self.keep_logits();
        self.hand_out();
        (run, start.elapsed())
    }

    /// What each sequence reads in the next step.
    fn plan(&self) -> Vec<Option<Chunk>> {
        let unread: Vec<usize> = self.sequences.iter().map(Sequence::unread_prompt).collect();
        let reading: Vec<usize> = (0..unread.len()).filter(|row| unread[*row] > 0).collect();
        let continued = unread.len() - reading.len();
        let left: Vec<usize> = reading.iter().map(|row| unread[*row]).collect();
        let mut tokens = vec![1; unread.len()];
        let shares = budget::share(self.limits.step_tokens.saturating_sub(continued), &left);
        for (row, share) in reading.into_iter().zip(shares) {
            tokens[row] = share;
        }
        let vocabulary = self.model.decoder.config().vocabulary;
        let mut logits = (SCORE_VALUES / vocabulary).max(1);
        let chunk = |(sequence, tokens): (&Sequence, usize)| {
            let chunk = sequence.chunk(tokens, logits)?;
            if chunk.logits() > 1 {
                logits -= chunk.logits();
            }
            Some(chunk)
        };
        self.sequences.iter().zip(tokens).map(chunk).collect()
    }

    fn batch(&mut self, chunks: &[Option<Chunk>]) -> RunBatch {
        let mut batch = RunBatch::default();
        for (sequence, chunk) in self.sequences.iter_mut().zip(chunks) {
            let Some(chunk) = chunk else { continue };
            let pages = chunk.range.end.div_ceil(PAGE);
            while sequence.held.pages().len() < pages {
                // Promised when it was admitted.
                assert!(self.pages.extend(&mut sequence.held).is_some(), "a promised page");
            }
            batch.push(
                &sequence.tokens[chunk.range.clone()],
                chunk.range.start,
                &sequence.held.pages()[..pages],
                sequence.adapter,
                chunk.wanted,
            );
        }
        batch
    }

    /// Draws the first tokens of sequences that begin with the logits of another's prompt.
    fn draw_due(&mut self) {
        let (active, model) = (&self.active, &self.model);
        self.sequences.par_iter_mut().filter(|sequence| sequence.is_due()).for_each(|sequence| {
            let logits = active.get(&sequence.job).and_then(|active| active.logits.as_ref());
            if let Some(logits) = logits {
                sequence.advance(&mut logits.clone(), 1, model);
            }
        });
        for active in self.active.values_mut().filter(|active| active.left() == 0) {
            active.logits = None;
        }
    }

    /// Puts the logits behind prompts where the other samples find them.
    fn keep_logits(&mut self) {
        for sequence in &mut self.sequences {
            let Some(kept) = sequence.kept.take() else { continue };
            sequence.leads = false;
            if let Some(active) = self.active.get_mut(&sequence.job) {
                active.logits = Some(kept);
                active.reading = false;
            }
        }
    }

    /// Takes out sequences that have ended, and answers requests that are complete.
    fn hand_out(&mut self) {
        let (ended, rest): (Vec<Sequence>, Vec<Sequence>) =
            std::mem::take(&mut self.sequences).into_iter().partition(Sequence::has_ended);
        self.sequences = rest;
        for sequence in ended {
            let job = sequence.job;
            let (held, outcome) = sequence.end(StopReason::Length);
            self.pages.release(held);
            let Some(active) = self.active.get_mut(&job) else { continue };
            active.store(outcome);
            if active.is_complete() {
                if let Some(active) = self.active.remove(&job) {
                    self.outbox.push((active, Ok(StopReason::Length)));
                }
            }
        }
    }

    /// Fails the requests of a step that failed.
    fn lose(&mut self, chunks: &[Option<Chunk>], reason: &str) {
        tracing::warn!("a step of the generation engine failed: {reason}");
        let rows = self.sequences.iter().zip(chunks).filter(|(_, chunk)| chunk.is_some());
        let lost: Vec<u64> = rows.map(|(sequence, _)| sequence.job).collect();
        for id in lost {
            self.fail(id, GenerateError::Step(reason.to_string()));
        }
        self.statistics.failed_steps += 1;
    }

    /// A request that does not start although nothing runs would wait for ever. It is a bug if it
    /// happens, and costs the request, not the engine.
    fn nothing_runs(&mut self) {
        if let Some(&id) = self.queue.front() {
            let reason = "the request could not be started although nothing runs";
            let begun = self.fail(id, GenerateError::Step(reason.into()));
            self.inbox.begun(begun);
        }
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
