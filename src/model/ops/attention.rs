//! Causal grouped-query attention over packed spans (Vaswani et al. 2017, eq. 1; Ainslie et al.
//! 2023 for the grouping), with its backward.
//!
//! Work is cut into blocks of a few query rows of one span and one kv head. A block's keys come in
//! at most two pieces: the span's past, seen whole, and the span itself, seen causally.

use std::ops::Range;
use std::sync::Arc;

use candle_core::CpuStorage;
use candle_core::CustomOp3;
use candle_core::Layout;
use candle_core::Result;
use candle_core::Shape;
use candle_core::Tensor;
use gemm::Parallelism;
use rayon::prelude::*;

use super::exp::exp;
use super::floats;
use super::matrix::Matrix;
use super::matrix::MatrixMut;
use super::matrix::product;
use super::tensor;
use super::with_floats;
use crate::model::kv::KvCache;
use crate::model::packed::Past;
use crate::model::packed::Span;

/// Query tokens per block: the scores of a block stay in the second-level cache.
const BLOCK: usize = 64;

/// Head counts and size of one attention layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadShape {
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
}

impl HeadShape {
    fn group(self) -> usize {
        self.heads / self.kv_heads
    }

    fn query_width(self) -> usize {
        self.heads * self.head_dim
    }

    fn kv_width(self) -> usize {
        self.kv_heads * self.head_dim
    }

    fn scale(self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }
}

/// One piece of a block's keys and values: rows `stride` floats apart.
#[derive(Clone, Copy)]
struct Keys<'a> {
    k: &'a [f32],
    v: &'a [f32],
    len: usize,
    stride: usize,
}

/// Some query tokens of one span, for one kv head.
struct Block {
    span: usize,
    kv_head: usize,
    /// Tokens of the batch.
    tokens: Range<usize>,
}

fn blocks(spans: &[Span], shape: HeadShape) -> Vec<Block> {
    let mut blocks = Vec::new();
    for (span, Span { range, .. }) in spans.iter().enumerate() {
        for start in range.clone().step_by(BLOCK) {
            let tokens = start..(start + BLOCK).min(range.end);
            let heads = 0..shape.kv_heads;
            blocks.extend(heads.map(|kv_head| Block { span, kv_head, tokens: tokens.clone() }));
        }
    }
    blocks
}

/// The query rows of a block: for each token the heads of the group, (tokens · group, head_dim).
fn gather(block: &Block, q: &[f32], shape: HeadShape) -> Vec<f32> {
    let width = shape.group() * shape.head_dim;
    let mut rows = Vec::with_capacity(block.tokens.len() * width);
    for token in block.tokens.clone() {
        let start = token * shape.query_width() + block.kv_head * width;
        rows.extend_from_slice(&q[start..start + width]);
    }
    rows
}

/// The inverse of [`gather`], into the packed layout.
fn scatter(block: &Block, rows: &[f32], out: &mut [f32], shape: HeadShape) {
    let width = shape.group() * shape.head_dim;
    for (token, row) in block.tokens.clone().zip(rows.chunks_exact(width)) {
        let start = token * shape.query_width() + block.kv_head * width;
        out[start..start + width].copy_from_slice(row);
    }
}

/// Softmax weights of a block, (rows, past + own); `own` reaches to the block's last token.
fn weights(
    queries: &[f32],
    past: Keys<'_>,
    own: Keys<'_>,
    first_own: usize,
    shape: HeadShape,
) -> Vec<f32> {
    let (rows, dim) = (queries.len() / shape.head_dim, shape.head_dim);
    let cols = past.len + own.len;
    let mut scores = vec![0.0; rows * cols];
    for (keys, start) in [(past, 0), (own, past.len)] {
        if keys.len > 0 {
            let dst =
                MatrixMut { data: &mut scores[start..], rows, cols: keys.len, row_stride: cols };
            let k = Matrix::new(keys.k, keys.len, dim, keys.stride);
            let q = Matrix::dense(queries, rows, dim);
            product(dst, false, shape.scale(), q, k.t(), Parallelism::None);
        }
    }
    for (row, scores) in scores.chunks_exact_mut(cols).enumerate() {
        let visible = past.len + first_own + row / shape.group() + 1;
        softmax(&mut scores[..visible]);
        scores[visible..].fill(0.0);
    }
    scores
}

