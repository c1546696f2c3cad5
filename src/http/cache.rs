//! What is made once for all who ask for it at about the same time.

use std::future::Future;
use std::time::Duration;
use std::time::Instant;

use tokio::sync::Mutex;
use tokio::task::JoinHandle;

/// How many times as long as it took to make a thing it is good for at least: making takes no more
/// than this share of a core, however many ask and however large an archive is.
const PACE: u32 = 20;

/// A thing that is made on another thread when the last one is too old.
pub(super) struct Cache<T> {
    fresh: Duration,
    slot: Mutex<Slot<T>>,
}

struct Slot<T> {
    made: Option<Made<T>>,
    /// Under way, also when whoever asked for it went away.
    pending: Option<JoinHandle<Made<T>>>,
}

struct Made<T> {
    value: T,
    good_until: Instant,
}

impl<T: Clone + Send + 'static> Cache<T> {
    /// One whose things are good for `fresh` or longer.
    pub(super) fn new(fresh: Duration) -> Self {
        Self { fresh, slot: Mutex::new(Slot { made: None, pending: None }) }
    }

    /// The thing, made by `make` if need be, with what `with` gives.
    ///
    /// # Errors
    /// When making it panicked.
    pub(super) async fn get<M>(&self, with: impl Future<Output = M>) -> anyhow::Result<T>
    where
        M: FnOnce() -> T + Send + 'static,
    {
        let mut slot = self.slot.lock().await;
        if let Some(made) = slot.made.as_ref().filter(|made| Instant::now() < made.good_until) {
            return Ok(made.value.clone());
        }
        if slot.pending.is_none() {
            let (make, fresh) = (with.await, self.fresh);
            slot.pending = Some(tokio::task::spawn_blocking(move || {
                let start = Instant::now();
                let value = make();
                let good_for = fresh.max(start.elapsed() * PACE);
                Made { value, good_until: Instant::now() + good_for }
            }));
        }
        let Some(pending) = slot.pending.as_mut() else { anyhow::bail!("nothing is being made") };
        let made = pending.await;
        slot.pending = None;
        let made = made?;
        let value = made.value.clone();
        slot.made = Some(made);
        Ok(value)
    }
}
