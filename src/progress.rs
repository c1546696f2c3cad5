//! Progress on stderr: a bar on a terminal, log lines elsewhere. Standard output is never touched.

use std::io::IsTerminal;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use indicatif::ProgressBar;
use indicatif::ProgressStyle;

/// How often a progress line is logged when stderr is not a terminal.
const LOG_EVERY: Duration = Duration::from_secs(15);

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
        Self {
            bar,
            what: what.to_string(),
            total,
            done: AtomicU64::new(0),
            start: Instant::now(),
            logged_s: AtomicU64::new(0),
        }
    }

    /// Counts `n` more units as done.
    pub fn advance(&self, n: u64) {
        let done = self.done.fetch_add(n, Ordering::Relaxed) + n;
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
        match &self.bar {
            Some(bar) => bar.set_message(format!("{} · {note}", self.what)),
            None => tracing::debug!(note, "{}", self.what),
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
    }
}