fn softmax(x: &mut [f32]) {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for x in x.iter_mut() {
        *x = exp(*x - max);
        sum += *x;
    }
    let inverse = 1.0 / sum;
    for x in x {
        *x *= inverse;
    }
}

/// One block's output rows.
fn attend(
    queries: &[f32],
    past: Keys<'_>,
    own: Keys<'_>,
    first_own: usize,
    shape: HeadShape,
) -> Vec<f32> {
    let (rows, dim) = (queries.len() / shape.head_dim, shape.head_dim);
    let weights = weights(queries, past, own, first_own, shape);
    let cols = past.len + own.len;
    let mut out = vec![0.0; rows * dim];
    for (keys, start) in [(past, 0), (own, past.len)] {
        if keys.len > 0 {
            let w = Matrix::new(&weights[start..], rows, keys.len, cols);
            let v = Matrix::new(keys.v, keys.len, dim, keys.stride);
            product(MatrixMut::dense(&mut out, rows, dim), true, 1.0, w, v, Parallelism::None);
        }
    }
    out
}

/// Attention in which a span's past, if any, is another span of the batch. Differentiable.
///
/// q is (N, heads · head_dim), k and v are (N, kv_heads · head_dim); the result is like q.
///
/// # Errors
/// When a span's past lies in a cache, or a tensor is not contiguous f32 on the CPU.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    spans: &Arc<Vec<Span>>,
    shape: HeadShape,
) -> Result<Tensor> {
    if spans.iter().any(|span| matches!(span.past, Past::Slot { .. })) {
        candle_core::bail!("a span with its past in the cache needs the cache");
    }
    q.apply_op3(k, v, PackedAttention { spans: spans.clone(), shape })
}

struct PackedAttention {
    spans: Arc<Vec<Span>>,
    shape: HeadShape,
}

