//! The decoder: the forward pass of training and scoring, and the reference of generation's
//! runners ([`super::runner`]).
//!
//! Llama family (Touvron et al. 2023): RMS norm before each block, rotary positions, grouped-query
//! attention, SwiGLU; with Qwen2's biases and Qwen3's norms of query and key heads where a layer
//! has them. Training keeps what [`super::backward`] needs.

use std::sync::Arc;

use candle_core::DType;
use candle_core::Device;
use candle_core::Result;
use candle_core::Tensor;
use rand::Rng as _;

use super::config::DecoderConfig;
use super::lora::Adapter;
use super::lora::Target;
use super::ops;
use super::ops::Dropout;
use super::ops::HeadShape;
use super::ops::Linear;
use super::ops::Operations;
use super::ops::RopeTable;
use super::ops::Rotation;
use super::packed::Packed;
use super::packed::Span;
use super::stored::StoredMatrix;
use crate::rng;

/// Frozen weights of one layer, in Hugging Face row order.
#[derive(Debug)]
pub struct LayerWeights {
    /// Norm before attention (hidden).
    pub attention_norm: Tensor,
    /// Norm before the feed-forward block (hidden).
    pub feed_forward_norm: Tensor,
    /// Norm of each query head before rope (head_dim), where the family has one.
    pub query_norm: Option<Tensor>,
    /// Norm of each key head before rope (head_dim), where the family has one.
    pub key_norm: Option<Tensor>,
    /// Linear maps, indexed by [`Target`], each (out, in).
    pub linears: [Tensor; Target::COUNT],
    /// What the linear maps add, indexed by [`Target`], each (out).
    pub biases: [Option<Tensor>; Target::COUNT],
}

/// A frozen decoder.
#[derive(Debug)]
pub struct Decoder {
    config: DecoderConfig,
    embedding: Tensor,
    layers: Vec<LayerWeights>,
    final_norm: Tensor,
    head: Tensor,
    rope: Arc<RopeTable>,
    ops: Arc<dyn Operations>,
    stored: Stored,
}

/// The matrices that a file stores quantised, for those who compute with them as they are.
#[derive(Debug, Clone, Default)]
pub struct Stored {
    /// Linear maps by layer and [`Target`].
    pub linears: Vec<[Option<Arc<StoredMatrix>>; Target::COUNT]>,
    /// The output head.
    pub head: Option<Arc<StoredMatrix>>,
}

impl Stored {
    /// That of a linear map.
    pub fn linear(&self, layer: usize, target: Target) -> Option<&StoredMatrix> {
        self.linears.get(layer)?[target as usize].as_deref()
    }
}

/// What a layer does besides its own weights.
#[derive(Clone, Copy)]
pub(super) struct Pass<'a> {
    pub(super) adapter: Option<&'a Adapter>,
    pub(super) positions: &'a [u32],
    pub(super) spans: &'a [Span],
    /// Dropout of this pass, from which that of every map is derived.
    pub(super) dropout: Option<Dropout>,
}

/// What a layer computed on the way and its backward needs; 0.7 MB a token in 30 layers of the
/// default model. Norms and the gated product are cheap and computed again.
#[derive(Debug)]
pub(super) struct Activations {
    /// Queries and keys before their heads' norms, where the family has those.
    pub(super) projected: Option<[Tensor; 2]>,
    /// Queries and keys, rotated, and values.
    pub(super) q: Tensor,
    pub(super) k: Tensor,
    pub(super) v: Tensor,
    pub(super) attended: Tensor,
    /// The residual stream between the two blocks.
    pub(super) middle: Tensor,
    pub(super) gate: Tensor,
    pub(super) up: Tensor,
    /// The low-rank terms' inner values, by [`Target`].
    pub(super) downs: [Option<Tensor>; Target::COUNT],
}

impl Decoder {
    /// Puts a decoder together. `embedding` and `head` are (vocabulary, hidden); they are the same
    /// tensor when the model ties them.
    ///
    /// # Panics
    /// If the configuration's rope parameters give no frequencies: a caller's bug, as every
    /// configuration that was read has been checked.
    pub fn new(
        config: DecoderConfig,
        embedding: Tensor,
        layers: Vec<LayerWeights>,
        final_norm: Tensor,
        head: Tensor,
    ) -> Self {
        let frequencies = config.rope.inverse_frequencies(config.head_dim);
        let frequencies = frequencies.expect("a checked configuration");
        let rope = Arc::new(RopeTable::new(frequencies, config.max_positions));
        let ops = ops::on(embedding.device(), embedding.dtype());
        let stored = Stored::default();
        Self { config, embedding, layers, final_norm, head, rope, ops, stored }
    }

    /// The same decoder with the quantised matrices that its values come from.
    #[must_use]
    pub fn with_stored(self, stored: Stored) -> Self {
        Self { stored, ..self }
    }

    /// The quantised matrices that its values come from, where they do.
    pub fn stored(&self) -> &Stored {
        &self.stored
    }

    /// The same decoder computing with other operations.
    #[must_use]
    pub fn with_operations(self, ops: Arc<dyn Operations>) -> Self {
        Self { ops, ..self }
    }

