//! Checkpoints: everything training needs to go on as if it had not stopped.
//!
//! A checkpoint is a sealed directory: the adapter in PEFT layout, the optimiser's moments, and
//! `state.json` with the optimiser's step count, the place in the training, and what it was made
//! under. No random stream is stored: every draw of training follows from the night's seed and the
//! name of its step, so that streams have no state that outlives a step.

use std::path::Path;
use std::path::PathBuf;

use candle_core::Device;
use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;

use super::optimizer::AdamW;
use super::optimizer::AdamWSettings;
use crate::archive::TrainPhase;
use crate::config::AdapterSlot;
use crate::durable;
use crate::durable::DurableError;
use crate::durable::PendingDirectory;
use crate::model::config::DecoderConfig;
use crate::model::lora::Adapter;
use crate::model::lora::AdapterError;
use crate::model::lora::serialise;

const ADAPTER: &str = "adapter";
const MOMENTS: &str = "moments.safetensors";
const STATE: &str = "state.json";
/// Version of the layout of `state.json`.
const SCHEMA_VERSION: u32 = 2;
/// Differing settings that a message names at most.
const NAMED: usize = 5;

/// Why a checkpoint was not written or not read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// It could not be written, or is not whole.
    #[error(transparent)]
    Durable(#[from] DurableError),
    /// A part of it cannot be read, or does not fit the model.
    #[error("the checkpoint {} cannot be used: {reason}", path.display())]
    Unreadable {
        /// The checkpoint.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// It is whole, and belongs to other training than this.
    #[error(
        "the checkpoint {} was made under other circumstances: {}; go on under those, or delete \
         it to train its steps again",
        path.display(),
        differences.join(", ")
    )]
    Foreign {
        /// The checkpoint.
        path: PathBuf,
        /// Each difference: what it is about, the checkpoint's value, the present one.
        differences: Vec<String>,
    },
}

impl CheckpointError {
    /// Whether the checkpoint is sound but of other training: then training its steps again would
    /// hide a mistake.
    pub fn is_foreign(&self) -> bool {
        matches!(self, Self::Foreign { .. })
    }
}

/// What training depends on, beside its data; the same for all of a night.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Circumstances {
    /// All settings of the night, as JSON.
    pub settings: Value,
    /// The base model's name.
    pub base: String,
    /// Hash of the base model's files.
    pub base_hash: String,
    /// What every random draw of the night's training follows from.
    pub seed: u64,
}

/// A place in the training of a night.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// The night.
    pub night: u32,
    /// The phase.
    pub phase: TrainPhase,
    /// The adapter in training.
    pub adapter: AdapterSlot,
    /// The stretch of steps that ends here: its unit's key.
    pub stretch: String,
    /// Number of the next step, which is also the position in the learning rate's schedule.
    pub next_step: usize,
}

#[derive(Serialize, Deserialize)]
struct State {
    schema_version: u32,
    /// Optimiser steps applied.
    applied: u64,
    cursor: Cursor,
    circumstances: Circumstances,
}

/// Writes adapter and optimiser to `dir`, which appears whole or not at all.
///
/// # Errors
/// When the disk is full or unwritable.
pub fn save(
    dir: &Path,
    adapter: &Adapter,
    optimizer: &AdamW,
    cursor: &Cursor,
    circumstances: &Circumstances,
) -> Result<(), CheckpointError> {
    let unwritable = |reason: String| CheckpointError::Unreadable { path: dir.into(), reason };
    let pending = PendingDirectory::create(dir)?;
    adapter
        .save(&pending.path().join(ADAPTER), &circumstances.base)
        .map_err(|error| of_adapter(dir, error))?;
    let moments = optimizer.state();
    let moments = serialise(moments.iter().map(|(name, tensor)| (name.as_str(), tensor)))
        .map_err(|error| of_adapter(dir, error))?;
    durable::write_file(&pending.path().join(MOMENTS), &moments)?;
    let state = State {
        schema_version: SCHEMA_VERSION,
        applied: optimizer.steps(),
        cursor: cursor.clone(),
        circumstances: circumstances.clone(),
    };
    let state = serde_json::to_vec(&state).map_err(|error| unwritable(error.to_string()))?;
    durable::write_file(&pending.path().join(STATE), &state)?;
    pending.seal()?;
    Ok(())
}

