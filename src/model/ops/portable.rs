//! The operations as compositions of candle operations: for any device, and weights of any type.
//!
//! Activations and adapters are f32; a product with a weight of another type is computed in that
//! type and widened. Nothing here records a graph, because no operand is a variable.

use candle_core::D;
use candle_core::DType;
use candle_core::Device;
use candle_core::IndexOp as _;
use candle_core::Result;
use candle_core::Tensor;

use super::Dropout;
use super::HeadShape;
use super::Linear;
use super::LoraGradient;
use super::LoraPair;
use super::Mapped;
use super::Operations;
use super::RopeTable;
use super::Rotation;
use super::Scored;
use super::TokenScores;
use super::check_targets;
use crate::model::packed::Past;
use crate::model::packed::Span;

/// Operations wherever candle computes.
#[derive(Debug, Clone, Copy)]
pub struct Portable;

/// Memory for logits, in values.
const LOGITS: usize = 67_108_864;

/// x Wᵀ, f32, with x and W of their own types.
fn times_transposed(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    x.to_dtype(weight.dtype())?.matmul(&weight.t()?)?.to_dtype(DType::F32)
}

/// g W, f32.
fn times(g: &Tensor, weight: &Tensor) -> Result<Tensor> {
    g.to_dtype(weight.dtype())?.matmul(weight)?.to_dtype(DType::F32)
}

/// A and B without the graph that their being variables would start.
fn detached(pair: &LoraPair) -> (Tensor, Tensor) {
    (pair.a.detach(), pair.b.detach())
}

fn dropped(x: &Tensor, dropout: Option<Dropout>) -> Result<Tensor> {
    match dropout {
        None => Ok(x.clone()),
        Some(dropout) => x * mask(x, dropout)?,
    }
}

fn mask(x: &Tensor, dropout: Dropout) -> Result<Tensor> {
    Tensor::from_vec(dropout.mask(x.elem_count()), x.shape(), x.device())
}

fn linear(x: &Tensor, map: &Linear<'_>) -> Result<Mapped> {
    let mut y = times_transposed(x, map.weight)?;
    if let Some(bias) = map.bias {
        y = y.broadcast_add(&bias.to_dtype(DType::F32)?)?;
    }
    let Some(pair) = map.lora else { return Ok(Mapped { y, down: None }) };
    let (a, b) = detached(pair);
    let down = (dropped(x, map.dropout)?.matmul(&a.t()?)? * f64::from(pair.scale))?;
    y = (y + down.matmul(&b.t()?)?)?;
    Ok(Mapped { y, down: Some(down) })
}

impl Operations for Portable {
    fn rows(&self, table: &Tensor, ids: &[u32]) -> Result<Tensor> {
        table.index_select(&Tensor::new(ids, table.device())?, 0)?.to_dtype(DType::F32)
    }

