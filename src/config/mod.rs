//! Settings: TOML, every key typed, unknown keys refused.
//!
//! `schedules/nightly.toml` holds the defaults with a comment for each key; a home's
//! `nightschool.toml` overrides what it names, and `--set section.key=value` overrides both.

mod locate;
mod methods;
mod tripwires;

use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;

use crate::model::lora::Target;

pub use self::methods::Advantage;
pub use self::methods::Aggregation;
pub use self::methods::Correction;
pub use self::methods::Decay;
pub use self::tripwires::Tripwires;

/// The defaults, commented; what `nightschool init` writes.
pub const DEFAULTS: &str = include_str!("../../schedules/nightly.toml");
/// What `nightschool demo` changes about them.
pub const DEMO: &str = include_str!("../../schedules/demo.toml");
/// What `nightschool demo --full` changes about the demo.
pub const DEMO_FULL: &str = include_str!("../../schedules/demo-full.toml");

/// Why settings were refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not TOML, an unknown key, or a value of the wrong type.
    #[error("{origin}: {reason}\nEvery key is described in schedules/nightly.toml.")]
    Invalid {
        /// The file or flag.
        origin: String,
        /// What is wrong, with the line.
        reason: String,
    },
    /// A value outside its range.
    #[error("setting `{key}` {reason}")]
    Range {
        /// The key.
        key: &'static str,
        /// What it must be.
        reason: String,
    },
}

/// All settings of a night.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The base model: a built-in name, a folder, a `.gguf` file, or a hub id.
    pub model: String,
    /// Seed of every random stream.
    pub seed: u64,
    /// How passages are found.
    pub retrieval: Retrieval,
    /// Which documents are kept for evaluation.
    pub heldout: Heldout,
    /// How drafts are made.
    pub propose: Propose,
    /// How drafts are checked.
    pub verify: Verify,
    /// Training on code-made tasks before the first game.
    pub warm_start: WarmStart,
    /// How tasks are attempted.
    pub solve: Solve,
    /// How rollouts are trained on.
    pub train: Train,
    /// What stops that training.
    pub tripwires: Tripwires,
    /// How adapters are compared.
    pub evaluate: Evaluate,
}

/// How passages are found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retrieval {
    /// Passages given for one search.
    pub passages: usize,
}

/// Which documents are kept for evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Heldout {
    /// Share of documents set aside when there is no suite of human questions, in [0, 0.5].
    pub documents: f64,
    /// Questions of the model-made suite at most.
    pub questions: usize,
    /// A JSONL file of human questions {id, question, answers[]} to use instead.
    pub suite: Option<PathBuf>,
}

/// How drafts are made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Propose {
    /// Seeds turned into questions by rules, per night.
    pub code_drafts: usize,
    /// Seeds given to the model, per night.
    pub model_drafts: usize,
    /// Passages a model-made question must combine.
    pub hops: usize,
    /// Sampling temperature.
    pub temperature: f32,
    /// Longest question, in tokens.
    pub max_tokens: usize,
    /// The base model's prompt as a proposer.
    pub base_prompt: String,
    /// An adapter's prompt as a proposer: what it was trained with.
    pub adapter_prompt: String,
    /// Whether the adapter in training writes, once it is trained; if not, the base model does.
    pub with_adapter: bool,
}

/// How drafts are checked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verify {
    /// Shortest question, in words.
    pub min_words: usize,
    /// Longest question, in characters.
    pub max_chars: usize,
    /// Passages beside the evidence in the RAG check (Search Self-play: 4).
    pub noise_passages: usize,
    /// F1 against the seed's answer that counts as found, in (0, 1].
    pub min_f1: f32,
    /// Code-made drafts per night whose model checks are recorded.
    pub record_on_code: usize,
}

/// Training on code-made tasks before the first game.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WarmStart {
    /// Optimiser steps in a home's first night; later nights have no warm start.
    pub steps: usize,
    /// Searches per step; each is one prompt with all questions about its passages.
    pub searches: usize,
    /// Questions per prompt at most.
    pub questions: usize,
    /// How many of them are also taught the other way round: the question for the answer.
    pub proposals: usize,
    /// Peak learning rate.
    pub learning_rate: f32,
    /// Steps over which it rises.
    pub warm_up: usize,
    /// Its course from there.
    pub decay: Decay,
}

