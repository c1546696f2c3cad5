//! How text is generated.

use serde::Deserialize;
use serde::Serialize;

use super::ConfigError;
use super::check::within;
use crate::model::runner::PAGE;
use crate::model::runner::cpu::WeightForm;

/// Where something is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceName {
    /// All cores of this machine.
    Cpu,
    /// The first CUDA device; there must be one.
    Cuda,
    /// The first CUDA device, or else the CPU.
    Auto,
}

/// How text is generated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inference {
    /// Where the model runs.
    pub device: DeviceName,
    /// Continuations that are written at the same time at most.
    pub rows: usize,
    /// Megabytes of memory for keys and values.
    pub kv_mb: usize,
    /// Tokens that are read in one step at most, prompts and continuations together.
    pub step_tokens: usize,
    /// Requests that wait at most.
    pub queue: usize,
    /// Threads of a step on the CPU; 0 for all cores.
    pub threads: usize,
    /// How weights are kept on the CPU.
    pub weights: WeightForm,
    /// How keys and values are kept on the CPU.
    pub kv: KvType,
}

/// A type of keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KvType {
    /// Half precision.
    F16,
    /// Full precision, in twice the memory.
    F32,
}

impl Inference {
    /// Fails on the first value outside its range.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let counts = [
            ("inference.rows", self.rows, 1, 1024),
            ("inference.kv_mb", self.kv_mb, 1, 1 << 20),
            ("inference.step_tokens", self.step_tokens, PAGE, 1 << 16),
            ("inference.queue", self.queue, 1, 1 << 20),
            ("inference.threads", self.threads, 0, 1024),
        ];
        for (key, value, low, high) in counts {
            within(key, value, low, high)?;
        }
        if self.rows > self.step_tokens / 2 {
            let (rows, tokens) = (self.rows, self.step_tokens);
            let reason = format!(
                "is {rows}; it must be at most half of `inference.step_tokens`, {tokens}, so that \
                 prompts are read while so many continuations are written"
            );
            return Err(ConfigError::Range { key: "inference.rows", reason });
        }
        Ok(())
    }
}
