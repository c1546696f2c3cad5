//! Progress on stderr: a bar on a terminal, log lines elsewhere. Standard output is never touched.
//! A process that asks for it also keeps a file that says what it is at, for others to read.

use std::io::IsTerminal;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use indicatif::ProgressBar;
use indicatif::ProgressStyle;
use jiff::Timestamp;
use serde::Deserialize;
use serde::Serialize;

/// How often a progress line is logged when stderr is not a terminal.
const LOG_EVERY: Duration = Duration::from_secs(15);

/// How often the file is written at most.
const PUBLISH_EVERY: Duration = Duration::from_secs(1);

/// The progress of one piece of long work.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    what: String,
    total: u64,
    done: AtomicU64,
    start: Instant,
    /// Seconds after `start` at which the last line was logged.
    logged_s: AtomicU64,
    /// Milliseconds after `start` at which the file was last written.
    published_ms: AtomicU64,
}

impl Progress {
    /// Starts showing `what`, out of `total` units.
    pub fn start(what: &str, total: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template(
                "{msg:32} {wide_bar:.cyan/dim} {pos:>5}/{len:5} {elapsed:>4} ETA {eta:4}",
            )
            .unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = ProgressBar::new(total).with_style(style).with_message(what.to_string());
            bar.enable_steady_tick(Duration::from_millis(500));
            bar
        });
        if bar.is_none() {
            tracing::info!(total, "started: {what}");
        }
        if let Some(board) = &mut *board() {
            board.begin(what, total);
        }
        Self {
            bar,
            what: what.to_string(),
            total,
            done: AtomicU64::new(0),
            start: Instant::now(),
            logged_s: AtomicU64::new(0),
            published_ms: AtomicU64::new(0),
        }
    }

    /// Counts `n` more units as done.
    pub fn advance(&self, n: u64) {
        let done = self.done.fetch_add(n, Ordering::Relaxed) + n;
        self.publish(done);
        if let Some(bar) = &self.bar {
            bar.inc(n);
            return;
        }
        let elapsed_s = self.start.elapsed().as_secs();
        let logged_s = self.logged_s.load(Ordering::Relaxed);
        if elapsed_s >= logged_s + LOG_EVERY.as_secs() {
            self.logged_s.store(elapsed_s, Ordering::Relaxed);
            tracing::info!(done, total = self.total, elapsed_s, "{}", self.what);
        }
    }

    /// Shows a short note beside the bar, such as the current loss.
    pub fn note(&self, note: &str) {
        if let Some(board) = &mut *board() {
            board.note(&self.what, note);
        }
        match &self.bar {
            Some(bar) => bar.set_message(format!("{} · {note}", self.what)),
            None => tracing::debug!(note, "{}", self.what),
        }
    }

    fn publish(&self, done: u64) {
        let elapsed_ms = self.start.elapsed().as_millis() as u64;
        let published_ms = self.published_ms.load(Ordering::Relaxed);
        if elapsed_ms < published_ms + PUBLISH_EVERY.as_millis() as u64 {
            return;
        }
        self.published_ms.store(elapsed_ms, Ordering::Relaxed);
        if let Some(board) = &mut *board() {
            board.advance(&self.what, done);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        let elapsed_s = self.start.elapsed().as_secs();
        let done = self.done.load(Ordering::Relaxed);
        match &self.bar {
            Some(bar) => bar.finish(),
            None => tracing::info!(done, total = self.total, elapsed_s, "ended: {}", self.what),
        }
        if let Some(board) = &mut *board() {
            board.end(&self.what, done);
        }
    }
}

/// What a process is at, as its file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgressReport {
    /// The process.
    pub pid: u32,
    /// The piece of work that it began last; empty before the first.
    pub phase: String,
    /// Units of it that are done.
    pub done: u64,
    /// All its units.
    pub total: u64,
    /// What there was to say beside that, such as the current loss.
    pub note: Option<String>,
    /// Whether it is over, and the next one has not begun.
    pub ended: bool,
    /// When it began.
    pub started_at: Timestamp,
    /// When this was written.
    pub updated_at: Timestamp,
    /// Why the process gave up, once it has.
    pub failed: Option<String>,
}

