//! What a step needs in every layer alike, worked out once: positions, places in the pages, rows
//! by adapter, and attention.

use std::collections::BTreeMap;
use std::ops::Range;

use candle_core::Result;
use candle_core::Tensor;

use super::attention::Part;
use super::attention::parts;
use crate::model::decoder::Decoder;
use crate::model::ops::HeadShape;
use crate::model::runner::AdapterSlot;
use crate::model::runner::PAGE;
use crate::model::runner::RunBatch;
use crate::model::runner::RunSpan;

/// A step, prepared.
pub(super) struct Plan {
    /// Position of each token in its sequence (N).
    pub(super) positions: Vec<u32>,
    shape: HeadShape,
    /// Rows of single tokens, and where in the store they go: (n), (n, kv_heads · head_dim).
    scattered: Option<(Tensor, Tensor)>,
    /// Runs of tokens, and where in the store the first goes.
    runs: Vec<(Range<usize>, usize)>,
    /// The adapter of all rows, where they have the same.
    whole: Option<AdapterSlot>,
    /// Rows of each adapter, where they have not.
    rows: Vec<(AdapterSlot, Tensor)>,
    parts: Vec<Part>,
    /// The place of each token among the parts' results, where the order differs.
    order: Option<Tensor>,
}

impl Plan {
    /// Checks and prepares a batch.
    pub(super) fn new(batch: &RunBatch, decoder: &Decoder, pages: usize) -> Result<Self> {
        let config = decoder.config();
        check(batch, pages, config.vocabulary, config.max_positions)?;
        let (device, shape) = (decoder.device(), decoder.head_shape());
        let width = config.kv_heads * config.head_dim;
        let mut positions = Vec::with_capacity(batch.tokens.len());
        let (mut single, mut places, mut runs) = (Vec::new(), Vec::new(), Vec::new());
        for span in &batch.spans {
            positions.extend((span.past..span.past + span.range.len()).map(|p| p as u32));
            if span.range.len() == 1 {
                single.push(span.range.start as u32);
                places.extend(std::iter::repeat_n(place(span, span.past), width));
            } else {
                runs.extend(page_runs(span));
            }
        }
        let scattered = match single.is_empty() {
            true => None,
            false => {
                let places = Tensor::from_vec(places, (single.len(), width), device)?;
                Some((Tensor::new(single, device)?, places))
            }
        };
        let mut by_adapter: BTreeMap<Option<AdapterSlot>, Vec<u32>> = BTreeMap::new();
        for span in &batch.spans {
            let rows = by_adapter.entry(span.adapter).or_default();
            rows.extend(span.range.clone().map(|row| row as u32));
        }
        let mut whole = None;
        let mut rows = Vec::new();
        match by_adapter.len() {
            1 => whole = by_adapter.into_keys().next().flatten(),
            _ => {
                for (slot, of_adapter) in by_adapter {
                    if let Some(slot) = slot {
                        rows.push((slot, Tensor::new(of_adapter, device)?));
                    }
                }
            }
        }
        let parts = parts(batch, shape, device)?;
        let order = order(&parts, batch.tokens.len());
        let order = order.map(|order| Tensor::new(order, device)).transpose()?;
        Ok(Self { positions, shape, scattered, runs, whole, rows, parts, order })
    }

    /// The adapter of all rows, where they have the same.
    pub(super) fn adapter_of_all(&self) -> Option<AdapterSlot> {
        self.whole
    }

    /// Rows by adapter, where they do not all have the same.
    pub(super) fn adapter_rows(&self) -> impl Iterator<Item = &(AdapterSlot, Tensor)> {
        self.rows.iter()
    }

    /// Puts rows (N, kv_heads · head_dim) in their places in a store.
    pub(super) fn write(&self, store: &Tensor, rows: &Tensor) -> Result<()> {
        let rows = rows.to_dtype(store.dtype())?;
        if let Some((single, places)) = &self.scattered {
            store.scatter_set(places, &rows.index_select(single, 0)?, 0)?;
        }
        for (tokens, place) in &self.runs {
            // A view of freshly computed rows: never the store's own memory.
            store.slice_set(&rows.narrow(0, tokens.start, tokens.len())?, 0, *place)?;
        }
        Ok(())
    }

    /// Attention of queries (N, heads · head_dim) over the stores; the result is like the queries.
    pub(super) fn attend(&self, q: &Tensor, keys: &Tensor, values: &Tensor) -> Result<Tensor> {
        let results = self.parts.iter().map(|part| part.attend(q, keys, values, self.shape));
        let results = Tensor::cat(&results.collect::<Result<Vec<_>>>()?, 0)?;
        match &self.order {
            Some(order) => results.index_select(order, 0),
            None => Ok(results),
        }
    }
}

/// Where a position of a sequence lies in the stores.
pub(super) fn place(span: &RunSpan, position: usize) -> u32 {
    span.pages[position / PAGE] * PAGE as u32 + (position % PAGE) as u32
}

/// A span's tokens cut where its pages do not follow each other, with the place of each part.
fn page_runs(span: &RunSpan) -> Vec<(Range<usize>, usize)> {
    let mut runs: Vec<(Range<usize>, usize)> = Vec::new();
    for (offset, token) in span.range.clone().enumerate() {
        let place = place(span, span.past + offset) as usize;
        match runs.last_mut() {
            Some((tokens, start)) if *start + tokens.len() == place => tokens.end = token + 1,
            _ => runs.push((token..token + 1, place)),
        }
    }
    runs
}

/// Where each token's result lies among the parts', unless they are in order.
fn order(parts: &[Part], tokens: usize) -> Option<Vec<u32>> {
    let found = parts.iter().flat_map(Part::tokens);
    let mut places = vec![0; tokens];
    let mut sorted = true;
    for (place, token) in found.enumerate() {
        sorted &= place == token;
        places[token] = place as u32;
    }
    (!sorted).then_some(places)
}

/// Fails on a token, position or page that does not exist, and on spans that are not the batch.
fn check(batch: &RunBatch, pages: usize, vocabulary: usize, positions: usize) -> Result<()> {
    if batch.tokens.is_empty() {
        candle_core::bail!("a step without a token")
    }
    if let Some(token) = batch.tokens.iter().find(|token| **token as usize >= vocabulary) {
        candle_core::bail!("token {token} is outside the vocabulary of {vocabulary}")
    }
    let mut end = 0;
    for span in &batch.spans {
        if span.range.start != end || span.range.is_empty() {
            candle_core::bail!("a span of tokens {:?} behind token {end}", span.range)
        }
        end = span.range.end;
        let reach = span.past + span.range.len();
        if reach > positions {
            candle_core::bail!("position {} is past the model's {positions}", reach - 1)
        }
        if reach > span.pages.len() * PAGE {
            candle_core::bail!("{reach} positions do not fit {} pages", span.pages.len())
        }
        if let Some(page) = span.pages.iter().find(|page| **page as usize >= pages) {
            candle_core::bail!("page {page} of {pages}")
        }
    }
    match end == batch.tokens.len() {
        true => Ok(()),
        false => candle_core::bail!("spans of {end} tokens, {} were given", batch.tokens.len()),
    }
}
