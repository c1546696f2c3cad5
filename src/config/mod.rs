//! Settings: TOML, every key typed, unknown keys refused.
//!
//! `schedules/nightly.toml` holds the defaults with a comment for each key; a home's
//! `nightschool.toml` overrides what it names, and `--set section.key=value` overrides both.

mod balance;
mod check;
mod curriculum;
mod disk;
pub mod experiment;
mod http;
mod inference;
mod locate;
mod methods;
mod notify;
mod propose;
mod remote;
mod retention;
mod reward;
mod roles;
mod train;
mod train_proposer;
mod tripwires;
mod verify;
mod worker;

use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;

pub use self::balance::Balance;
pub use self::curriculum::Admit;
pub use self::curriculum::Curriculum;
pub use self::curriculum::SamplerName;
pub use self::disk::Disk;
pub use self::http::Http;
pub use self::inference::DeviceName;
pub use self::inference::Inference;
pub use self::inference::KvType;
pub use self::methods::Advantage;
pub use self::methods::Aggregation;
pub use self::methods::Correction;
pub use self::methods::Decay;
pub use self::methods::GroupKey;
pub use self::methods::ObjectiveName;
pub use self::notify::Notify;
pub use self::notify::Outcome;
pub use self::propose::HOPS_MAX;
pub use self::propose::Hops;
pub use self::propose::Propose;
pub use self::propose::ProposerMethod;
pub use self::remote::Remote;
pub use self::retention::Retention;
pub use self::reward::AnswerReward;
pub use self::reward::CutOff;
pub use self::reward::Reward;
pub use self::roles::AdapterSlot;
pub use self::roles::Adapters;
pub use self::roles::Role;
pub use self::train::Train;
pub use self::train_proposer::Order;
pub use self::train_proposer::ProposalReward;
pub use self::train_proposer::ProposerObjective;
pub use self::train_proposer::TrainProposer;
pub use self::tripwires::Tripwires;
pub use self::verify::Verify;
pub use self::worker::Worker;

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
    /// How text is generated.
    pub inference: Inference,
    /// How the process that has the model is watched.
    pub worker: Worker,
    /// How passages are found.
    pub retrieval: Retrieval,
    /// Which documents are kept for evaluation.
    pub heldout: Heldout,
    /// How drafts are made.
    pub propose: Propose,
    /// How drafts are checked.
    pub verify: Verify,
    /// Training on code-made tasks, before the first game and among the game's steps.
    pub warm_start: WarmStart,
    /// What a night may spend.
    pub budget: Budget,
    /// Which tasks are attempted, and which attempts are trained on.
    pub curriculum: Curriculum,
    /// How tasks are attempted.
    pub solve: Solve,
    /// What a rollout is worth.
    pub reward: Reward,
    /// How temperature and threshold are chosen.
    pub balance: Balance,
    /// How rollouts are trained on.
    pub train: Train,
    /// How the proposer is trained on what became of its drafts.
    pub train_proposer: TrainProposer,
    /// What stops that training.
    pub tripwires: Tripwires,
    /// How adapters are compared.
    pub evaluate: Evaluate,
    /// Servers that generate in the place of this machine.
    pub remote: Remote,
    /// What is kept of past nights.
    pub retention: Retention,
    /// The daemon over HTTP.
    #[serde(default, skip_serializing)]
    pub http: Http,
    /// How much of the disk is left free.
    pub disk: Disk,
    /// Who is told of a night's end.
    #[serde(default, skip_serializing)]
    pub notify: Notify,
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
    /// Human questions to use instead: the name of a suite that was imported, or a JSONL file of
    /// {id, question, answers[]}.
    pub suite: Option<PathBuf>,
    /// A second suite, named the same way, that decides nothing and shows whether the first is
    /// worn out.
    pub sealed_suite: Option<PathBuf>,
    /// In every how many nights it is read; 0 for never.
    pub sealed_every: u32,
}

/// Training on code-made tasks, before the first game and among the game's steps.
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
    /// Steps on demonstrations mixed into the game, for each step of the game, in [0, 1]; in a
    /// home's first round, from where it falls.
    pub share: f64,
    /// Nights in which this share halves; 0: time does not lower it.
    pub share_half_life: f64,
}

/// What a night may spend; 0 is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// Tokens that the model writes, evaluations left out.
    pub generated_tokens: u64,
    /// Those, and tokens read by forward passes of training.
    pub tokens: u64,
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
    /// By how many nats per token a candidate may predict general text worse than the base model.
    pub text_loss_rise_max: f64,
    /// Whether a live version that proves worse than the one before it gives way to that.
    pub demote: bool,
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
    check::check(&settings)?;
    Ok(settings)
}

/// The settings that a night stored as JSON. Keys that it does not have, because the program that
/// stored them did not know them yet, have their defaults.
///
/// # Errors
/// When a value has another type now, or a key is not known any more.
pub fn stored(night: &serde_json::Value) -> Result<Settings, ConfigError> {
    let wrong =
        |reason: String| ConfigError::Invalid { origin: "the night's settings".into(), reason };
    let defaults = load(&[], &[])?;
    let mut all = serde_json::to_value(defaults).map_err(|error| wrong(error.to_string()))?;
    complete(&mut all, night);
    serde_json::from_value(all).map_err(|error| wrong(error.to_string()))
}

/// Puts the members of `from` in their places in `into`, at every depth.
fn complete(into: &mut serde_json::Value, from: &serde_json::Value) {
    match (into.as_object_mut(), from.as_object()) {
        (Some(members), Some(more)) => {
            for (key, value) in more {
                complete(members.entry(key).or_insert(serde_json::Value::Null), value);
            }
        }
        _ => *into = from.clone(),
    }
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