impl ProgressReport {
    /// What the file at `path` says of a process that is at work or has failed. None where there is
    /// no such file, or one that a process left behind when it was killed.
    pub fn read(path: &Path) -> Option<Self> {
        let report: Self = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        let lives = || i32::try_from(report.pid).is_ok_and(is_alive);
        (!report.is_at_work() || lives()).then_some(report)
    }

    /// Whether its process has not given up.
    pub fn is_at_work(&self) -> bool {
        self.failed.is_none()
    }

    /// How long the rest of the phase takes, at the pace so far; none where nothing is known.
    pub fn rest(&self) -> Option<Duration> {
        let spent = Duration::try_from(self.updated_at.duration_since(self.started_at)).ok()?;
        let left = self.total.checked_sub(self.done)?;
        let pace = spent.as_secs_f64() / self.done as f64;
        let known = !self.ended && self.done > 0 && spent > Duration::from_secs(5);
        known.then(|| Duration::try_from_secs_f64(pace * left as f64).ok()).flatten()
    }
}

/// Whether a process has this id; also one that belongs to somebody else.
fn is_alive(pid: i32) -> bool {
    // SAFETY: signal 0 only asks.
    let asked = unsafe { libc::kill(pid, 0) };
    asked == 0 || std::io::Error::last_os_error().raw_os_error() == Some(libc::EPERM)
}

/// The file, in a process that keeps one.
static BOARD: Mutex<Option<Board>> = Mutex::new(None);

fn board() -> MutexGuard<'static, Option<Board>> {
    BOARD.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Board {
    path: PathBuf,
    /// None before the first piece of work: a file of another process is then left alone.
    report: Option<ProgressReport>,
}

impl Board {
    fn begin(&mut self, phase: &str, total: u64) {
        let now = Timestamp::now();
        self.write(ProgressReport {
            pid: std::process::id(),
            phase: phase.to_string(),
            done: 0,
            total,
            note: None,
            ended: false,
            started_at: now,
            updated_at: now,
            failed: None,
        });
    }

    /// The report, where it is about this phase.
    fn about(&self, phase: &str) -> Option<ProgressReport> {
        self.report.clone().filter(|report| report.phase == phase)
    }

    fn advance(&mut self, phase: &str, done: u64) {
        if let Some(report) = self.about(phase) {
            self.write(ProgressReport { done, updated_at: Timestamp::now(), ..report });
        }
    }

    /// Is written with what advances next.
    fn note(&mut self, phase: &str, note: &str) {
        if let Some(report) = self.report.as_mut().filter(|report| report.phase == phase) {
            report.note = Some(note.to_string());
        }
    }

    fn end(&mut self, phase: &str, done: u64) {
        if let Some(report) = self.about(phase) {
            let updated_at = Timestamp::now();
            self.write(ProgressReport { done, ended: true, updated_at, ..report });
        }
    }

    /// Readers see the old file or the new one. It is not flushed to the disk: after a crash of the
    /// machine it would be worth nothing.
    fn write(&mut self, report: ProgressReport) {
        let aside = self.path.with_extension("json.new");
        let written = serde_json::to_vec(&report)
            .map_err(std::io::Error::from)
            .and_then(|text| std::fs::write(&aside, text))
            .and_then(|()| std::fs::rename(&aside, &self.path));
        if let Err(error) = written {
            tracing::debug!(%error, "the progress is not written down");
        }
        self.report = Some(report);
    }
}

/// As long as this is there, the process keeps a file that says what it is at.
#[derive(Debug)]
#[must_use = "the file goes when this is dropped"]
pub struct Published(());

/// Has this process keep such a file at `path`; one process at a time may. It goes with what is
/// returned.
pub fn publish(path: PathBuf) -> Published {
    *board() = Some(Board { path, report: None });
    Published(())
}

impl Published {
    /// Leaves the file behind, saying why the process gives up.
    pub fn fail(self, why: &str) {
        let mut board = board();
        if let Some(mut board) = board.take() {
            if board.report.is_none() {
                board.begin("", 0);
            }
            if let Some(report) = board.report.take() {
                let (failed, updated_at) = (Some(why.to_string()), Timestamp::now());
                board.write(ProgressReport { failed, updated_at, ..report });
            }
        }
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        if let Some(Board { path, report: Some(_) }) = board().take() {
            let _ = std::fs::remove_file(path);
        }
    }
}
