//! Causal grouped-query attention over pages, composed of candle operations.
//!
//! Single tokens of many sequences are padded to the longest of a group of like length and
//! computed together; longer spans one by one, in blocks that bound the memory of the scores.

use std::ops::Range;

use candle_core::D;
use candle_core::DType;
use candle_core::Device;
use candle_core::Result;
use candle_core::Tensor;

use super::plan::place;
use crate::model::ops::HeadShape;
use crate::model::runner::RunBatch;
use crate::model::runner::RunSpan;

/// Scores of one block, and keys gathered for one group, at most, in values.
const VALUES: usize = 1 << 25;
/// Sequences up to this much longer than twice the shortest are padded to the same length.
const SLACK: usize = 64;

/// Tokens whose attention is computed together.
pub(super) enum Part {
    /// One token each of several sequences.
    Single {
        /// Their places in the batch (n).
        tokens: Vec<usize>,
        /// The same on the device.
        rows: Tensor,
        /// Places of all positions that they see, padded (n · longest).
        read: Tensor,
        /// 0 where there is a position, −∞ where there is padding (n, 1, longest).
        mask: Option<Tensor>,
    },
    /// A run of tokens of one sequence.
    Run {
        /// Its place in the batch.
        tokens: Range<usize>,
        /// Places of all positions that the last token sees.
        read: Tensor,
        /// 0 where a token sees a position, −∞ elsewhere (1, tokens, positions).
        mask: Tensor,
    },
}

/// Cuts a batch into parts.
pub(super) fn parts(batch: &RunBatch, shape: HeadShape, device: &Device) -> Result<Vec<Part>> {
    let (mut single, longer): (Vec<&RunSpan>, Vec<&RunSpan>) =
        batch.spans.iter().partition(|span| span.range.len() == 1);
    single.sort_by_key(|span| span.past);
    let mut parts = Vec::new();
    let mut group: Vec<&RunSpan> = Vec::new();
    for span in single {
        let longest = span.past + 1;
        let shortest = group.first().map_or(longest, |first| first.past + 1);
        let values = (group.len() + 1) * longest * shape.heads * shape.head_dim;
        if !group.is_empty() && (longest > 2 * shortest + SLACK || values > VALUES) {
            parts.push(single_part(&std::mem::take(&mut group), device)?);
        }
        group.push(span);
    }
    if !group.is_empty() {
        parts.push(single_part(&group, device)?);
    }
    for span in longer {
        let block = VALUES / (shape.heads * (span.past + span.range.len()));
        let mut start = span.range.start;
        while start < span.range.end {
            let end = (start + block.max(1)).min(span.range.end);
            parts.push(run_part(span, start..end, device)?);
            start = end;
        }
    }
    Ok(parts)
}

/// Spans of one token each, by length.
fn single_part(spans: &[&RunSpan], device: &Device) -> Result<Part> {
    let longest = spans.iter().map(|span| span.past + 1).max().unwrap_or(1);
    let tokens: Vec<usize> = spans.iter().map(|span| span.range.start).collect();
    let rows: Vec<u32> = tokens.iter().map(|token| *token as u32).collect();
    let mut read = Vec::with_capacity(spans.len() * longest);
    let mut mask = Vec::with_capacity(spans.len() * longest);
    for span in spans {
        // Padding repeats the sequence's own last position: no other's values, however wrong,
        // reach this one.
        read.extend((0..longest).map(|position| place(span, position.min(span.past))));
        let seen = |position| if position <= span.past { 0.0 } else { f32::NEG_INFINITY };
        mask.extend((0..longest).map(seen));
    }
    let padded = spans.iter().any(|span| span.past + 1 < longest);
    let mask = padded.then(|| Tensor::from_vec(mask, (spans.len(), 1, longest), device));
    Ok(Part::Single {
        tokens,
        rows: Tensor::new(rows, device)?,
        read: Tensor::new(read, device)?,
        mask: mask.transpose()?,
    })
}

/// Some tokens of a span.
fn run_part(span: &RunSpan, tokens: Range<usize>, device: &Device) -> Result<Part> {
    let first = span.past + tokens.start - span.range.start;
    let reach = first + tokens.len();
    let read: Vec<u32> = (0..reach).map(|position| place(span, position)).collect();
    let mut mask = vec![0.0_f32; tokens.len() * reach];
    for (index, row) in mask.chunks_exact_mut(reach).enumerate() {
        row[first + index + 1..].fill(f32::NEG_INFINITY);
    }
    let mask = Tensor::from_vec(mask, (1, tokens.len(), reach), device)?;
    Ok(Part::Run { tokens, read: Tensor::new(read, device)?, mask })
}

impl Part {
    /// The tokens' places in the batch, in the order of the results.
    pub(super) fn tokens(&self) -> Box<dyn Iterator<Item = usize> + '_> {
        match self {
            Self::Single { tokens, .. } => Box::new(tokens.iter().copied()),
            Self::Run { tokens, .. } => Box::new(tokens.clone()),
        }
    }

    /// Attention of this part's tokens, (n, heads · head_dim).
    pub(super) fn attend(
        &self,
        q: &Tensor,
        keys: &Tensor,
        values: &Tensor,
        shape: HeadShape,
    ) -> Result<Tensor> {
        let HeadShape { kv_heads, head_dim, .. } = shape;
        let group = shape.group();
        let n = self.tokens().count();
        // Sequences, queries of each that share a key head, and tokens of each.
        let (sequences, tokens) = match self {
            Self::Single { .. } => (n, 1),
            Self::Run { .. } => (1, n),
        };
        let (q, read, mask) = match self {
            Self::Single { rows, read, mask, .. } => {
                (q.index_select(rows, 0)?, read, mask.as_ref())
            }
            Self::Run { tokens, read, mask } => {
                (q.narrow(0, tokens.start, tokens.len())?, read, Some(mask))
            }
        };
        let reach = read.dim(0)? / sequences;
        let q = q.reshape((sequences, tokens, kv_heads, group, head_dim))?;
        let q = q.permute((0, 2, 3, 1, 4))?.contiguous()?;
        let q = q.reshape((sequences * kv_heads, group * tokens, head_dim))?;
        let gathered = |store: &Tensor| {
            let rows = store.index_select(read, 0)?.to_dtype(DType::F32)?;
            let rows = rows.reshape((sequences, reach, kv_heads, head_dim))?;
            let rows = rows.transpose(1, 2)?.contiguous()?;
            rows.reshape((sequences * kv_heads, reach, head_dim))
        };
        let (k, v) = (gathered(keys)?, gathered(values)?);
        let scores = (q.matmul(&k.t()?)? * f64::from(shape.scale()))?;
        let scores = match mask {
            None => scores,
            Some(mask) => {
                let split = scores.reshape((sequences, kv_heads * group, tokens, reach))?;
                // (sequences, 1, tokens, positions) in both kinds of part.
                let mask = mask.reshape((sequences, 1, tokens, reach))?;
                let masked = split.broadcast_add(&mask)?;
                masked.reshape((sequences * kv_heads, group * tokens, reach))?
            }
        };
        let weights = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
        let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?;
        let out = weights.matmul(&v)?;
        let out = out.reshape((sequences, kv_heads, group, tokens, head_dim))?;
        let out = out.permute((0, 3, 1, 2, 4))?.contiguous()?;
        out.reshape((n, shape.query_width()))
    }
}