/// How tasks are attempted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Solve {
    /// Rounds of rollouts, each followed by training.
    pub rounds: usize,
    /// Tasks per round.
    pub tasks: usize,
    /// Rollouts per task: the group.
    pub rollouts: usize,
    /// Sampling temperature.
    pub temperature: f32,
    /// Longest answer, in tokens.
    pub max_tokens: usize,
    /// How the solver searches.
    pub protocol: ProtocolName,
}

/// A way for the solver to search.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProtocolName {
    /// One search with the question itself, made by the program; for small models.
    ScriptedSearch,
    /// The model thinks and searches in blocks; for larger models.
    Blocks,
}

/// How rollouts are trained on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Train {
    /// LoRA rank.
    pub rank: usize,
    /// LoRA alpha.
    pub alpha: f32,
    /// Linear maps with a low-rank term; at least one.
    pub target_modules: Vec<Target>,
    /// Peak learning rate of the policy gradient.
    pub learning_rate: f32,
    /// Steps over which it rises, from the night's first step on rollouts.
    pub warm_up: usize,
    /// Its course from there to the night's last round.
    pub decay: Decay,
    /// Decoupled weight decay, here and in the warm start.
    pub weight_decay: f64,
    /// Groups per optimiser step.
    pub groups: usize,
    /// How a group's rewards become advantages.
    pub advantage: Advantage,
    /// How token losses become one number.
    pub aggregation: Aggregation,
    /// Lower clip range of the ratio.
    pub clip_low: f32,
    /// Upper clip range of the ratio.
    pub clip_high: f32,
    /// How many times a negative advantage may weigh at most; no bound when absent.
    pub dual_clip: Option<f32>,
    /// Weight of KL to the base model.
    pub kl_coefficient: f32,
    /// Weight of the policy's entropy, which is rewarded.
    pub entropy_coefficient: f32,
    /// What is done where sampler and trainer disagree about a token's probability.
    pub correction: Correction,
    /// Largest importance ratio between the two.
    pub correction_limit: f32,
    /// Global gradient norm above which gradients are scaled down.
    pub clip_norm: f64,
    /// Tokens per forward and backward pass.
    pub micro_batch_tokens: usize,
    /// Megabytes of activations kept between the two at most; the rest is computed again.
    pub activation_mb: usize,
    /// Steps between checkpoints.
    pub checkpoint_steps: usize,
}

/// How adapters are compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluate {
    /// Prompt of the base model.
    pub base_prompt: String,
    /// Prompt of an adapter: what it was trained with.
    pub adapter_prompt: String,
    /// Longest answer, in tokens.
    pub max_tokens: usize,
    /// Resamples of each bootstrap interval.
    pub resamples: usize,
}

/// Reads settings in layers: defaults, then each (origin, TOML text), then `key=value` flags.
///
/// # Errors
/// When a layer is not TOML, names an unknown key, or a value is out of range.
pub fn load(layers: &[(&str, &str)], flags: &[String]) -> Result<Settings, ConfigError> {
    let mut merged = parse("schedules/nightly.toml", DEFAULTS)?;
    for (origin, text) in layers {
        merge(&mut merged, parse(origin, text)?);
        // Checked layer by layer, so that the message names the file with the fault.
        typed(&merged).map_err(|error| invalid(origin, text, &error))?;
    }
    for flag in flags {
        let origin = format!("--set {flag}");
        let Some((key, value)) = flag.split_once('=') else {
            let reason = "expected section.key=value".to_string();
            return Err(ConfigError::Invalid { origin, reason });
        };
        let quoted = format!("{key} = {value}");
        let layer = parse(&origin, &quoted)
            .or_else(|_| parse(&origin, &format!("{key} = {}", toml::Value::from(value))))?;
        merge(&mut merged, layer);
        typed(&merged).map_err(|error| invalid(&origin, "", &error))?;
    }
    let settings = typed(&merged).map_err(|error| invalid("settings", "", &error))?;
    check(&settings)?;
    Ok(settings)
}

