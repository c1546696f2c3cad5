//! Causal grouped-query attention over packed spans, with its backward.
//!
//! Work is cut into blocks of a few query rows of one span and one kv head. A block's keys come in
//! at most two pieces: the span's past, seen whole, and the span itself, seen causally.

use std::ops::Range;

use candle_core::Result;
use candle_core::Tensor;
use rayon::prelude::*;

use super::Floats;
use super::matrix::Cores;
use super::matrix::Left;
use super::matrix::Matrix;
use super::matrix::MatrixMut;
use super::matrix::product;
use super::matrix::sum_of_products;
use super::tensor;
use super::zeros;
use crate::model::ops::HeadShape;
use crate::model::ops::exp;
use crate::model::packed::Past;
use crate::model::packed::Span;

/// Query tokens per block: the scores of a block stay in the second-level cache.
const BLOCK: usize = 64;
/// Blocks of one sequence whose key gradients are summed together before they are added up.
const BLOCKS_PER_TASK: usize = 4;

/// One piece of a block's keys and values: rows `stride` floats apart.
#[derive(Clone, Copy)]
struct Keys<'a> {
    k: &'a [f32],
    v: &'a [f32],
    len: usize,
    stride: usize,
}

impl<'a> Keys<'a> {
    fn k(self, dim: usize) -> Matrix<'a> {
        Matrix::new(self.k, self.len, dim, self.stride)
    }

    fn v(self, dim: usize) -> Matrix<'a> {
        Matrix::new(self.v, self.len, dim, self.stride)
    }
}

/// Some query tokens of one span, for one kv head.
#[derive(Clone)]
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
    queries: &Left<'_>,
    rows: usize,
    past: Keys<'_>,
    own: Keys<'_>,
    first_own: usize,
    shape: HeadShape,
) -> Vec<f32> {
    let cols = past.len + own.len;
    let mut scores = vec![0.0; rows * cols];
    for (keys, start) in [(past, 0), (own, past.len)] {
        if keys.len > 0 {
            let k = keys.k(shape.head_dim).t();
            let dst = columns(&mut scores, rows, start..start + keys.len, cols);
            sum_of_products(dst, false, shape.scale(), &[(queries, k)], Cores::One);
        }
    }
    for (row, scores) in scores.chunks_exact_mut(cols).enumerate() {
        let visible = past.len + first_own + row / shape.group() + 1;
        softmax(&mut scores[..visible]);
        scores[visible..].fill(0.0);
    }
    scores
}

/// Some columns of a matrix of `width` columns.
fn columns(data: &mut [f32], rows: usize, which: Range<usize>, width: usize) -> MatrixMut<'_> {
    MatrixMut::new(&mut data[which.start..], rows, which.len(), width)
}

/// In blocks of eight, so that the compiler keeps running maxima and sums in vector registers.
fn softmax(x: &mut [f32]) {
    let mut maxima = [f32::NEG_INFINITY; 8];
    let blocks = x.chunks_exact(8);
    let rest = blocks.remainder().iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for block in blocks {
        for (max, x) in maxima.iter_mut().zip(block) {
            *max = max.max(*x);
        }
    }
    let max = maxima.into_iter().fold(rest, f32::max);
    let mut sums = [0.0_f32; 8];
    let mut blocks = x.chunks_exact_mut(8);
    for block in &mut blocks {
        for (sum, x) in sums.iter_mut().zip(block) {
            *x = exp(*x - max);
            *sum += *x;
        }
    }
    let mut sum = 0.0;
    for x in blocks.into_remainder() {
        *x = exp(*x - max);
        sum += *x;
    }
    let inverse = 1.0 / (sum + sums.iter().sum::<f32>());
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
    let left = Left::new(Matrix::dense(queries, rows, dim), Cores::One);
    let weights = weights(&left, rows, past, own, first_own, shape);
    let cols = past.len + own.len;
    let mut out = vec![0.0; rows * dim];
    for (keys, start) in [(past, 0), (own, past.len)] {
        if keys.len > 0 {
            let w = Matrix::new(&weights[start..], rows, keys.len, cols);
            let dst = MatrixMut::dense(&mut out, rows, dim);
            product(dst, start > 0, 1.0, w, keys.v(dim), Cores::One);
        }
    }
    out
}

