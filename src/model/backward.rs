//! The decoder's backward, layer by layer, last to first.
//!
//! The forward of a training pass leaves a [`Tape`]: every layer's input, and of as many layers as
//! memory allows what they computed on the way. Layers without it are computed again from their
//! input (Chen et al. 2016). Only the adapter's tensors get gradients.

use candle_core::Result;
use candle_core::Tensor;

use super::decoder::Activations;
use super::decoder::Decoder;
use super::decoder::Pass;
use super::lora::Adapter;
use super::lora::Target;
use super::ops::Dropout;
use super::ops::Linear;
use super::ops::LoraGradient;
use super::ops::Rotation;
use super::packed::Packed;

/// How a training pass runs.
#[derive(Debug, Clone, Copy, Default)]
pub struct TrainingPass {
    /// Dropout before the low-rank terms.
    pub dropout: Option<Dropout>,
    /// Bytes of activations to keep at most besides the layers' inputs; what exceeds them is
    /// computed again.
    pub activation_bytes: usize,
}

/// A forward pass that can be gone back.
#[derive(Debug)]
pub struct Tape<'a> {
    decoder: &'a Decoder,
    adapter: &'a Adapter,
    batch: &'a Packed,
    dropout: Option<Dropout>,
    /// The residual stream before each layer, (N, hidden).
    inputs: Vec<Tensor>,
    /// What each layer computed, where it was kept.
    kept: Vec<Option<Activations>>,
    /// The residual stream behind the last layer, (N, hidden).
    last: Tensor,
}

/// A linear map's gradients, handed over as they are found.
pub type Sink<'s> = dyn FnMut(usize, Target, LoraGradient) -> Result<()> + 's;

impl<'a> Tape<'a> {
    /// Runs the decoder over a batch without cache.
    ///
    /// # Errors
    /// When a token or position is out of range, or a span has its past in a cache.
    pub fn record(
        decoder: &'a Decoder,
        adapter: &'a Adapter,
        batch: &'a Packed,
        settings: TrainingPass,
    ) -> Result<Self> {
        let layers = decoder.layers().len();
        let affordable = settings.activation_bytes / activation_bytes(decoder, batch.len()).max(1);
        // The last layers are kept: they are gone back first, and their memory is free before
        // the others are computed again.
        let first_kept = layers.saturating_sub(affordable);
        let dropout = settings.dropout;
        let mut tape = Self {
            decoder,
            adapter,
            batch,
            dropout,
            inputs: vec![],
            kept: vec![],
            last: decoder.embed(batch)?,
        };
        for index in 0..layers {
            let (next, activations) = decoder.layer(index, &tape.last, &tape.pass())?;
            tape.inputs.push(std::mem::replace(&mut tape.last, next));
            tape.kept.push((index >= first_kept).then_some(activations));
        }
        Ok(tape)
    }

    fn pass(&self) -> Pass<'a> {
        Pass {
            adapter: Some(self.adapter),
            positions: &self.batch.positions,
            spans: &self.batch.spans,
            dropout: self.dropout,
        }
    }

    /// Hidden states after the final norm at `rows`, (n, hidden).
    ///
    /// # Errors
    /// Those of candle.
    pub fn hidden(&self, rows: &[u32]) -> Result<Tensor> {
        self.decoder.normed(&self.decoder.operations().rows(&self.last, rows)?)
    }

    /// Goes back: `gradient` (n, hidden) is that of [`Tape::hidden`] at `rows`. Hands each map's
    /// gradients to `sink`, last layer first.
    ///
    /// # Errors
    /// Those of candle and of `sink`.
    pub fn backward(mut self, rows: &[u32], gradient: &Tensor, sink: &mut Sink<'_>) -> Result<()> {
        let (ops, eps) = (self.decoder.operations(), self.decoder.config().norm_eps);
        let ids = Tensor::new(rows, self.decoder.device())?;
        let at_rows = ops.rows(&self.last, rows)?;
        let gradient =
            ops.rms_norm_backward(&at_rows, self.decoder.final_norm(), eps, gradient, None)?;
        let mut g = self.last.zeros_like()?.index_add(&ids, &gradient, 0)?;
        while let (Some(x), Some(kept)) = (self.inputs.pop(), self.kept.pop()) {
            let index = self.inputs.len();
            let kept = match kept {
                Some(kept) => kept,
                None => self.decoder.layer(index, &x, &self.pass())?.1,
            };
            let step = LayerStep { decoder: self.decoder, pass: self.pass(), index };
            let middle = step.feed_forward(&kept, &g, sink)?;
            g = step.attention(&x, kept, &middle, sink)?;
        }
        Ok(())
    }
}

