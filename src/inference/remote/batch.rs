//! Many requests at once, in threads.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;
use std::time::Instant;

use super::RemoteError;

/// Threads at most: each is a request under way.
const THREADS_MAX: usize = 512;
/// How often those who wait look whether they shall stop.
pub(super) const SLICE: Duration = Duration::from_millis(20);

/// Says when to stop: the user wants it, or the call has failed.
#[derive(Debug, Clone)]
pub(super) struct Stop {
    interrupt: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
}

impl Stop {
    fn new(interrupt: Arc<AtomicBool>) -> Self {
        Self { interrupt, over: Arc::default() }
    }

    /// Fails when it is time to stop.
    pub(super) fn check(&self) -> Result<(), RemoteError> {
        match self.interrupt.load(Ordering::Relaxed) || self.over.load(Ordering::Relaxed) {
            true => Err(RemoteError::Stopped),
            false => Ok(()),
        }
    }

    /// Sleeps, unless it is time to stop.
    pub(super) fn sleep(&self, time: Duration) -> Result<(), RemoteError> {
        let until = Instant::now() + time;
        loop {
            self.check()?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(SLICE));
        }
    }
}

/// Does `work` on every job, `width` at a time; the results have the jobs' order.
///
/// The first error ends the call. It ends at once when interrupted, too: the threads then finish
/// what they wait for on their own, within a request's time, and begin nothing more.
pub(super) fn run<J, T>(
    jobs: Vec<J>,
    width: usize,
    interrupt: &Arc<AtomicBool>,
    work: impl Fn(&J, &Stop) -> Result<T, RemoteError> + Send + Sync + 'static,
) -> Result<Vec<T>, RemoteError>
where
    J: Send + Sync + 'static,
    T: Send + 'static,
{
    let total = jobs.len();
    let width = width.min(total).min(THREADS_MAX);
    let call = Arc::new((jobs, AtomicUsize::new(0), work));
    let stop = Stop::new(interrupt.clone());
    let (sender, receiver) = mpsc::channel();
    for started in 0..width {
        let (call, stop, sender) = (call.clone(), stop.clone(), sender.clone());
        let worker = move || {
            let (jobs, next, work) = &*call;
            while let Some((index, job)) = take(jobs, next) {
                let outcome = work(job, &stop);
                let failed = outcome.is_err();
                // Nobody listens once the call has ended.
                if sender.send((index, outcome)).is_err() || failed {
                    return;
                }
            }
        };
        match std::thread::Builder::new().name("request".into()).spawn(worker) {
            Ok(_) => {}
            // Fewer do as well, but not none.
            Err(error) if started == 0 => return Err(RemoteError::Thread(error)),
            Err(_) => break,
        }
    }
    drop(sender);
    let outcome = collect(&receiver, total, &stop);
    stop.over.store(true, Ordering::Relaxed);
    outcome
}

fn take<'a, J>(jobs: &'a [J], next: &AtomicUsize) -> Option<(usize, &'a J)> {
    let index = next.fetch_add(1, Ordering::Relaxed);
    Some((index, jobs.get(index)?))
}

fn collect<T>(
    receiver: &mpsc::Receiver<(usize, Result<T, RemoteError>)>,
    total: usize,
    stop: &Stop,
) -> Result<Vec<T>, RemoteError> {
    let mut results: Vec<Option<T>> = (0..total).map(|_| None).collect();
    let mut missing = total;
    while missing > 0 {
        match receiver.recv_timeout(SLICE) {
            Ok((index, outcome)) => {
                results[index] = Some(outcome?);
                missing -= 1;
            }
            Err(RecvTimeoutError::Timeout) => stop.check()?,
            // A thread died of a fault in this program; its message is on stderr.
            Err(RecvTimeoutError::Disconnected) => {
                let died = std::io::Error::other("one ended before its request did");
                return Err(RemoteError::Thread(died));
            }
        }
    }
    Ok(results.into_iter().flatten().collect())
}