/// Keys and values of one head for some tokens of the batch.
fn keys<'a>(
    k: &'a [f32],
    v: &'a [f32],
    tokens: Range<usize>,
    kv_head: usize,
    shape: HeadShape,
) -> Keys<'a> {
    let stride = shape.kv_width();
    let start = tokens.start * stride + kv_head * shape.head_dim;
    match tokens.len() {
        0 => Keys { k: &[], v: &[], len: 0, stride },
        len => Keys { k: &k[start..], v: &v[start..], len, stride },
    }
}

/// The tokens of a span's past.
fn past_of(span: &Span, spans: &[Span]) -> Range<usize> {
    match span.past {
        Past::Span(parent) => spans[parent].range.clone(),
        Past::None => 0..0,
    }
}

pub(super) fn forward(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    spans: &[Span],
    shape: HeadShape,
) -> Result<Tensor> {
    let dims = q.dims2()?;
    let (q, k, v) = (Floats::of(q)?, Floats::of(k)?, Floats::of(v)?);
    let blocks = blocks(spans, shape);
    let rows: Vec<Vec<f32>> = blocks
        .par_iter()
        .map(|block| {
            let span = &spans[block.span];
            let past = keys(&k, &v, past_of(span, spans), block.kv_head, shape);
            let own = keys(&k, &v, span.range.start..block.tokens.end, block.kv_head, shape);
            let first_own = block.tokens.start - span.range.start;
            attend(&gather(block, &q, shape), past, own, first_own, shape)
        })
        .collect();
    let mut out = zeros(q.len());
    for (block, rows) in blocks.iter().zip(&rows) {
        scatter(block, rows, &mut out, shape);
    }
    tensor(out, dims)
}

/// What the backward of every block reads.
struct Backward<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    g: &'a [f32],
    spans: &'a [Span],
    shape: HeadShape,
}

/// Key and value gradients of one kv head, (tokens, head_dim) each, for a run of tokens.
struct KeyGradients {
    kv_head: usize,
    tokens: Range<usize>,
    dk: Vec<f32>,
    dv: Vec<f32>,
}

impl KeyGradients {
    /// Those of one piece of keys, to be added to.
    fn piece(&mut self, first: usize, len: usize, dim: usize) -> [MatrixMut<'_>; 2] {
        let start = (first - self.tokens.start) * dim;
        [&mut self.dk, &mut self.dv].map(|all| MatrixMut::dense(&mut all[start..], len, dim))
    }

    fn add_to(&self, dk: &mut [f32], dv: &mut [f32], shape: HeadShape) {
        let (dim, width) = (shape.head_dim, shape.kv_width());
        let own = self.kv_head * dim..(self.kv_head + 1) * dim;
        for (whole, part) in [(dk, &self.dk), (dv, &self.dv)] {
            let rows = whole[self.tokens.start * width..].chunks_exact_mut(width);
            for (row, part) in rows.zip(part.chunks_exact(dim)) {
                row[own.clone()].iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
            }
        }
    }
}

