//! The decoder: one forward pass for generation and for training.
//!
//! Llama family (Touvron et al. 2023): RMS norm before each block, rotary positions, grouped-query
//! attention, SwiGLU. The same code runs with a key/value cache (generation) and without one
//! (training, scoring); whether a gradient is recorded depends only on whether the adapter's
//! tensors are variables.

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
    /// Linear maps, indexed by [`Target`], each (out, in).
    pub linears: [Tensor; Target::COUNT],
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
    pub fn new(
        config: DecoderConfig,
        embedding: Tensor,
        layers: Vec<LayerWeights>,
        final_norm: Tensor,
        head: Tensor,
    ) -> Self {
        let rope = RopeTable::new(config.head_dim, config.rope_theta, config.max_positions);
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
                ops::linear(x, &layer.linears[target as usize], lora)
            };
            let normed = ops::rms_norm(&x, &layer.attention_norm, self.config.norm_eps)?;
            let q = ops::rope(&linear(&normed, Target::Query)?, &self.rope, &positions)?;
            let k = ops::rope(&linear(&normed, Target::Key)?, &self.rope, &positions)?;
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

    fn head_shape(&self) -> HeadShape {
        let DecoderConfig { heads, kv_heads, head_dim, .. } = self.config;
        HeadShape { heads, kv_heads, head_dim }
    }
}
