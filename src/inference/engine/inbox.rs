//! What the handles of an engine hand to its thread: a bounded queue.

use std::collections::VecDeque;
use std::sync::mpsc;

use parking_lot::Condvar;
use parking_lot::Mutex;

use super::Statistics;
use super::job::Job;
use super::pages::VersionId;
use crate::inference::GenerateError;
use crate::model::lora::Adapter;
use crate::model::runner::AdapterSlot;

/// A model version that the engine's thread knows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known {
    pub(super) id: VersionId,
    pub(super) adapter: Option<AdapterSlot>,
}

/// What the thread is asked to do.
pub(super) enum Command {
    /// Work.
    Submit(Job),
    /// Serve one more version: the base model, or an adapter of it.
    Load(Option<Box<Adapter>>, mpsc::Sender<Result<Known, GenerateError>>),
    /// Serve one less.
    Forget(Known),
}

/// The queue, shared by handles and thread.
pub(super) struct Inbox {
    state: Mutex<State>,
    /// There is something to do.
    news: Condvar,
    /// There is room for more.
    room: Condvar,
    limit: usize,
}

struct State {
    commands: VecDeque<Command>,
    /// Requests submitted and not yet begun.
    waiting: usize,
    /// Why nothing is served any more.
    closed: Option<String>,
    statistics: Statistics,
}

/// What was taken from the queue.
pub(super) struct Taken {
    pub(super) commands: VecDeque<Command>,
    pub(super) closed: bool,
}

impl Inbox {
    pub(super) fn new(limit: usize) -> Self {
        let state = State {
            commands: VecDeque::new(),
            waiting: 0,
            closed: None,
            statistics: Statistics::default(),
        };
        Self { state: Mutex::new(state), news: Condvar::new(), room: Condvar::new(), limit }
    }

    /// Queues work, or fails when the queue is full.
    pub(super) fn submit(&self, job: Job) -> Result<(), GenerateError> {
        let mut state = self.state.lock();
        if let Some(reason) = &state.closed {
            return Err(GenerateError::Stopped(reason.clone()));
        }
        if state.waiting >= self.limit {
            return Err(GenerateError::QueueFull { waiting: state.waiting });
        }
        state.waiting += 1;
        state.commands.push_back(Command::Submit(job));
        self.news.notify_one();
        Ok(())
    }

    /// Queues work as there is room for it. What finds room at once comes to the thread at once,
    /// so that it does not depend on chance with what it shares its first step.
    pub(super) fn submit_all(&self, jobs: Vec<Job>) -> Result<(), GenerateError> {
        let mut state = self.state.lock();
        for job in jobs {
            while state.waiting >= self.limit && state.closed.is_none() {
                self.news.notify_one();
                self.room.wait(&mut state);
            }
            if let Some(reason) = state.closed.clone() {
                // What was queued is answered by the thread, and the rest dropped, without the
                // lock: a job that is dropped may be the last of its version.
                drop(state);
                return Err(GenerateError::Stopped(reason));
            }
            state.waiting += 1;
            state.commands.push_back(Command::Submit(job));
        }
        self.news.notify_one();
        Ok(())
    }

    /// Queues anything else; nothing happens when nothing is served any more.
    pub(super) fn push(&self, command: Command) {
        let mut state = self.state.lock();
        if state.closed.is_none() {
            state.commands.push_back(command);
            self.news.notify_one();
        }
    }

    /// Takes what there is; `block` waits until there is something.
    pub(super) fn take(&self, block: bool) -> Taken {
        let mut state = self.state.lock();
        while block && state.commands.is_empty() && state.closed.is_none() {
            self.news.wait(&mut state);
        }
        let commands = std::mem::take(&mut state.commands);
        Taken { commands, closed: state.closed.is_some() }
    }

    /// Notes that `begun` requests no longer wait.
    pub(super) fn begun(&self, begun: usize) {
        if begun > 0 {
            self.state.lock().waiting -= begun;
            self.room.notify_all();
        }
    }

    /// Asks the thread to end.
    pub(super) fn shut(&self) {
        let mut state = self.state.lock();
        state.closed.get_or_insert_with(|| "it was shut down".into());
        self.news.notify_all();
        self.room.notify_all();
    }

    /// Serves nothing from now on; returns what was queued. The first reason stays.
    pub(super) fn close(&self, reason: &str) -> VecDeque<Command> {
        let mut state = self.state.lock();
        state.closed.get_or_insert_with(|| reason.to_string());
        let left = std::mem::take(&mut state.commands);
        self.news.notify_all();
        self.room.notify_all();
        left
    }

    /// The error of one who waits for an answer that will not come.
    pub(super) fn stopped(&self) -> GenerateError {
        let reason = self.state.lock().closed.clone();
        GenerateError::Stopped(reason.unwrap_or_else(|| "it dropped the request".into()))
    }

    pub(super) fn publish(&self, statistics: Statistics) {
        let mut state = self.state.lock();
        let waiting = state.waiting;
        state.statistics = Statistics { waiting, ..statistics };
    }

    pub(super) fn statistics(&self) -> Statistics {
        let state = self.state.lock();
        Statistics { waiting: state.waiting, ..state.statistics.clone() }
    }
}
