//! The worker: where the model lives, and how it is watched.

use serde::Deserialize;
use serde::Serialize;

/// How the process that has the model is watched. Nothing a night comes to depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Worker {
    /// Whether the model lives in a process of its own.
    pub process: bool,
    /// Megabytes of memory that it may have; 0 for no limit.
    pub memory_mb: u64,
    /// Seconds without a sign of life after which it is killed.
    pub silence_s: u64,
    /// Seconds without progress in its work after which it is killed.
    pub progress_s: u64,
    /// Failures in a row after which the night fails.
    pub failures: u32,
}
