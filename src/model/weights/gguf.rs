//! GGUF files: names of their tensors, dequantisation, and the order of Llama's rows.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use candle_core::Device;
use candle_core::Tensor;
use candle_core::quantized::gguf_file::Content;

use super::Checkpoint;
use super::Part;
use super::assemble;
use crate::model::ModelError;
use crate::model::config::AttentionBias;
use crate::model::config::DecoderConfig;
use crate::model::config::Family;
use crate::model::config::GgufTensors;
use crate::model::decoder::Decoder;
use crate::model::lora::Target;
use crate::model::stored::StoredMatrix;

/// What candle says of a tensor whose type it does not read.
const UNKNOWN_TYPE: &str = "unknown dtype for tensor ";

/// The name of a linear map, below `blk.{i}.`.
fn linear_name(target: Target) -> &'static str {
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
pub(in crate::model) struct Gguf {
    path: PathBuf,
    file: BufReader<File>,
    pub(in crate::model) content: Content,
}

impl Gguf {
    pub(in crate::model) fn open(path: &Path) -> Result<Self, ModelError> {
        let file = File::open(path)
            .map_err(|source| ModelError::Read { path: path.to_path_buf(), source })?;
        let mut file = BufReader::new(file);
        let content = Content::read(&mut file).map_err(|source| {
            let (text, path) = (source.to_string(), path.to_path_buf());
            match text.split_once(UNKNOWN_TYPE) {
                Some((_, kind)) => {
                    let kind = kind.chars().take_while(char::is_ascii_digit).collect();
                    ModelError::TensorType { path, kind }
                }
                None => ModelError::Damaged { path, source },
            }
        })?;
        Ok(Self { path: path.to_path_buf(), file, content })
    }

    /// Reads all weights, dequantised to f32.
    pub(in crate::model) fn decoder(mut self) -> Result<Decoder, ModelError> {
        let config = self.config()?;
        assemble(config, &mut self)
    }

    /// What the file says of its decoder's dimensions.
    pub(in crate::model) fn config(&mut self) -> Result<DecoderConfig, ModelError> {
        let tensors = self.tensors()?;
        Ok(DecoderConfig::from_gguf(&self.content.metadata, tensors)?)
    }

    /// What the list of tensors says about the model.
    fn tensors(&mut self) -> Result<GgufTensors, ModelError> {
        let has = |name: &str| self.content.tensor_infos.contains_key(name);
        let bias = |target: Target| has(&format!("blk.0.{}.bias", linear_name(target)));
        let attention_bias = match (bias(Target::Query), bias(Target::Output)) {
            (false, false) => AttentionBias::None,
            (true, false) => AttentionBias::QueryKeyValue,
            (_, true) => AttentionBias::All,
        };
        let feed_forward_bias = [Target::Gate, Target::Up, Target::Down].into_iter().any(bias);
        let tied = !has("output.weight");
        let rope_divisors = match has("rope_freqs.weight") {
            true => Some(self.tensor("rope_freqs.weight")?.flatten_all()?.to_vec1()?),
            false => None,
        };
        let embedding = "token_embd.weight";
        let rows = self.content.tensor_infos.get(embedding).map(|info| info.shape.dims().to_vec());
        let vocabulary = rows.and_then(|dims| dims.first().copied()).unwrap_or(0);
        Ok(GgufTensors { vocabulary, tied, attention_bias, feed_forward_bias, rope_divisors })
    }

    fn tensor(&mut self, name: &str) -> Result<Tensor, ModelError> {
        let read = self.content.tensor(&mut self.file, name, &Device::Cpu);
        read.and_then(|tensor| tensor.dequantize(&Device::Cpu))
            .map_err(|source| ModelError::Damaged { path: self.path.clone(), source })
    }
}

impl Checkpoint for Gguf {
    fn name(&self, part: Part) -> String {
        match part {
            Part::Embedding => "token_embd.weight".into(),
            Part::FinalNorm => "output_norm.weight".into(),
            Part::Head => "output.weight".into(),
            Part::AttentionNorm(layer) => format!("blk.{layer}.attn_norm.weight"),
            Part::FeedForwardNorm(layer) => format!("blk.{layer}.ffn_norm.weight"),
            Part::QueryNorm(layer) => format!("blk.{layer}.attn_q_norm.weight"),
            Part::KeyNorm(layer) => format!("blk.{layer}.attn_k_norm.weight"),
            Part::Linear(layer, target) => format!("blk.{layer}.{}.weight", linear_name(target)),
            Part::Bias(layer, target) => format!("blk.{layer}.{}.bias", linear_name(target)),
        }
    }

    fn read(&mut self, config: &DecoderConfig, part: Part) -> Result<Tensor, ModelError> {
        let tensor = self.tensor(&self.name(part))?;
        let heads = match part {
            Part::Linear(_, Target::Query) | Part::Bias(_, Target::Query) => config.heads,
            Part::Linear(_, Target::Key) | Part::Bias(_, Target::Key) => config.kv_heads,
            _ => return Ok(tensor),
        };
        // Dimensions that do not fit are reported by the caller.
        let fits = tensor.dims().first() == part.dims(config).first();
        match config.family == Family::Llama && fits {
            true => unpermute(&tensor, heads),
            false => Ok(tensor),
        }
    }

    fn stored(
        &mut self,
        config: &DecoderConfig,
        part: Part,
    ) -> Result<Option<Arc<StoredMatrix>>, ModelError> {
        let name = self.name(part);
        let damaged = |source| ModelError::Damaged { path: self.path.clone(), source };
        let tensor = self.content.tensor(&mut self.file, &name, &Device::Cpu).map_err(damaged)?;
        let Some(stored) = StoredMatrix::of(&tensor)? else { return Ok(None) };
        let heads = match part {
            Part::Linear(_, Target::Query) => config.heads,
            Part::Linear(_, Target::Key) => config.kv_heads,
            _ => return Ok(Some(Arc::new(stored))),
        };
        Ok(Some(Arc::new(match config.family {
            Family::Llama => stored.reordered(&unpermuted_rows(stored.dims().0, heads)),
            Family::Qwen2 | Family::Qwen3 => stored,
        })))
    }
}

/// Where [`unpermute`] takes each row from.
fn unpermuted_rows(rows: usize, heads: usize) -> Vec<usize> {
    let half = rows / heads / 2;
    let row = |index: usize| {
        let (head, within) = (index / (2 * half), index % (2 * half));
        head * 2 * half + within % half * 2 + within / half
    };
    (0..rows).map(row).collect()
}

/// GGUF stores Llama's query and key rows with the two halves of each head interleaved; Hugging
/// Face keeps them apart, and so do adapters. Other families' rows are stored as they are.
fn unpermute(rows: &Tensor, heads: usize) -> Result<Tensor, ModelError> {
    let out = rows.dim(0)?;
    let interleaved = rows.reshape((heads, out / heads / 2, 2, ()))?;
    Ok(interleaved.transpose(1, 2)?.contiguous()?.reshape(rows.shape())?)
}