    fn linears(&self, x: &Tensor, maps: &[Linear<'_>]) -> Result<Vec<Mapped>> {
        maps.iter().map(|map| linear(x, map)).collect()
    }

    fn linear_onto(&self, x: &Tensor, map: &Linear<'_>, residual: &Tensor) -> Result<Mapped> {
        let Mapped { y, down } = linear(x, map)?;
        Ok(Mapped { y: (y + residual)?, down })
    }

    fn linears_backward(
        &self,
        x: &Tensor,
        maps: &[Linear<'_>],
        downs: &[Option<Tensor>],
        gradients: &[&Tensor],
    ) -> Result<(Tensor, Vec<Option<LoraGradient>>)> {
        let mut dx = x.zeros_like()?;
        let mut lora = Vec::with_capacity(maps.len());
        for ((map, down), g) in maps.iter().zip(downs).zip(gradients) {
            dx = (dx + times(g, map.weight)?)?;
            let (Some(pair), Some(down)) = (map.lora, down) else {
                lora.push(None);
                continue;
            };
            let (a, b) = detached(pair);
            let up = (g.matmul(&b)? * f64::from(pair.scale))?;
            dx = (dx + dropped(&up.matmul(&a)?, map.dropout)?)?;
            let x = dropped(x, map.dropout)?;
            let product = |lhs: &Tensor, rhs: &Tensor| lhs.t()?.contiguous()?.matmul(rhs);
            lora.push(Some(LoraGradient { a: product(&up, &x)?, b: product(g, down)? }));
        }
        Ok((dx, lora))
    }

    fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
        x.broadcast_mul(&inverse_rms(x, eps)?)?.broadcast_mul(&weight.to_dtype(DType::F32)?)
    }

    fn rms_norm_backward(
        &self,
        x: &Tensor,
        weight: &Tensor,
        eps: f32,
        gradient: &Tensor,
        onto: Option<&Tensor>,
    ) -> Result<Tensor> {
        let inverse = inverse_rms(x, eps)?;
        let h = gradient.broadcast_mul(&weight.to_dtype(DType::F32)?)?;
        let pull = ((&h * x)?.mean_keepdim(D::Minus1)? * inverse.powf(3.0)?)?;
        let dx = (h.broadcast_mul(&inverse)? - x.broadcast_mul(&pull)?)?;
        match onto {
            Some(onto) => dx + onto,
            None => Ok(dx),
        }
    }

    fn rope(
        &self,
        x: &Tensor,
        table: &RopeTable,
        positions: &[u32],
        rotation: Rotation,
    ) -> Result<Tensor> {
        table.check(positions)?;
        let (tokens, width) = x.dims2()?;
        let half = table.half();
        let rows = |values: Vec<f32>| Tensor::from_vec(values, (tokens, 1, half), x.device());
        let cos = rows(positions.iter().flat_map(|p| table.at(*p).0).copied().collect())?;
        let sin = rows(positions.iter().flat_map(|p| table.at(*p).1).copied().collect())?;
        let sin = if rotation == Rotation::Forward { sin } else { sin.neg()? };
        let heads = x.reshape((tokens, width / (2 * half), 2 * half))?;
        let (low, high) = (heads.narrow(2, 0, half)?, heads.narrow(2, half, half)?);
        let turned_low = (low.broadcast_mul(&cos)? - high.broadcast_mul(&sin)?)?;
        let turned_high = (high.broadcast_mul(&cos)? + low.broadcast_mul(&sin)?)?;
        Tensor::cat(&[turned_low, turned_high], 2)?.reshape((tokens, width))
    }

    fn attention(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        spans: &[Span],
        shape: HeadShape,
    ) -> Result<Tensor> {
        let mut outs = Vec::new();
        for tree in trees(spans) {
            let part = Tree::new(&tree, q, k, v, shape)?;
            outs.push(flat(&part.weights(spans, &tree)?.matmul(&part.v)?, shape)?);
        }
        Tensor::cat(&outs, 0)
    }

    fn attention_backward(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        spans: &[Span],
        shape: HeadShape,
        gradient: &Tensor,
    ) -> Result<[Tensor; 3]> {
        let [mut dq, mut dk, mut dv] = [Vec::new(), Vec::new(), Vec::new()];
        for tree in trees(spans) {
            let part = Tree::new(&tree, q, k, v, shape)?;
            let g = grouped(&gradient.narrow(0, tree.start(), tree.len())?, shape)?;
            let weights = part.weights(spans, &tree)?;
            let d_weights = g.matmul(&part.v.t()?)?;
            let dot = (&d_weights * &weights)?.sum_keepdim(D::Minus1)?;
            let scores = (&weights * d_weights.broadcast_sub(&dot)?)?;
            let scores = (scores * f64::from(shape.scale()))?;
            dq.push(flat(&scores.matmul(&part.k)?, shape)?);
            dk.push(flat_keys(&scores.t()?.contiguous()?.matmul(&part.q)?)?);
            dv.push(flat_keys(&weights.t()?.contiguous()?.matmul(&g)?)?);
        }
        Ok([Tensor::cat(&dq, 0)?, Tensor::cat(&dk, 0)?, Tensor::cat(&dv, 0)?])
    }

    fn swiglu(&self, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        gate.silu()? * up
    }

    fn swiglu_backward(
        &self,
        gate: &Tensor,
        up: &Tensor,
        gradient: &Tensor,
    ) -> Result<[Tensor; 2]> {
        let s = candle_sigmoid(gate)?;
        let silu = (gate * &s)?;
        // s (1 + gate (1 − s)) = s + silu (1 − s)
        let slope = (&s + (&silu * (1.0 - &s)?)?)?;
        Ok([((gradient * up)? * slope)?, (gradient * silu)?])
    }

    fn token_scores(
        &self,
        hidden: &Tensor,
        weight: &Tensor,
        targets: &[u32],
        _learns: bool,
    ) -> Result<Scored> {
        check_targets(hidden, weight, targets)?;
        let mut scores = Vec::new();
        for (start, targets) in chunks(targets, weight)? {
            let hidden = hidden.narrow(0, start, targets.len())?;
            let logprobs = log_softmax(&times_transposed(&hidden, weight)?)?;
            let ids = Tensor::new(targets, hidden.device())?.unsqueeze(1)?;
            let entropy = (logprobs.exp()? * &logprobs)?.sum_keepdim(1)?.neg()?;
            scores.push(Tensor::cat(&[logprobs.gather(&ids, 1)?, entropy], 1)?);
        }
        let scores = match scores.is_empty() {
            true => Tensor::zeros((0, 2), DType::F32, &Device::Cpu)?,
            false => Tensor::cat(&scores, 0)?.to_device(&Device::Cpu)?,
        };
        Ok(Scored { tokens: TokenScores { scores }, slopes: None })
    }

    /// d logits = g onehot − p (g + h (log p + H)), with g and h the gradients of log-probability
    /// and entropy.
    fn token_scores_backward(
        &self,
        hidden: &Tensor,
        weight: &Tensor,
        targets: &[u32],
        scored: &Scored,
        gradient: &Tensor,
    ) -> Result<Tensor> {
        let device = hidden.device();
        let (gradient, scores) =
            (gradient.to_device(device)?, scored.tokens.scores.to_device(device)?);
        let mut parts = vec![];
        for (start, targets) in chunks(targets, weight)? {
            let n = targets.len();
            let of = |t: &Tensor, column: usize| t.i((start..start + n, column..column + 1));
            let logprobs = log_softmax(&times_transposed(&hidden.narrow(0, start, n)?, weight)?)?;
            let (g, h, entropy) = (of(&gradient, 0)?, of(&gradient, 1)?, of(&scores, 1)?);
            let pull = logprobs.broadcast_add(&entropy)?.broadcast_mul(&h)?.broadcast_add(&g)?;
            let d_logits = (logprobs.exp()? * pull)?.neg()?;
            let ids = Tensor::new(targets, device)?.unsqueeze(1)?;
            let d_logits = d_logits.scatter_add(&ids, &g.contiguous()?, 1)?;
            parts.push(times(&d_logits, weight)?);
        }
        match parts.is_empty() {
            true => hidden.zeros_like(),
            false => Tensor::cat(&parts, 0),
        }
    }
}

fn inverse_rms(x: &Tensor, eps: f32) -> Result<Tensor> {
    (x.sqr()?.mean_keepdim(D::Minus1)? + f64::from(eps))?.sqrt()?.recip()
}

fn candle_sigmoid(x: &Tensor) -> Result<Tensor> {
    (x.neg()?.exp()? + 1.0)?.recip()
}

fn log_softmax(logits: &Tensor) -> Result<Tensor> {
    let shifted = logits.broadcast_sub(&logits.max_keepdim(1)?)?;
    shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(1)?.log()?)
}

