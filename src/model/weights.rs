//! Weights from disk into a [`Decoder`]: GGUF files and Hugging Face safetensors folders.

mod folder;
mod gguf;

use std::sync::Arc;

use candle_core::Tensor;

use super::ModelError;
use super::config::DecoderConfig;
use super::decoder::Decoder;
use super::decoder::LayerWeights;
use super::decoder::Stored;
use super::lora::Target;
use super::stored::StoredMatrix;

pub(super) use self::folder::folder_config;
pub(super) use self::folder::folder_decoder;
pub(super) use self::gguf::Gguf;

/// A place of the decoder that one tensor of a checkpoint fills; numbers are layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Embedding,
    FinalNorm,
    Head,
    AttentionNorm(usize),
    FeedForwardNorm(usize),
    QueryNorm(usize),
    KeyNorm(usize),
    Linear(usize, Target),
    Bias(usize, Target),
}

impl Part {
    /// The dimensions its tensor must have.
    fn dims(self, config: &DecoderConfig) -> Vec<usize> {
        match self {
            Self::Embedding | Self::Head => vec![config.vocabulary, config.hidden],
            Self::FinalNorm | Self::AttentionNorm(_) | Self::FeedForwardNorm(_) => {
                vec![config.hidden]
            }
            Self::QueryNorm(_) | Self::KeyNorm(_) => vec![config.head_dim],
            Self::Linear(_, target) => {
                let (out, inner) = target.dims(config);
                vec![out, inner]
            }
            Self::Bias(_, target) => vec![target.dims(config).0],
        }
    }
}

/// Tensors by the places they fill.
trait Checkpoint {
    /// What the checkpoint calls it.
    fn name(&self, part: Part) -> String;

    /// Reads it, in f32 and in Hugging Face row order.
    fn read(&mut self, config: &DecoderConfig, part: Part) -> Result<Tensor, ModelError>;

    /// The same matrix as the checkpoint stores it, where it is quantised.
    fn stored(
        &mut self,
        _: &DecoderConfig,
        _: Part,
    ) -> Result<Option<Arc<StoredMatrix>>, ModelError> {
        Ok(None)
    }
}

/// Reads all that `config` asks for.
fn assemble(
    config: DecoderConfig,
    checkpoint: &mut impl Checkpoint,
) -> Result<Decoder, ModelError> {
    let mut read = |part: Part| -> Result<Tensor, ModelError> {
        let tensor = checkpoint.read(&config, part)?;
        let expected = part.dims(&config);
        if tensor.dims() == expected {
            return Ok(tensor);
        }
        let (name, found) = (checkpoint.name(part), tensor.dims().to_vec());
        Err(ModelError::Shape { name, found, expected })
    };
    let embedding = read(Part::Embedding)?;
    let mut layers = Vec::with_capacity(config.layers);
    for layer in 0..config.layers {
        let linears = Target::ALL.map(|target| read(Part::Linear(layer, target)));
        let biases = Target::ALL.map(|target| {
            config.attention_bias.has(target).then(|| read(Part::Bias(layer, target))).transpose()
        });
        let head_norm = |part: Part| config.family.norms_heads().then_some(part);
        layers.push(LayerWeights {
            attention_norm: read(Part::AttentionNorm(layer))?,
            feed_forward_norm: read(Part::FeedForwardNorm(layer))?,
            query_norm: head_norm(Part::QueryNorm(layer)).map(&mut read).transpose()?,
            key_norm: head_norm(Part::KeyNorm(layer)).map(&mut read).transpose()?,
            linears: all(linears)?,
            biases: all(biases)?,
        });
    }
    let final_norm = read(Part::FinalNorm)?;
    let head = if config.tied { embedding.clone() } else { read(Part::Head)? };
    let stored = stored(&config, checkpoint)?;
    Ok(Decoder::new(config, embedding, layers, final_norm, head).with_stored(stored))
}

/// The matrices that the checkpoint stores quantised.
fn stored(config: &DecoderConfig, from: &mut impl Checkpoint) -> Result<Stored, ModelError> {
    let head = if config.tied { Part::Embedding } else { Part::Head };
    let head = from.stored(config, head)?;
    let layers = (0..config.layers).map(|layer| {
        all(Target::ALL.map(|target| from.stored(config, Part::Linear(layer, target))))
    });
    Ok(Stored { linears: layers.collect::<Result<_, _>>()?, head })
}

/// The values, or the first error.
fn all<T: std::fmt::Debug, E>(
    results: [Result<T, E>; Target::COUNT],
) -> Result<[T; Target::COUNT], E> {
    let values: Vec<T> = results.into_iter().collect::<Result<_, E>>()?;
    Ok(values.try_into().expect("as many values as results"))
}