/// Reads a settings file as a layer's text.
///
/// # Errors
/// When the file cannot be read.
pub fn read_layer(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_path_buf(), source })
}

fn parse(origin: &str, text: &str) -> Result<toml::Table, ConfigError> {
    text.parse().map_err(|error: toml::de::Error| ConfigError::Invalid {
        origin: origin.to_string(),
        reason: error.to_string(),
    })
}

fn typed(table: &toml::Table) -> Result<Settings, toml::de::Error> {
    table.clone().try_into()
}

/// The error with the place of the key that it is about, which merged tables do not have.
fn invalid(origin: &str, text: &str, error: &toml::de::Error) -> ConfigError {
    let described = error.to_string();
    let key = locate::key_of(&described);
    let line = key.as_deref().and_then(|key| locate::line_of(text, key));
    let origin = match line {
        Some(line) => format!("{origin}, line {line}"),
        None => origin.to_string(),
    };
    let reason = match key {
        Some(key) => format!("`{key}`: {}", error.message()),
        None => described,
    };
    ConfigError::Invalid { origin, reason }
}

fn merge(into: &mut toml::Table, from: toml::Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(inner)), toml::Value::Table(more)) => merge(inner, more),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

fn check(settings: &Settings) -> Result<(), ConfigError> {
    let counts = [
        ("retrieval.passages", settings.retrieval.passages, 1, 20),
        ("propose.hops", settings.propose.hops, 1, 4),
        ("propose.max_tokens", settings.propose.max_tokens, 1, 1024),
        ("verify.noise_passages", settings.verify.noise_passages, 0, 20),
        ("solve.rollouts", settings.solve.rollouts, 2, 64),
        ("solve.max_tokens", settings.solve.max_tokens, 1, 4096),
        ("train.rank", settings.train.rank, 1, 512),
        ("train.target_modules", settings.train.target_modules.len(), 1, Target::COUNT),
        ("train.groups", settings.train.groups, 1, 4096),
        ("train.checkpoint_steps", settings.train.checkpoint_steps, 1, 10_000),
        ("warm_start.searches", settings.warm_start.searches, 1, 4096),
        ("evaluate.max_tokens", settings.evaluate.max_tokens, 1, 4096),
        ("evaluate.resamples", settings.evaluate.resamples, 100, 1_000_000),
    ];
    for (key, value, low, high) in counts {
        if !(low..=high).contains(&value) {
            let reason = format!("is {value}; it must be from {low} to {high}");
            return Err(ConfigError::Range { key, reason });
        }
    }
    let reals = [
        ("heldout.documents", settings.heldout.documents, 0.0, 0.5),
        ("propose.temperature", f64::from(settings.propose.temperature), 0.0, 5.0),
        ("solve.temperature", f64::from(settings.solve.temperature), 0.01, 5.0),
        ("verify.min_f1", f64::from(settings.verify.min_f1), 0.01, 1.0),
        ("train.learning_rate", f64::from(settings.train.learning_rate), 0.0, 1.0),
        ("warm_start.learning_rate", f64::from(settings.warm_start.learning_rate), 0.0, 1.0),
        ("train.weight_decay", settings.train.weight_decay, 0.0, 1.0),
        ("train.clip_low", f64::from(settings.train.clip_low), 0.0, 1.0),
        ("train.clip_high", f64::from(settings.train.clip_high), 0.0, 10.0),
        ("train.kl_coefficient", f64::from(settings.train.kl_coefficient), 0.0, 10.0),
        ("train.dual_clip", f64::from(settings.train.dual_clip.unwrap_or(3.0)), 1.0, 100.0),
        ("train.entropy_coefficient", f64::from(settings.train.entropy_coefficient), 0.0, 1.0),
        ("train.correction_limit", f64::from(settings.train.correction_limit), 1.0, 100.0),
    ];
    for (key, value, low, high) in reals {
        if !(low..=high).contains(&value) {
            let reason = format!("is {value}; it must be from {low} to {high}");
            return Err(ConfigError::Range { key, reason });
        }
    }
    Ok(())
}
