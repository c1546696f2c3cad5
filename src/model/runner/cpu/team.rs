//! Threads that go through a step together.
//!
//! A step of one row takes milliseconds and has three hundred parts; handing each part to a thread
//! pool would cost as much as computing it. So every thread runs the whole step and meets the
//! others at barriers, which it waits at by spinning, for a short while.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use candle_core::Error;
use candle_core::Result;
use rayon::ThreadPool;
use rayon::ThreadPoolBuilder;

/// Turns of the waiting loop before a thread offers its core to others.
const SPINS: usize = 1 << 12;

/// A fixed set of threads.
#[derive(Debug)]
pub(super) struct Team {
    pool: ThreadPool,
}

impl Team {
    /// As many threads as given, at least one.
    pub(super) fn new(threads: usize) -> Result<Self> {
        let builder = ThreadPoolBuilder::new()
            .num_threads(threads.max(1))
            .thread_name(|index| format!("generation {index}"));
        Ok(Self { pool: builder.build().map_err(Error::wrap)? })
    }

    /// How many threads there are.
    pub(super) fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Runs `work` on every thread; returns when all have ended. A panic of one is a panic of the
    /// caller, after the others have left their barriers.
    pub(super) fn run(&self, work: impl Fn(&Member<'_>) + Sync) {
        let meeting = Meeting::default();
        let threads = self.threads();
        self.pool.broadcast(|context| {
            let member = Member { meeting: &meeting, threads, index: context.index() };
            let guard = BrokenOnPanic(&meeting);
            work(&member);
            std::mem::forget(guard);
        });
    }
}

/// Where threads meet.
#[derive(Debug, Default)]
struct Meeting {
    arrived: AtomicUsize,
    /// Goes up each time all have arrived.
    generation: AtomicUsize,
    /// The next task of the present part.
    next: AtomicUsize,
    broken: AtomicBool,
}

/// Lets the others go when this thread ends in a panic.
struct BrokenOnPanic<'a>(&'a Meeting);

impl Drop for BrokenOnPanic<'_> {
    fn drop(&mut self) {
        self.0.broken.store(true, Ordering::SeqCst);
    }
}

/// One thread of a running team.
pub(super) struct Member<'a> {
    meeting: &'a Meeting,
    threads: usize,
    index: usize,
}

impl Member<'_> {
    /// Whether this is the thread that does what only one may do.
    pub(super) fn is_first(&self) -> bool {
        self.index == 0
    }

    /// Shares tasks 0..n among the threads, `grain` neighbours at a time; returns when all are
    /// done. Every thread must come here with the same arguments.
    pub(super) fn share(&self, n: usize, grain: usize, mut task: impl FnMut(usize)) {
        loop {
            let start = self.meeting.next.fetch_add(grain, Ordering::Relaxed);
            if start >= n {
                break;
            }
            (start..(start + grain).min(n)).for_each(&mut task);
        }
        self.meet();
    }

    /// A grain with which each thread comes back about four times: a thread that is held up leaves
    /// its part to the others, and what one reads lies together.
    pub(super) fn grain(&self, n: usize) -> usize {
        n.div_ceil(4 * self.threads).max(1)
    }

    /// Waits for all threads.
    fn meet(&self) {
        let meeting = self.meeting;
        let generation = meeting.generation.load(Ordering::Acquire);
        if meeting.arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.threads {
            meeting.arrived.store(0, Ordering::Relaxed);
            meeting.next.store(0, Ordering::Relaxed);
            meeting.generation.store(generation + 1, Ordering::Release);
            return;
        }
        let mut spins = 0;
        while meeting.generation.load(Ordering::Acquire) == generation {
            assert!(!meeting.broken.load(Ordering::Relaxed), "another thread panicked");
            spins += 1;
            match spins < SPINS {
                true => std::hint::spin_loop(),
                false => std::thread::yield_now(),
            }
        }
    }
}
