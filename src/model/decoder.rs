//! The decoder: one forward pass for generation and for training.
//!
//! Llama family (Touvron et al. 2023): RMS norm before each block, rotary positions, grouped-query
//! attention, SwiGLU; with Qwen2's biases and Qwen3's norms of query and key heads where a layer
//! has them. The same code runs with a key/value cache (generation) and without one (training,
//! scoring); whether a gradient is recorded depends only on whether the adapter's tensors are
//! variables.

use std::sync::Arc;

use candle_core::Result;
use candle_core::Tensor;

use super::config::DecoderConfig;
use super::kv::KvCache;
use super::lora::Adapter;
use super::lora::Target;
use super::ops;
use super::ops::HeadShape;
use super::ops::RopeTable;
use super::packed::Packed;

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
        let rope = RopeTable::new(frequencies, config.max_positions);
        Self { config, embedding, layers, final_norm, head, rope: Arc::new(rope) }
    }

    /// The model's dimensions.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
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

    /// A cache for `slots` sequences of up to `capacity` positions.
    pub fn new_cache(&self, slots: usize, capacity: usize) -> KvCache {
        let config = &self.config;
        KvCache::new(config.layers, slots, config.kv_heads, capacity, config.head_dim)
    }

    /// Hidden states after the final norm, (N, hidden), for all N tokens of the batch.
    ///
    /// With a cache, every span's past is a slot, and its keys and values are left there. Without
    /// one, the result is differentiable in the adapter.
    ///
    /// # Errors
    /// When a token or position is out of range, or spans do not fit the presence of a cache.
    pub fn forward(
        &self,
        batch: &Packed,
        adapter: Option<&Adapter>,
        mut cache: Option<&mut KvCache>,
    ) -> Result<Tensor> {
        if let Some(token) = batch.tokens.iter().find(|t| **t as usize >= self.config.vocabulary) {
            candle_core::bail!("token {token} is outside the vocabulary");
        }
        let ids = Tensor::new(batch.tokens.as_slice(), self.embedding.device())?;
        let positions = Arc::new(batch.positions.clone());
        let spans = Arc::new(batch.spans.clone());
        let mut x = self.embedding.index_select(&ids, 0)?;
        for (index, layer) in self.layers.iter().enumerate() {
            let linear = |x: &Tensor, target: Target| {
                let lora = adapter.and_then(|adapter| adapter.pair(index, target));
                let y = ops::linear(x, &layer.linears[target as usize], lora)?;
                match &layer.biases[target as usize] {
                    Some(bias) => ops::add_bias(&y, bias),
                    None => Ok(y),
                }
            };
            let normed = ops::rms_norm(&x, &layer.attention_norm, self.config.norm_eps)?;
            let q = self.norm_heads(linear(&normed, Target::Query)?, layer.query_norm.as_ref())?;
            let k = self.norm_heads(linear(&normed, Target::Key)?, layer.key_norm.as_ref())?;
            let q = ops::rope(&q, &self.rope, &positions)?;
            let k = ops::rope(&k, &self.rope, &positions)?;
            let v = linear(&normed, Target::Value)?;
            let shape = self.head_shape();
            let attended = match cache.as_deref_mut() {
                Some(cache) => ops::cached_attention(&q, &k, &v, &spans, shape, index, cache)?,
                None => ops::attention(&q, &k, &v, &spans, shape)?,
            };
            x = (x + linear(&attended, Target::Output)?)?;
            let normed = ops::rms_norm(&x, &layer.feed_forward_norm, self.config.norm_eps)?;
            let gated =
                ops::swiglu(&linear(&normed, Target::Gate)?, &linear(&normed, Target::Up)?)?;
            x = (x + linear(&gated, Target::Down)?)?;
        }
        ops::rms_norm(&x, &self.final_norm, self.config.norm_eps)
    }

    /// Logits (n, vocabulary) of the hidden states at `rows`.
    ///
    /// # Errors
    /// Those of candle.
    pub fn logits(&self, hidden: &Tensor, rows: &[u32]) -> Result<Tensor> {
        let rows = Tensor::new(rows, hidden.device())?;
        ops::linear(&hidden.index_select(&rows, 0)?, &self.head, None)
    }

    /// RMS norm of every head of x (N, heads · head_dim), where there is a weight (head_dim).
    fn norm_heads(&self, x: Tensor, weight: Option<&Tensor>) -> Result<Tensor> {
        let Some(weight) = weight else { return Ok(x) };
        let heads = x.reshape(((), self.config.head_dim))?;
        ops::rms_norm(&heads, weight, self.config.norm_eps)?.reshape(x.shape())
    }

    fn head_shape(&self) -> HeadShape {
        let DecoderConfig { heads, kv_heads, head_dim, .. } = self.config;
        HeadShape { heads, kv_heads, head_dim }
    }
}
