//! Hugging Face folders: `config.json` and one or more `.safetensors` files.

use std::path::Path;
use std::path::PathBuf;

use candle_core::DType;
use candle_core::Device;
use candle_core::Tensor;
use candle_core::safetensors::MmapedSafetensors;

use super::Checkpoint;
use super::Part;
use super::assemble;
use crate::model::ModelError;
use crate::model::config::DecoderConfig;
use crate::model::decoder::Decoder;
use crate::model::fetch;

struct Folder {
    dir: PathBuf,
    store: MmapedSafetensors,
}

/// Reads the folder `dir`: the shards its index names, or else its `.safetensors` files.
pub(in crate::model) fn folder_decoder(dir: &Path) -> Result<Decoder, ModelError> {
    let config = folder_config(dir)?;
    let files = fetch::weight_files(dir)?;
    // SAFETY: the map is read-only and dropped before this function returns; as with any program
    // that maps its model, the files must not be truncated by others in the meantime.
    let store = unsafe { MmapedSafetensors::multi(&files) }
        .map_err(|source| ModelError::Damaged { path: dir.to_path_buf(), source })?;
    assemble(config, &mut Folder { dir: dir.to_path_buf(), store })
}

/// What the folder `dir` says of its decoder's dimensions.
pub(in crate::model) fn folder_config(dir: &Path) -> Result<DecoderConfig, ModelError> {
    let config_path = dir.join("config.json");
    let text = std::fs::read_to_string(&config_path)
        .map_err(|source| ModelError::Read { path: config_path, source })?;
    Ok(DecoderConfig::from_hub_json(&text)?)
}

impl Checkpoint for Folder {
    fn name(&self, part: Part) -> String {
        match part {
            Part::Embedding => "model.embed_tokens.weight".into(),
            Part::FinalNorm => "model.norm.weight".into(),
            Part::Head => "lm_head.weight".into(),
            Part::AttentionNorm(layer) => format!("model.layers.{layer}.input_layernorm.weight"),
            Part::FeedForwardNorm(layer) => {
                format!("model.layers.{layer}.post_attention_layernorm.weight")
            }
            Part::QueryNorm(layer) => format!("model.layers.{layer}.self_attn.q_norm.weight"),
            Part::KeyNorm(layer) => format!("model.layers.{layer}.self_attn.k_norm.weight"),
            Part::Linear(layer, target) => {
                format!("model.layers.{layer}.{}.weight", target.module())
            }
            Part::Bias(layer, target) => format!("model.layers.{layer}.{}.bias", target.module()),
        }
    }

    fn read(&mut self, _config: &DecoderConfig, part: Part) -> Result<Tensor, ModelError> {
        let name = self.name(part);
        let damaged = |source| ModelError::Damaged { path: self.dir.clone(), source };
        let tensor = self.store.load(&name, &Device::Cpu).map_err(damaged)?;
        match tensor.dtype() {
            DType::F32 | DType::F16 | DType::BF16 | DType::F64 => Ok(tensor.to_dtype(DType::F32)?),
            // Bytes that stand for numbers in a way of their own.
            other => Err(ModelError::NotFloat { name, found: other.as_str() }),
        }
    }
}