/// Runs of targets whose logits fit the memory for them, with where each starts.
fn chunks<'t>(targets: &'t [u32], weight: &Tensor) -> Result<Vec<(usize, &'t [u32])>> {
    let chunk = (LOGITS / weight.dim(0)?).max(1);
    Ok(targets.chunks(chunk).enumerate().map(|(i, part)| (i * chunk, part)).collect())
}

/// Neighbouring spans that may see each other.
struct Spans {
    first: usize,
    range: std::ops::Range<usize>,
    count: usize,
}

impl Spans {
    fn start(&self) -> usize {
        self.range.start
    }

    fn len(&self) -> usize {
        self.range.len()
    }
}

/// Cuts the batch before every span from which on nothing refers to earlier spans.
fn trees(spans: &[Span]) -> Vec<Spans> {
    let mut reach: Vec<usize> = (0..spans.len()).collect();
    for (index, span) in spans.iter().enumerate().rev() {
        let parent = if let Past::Span(parent) = span.past { parent } else { index };
        let later = reach.get(index + 1).copied().unwrap_or(index + 1);
        reach[index] = parent.min(later).min(index);
    }
    let mut trees: Vec<Spans> = Vec::new();
    for (index, span) in spans.iter().enumerate() {
        match trees.last_mut() {
            Some(tree) if reach[index] < index => {
                tree.range.end = span.range.end;
                tree.count += 1;
            }
            _ => trees.push(Spans { first: index, range: span.range.clone(), count: 1 }),
        }
    }
    trees
}

