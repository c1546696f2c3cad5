//! How long to wait before the next try.

use std::time::Duration;

use rand::Rng as _;

use crate::rng;

/// Longest time between two tries, or between two looks at a server.
const LONGEST: Duration = Duration::from_secs(30);

/// `first`, doubled `times` times, up to half a minute.
pub(super) fn doubled(first: Duration, times: u32) -> Duration {
    first.saturating_mul(2_u32.saturating_pow(times.min(16))).min(LONGEST)
}

/// The time between a request's try `number` and the next: exponential backoff of which a random
/// half is left out, so that requests that failed together do not come back together. The same
/// for the same request, every time.
pub(super) fn wait(seed: u64, number: u32, first: Duration) -> Duration {
    let mut rng = rng::stream(seed, &["retry", &number.to_string()]);
    doubled(first, number).mul_f64(rng.random_range(0.5..=1.0))
}
