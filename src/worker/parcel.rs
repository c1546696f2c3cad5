//! Adapters and optimisers on their way between processes. Numbers arrive exactly as they were.

use std::collections::HashMap;

use candle_core::Device;
use candle_core::Tensor;
use serde::Deserialize;
use serde::Serialize;
use serde_bytes::ByteBuf;

use crate::model::config::DecoderConfig;
use crate::model::lora::Adapter;
use crate::model::lora::AdapterError;
use crate::model::lora::LoraShape;
use crate::model::lora::serialise;
use crate::trainer::optimizer::AdamW;
use crate::trainer::optimizer::AdamWSettings;

/// An adapter: its shape, and its tensors as safetensors.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct AdapterParcel {
    shape: LoraShape,
    tensors: ByteBuf,
}

impl AdapterParcel {
    pub(super) fn pack(adapter: &Adapter) -> Result<Self, AdapterError> {
        let variables = adapter.variables().iter();
        let tensors = serialise(variables.map(|(name, value)| (name.as_str(), value.as_tensor())))?;
        Ok(Self { shape: adapter.shape(), tensors: ByteBuf::from(tensors) })
    }

    pub(super) fn unpack(&self, config: &DecoderConfig) -> Result<Adapter, AdapterError> {
        Adapter::from_tensors(config, self.shape, &tensors(&self.tensors)?)
    }

    /// Gives `adapter`, which has the same shape, these values.
    pub(super) fn unpack_into(&self, adapter: &Adapter) -> Result<(), AdapterError> {
        let tensors = tensors(&self.tensors)?;
        for (name, variable) in adapter.variables() {
            let value = tensors
                .get(name)
                .ok_or_else(|| AdapterError::Mismatch(format!("no tensor `{name}`")))?;
            variable.set(value)?;
        }
        Ok(())
    }
}

/// An optimiser: constants, steps taken, and moments as safetensors.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct OptimizerParcel {
    settings: AdamWSettings,
    steps: u64,
    moments: ByteBuf,
}

impl OptimizerParcel {
    pub(super) fn pack(optimizer: &AdamW) -> Result<Self, AdapterError> {
        let moments = optimizer.state();
        let moments = serialise(moments.iter().map(|(name, value)| (name.as_str(), value)))?;
        let (settings, steps) = (optimizer.settings(), optimizer.steps());
        Ok(Self { settings, steps, moments: ByteBuf::from(moments) })
    }

    pub(super) fn unpack(&self) -> Result<AdamW, AdapterError> {
        Ok(AdamW::from_state(self.settings, self.steps, &tensors(&self.moments)?)?)
    }
}

fn tensors(bytes: &[u8]) -> Result<HashMap<String, Tensor>, AdapterError> {
    Ok(candle_core::safetensors::load_buffer(bytes, &Device::Cpu)?)
}
