//! Checkpoints: everything training needs to go on as if it had not stopped.

use std::path::Path;

use candle_core::Device;
use serde::Deserialize;
use serde::Serialize;

use super::optimizer::AdamW;
use super::optimizer::AdamWSettings;
use crate::durable;
use crate::durable::PendingDirectory;
use crate::model::config::DecoderConfig;
use crate::model::lora::Adapter;
use crate::model::lora::AdapterError;
use crate::model::lora::serialise;

const ADAPTER: &str = "adapter";
const MOMENTS: &str = "moments.safetensors";
const STATE: &str = "state.json";

#[derive(Serialize, Deserialize)]
struct State {
    schema_version: u32,
    /// Optimiser steps applied.
    applied: u64,
}

/// Writes adapter and optimiser to `dir`, which appears whole or not at all.
///
/// # Errors
/// When the disk is full or unwritable.
pub fn save(
    dir: &Path,
    adapter: &Adapter,
    optimizer: &AdamW,
    base: &str,
) -> Result<(), AdapterError> {
    let pending = PendingDirectory::create(dir)?;
    adapter.save(&pending.path().join(ADAPTER), base)?;
    let moments = optimizer.state();
    let moments = serialise(moments.iter().map(|(name, tensor)| (name.as_str(), tensor)))?;
    durable::write_file(&pending.path().join(MOMENTS), &moments)?;
    let state = State { schema_version: 1, applied: optimizer.steps() };
    let state = serde_json::to_vec(&state).map_err(|error| unreadable(dir, &error))?;
    durable::write_file(&pending.path().join(STATE), &state)?;
    pending.seal()?;
    Ok(())
}

/// Reads a checkpoint back, after checking that it is whole.
///
/// # Errors
/// When it is missing, unsealed, altered, or does not fit the model.
pub fn load(
    dir: &Path,
    config: &DecoderConfig,
    settings: AdamWSettings,
) -> Result<(Adapter, AdamW), AdapterError> {
    durable::open_sealed(dir)?;
    let adapter = Adapter::load(&dir.join(ADAPTER), config)?;
    let read = |name: &str| {
        let path = dir.join(name);
        std::fs::read(&path)
            .map_err(|source| AdapterError::Read { path: path.display().to_string(), source })
    };
    let state: State =
        serde_json::from_slice(&read(STATE)?).map_err(|error| unreadable(dir, &error))?;
    let moments = candle_core::safetensors::load_buffer(&read(MOMENTS)?, &Device::Cpu)?;
    let optimizer = AdamW::from_state(settings, state.applied, &moments)?;
    Ok((adapter, optimizer))
}

fn unreadable(dir: &Path, error: &serde_json::Error) -> AdapterError {
    AdapterError::Config { path: dir.join(STATE).display().to_string(), reason: error.to_string() }
}
