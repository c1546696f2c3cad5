//! What is kept of past nights.

use serde::Deserialize;
use serde::Serialize;

/// What of past nights stays on the disk. Rows of the archive always stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// Newest versions of past nights whose weights are kept, beside those that are always kept:
    /// the live one, the one that was live before it, and all of the present night.
    pub adapters: usize,
    /// Newest checkpoints that are kept when a night is over.
    pub checkpoints: usize,
    /// Newest nights whose rollouts and proposals keep their tokens; 0 for all.
    pub rollout_nights: usize,
    /// Newest morning reports that are kept as pages; 0 for all.
    pub reports: usize,
}