impl PackedAttention {
    fn keys<'a>(
        &self,
        k: &'a [f32],
        v: &'a [f32],
        tokens: Range<usize>,
        kv_head: usize,
    ) -> Keys<'a> {
        let stride = self.shape.kv_width();
        let start = tokens.start * stride + kv_head * self.shape.head_dim;
        match tokens.len() {
            0 => Keys { k: &[], v: &[], len: 0, stride },
            len => Keys { k: &k[start..], v: &v[start..], len, stride },
        }
    }

    fn past(&self, span: &Span) -> Range<usize> {
        match span.past {
            Past::Span(parent) => self.spans[parent].range.clone(),
            _ => 0..0,
        }
    }

    /// Gradients of one block. `dk` and `dv` are those of one kv head over all tokens, (N,
    /// head_dim), and are added to.
    #[allow(clippy::too_many_arguments)]
    fn block_backward(
        &self,
        block: &Block,
        q: &[f32],
        k: &[f32],
        v: &[f32],
        g: &[f32],
        dk: &mut [f32],
        dv: &mut [f32],
    ) -> Vec<f32> {
        let (shape, dim) = (self.shape, self.shape.head_dim);
        let span = &self.spans[block.span];
        let past_tokens = self.past(span);
        let own_tokens = span.range.start..block.tokens.end;
        let past = self.keys(k, v, past_tokens.clone(), block.kv_head);
        let own = self.keys(k, v, own_tokens.clone(), block.kv_head);
        let queries = gather(block, q, shape);
        let upstream = gather(block, g, shape);
        let (rows, cols) = (queries.len() / dim, past.len + own.len);
        let first_own = block.tokens.start - span.range.start;
        let weights = weights(&queries, past, own, first_own, shape);
        let pieces = [(past, 0, past_tokens.start), (own, past.len, own_tokens.start)];
        let upstream = Matrix::dense(&upstream, rows, dim);

        // dP = g Vᵀ, then dS = P ∘ (dP − Σ dP ∘ P), in place.
        let mut scores = vec![0.0; rows * cols];
        for (keys, start, token) in pieces {
            if keys.len > 0 {
                let v = Matrix::new(keys.v, keys.len, dim, keys.stride);
                let dst = MatrixMut {
                    data: &mut scores[start..],
                    rows,
                    cols: keys.len,
                    row_stride: cols,
                };
                product(dst, false, 1.0, upstream, v.t(), Parallelism::None);
                let w = Matrix::new(&weights[start..], rows, keys.len, cols);
                let dv = MatrixMut::dense(&mut dv[token * dim..], keys.len, dim);
                product(dv, true, 1.0, w.t(), upstream, Parallelism::None);
            }
        }
        for (d, w) in scores.chunks_exact_mut(cols).zip(weights.chunks_exact(cols)) {
            let dot: f32 = d.iter().zip(w).map(|(d, w)| d * w).sum();
            d.iter_mut().zip(w).for_each(|(d, w)| *d = w * (*d - dot));
        }
        let mut dq = vec![0.0; rows * dim];
        let q = Matrix::dense(&queries, rows, dim);
        for (keys, start, token) in pieces {
            if keys.len > 0 {
                let ds = Matrix::new(&scores[start..], rows, keys.len, cols);
                let k = Matrix::new(keys.k, keys.len, dim, keys.stride);
                let into = MatrixMut::dense(&mut dq, rows, dim);
                product(into, true, shape.scale(), ds, k, Parallelism::None);
                let dk = MatrixMut::dense(&mut dk[token * dim..], keys.len, dim);
                product(dk, true, shape.scale(), ds.t(), q, Parallelism::None);
            }
        }
        dq
    }

    /// All gradients, (dq, dk, dv).
    fn backward(
        &self,
        q: &[f32],
        k: &[f32],
        v: &[f32],
        g: &[f32],
    ) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
        let dim = self.shape.head_dim;
        let tokens = k.len() / self.shape.kv_width();
        // Spans that share a past add to the same key gradients, so one task takes a whole
        // sequence: a span without past and those that have it as theirs.
        let mut tasks: Vec<Vec<Block>> = Vec::new();
        for kv_head in 0..self.shape.kv_heads {
            let mut of_root = vec![Vec::new(); self.spans.len()];
            for (index, span) in self.spans.iter().enumerate() {
                let root = if let Past::Span(parent) = span.past { parent } else { index };
                of_root[root].push(index);
            }
            tasks.extend(of_root.into_iter().filter(|spans| !spans.is_empty()).map(|members| {
                let all = blocks(&self.spans, self.shape);
                all.into_iter()
                    .filter(|block| block.kv_head == kv_head && members.contains(&block.span))
                    .collect()
            }));
        }
        let parts: Vec<_> = tasks
            .par_iter()
            .map(|blocks| {
                let (mut dk, mut dv) = (vec![0.0; tokens * dim], vec![0.0; tokens * dim]);
                let dq: Vec<Vec<f32>> = blocks
                    .iter()
                    .map(|block| self.block_backward(block, q, k, v, g, &mut dk, &mut dv))
                    .collect();
                (dq, dk, dv)
            })
            .collect();
        let (mut dq, mut dk, mut dv) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
        for (blocks, (dq_rows, dk_head, dv_head)) in tasks.iter().zip(parts) {
            for (block, rows) in blocks.iter().zip(dq_rows) {
                scatter(block, &rows, &mut dq, self.shape);
            }
            let kv_head = blocks.first().map_or(0, |block| block.kv_head);
            for (whole, part) in [(&mut dk, dk_head), (&mut dv, dv_head)] {
                let rows = whole.chunks_exact_mut(self.shape.kv_width());
                for (row, part) in rows.zip(part.chunks_exact(dim)) {
                    let row = &mut row[kv_head * dim..(kv_head + 1) * dim];
                    row.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
                }
            }
        }
        (dq, dk, dv)
    }
}