    /// A decoder of these dimensions with random weights, uniform in ±1/√in: for measurements.
    ///
    /// # Errors
    /// Those of candle.
    pub fn random(config: DecoderConfig, seed: u64) -> Result<Self> {
        let mut matrices = 0;
        let mut matrix = |(out, inner): (usize, usize)| {
            matrices += 1;
            let bound = 1.0 / (inner as f32).sqrt();
            let mut draws = rng::stream(seed, &["random weights", &matrices.to_string()]);
            let values = (0..out * inner).map(|_| draws.random_range(-bound..bound)).collect();
            Tensor::from_vec::<_, f32>(values, (out, inner), &Device::Cpu)
        };
        let norm = |width: usize| Tensor::ones(width, DType::F32, &Device::Cpu);
        let normed_heads = config.family.norms_heads();
        let head_norm = || normed_heads.then(|| norm(config.head_dim)).transpose();
        let embedding = matrix((config.vocabulary, config.hidden))?;
        let layers = (0..config.layers).map(|_| {
            let linears = Target::ALL.into_iter().map(|target| matrix(target.dims(&config)));
            Ok(LayerWeights {
                attention_norm: norm(config.hidden)?,
                feed_forward_norm: norm(config.hidden)?,
                query_norm: head_norm()?,
                key_norm: head_norm()?,
                linears: exactly(linears.collect::<Result<Vec<_>>>()?)?,
                // A bias costs next to nothing.
                biases: [const { None }; Target::COUNT],
            })
        });
        let layers = layers.collect::<Result<Vec<_>>>()?;
        let head = match config.tied {
            true => embedding.clone(),
            false => matrix((config.vocabulary, config.hidden))?,
        };
        let final_norm = norm(config.hidden)?;
        Ok(Self::new(config, embedding, layers, final_norm, head))
    }

    /// The same weights as `dtype` on `device`, with that device's operations. Norms and biases
    /// stay f32.
    ///
    /// # Errors
    /// Those of candle.
    pub fn to(&self, device: &Device, dtype: DType) -> Result<Self> {
        // Neither call copies what already is where and as it should be.
        let matrix = |tensor: &Tensor| tensor.to_device(device)?.to_dtype(dtype);
        let norm = |tensor: &Tensor| tensor.to_device(device);
        let layers = self.layers.iter().map(|layer| {
            let linears = layer.linears.each_ref().map(matrix);
            let biases = layer.biases.iter().map(|bias| bias.as_ref().map(norm).transpose());
            Ok(LayerWeights {
                attention_norm: norm(&layer.attention_norm)?,
                feed_forward_norm: norm(&layer.feed_forward_norm)?,
                query_norm: layer.query_norm.as_ref().map(norm).transpose()?,
                key_norm: layer.key_norm.as_ref().map(norm).transpose()?,
                linears: exactly(linears.into_iter().collect::<Result<Vec<_>>>()?)?,
                biases: exactly(biases.collect::<Result<Vec<_>>>()?)?,
            })
        });
        let layers = layers.collect::<Result<Vec<_>>>()?;
        let embedding = matrix(&self.embedding)?;
        let head = if self.config.tied { embedding.clone() } else { matrix(&self.head)? };
        Ok(Self::new(self.config.clone(), embedding, layers, norm(&self.final_norm)?, head))
    }

    /// The model's dimensions.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Where its weights are.
    pub fn device(&self) -> &Device {
        self.embedding.device()
    }

    /// Type of its matrices.
    pub fn dtype(&self) -> DType {
        self.embedding.dtype()
    }

    /// What it computes with.
    pub fn operations(&self) -> &Arc<dyn Operations> {
        &self.ops
    }

    /// The token embedding (vocabulary, hidden).
    pub fn embedding(&self) -> &Tensor {
        &self.embedding
    }

    /// The layers' weights, first to last.
    pub fn layers(&self) -> &[LayerWeights] {
        &self.layers
    }

    /// The norm behind the last layer (hidden).
    pub fn final_norm(&self) -> &Tensor {
        &self.final_norm
    }

    /// The output head (vocabulary, hidden), frozen.
    pub fn head(&self) -> &Tensor {
        &self.head
    }

    /// Hidden states after the final norm, (N, hidden), for all N tokens of the batch.
    ///
    /// # Errors
    /// When a token or position is out of range.
    pub fn forward(&self, batch: &Packed, adapter: Option<&Adapter>) -> Result<Tensor> {
        let pass =
            Pass { adapter, positions: &batch.positions, spans: &batch.spans, dropout: None };
        let mut x = self.embed(batch)?;
        for index in 0..self.layers.len() {
            x = self.layer(index, &x, &pass)?.0;
        }
        self.normed(&x)
    }

    /// The residual stream before the first layer, (N, hidden).
    pub(super) fn embed(&self, batch: &Packed) -> Result<Tensor> {
        if let Some(token) = batch.tokens.iter().find(|t| **t as usize >= self.config.vocabulary) {
            candle_core::bail!("token {token} is outside the vocabulary");
        }
        self.ops.rows(&self.embedding, &batch.tokens)
    }

