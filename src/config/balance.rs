//! The controller of exploration and exploitation.

use serde::Deserialize;
use serde::Serialize;

use super::ConfigError;
use super::check::within;

/// How temperature and threshold of a round are chosen (B-STaR, Zeng et al. 2024).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Balance {
    /// Whether they are; `solve.temperature` and `train.likelihood_min_reward` hold otherwise.
    pub enabled: bool,
    /// Temperatures to choose from.
    pub temperatures: Vec<f64>,
    /// Rewards from which an answer is kept, to choose from.
    pub thresholds: Vec<f64>,
    /// Tasks that are tried.
    pub queries: usize,
    /// Rollouts of each at each temperature.
    pub samples: usize,
    /// Right answers, all different, that a round should bring.
    pub target: usize,
    /// Whether the scores are shuffled before one is chosen: a control for experiments.
    pub permute: bool,
}

impl Balance {
    /// Fails on the first value outside its range.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        within("balance.queries", self.queries, 1, 100_000)?;
        within("balance.samples", self.samples, 1, 1024)?;
        within("balance.target", self.target, 1, 10_000_000)?;
        for (key, values, low, high) in [
            ("balance.temperatures", &self.temperatures, 0.01, 5.0),
            ("balance.thresholds", &self.thresholds, 0.0, 1.0),
        ] {
            if values.is_empty() {
                let reason = "is empty; it must have one value at least".to_string();
                return Err(ConfigError::Range { key, reason });
            }
            values.iter().try_for_each(|value| within(key, *value, low, high))?;
            if (1..values.len()).any(|place| values[..place].contains(&values[place])) {
                let reason = "has a value twice".to_string();
                return Err(ConfigError::Range { key, reason });
            }
        }
        Ok(())
    }
}