/// (tokens, heads · head_dim) as (kv head, group · tokens, head_dim).
fn grouped(x: &Tensor, shape: HeadShape) -> Result<Tensor> {
    let tokens = x.dim(0)?;
    let heads = x.reshape((tokens, shape.kv_heads, shape.group(), shape.head_dim))?;
    let heads = heads.permute((1, 2, 0, 3))?.contiguous()?;
    heads.reshape((shape.kv_heads, shape.group() * tokens, shape.head_dim))
}

/// The inverse of [`grouped`].
fn flat(x: &Tensor, shape: HeadShape) -> Result<Tensor> {
    let tokens = x.dim(1)? / shape.group();
    let heads = x.reshape((shape.kv_heads, shape.group(), tokens, shape.head_dim))?;
    heads.permute((2, 0, 1, 3))?.contiguous()?.reshape((tokens, shape.query_width()))
}

/// (kv head, tokens, head_dim) as (tokens, kv_heads · head_dim).
fn flat_keys(x: &Tensor) -> Result<Tensor> {
    let (heads, tokens, dim) = x.dims3()?;
    x.transpose(0, 1)?.contiguous()?.reshape((tokens, heads * dim))
}

/// Queries, keys and values of one tree, by kv head.
struct Tree {
    /// (kv head, group · tokens, head_dim)
    q: Tensor,
    /// (kv head, tokens, head_dim)
    k: Tensor,
    /// (kv head, tokens, head_dim)
    v: Tensor,
    shape: HeadShape,
}

impl Tree {
    fn new(tree: &Spans, q: &Tensor, k: &Tensor, v: &Tensor, shape: HeadShape) -> Result<Self> {
        let part = |x: &Tensor| x.narrow(0, tree.start(), tree.len());
        let by_head = |x: &Tensor| {
            let heads = part(x)?.reshape((tree.len(), shape.kv_heads, shape.head_dim))?;
            heads.transpose(0, 1)?.contiguous()
        };
        Ok(Self { q: grouped(&part(q)?, shape)?, k: by_head(k)?, v: by_head(v)?, shape })
    }

    /// Softmax weights, (kv head, group · tokens, tokens).
    fn weights(&self, spans: &[Span], tree: &Spans) -> Result<Tensor> {
        let (n, group) = (tree.len(), self.shape.group());
        let scores = (self.q.matmul(&self.k.t()?)? * f64::from(self.shape.scale()))?;
        let scores = scores.reshape((self.shape.kv_heads, group, n, n))?;
        let scores = scores.broadcast_add(&visible(spans, tree, self.q.device())?)?;
        let shifted = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
        let weights = shifted.broadcast_div(&shifted.sum_keepdim(D::Minus1)?)?;
        weights.reshape((self.shape.kv_heads, group * n, n))
    }
}

/// 0 where a token sees another, −∞ elsewhere, (tokens, tokens).
fn visible(spans: &[Span], tree: &Spans, device: &Device) -> Result<Tensor> {
    let n = tree.len();
    let mut mask = vec![f32::NEG_INFINITY; n * n];
    for span in &spans[tree.first..tree.first + tree.count] {
        for token in span.range.clone() {
            let row = (token - tree.start()) * n;
            let mut show = |tokens: std::ops::Range<usize>| {
                mask[row + tokens.start - tree.start()..row + tokens.end - tree.start()].fill(0.0);
            };
            show(span.range.start..token + 1);
            if let Past::Span(parent) = span.past {
                show(spans[parent].range.clone());
            }
        }
    }
    Tensor::from_vec(mask, (n, n), device)
}
