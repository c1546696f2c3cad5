//! How rewards become advantages.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::Serialize;

pub use crate::config::Advantage;

/// Added to the standard deviation.
const EPSILON: f64 = 1e-6;
/// Share of the old value in the moving average of rewards.
const DECAY: f32 = 0.95;

impl Advantage {
    /// Advantages of `rewards` that are compared with each other, in order; `stratum` is their role
    /// and number of hops.
    ///
    /// `None` when nothing can be learnt: no rewards, or rewards that are all equal under a rule
    /// that compares them with each other. Such a group is left out, not trained with zeros, so
    /// that it cannot pull through the KL term either.
    pub fn of(self, rewards: &[f32], stratum: &str, baselines: &mut Baselines) -> Option<Vec<f32>> {
        let n = rewards.len() as f64;
        let mean = rewards.iter().map(|reward| f64::from(*reward)).sum::<f64>() / n;
        let first = rewards.first()?;
        let less = |centre: f64, scale: f64| -> Vec<f32> {
            rewards.iter().map(|reward| ((f64::from(*reward) - centre) * scale) as f32).collect()
        };
        if self == Self::Reinforce {
            return Some(less(f64::from(baselines.update(stratum, mean as f32)), 1.0));
        }
        if rewards.iter().all(|reward| reward == first) {
            return None;
        }
        let squares: f64 = rewards.iter().map(|reward| (f64::from(*reward) - mean).powi(2)).sum();
        let scale = match self {
            Self::Grpo => 1.0 / ((squares / n).sqrt() + EPSILON),
            Self::GrpoSample => 1.0 / ((squares / (n - 1.0)).sqrt() + EPSILON),
            Self::LeaveOneOut => n / (n - 1.0),
            Self::DrGrpo | Self::Reinforce => 1.0,
        };
        Some(less(mean, scale))
    }
}

/// Moving averages of rewards by stratum; the archive keeps them from round to round.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Baselines(BTreeMap<String, f32>);

impl Baselines {
    /// The stratum's average before `mean` enters it; 0 for a stratum never seen.
    fn update(&mut self, stratum: &str, mean: f32) -> f32 {
        let value = self.0.entry(stratum.to_string()).or_insert(0.0);
        let before = *value;
        *value = DECAY * before + (1.0 - DECAY) * mean;
        before
    }
}
