//! Experiments: arms that differ in a few settings, compared at equal cost.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::Serialize;

use super::ConfigError;
use super::Settings;
use super::load;

/// The experiments that come with the program, by name.
pub const BUILT_IN: [(&str, &str); 1] =
    [("game", include_str!("../../schedules/experiments/game.toml"))];

/// What is compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experiment {
    /// What it is to show.
    pub question: String,
    /// The arm that the others are held against.
    pub baseline: String,
    /// Seeds; every arm runs with each.
    pub seeds: Vec<u64>,
    /// Nights of a run.
    pub nights: u32,
    /// Settings of all arms, over the defaults.
    #[serde(default)]
    pub settings: toml::Table,
    /// The arms by name.
    pub arms: BTreeMap<String, Arm>,
}

/// One side of a comparison.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arm {
    /// What is different about it, for people.
    pub about: String,
    /// Settings over those of all arms.
    #[serde(default)]
    pub settings: toml::Table,
}

impl Experiment {
    /// Reads an experiment from TOML; `origin` names it in messages. `flags` are settings of all
    /// arms, as `key=value`.
    ///
    /// # Errors
    /// When it is not TOML of this shape, names no baseline, has no seed or night, or the settings
    /// of an arm are refused.
    pub fn parse(origin: &str, text: &str, flags: &[String]) -> Result<Self, ConfigError> {
        let wrong = |reason: String| ConfigError::Invalid { origin: origin.to_string(), reason };
        let experiment: Self = toml::from_str(text).map_err(|error| wrong(error.to_string()))?;
        if !experiment.arms.contains_key(&experiment.baseline) {
            let reason = format!("`baseline` is \"{}\", which is no arm", experiment.baseline);
            return Err(wrong(reason));
        }
        if experiment.seeds.is_empty() || experiment.nights == 0 {
            return Err(wrong("it needs a seed and a night at least".to_string()));
        }
        let mut seeds = experiment.seeds.clone();
        seeds.sort_unstable();
        seeds.dedup();
        if seeds.len() != experiment.seeds.len() {
            return Err(wrong("a seed stands twice in `seeds`".to_string()));
        }
        for name in experiment.arms.keys() {
            if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
                let reason = format!("arm \"{name}\": a name has letters, digits and _ only");
                return Err(wrong(reason));
            }
            experiment.settings_of(origin, name, seeds[0], flags)?;
        }
        Ok(experiment)
    }

    /// The settings of a run.
    ///
    /// # Errors
    /// [`ConfigError`] when they are refused, or there is no such arm.
    pub fn settings_of(
        &self,
        origin: &str,
        arm: &str,
        seed: u64,
        flags: &[String],
    ) -> Result<Settings, ConfigError> {
        let wrong = |reason: String| ConfigError::Invalid { origin: origin.to_string(), reason };
        let own = self.arms.get(arm).ok_or_else(|| wrong(format!("no arm \"{arm}\"")))?;
        let common = format!("{origin}, settings of all arms");
        let of_arm = format!("{origin}, arm {arm}");
        let text = |table: &toml::Table| table.to_string();
        let flags = [flags, &[format!("seed={seed}")]].concat();
        load(&[(&common, &text(&self.settings)), (&of_arm, &text(&own.settings))], &flags)
    }
}