impl CustomOp3 for PackedAttention {
    fn name(&self) -> &'static str {
        "packed-attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (q, k, v) = (floats(q, q_layout)?, floats(k, k_layout)?, floats(v, v_layout)?);
        let blocks = blocks(&self.spans, self.shape);
        let rows: Vec<Vec<f32>> = blocks
            .par_iter()
            .map(|block| {
                let span = &self.spans[block.span];
                let past = self.keys(k, v, self.past(span), block.kv_head);
                let own = self.keys(k, v, span.range.start..block.tokens.end, block.kv_head);
                let first_own = block.tokens.start - span.range.start;
                attend(&gather(block, q, self.shape), past, own, first_own, self.shape)
            })
            .collect();
        let mut out = vec![0.0; q.len()];
        for (block, rows) in blocks.iter().zip(&rows) {
            scatter(block, rows, &mut out, self.shape);
        }
        Ok((CpuStorage::F32(out), q_layout.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _out: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let g = g.contiguous()?;
        let (dq, dk, dv) = with_floats(q, |q| {
            with_floats(k, |k| {
                with_floats(v, |v| with_floats(&g, |g| Ok(self.backward(q, k, v, g))))
            })
        })?;
        Ok((
            Some(tensor(dq, q.dims2()?)?),
            Some(tensor(dk, k.dims2()?)?),
            Some(tensor(dv, v.dims2()?)?),
        ))
    }
}

/// Attention of spans whose past lies in `cache`: writes their keys and values behind it, then
/// attends. Not differentiable.
///
/// # Errors
/// When a span's past is another span, or a tensor is not contiguous f32 on the CPU.
pub fn cached_attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    spans: &[Span],
    shape: HeadShape,
    layer: usize,
    cache: &mut KvCache,
) -> Result<Tensor> {
    let width = shape.kv_width();
    for span in spans {
        let Past::Slot { slot, len } = span.past else {
            candle_core::bail!("with a cache, every span has a slot")
        };
        let values = span.range.start * width..span.range.end * width;
        with_floats(k, |k| {
            with_floats(v, |v| {
                cache.write(layer, slot, len, &k[values.clone()], &v[values.clone()]);
                Ok(())
            })
        })?;
    }
    let blocks = blocks(spans, shape);
    let out = with_floats(q, |q| {
        let rows: Vec<Vec<f32>> = blocks
            .par_iter()
            .map(|block| cached_block(block, q, spans, shape, layer, cache))
            .collect();
        let mut out = vec![0.0; q.len()];
        for (block, rows) in blocks.iter().zip(&rows) {
            scatter(block, rows, &mut out, shape);
        }
        Ok(out)
    })?;
    tensor(out, q.dims2()?)
}

fn cached_block(
    block: &Block,
    q: &[f32],
    spans: &[Span],
    shape: HeadShape,
    layer: usize,
    cache: &KvCache,
) -> Vec<f32> {
    let span = &spans[block.span];
    let Past::Slot { slot, len } = span.past else { unreachable!("checked by the caller") };
    let reach = len + block.tokens.end - span.range.start;
    let (k, v) = cache.head(layer, slot, block.kv_head, 0..reach);
    let queries = gather(block, q, shape);
    if block.tokens.len() == 1 {
        return attend_one(&queries, k, v, shape);
    }
    let own_start = len * shape.head_dim;
    let stride = shape.head_dim;
    let past = Keys { k, v, len, stride };
    let own = Keys { k: &k[own_start..], v: &v[own_start..], len: reach - len, stride };
    attend(&queries, past, own, block.tokens.start - span.range.start, shape)
}

/// One token's query heads against contiguous keys: too few rows for a matrix product.
fn attend_one(queries: &[f32], k: &[f32], v: &[f32], shape: HeadShape) -> Vec<f32> {
    let dim = shape.head_dim;
    let mut out = vec![0.0; queries.len()];
    for (q, out) in queries.chunks_exact(dim).zip(out.chunks_exact_mut(dim)) {
        let mut scores: Vec<f32> = k.chunks_exact(dim).map(|k| dot(q, k) * shape.scale()).collect();
        softmax(&mut scores);
        for (w, v) in scores.iter().zip(v.chunks_exact(dim)) {
            out.iter_mut().zip(v).for_each(|(out, v)| *out += w * v);
        }
    }
    out
}

/// Eight partial sums, so that the compiler keeps them in one vector register.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0_f32; 8];
    let (a_chunks, b_chunks) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail: f32 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for i in 0..8 {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().sum::<f32>() + tail
}