/// Reads a checkpoint back, after checking that it is whole and was made at `cursor` under
/// `circumstances`.
///
/// # Errors
/// When it is missing, unsealed, altered, does not fit the model ([`CheckpointError::Durable`],
/// [`CheckpointError::Unreadable`]), or is of other training ([`CheckpointError::Foreign`]).
pub fn load(
    dir: &Path,
    config: &DecoderConfig,
    optimizer: AdamWSettings,
    cursor: &Cursor,
    circumstances: &Circumstances,
) -> Result<(Adapter, AdamW), CheckpointError> {
    let unreadable = |reason: String| CheckpointError::Unreadable { path: dir.into(), reason };
    durable::open_sealed(dir)?;
    let read = |name: &str| {
        std::fs::read(dir.join(name)).map_err(|error| unreadable(format!("{name}: {error}")))
    };
    let state: Value = serde_json::from_slice(&read(STATE)?)
        .map_err(|error| unreadable(format!("{STATE}: {error}")))?;
    if state["schema_version"] != SCHEMA_VERSION {
        let found = &state["schema_version"];
        let reason = format!("its layout has version {found}, this program's {SCHEMA_VERSION}");
        return Err(unreadable(reason));
    }
    let state: State =
        serde_json::from_value(state).map_err(|error| unreadable(format!("{STATE}: {error}")))?;
    let differences = state.differences(cursor, circumstances);
    if !differences.is_empty() {
        return Err(CheckpointError::Foreign { path: dir.into(), differences });
    }
    let adapter =
        Adapter::load(&dir.join(ADAPTER), config).map_err(|error| of_adapter(dir, error))?;
    let moments = candle_core::safetensors::load_buffer(&read(MOMENTS)?, &Device::Cpu)
        .map_err(|error| unreadable(format!("{MOMENTS}: {error}")))?;
    let optimizer = AdamW::from_state(optimizer, state.applied, &moments)
        .map_err(|error| unreadable(error.to_string()))?;
    Ok((adapter, optimizer))
}

/// A failure of the adapter's code, told apart from one of the disk.
fn of_adapter(dir: &Path, error: AdapterError) -> CheckpointError {
    match error {
        AdapterError::Write(error) => error.into(),
        error => CheckpointError::Unreadable { path: dir.into(), reason: error.to_string() },
    }
}

impl State {
    /// What is otherwise than expected.
    fn differences(&self, cursor: &Cursor, circumstances: &Circumstances) -> Vec<String> {
        let Circumstances { settings, base, base_hash, seed } = &self.circumstances;
        let mut found = Vec::new();
        if *base_hash != circumstances.base_hash {
            found.push(format!(
                "its base model is {base} ({base_hash}), this one is {} ({})",
                circumstances.base, circumstances.base_hash
            ));
        }
        // Written and read like those of the checkpoint: numbers may lose their last bit in JSON.
        let text = circumstances.settings.to_string();
        let here = serde_json::from_str(&text).unwrap_or(Value::Null);
        let mut settings_found = Vec::new();
        compare("", settings, &here, &mut settings_found);
        let more = settings_found.len().saturating_sub(NAMED);
        found.extend(settings_found.into_iter().take(NAMED));
        if more > 0 {
            found.push(format!("{more} more settings"));
        }
        if *seed != circumstances.seed {
            found.push(format!("its seed is {seed}, this one is {}", circumstances.seed));
        }
        if self.cursor != *cursor {
            found.push(format!("it was made at {}, not at {cursor}", self.cursor));
        }
        found
    }
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { night, phase, adapter, stretch, next_step } = self;
        let (phase, adapter) = (phase.as_str(), adapter.as_str());
        write!(f, "night {night}, {phase} of the {adapter} adapter, {stretch}, step {next_step}")
    }
}

/// Appends each setting that differs, by its dotted key.
fn compare(key: &str, there: &Value, here: &Value, found: &mut Vec<String>) {
    if let (Some(left), Some(right)) = (there.as_object(), here.as_object()) {
        let names = left.keys().chain(right.keys().filter(|name| !left.contains_key(*name)));
        for name in names {
            let key = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
            compare(&key, &there[name], &here[name], found);
        }
    } else if there != here {
        found.push(format!("`{key}` is {there} there and {here} here"));
    }
}