    /// The final norm.
    pub(super) fn normed(&self, x: &Tensor) -> Result<Tensor> {
        self.ops.rms_norm(x, &self.final_norm, self.config.norm_eps)
    }

    /// One layer: the residual stream behind it, and what it computed on the way.
    pub(super) fn layer(
        &self,
        index: usize,
        x: &Tensor,
        pass: &Pass<'_>,
    ) -> Result<(Tensor, Activations)> {
        use Target::{Down, Gate, Key, Output, Query, Up, Value};
        let (ops, weights, eps) = (&*self.ops, &self.layers[index], self.config.norm_eps);
        let map = |target: Target| self.map(index, target, pass);
        let normed = ops.rms_norm(x, &weights.attention_norm, eps)?;
        let [q, k, v] = exactly(ops.linears(&normed, &[map(Query), map(Key), map(Value)])?)?;
        let rotated = |x: &Tensor, norm: Option<&Tensor>| {
            let x = self.norm_heads(x, norm)?;
            ops.rope(&x, &self.rope, pass.positions, Rotation::Forward)
        };
        let rotated_q = rotated(&q.y, weights.query_norm.as_ref())?;
        let rotated_k = rotated(&k.y, weights.key_norm.as_ref())?;
        let (spans, shape) = (pass.spans, self.head_shape());
        let attended = ops.attention(&rotated_q, &rotated_k, &v.y, spans, shape)?;
        let output = ops.linear_onto(&attended, &map(Output), x)?;
        let middle = output.y;
        let normed = ops.rms_norm(&middle, &weights.feed_forward_norm, eps)?;
        let [gate, up] = exactly(ops.linears(&normed, &[map(Gate), map(Up)])?)?;
        let gated = ops.swiglu(&gate.y, &up.y)?;
        let down = ops.linear_onto(&gated, &map(Down), &middle)?;
        let norms = weights.query_norm.is_some() || weights.key_norm.is_some();
        let activations = Activations {
            projected: norms.then_some([q.y, k.y]),
            q: rotated_q,
            k: rotated_k,
            v: v.y,
            attended,
            middle,
            gate: gate.y,
            up: up.y,
            downs: [q.down, k.down, v.down, output.down, gate.down, up.down, down.down],
        };
        Ok((down.y, activations))
    }

    /// One linear map of one layer, as this pass uses it.
    pub(super) fn map<'a>(&'a self, index: usize, target: Target, pass: &Pass<'a>) -> Linear<'a> {
        let lora = pass.adapter.and_then(|adapter| adapter.pair(index, target));
        let labels = [&*index.to_string(), target.name()];
        Linear {
            weight: &self.layers[index].linears[target as usize],
            bias: self.layers[index].biases[target as usize].as_ref(),
            lora,
            dropout: pass.dropout.filter(|_| lora.is_some()).map(|d| d.derived(&labels)),
        }
    }

    /// RMS norm of every head of x (N, heads · head_dim), where there is a weight (head_dim).
    pub(super) fn norm_heads(&self, x: &Tensor, weight: Option<&Tensor>) -> Result<Tensor> {
        let Some(weight) = weight else { return Ok(x.clone()) };
        let heads = x.reshape(((), self.config.head_dim))?;
        self.ops.rms_norm(&heads, weight, self.config.norm_eps)?.reshape(x.shape())
    }

    /// The gradient of what [`Decoder::norm_heads`] read.
    pub(super) fn norm_heads_backward(
        &self,
        x: &Tensor,
        weight: Option<&Tensor>,
        gradient: Tensor,
    ) -> Result<Tensor> {
        let Some(weight) = weight else { return Ok(gradient) };
        let heads = |x: &Tensor| x.reshape(((), self.config.head_dim));
        let (eps, g) = (self.config.norm_eps, heads(&gradient)?);
        self.ops.rms_norm_backward(&heads(x)?, weight, eps, &g, None)?.reshape(x.shape())
    }

    /// The rotary table.
    pub(in crate::model) fn rope(&self) -> &Arc<RopeTable> {
        &self.rope
    }

    /// Logits (n, vocabulary) of the hidden states at `rows`.
    ///
    /// # Errors
    /// Those of candle.
    pub fn logits(&self, hidden: &Tensor, rows: &[u32]) -> Result<Tensor> {
        let rows = self.ops.rows(hidden, rows)?;
        let [logits] = exactly(self.ops.linears(&rows, &[Linear::plain(&self.head)])?)?;
        Ok(logits.y)
    }

    pub(in crate::model) fn head_shape(&self) -> HeadShape {
        let DecoderConfig { heads, kv_heads, head_dim, .. } = self.config;
        HeadShape { heads, kv_heads, head_dim }
    }
}

/// As many values as the caller asked for.
pub(super) fn exactly<T, const N: usize>(values: Vec<T>) -> Result<[T; N]> {
    let found = values.len();
    values.try_into().map_err(|_| candle_core::Error::Msg(format!("{found} results, not {N}")))
}
