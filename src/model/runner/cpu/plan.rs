//! The order in which a step computes its tokens.

use std::collections::BTreeMap;

use super::adapters::LoraWeights;
use super::attention;
use super::linear::Block;
use super::linear::blocks;
use super::weights::PANEL;
use crate::model::runner::AdapterSlot;
use crate::model::runner::RunBatch;

/// A token of the step.
pub(super) struct Row {
    pub(super) token: u32,
    pub(super) position: usize,
    pub(super) span: usize,
    /// Its block, and its place there.
    pub(super) block: usize,
    pub(super) within: usize,
}

/// Some tokens of one span that attend together.
pub(super) struct Attending {
    pub(super) span: usize,
    pub(super) first_row: usize,
    pub(super) position: usize,
    pub(super) tokens: usize,
}

/// What the step computes, in the order in which it does: rows of one adapter are neighbours.
pub(super) struct Plan<'a> {
    pub(super) batch: &'a RunBatch,
    pub(super) rows: Vec<Row>,
    pub(super) blocks: Vec<Block>,
    pub(super) adapters: Vec<&'a LoraWeights>,
    pub(super) attending: Vec<Attending>,
    /// Rows whose logits are wanted, in the batch's order.
    pub(super) wanted: Vec<usize>,
    pub(super) wanted_blocks: Vec<Block>,
}

impl<'a> Plan<'a> {
    pub(super) fn new(
        batch: &'a RunBatch,
        weights: &'a BTreeMap<AdapterSlot, LoraWeights>,
    ) -> Self {
        let mut order: Vec<usize> = (0..batch.spans.len()).collect();
        order.sort_by_key(|span| batch.spans[*span].adapter);
        let (mut rows, mut all_blocks, mut adapters) = (Vec::new(), Vec::new(), Vec::new());
        let mut attending = Vec::new();
        let mut row_of_token = vec![0; batch.tokens.len()];
        for group in order.chunk_by(|a, b| batch.spans[*a].adapter == batch.spans[*b].adapter) {
            let start = rows.len();
            let first_block = all_blocks.len();
            for &span in group {
                let of_span = &batch.spans[span];
                attending.extend(attending_of(span, rows.len(), of_span.past, of_span.range.len()));
                for (offset, token) in of_span.range.clone().enumerate() {
                    let position = of_span.past + offset;
                    let at = rows.len() - start;
                    let (block, within) = (first_block + at / PANEL, at % PANEL);
                    row_of_token[token] = rows.len();
                    rows.push(Row { token: batch.tokens[token], position, span, block, within });
                }
            }
            let loaded = batch.spans[group[0]].adapter.and_then(|slot| weights.get(&slot));
            let adapter = loaded.map(|weights| {
                adapters.push(weights);
                adapters.len() - 1
            });
            all_blocks.extend(blocks(start..rows.len(), adapter));
        }
        let wanted: Vec<usize> =
            batch.wanted().into_iter().map(|token| row_of_token[token]).collect();
        let wanted_blocks = blocks(0..wanted.len(), None).collect();
        // Long ones first: what is short then fills the gaps.
        attending
            .sort_by_key(|work| std::cmp::Reverse((work.position + work.tokens) * work.tokens));
        Self { batch, rows, blocks: all_blocks, adapters, attending, wanted, wanted_blocks }
    }
}

fn attending_of(
    span: usize,
    first_row: usize,
    past: usize,
    tokens: usize,
) -> impl Iterator<Item = Attending> {
    (0..tokens).step_by(attention::TOKENS).map(move |start| Attending {
        span,
        first_row: first_row + start,
        position: past + start,
        tokens: attention::TOKENS.min(tokens - start),
    })
}