/// Bytes of one layer's [`Activations`] for `tokens` tokens, all f32.
fn activation_bytes(decoder: &Decoder, tokens: usize) -> usize {
    let config = decoder.config();
    let (queries, keys) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
    let norms = decoder.layers().iter().any(|layer| layer.query_norm.is_some());
    let projected = if norms { queries + keys } else { 0 };
    let per_token = 2 * queries + 2 * keys + projected + config.hidden + 2 * config.feed_forward;
    tokens * per_token * size_of::<f32>()
}

/// One layer gone back.
struct LayerStep<'a> {
    decoder: &'a Decoder,
    pass: Pass<'a>,
    index: usize,
}

impl LayerStep<'_> {
    /// The gradient of what `targets` read; hands over those of their low-rank terms.
    fn linears(
        &self,
        x: &Tensor,
        kept: &Activations,
        targets: &[Target],
        gradients: &[&Tensor],
        sink: &mut Sink<'_>,
    ) -> Result<Tensor> {
        let maps: Vec<Linear<'_>> = targets
            .iter()
            .map(|target| self.decoder.map(self.index, *target, &self.pass))
            .collect();
        let downs: Vec<Option<Tensor>> =
            targets.iter().map(|target| kept.downs[*target as usize].clone()).collect();
        let ops = self.decoder.operations();
        let (dx, lora) = ops.linears_backward(x, &maps, &downs, gradients)?;
        for (target, gradient) in targets.iter().zip(lora) {
            if let Some(gradient) = gradient {
                sink(self.index, *target, gradient)?;
            }
        }
        Ok(dx)
    }

    /// From the gradient behind the layer to that between its blocks.
    fn feed_forward(&self, kept: &Activations, g: &Tensor, sink: &mut Sink<'_>) -> Result<Tensor> {
        use Target::{Down, Gate, Up};
        let (ops, eps) = (self.decoder.operations(), self.decoder.config().norm_eps);
        let norm = &self.decoder.layers()[self.index].feed_forward_norm;
        let gated = ops.swiglu(&kept.gate, &kept.up)?;
        let d_gated = self.linears(&gated, kept, &[Down], &[g], sink)?;
        drop(gated);
        let [d_gate, d_up] = ops.swiglu_backward(&kept.gate, &kept.up, &d_gated)?;
        let normed = ops.rms_norm(&kept.middle, norm, eps)?;
        let d_normed = self.linears(&normed, kept, &[Gate, Up], &[&d_gate, &d_up], sink)?;
        ops.rms_norm_backward(&kept.middle, norm, eps, &d_normed, Some(g))
    }

    /// From the gradient between the blocks to that of the layer's input.
    fn attention(
        &self,
        x: &Tensor,
        kept: Activations,
        g: &Tensor,
        sink: &mut Sink<'_>,
    ) -> Result<Tensor> {
        use Target::{Key, Output, Query, Value};
        let (ops, eps) = (self.decoder.operations(), self.decoder.config().norm_eps);
        let norm = &self.decoder.layers()[self.index].attention_norm;
        let d_attended = self.linears(&kept.attended, &kept, &[Output], &[g], sink)?;
        let (spans, shape) = (self.pass.spans, self.decoder.head_shape());
        let [dq, dk, dv] =
            ops.attention_backward(&kept.q, &kept.k, &kept.v, spans, shape, &d_attended)?;
        let back =
            |x: &Tensor| ops.rope(x, self.decoder.rope(), self.pass.positions, Rotation::Backward);
        let (mut dq, mut dk) = (back(&dq)?, back(&dk)?);
        if let Some([q, k]) = &kept.projected {
            let weights = &self.decoder.layers()[self.index];
            dq = self.decoder.norm_heads_backward(q, weights.query_norm.as_ref(), dq)?;
            dk = self.decoder.norm_heads_backward(k, weights.key_norm.as_ref(), dk)?;
        }
        let normed = ops.rms_norm(x, norm, eps)?;
        let d_normed =
            self.linears(&normed, &kept, &[Query, Key, Value], &[&dq, &dk, &dv], sink)?;
        ops.rms_norm_backward(x, norm, eps, &d_normed, Some(g))
    }
}