impl Backward<'_> {
    /// Gradients of one block: returns that of its queries, adds those of its keys and values.
    fn block(&self, block: &Block, sums: &mut KeyGradients) -> Vec<f32> {
        let (shape, dim) = (self.shape, self.shape.head_dim);
        let span = &self.spans[block.span];
        let past_tokens = past_of(span, self.spans);
        let own_tokens = span.range.start..block.tokens.end;
        let past = keys(self.k, self.v, past_tokens.clone(), block.kv_head, shape);
        let own = keys(self.k, self.v, own_tokens.clone(), block.kv_head, shape);
        let queries = gather(block, self.q, shape);
        let upstream = gather(block, self.g, shape);
        let (rows, cols) = (queries.len() / dim, past.len + own.len);
        let first_own = block.tokens.start - span.range.start;
        let q = Matrix::dense(&queries, rows, dim);
        let weights = weights(&Left::new(q, Cores::One), rows, past, own, first_own, shape);
        let pieces = [(past, 0, past_tokens.start), (own, past.len, own_tokens.start)];
        let pieces = pieces.into_iter().filter(|(keys, ..)| keys.len > 0);
        let upstream = Matrix::dense(&upstream, rows, dim);
        let left = Left::new(upstream, Cores::One);

        // dP = g Vᵀ, then dS = P ∘ (dP − Σ dP ∘ P), in place.
        let mut scores = vec![0.0; rows * cols];
        for (keys, start, token) in pieces.clone() {
            let dst = columns(&mut scores, rows, start..start + keys.len, cols);
            sum_of_products(dst, false, 1.0, &[(&left, keys.v(dim).t())], Cores::One);
            let w = Matrix::new(&weights[start..], rows, keys.len, cols);
            let [_, dv] = sums.piece(token, keys.len, dim);
            product(dv, true, 1.0, w.t(), upstream, Cores::One);
        }
        for (d, w) in scores.chunks_exact_mut(cols).zip(weights.chunks_exact(cols)) {
            let dot = dot(d, w);
            d.iter_mut().zip(w).for_each(|(d, w)| *d = w * (*d - dot));
        }
        let mut dq = vec![0.0; rows * dim];
        for (keys, start, token) in pieces {
            let ds = Matrix::new(&scores[start..], rows, keys.len, cols);
            let into = MatrixMut::dense(&mut dq, rows, dim);
            product(into, true, shape.scale(), ds, keys.k(dim), Cores::One);
            let [dk, _] = sums.piece(token, keys.len, dim);
            product(dk, true, shape.scale(), ds.t(), q, Cores::One);
        }
        dq
    }

    /// Gradients of some blocks of one sequence and one kv head.
    fn run(&self, blocks: &[Block]) -> (Vec<Vec<f32>>, KeyGradients) {
        let root = |block: &Block| match self.spans[block.span].past {
            Past::Span(parent) => self.spans[parent].range.start,
            Past::None => self.spans[block.span].range.start,
        };
        let start = blocks.iter().map(root).min().unwrap_or(0);
        let end = blocks.iter().map(|block| block.tokens.end).max().unwrap_or(0);
        let len = (end - start) * self.shape.head_dim;
        let kv_head = blocks.first().map_or(0, |block| block.kv_head);
        let mut sums =
            KeyGradients { kv_head, tokens: start..end, dk: vec![0.0; len], dv: vec![0.0; len] };
        let dq = blocks.iter().map(|block| self.block(block, &mut sums)).collect();
        (dq, sums)
    }
}

/// The blocks in runs that one task takes: of one kv head, neighbours in the batch, so that they
/// mostly add to the same key gradients.
fn runs(spans: &[Span], shape: HeadShape) -> Vec<Vec<Block>> {
    let all = blocks(spans, shape);
    let mut runs = Vec::new();
    for kv_head in 0..shape.kv_heads {
        let of_head: Vec<&Block> = all.iter().filter(|block| block.kv_head == kv_head).collect();
        runs.extend(
            of_head.chunks(BLOCKS_PER_TASK).map(|run| run.iter().map(|b| (*b).clone()).collect()),
        );
    }
    runs
}

pub(super) fn backward(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    spans: &[Span],
    shape: HeadShape,
    gradient: &Tensor,
) -> Result<[Tensor; 3]> {
    let (q_dims, k_dims) = (q.dims2()?, k.dims2()?);
    let (q, k, v, g) = (Floats::of(q)?, Floats::of(k)?, Floats::of(v)?, Floats::of(gradient)?);
    let backward = Backward { q: &q, k: &k, v: &v, g: &g, spans, shape };
    let runs = runs(spans, shape);
    let parts: Vec<_> = runs.par_iter().map(|blocks| backward.run(blocks)).collect();
    let (mut dq, mut dk, mut dv) = (zeros(q.len()), zeros(k.len()), zeros(v.len()));
    // In a fixed order: sums of floats depend on it.
    for (blocks, (rows, sums)) in runs.iter().zip(&parts) {
        for (block, rows) in blocks.iter().zip(rows) {
            scatter(block, rows, &mut dq, shape);
        }
        sums.add_to(&mut dk, &mut dv, shape);
    }
    Ok([tensor(dq, q_dims)?, tensor(dk, k_dims)?, tensor(dv, k_dims)?])
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
