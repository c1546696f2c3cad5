//! A worker's process: started, listened to, and watched.

use std::collections::HashMap;
use std::collections::HashSet;
use std::ffi::OsString;
use std::io::BufReader;
use std::io::BufWriter;
use std::process;
use std::process::ChildStdin;
use std::process::ChildStdout;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;
use std::time::Instant;

use super::HostError;
use super::serve::lock;
use super::wire;
use super::wire::FromWorker;
use super::wire::Id;
use super::wire::PolicyId;
use super::wire::ToWorker;
use crate::config::Inference;
use crate::config::Worker as Watch;
use crate::model::fetch::ModelFiles;

/// What comes about one question. The channel closes when the process has ended.
pub(super) type News = mpsc::Receiver<FromWorker>;

/// A worker that has the model.
pub(super) struct Process {
    child: Mutex<process::Child>,
    stdin: Mutex<BufWriter<ChildStdin>>,
    heard: Arc<Heard>,
    /// Policies that it knows.
    pub(super) loaded: Mutex<HashSet<PolicyId>>,
    next: AtomicU64,
}

/// What the process has said.
#[derive(Default)]
struct Heard {
    waiting: Mutex<Waiting>,
    life: Mutex<Option<Life>>,
}

/// Who waits for what; none once the process has ended.
struct Waiting(Option<HashMap<Id, mpsc::Sender<FromWorker>>>);

impl Default for Waiting {
    fn default() -> Self {
        Self(Some(HashMap::new()))
    }
}

/// The last sign of life.
#[derive(Clone, Copy)]
struct Life {
    at: Instant,
    /// Since when the work has not got on.
    still_since: Instant,
    progress: u64,
    resident: u64,
}

/// Why a worker must go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overdue {
    Silent,
    Still,
    Memory,
}

impl Process {
    /// Starts a worker and waits until it has the model.
    ///
    /// # Errors
    /// When no process can be started, or it cannot have the model: `Err(HostError)`. When it ended
    /// before it said so: `Ok(Err(how it ended))`.
    pub(super) fn start(
        command: &[OsString],
        files: &ModelFiles,
        inference: Option<Inference>,
        watch: &Watch,
        stop: &dyn Fn() -> Result<(), HostError>,
    ) -> Result<Result<Self, String>, HostError> {
        let Some((program, arguments)) = command.split_first() else {
            return Err(HostError::Failed("no command starts a worker".to_string()));
        };
        let mut command = Command::new(program);
        // Its log goes where this process's goes. It must tell systemd nothing in another's name.
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        command.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC");
        let mut child = command
            .spawn()
            .map_err(|error| HostError::Failed(format!("the worker cannot be started: {error}")))?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(HostError::Failed("the worker has no pipes".to_string()));
        };
        let (opened, open) = mpsc::channel();
        let heard = Arc::new(Heard::default());
        let listener = heard.clone();
        std::thread::spawn(move || listener.listen(stdout, &opened));
        let process = Self {
            child: Mutex::new(child),
            stdin: Mutex::new(BufWriter::new(stdin)),
            heard,
            loaded: Mutex::default(),
            next: AtomicU64::new(0),
        };
        // When this fails the process has ended, which is seen below.
        let _ = process.send(&ToWorker::Open { files: files.clone(), inference });
        let begun = Instant::now();
        loop {
            match open.recv_timeout(super::child::GLANCE) {
                Ok(Ok(())) => return Ok(Ok(process)),
                Ok(Err(why)) => return Err(HostError::Failed(why)),
                Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(Err(process.end())),
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    stop()?;
                    if begun.elapsed() > Duration::from_secs(watch.progress_s) {
                        return Ok(Err("it did not load the model".to_string()));
                    }
                }
            }
        }
    }

    /// Sends a message.
    ///
    /// # Errors
    /// When the process has ended.
    pub(super) fn send(&self, message: &ToWorker) -> std::io::Result<()> {
        wire::write(&mut *lock(&self.stdin), message)
    }

    /// A number for a question, and what comes about it.
    pub(super) fn expect(&self) -> (Id, News) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, news) = mpsc::channel();
        // Where the process has ended the sender is dropped, and the channel is closed.
        if let Some(waiting) = &mut lock(&self.heard.waiting).0 {
            waiting.insert(id, sender);
        }
        // Its work may have stood still because there was none.
        if let Some(life) = &mut *lock(&self.heard.life) {
            life.still_since = Instant::now();
        }
        (id, news)
    }

    /// Nothing more is expected about a question.
    pub(super) fn forget(&self, id: Id) {
        if let Some(waiting) = &mut lock(&self.heard.waiting).0 {
            waiting.remove(&id);
        }
    }

    /// Whether it must go.
    pub(super) fn overdue(&self, watch: &Watch) -> Option<Overdue> {
        let life = (*lock(&self.heard.life))?;
        if watch.memory_mb > 0 && life.resident > watch.memory_mb << 20 {
            return Some(Overdue::Memory);
        }
        if life.at.elapsed() > Duration::from_secs(watch.silence_s) {
            return Some(Overdue::Silent);
        }
        let still = life.still_since.elapsed() > Duration::from_secs(watch.progress_s);
        still.then_some(Overdue::Still)
    }

    /// Kills it.
    pub(super) fn kill(&self) {
        // One that has ended already cannot be killed.
        let _ = lock(&self.child).kill();
    }

    /// Waits for its end, and says how that was.
    pub(super) fn end(&self) -> String {
        match lock(&self.child).wait() {
            Ok(status) => format!("it ended with {status}"),
            Err(error) => format!("it cannot be waited for: {error}"),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It has nothing that is not here too.
        self.kill();
        self.end();
    }
}

impl Heard {
    /// Hands out what comes, to its end.
    fn listen(&self, stdout: ChildStdout, opened: &mpsc::Sender<Result<(), String>>) {
        let mut stdout = BufReader::new(stdout);
        loop {
            match wire::read(&mut stdout) {
                Ok(Some(FromWorker::Opened(how))) => {
                    let _ = opened.send(how);
                }
                Ok(Some(FromWorker::Alive { progress, resident })) => self.seen(progress, resident),
                Ok(Some(message)) => self.hand_out(message),
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(%error, "what the worker says is not understood");
                    break;
                }
            }
        }
        // Whoever waits is told by the closed channel.
        lock(&self.waiting).0 = None;
    }

    fn seen(&self, progress: u64, resident: u64) {
        let now = Instant::now();
        let mut life = lock(&self.life);
        let still = life.filter(|life| life.progress == progress);
        let still_since = still.map_or(now, |life| life.still_since);
        *life = Some(Life { at: now, still_since, progress, resident });
    }

    fn hand_out(&self, message: FromWorker) {
        let mut waiting = lock(&self.waiting);
        let Some(waiting) = &mut waiting.0 else { return };
        let id = match &message {
            FromWorker::Stepped { id, .. } | FromWorker::Answered { id, .. } => *id,
            FromWorker::Opened(_) | FromWorker::Alive { .. } => return,
        };
        let is_last = matches!(message, FromWorker::Answered { .. });
        if let Some(to) = waiting.get(&id) {
            // Whoever asked may not wait any more.
            let _ = to.send(message);
        }
        if is_last {
            waiting.remove(&id);
        }
    }
}
