//! Weights from disk into a [`Decoder`]: GGUF files and Hugging Face safetensors folders.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::path::PathBuf;

use candle_core::DType;
use candle_core::Device;
use candle_core::Tensor;
use candle_core::quantized::gguf_file::Content;
use candle_core::safetensors::MmapedSafetensors;

use super::ModelError;
use super::config::DecoderConfig;
use super::decoder::Decoder;
use super::decoder::LayerWeights;
use super::lora::Target;

/// The name of a linear map in GGUF files, below `blk.{i}.`.
fn gguf_name(target: Target) -> &'static str {
    match target {
        Target::Query => "attn_q",
        Target::Key => "attn_k",
        Target::Value => "attn_v",
        Target::Output => "attn_output",
        Target::Gate => "ffn_gate",
        Target::Up => "ffn_up",
        Target::Down => "ffn_down",
    }
}

/// An opened GGUF file: its metadata and where its tensors lie.
pub(super) struct Gguf {
    path: PathBuf,
    file: BufReader<File>,
    pub(super) content: Content,
}

impl Gguf {
    pub(super) fn open(path: &Path) -> Result<Self, ModelError> {
        let file = File::open(path)
            .map_err(|source| ModelError::Read { path: path.to_path_buf(), source })?;
        let mut file = BufReader::new(file);
        let content = Content::read(&mut file)
            .map_err(|source| ModelError::Damaged { path: path.to_path_buf(), source })?;
        Ok(Self { path: path.to_path_buf(), file, content })
    }

    fn tensor(&mut self, name: &str) -> Result<Tensor, ModelError> {
        let read = self.content.tensor(&mut self.file, name, &Device::Cpu);
        read.and_then(|tensor| tensor.dequantize(&Device::Cpu))
            .map_err(|source| ModelError::Damaged { path: self.path.clone(), source })
    }

    /// Reads all weights, dequantised to f32.
    pub(super) fn decoder(mut self) -> Result<Decoder, ModelError> {
        let embedding = self.tensor("token_embd.weight")?;
        let tied = !self.content.tensor_infos.contains_key("output.weight");
        let (vocabulary, _) = embedding.dims2().map_err(ModelError::Tensor)?;
        let config = DecoderConfig::from_gguf(&self.content.metadata, vocabulary, tied)?;
        let mut layers = Vec::with_capacity(config.layers);
        for index in 0..config.layers {
            let mut linears = Vec::with_capacity(Target::COUNT);
            for target in Target::ALL {
                let name = format!("blk.{index}.{}.weight", gguf_name(target));
                let weight = expect_dims(self.tensor(&name)?, &name, target.dims(&config))?;
                linears.push(match target {
                    Target::Query => unpermute(&weight, config.heads),
                    Target::Key => unpermute(&weight, config.kv_heads),
                    _ => Ok(weight),
                }?);
            }
            layers.push(LayerWeights {
                attention_norm: self.tensor(&format!("blk.{index}.attn_norm.weight"))?,
                feed_forward_norm: self.tensor(&format!("blk.{index}.ffn_norm.weight"))?,
                linears: into_array(linears)?,
            });
        }
        let final_norm = self.tensor("output_norm.weight")?;
        let head = if tied { embedding.clone() } else { self.tensor("output.weight")? };
        Ok(Decoder::new(config, embedding, layers, final_norm, head))
    }
}

/// GGUF stores query and key rows with the two halves of each head interleaved; Hugging Face keeps
/// them apart, and so do adapters.
fn unpermute(weight: &Tensor, heads: usize) -> Result<Tensor, ModelError> {
    let (out, inner) = weight.dims2()?;
    let half = out / heads / 2;
    let rows = weight.reshape((heads, half, 2, inner))?.transpose(1, 2)?;
    Ok(rows.contiguous()?.reshape((out, inner))?)
}

fn expect_dims(tensor: Tensor, name: &str, dims: (usize, usize)) -> Result<Tensor, ModelError> {
    if tensor.dims() == [dims.0, dims.1] {
        return Ok(tensor);
    }
    let found = tensor.dims().to_vec();
    Err(ModelError::Shape { name: name.to_string(), found, expected: vec![dims.0, dims.1] })
}

fn into_array(linears: Vec<Tensor>) -> Result<[Tensor; Target::COUNT], ModelError> {
    linears.try_into().map_err(|_| {
        ModelError::Tensor(candle_core::Error::Msg("a layer lacks a linear map".into()))
    })
}

/// Reads a folder with `config.json` and one or more `.safetensors` files.
pub(super) fn folder_decoder(dir: &Path) -> Result<Decoder, ModelError> {
    let config_path = dir.join("config.json");
    let text = std::fs::read_to_string(&config_path)
        .map_err(|source| ModelError::Read { path: config_path, source })?;
    let config = DecoderConfig::from_hub_json(&text)?;
    let files = safetensors_files(dir)?;
    // SAFETY: the map is read-only and dropped before this function returns; as with any program
    // that maps its model, the files must not be truncated by others in the meantime.
    let store = unsafe { MmapedSafetensors::multi(&files) }
        .map_err(|source| ModelError::Damaged { path: dir.to_path_buf(), source })?;
    let read = |name: &str| -> Result<Tensor, ModelError> {
        let tensor = store
            .load(name, &Device::Cpu)
            .map_err(|source| ModelError::Damaged { path: dir.to_path_buf(), source })?;
        Ok(tensor.to_dtype(DType::F32)?)
    };
    let embedding = expect_dims(
        read("model.embed_tokens.weight")?,
        "model.embed_tokens.weight",
        (config.vocabulary, config.hidden),
    )?;
    let mut layers = Vec::with_capacity(config.layers);
    for index in 0..config.layers {
        let prefix = format!("model.layers.{index}");
        let mut linears = Vec::with_capacity(Target::COUNT);
        for target in Target::ALL {
            let name = format!("{prefix}.{}.weight", target.module());
            linears.push(expect_dims(read(&name)?, &name, target.dims(&config))?);
        }
        layers.push(LayerWeights {
            attention_norm: read(&format!("{prefix}.input_layernorm.weight"))?,
            feed_forward_norm: read(&format!("{prefix}.post_attention_layernorm.weight"))?,
            linears: into_array(linears)?,
        });
    }
    let final_norm = read("model.norm.weight")?;
    let head = if config.tied { embedding.clone() } else { read("lm_head.weight")? };
    Ok(Decoder::new(config, embedding, layers, final_norm, head))
}

fn safetensors_files(dir: &Path) -> Result<Vec<PathBuf>, ModelError> {
    let entries = std::fs::read_dir(dir)
        .map_err(|source| ModelError::Read { path: dir.to_path_buf(), source })?;
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "safetensors"))
        .collect();
    files.sort();
    if files.is_empty() {
        return Err(ModelError::NoWeights(dir.to_path_buf()));
    }
    Ok(files)
}
