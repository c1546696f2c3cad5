//! Generation's forward pass: one step over spans of many sequences whose keys and values lie in
//! pages (Kwon et al. 2023, PagedAttention).
//!
//! A runner owns the memory of the pages and computes; which page belongs to whom is decided by
//! the engine. [`crate::model::decoder::Decoder`] is the reference: tests hold every runner to its
//! logits.

pub mod cpu;
pub mod portable;

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use candle_core::Result;

pub use self::portable::PortableRunner;
use super::lora::Adapter;

/// Positions of a page.
pub const PAGE: usize = 32;

/// An adapter that a runner holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AdapterSlot(pub u32);

/// Which positions' logits a step computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// None: a part of a prompt that is not its end.
    Nothing,
    /// The last token's: to draw the next one.
    Last,
    /// Every token's: to score what follows each.
    All,
}

/// Consecutive tokens of one sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunSpan {
    /// Where its tokens lie in the batch; not empty.
    pub range: Range<usize>,
    /// Positions of the sequence before them, whose keys and values are in the pages.
    pub past: usize,
    /// The sequence's pages, from its first position on; they have room for `past` and the span.
    pub pages: Vec<u32>,
    /// The adapter it is read with; the base model without one.
    pub adapter: Option<AdapterSlot>,
    /// Which logits are wanted.
    pub wanted: Wanted,
}

/// What one step computes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunBatch {
    /// Token ids of all spans, end to end.
    pub tokens: Vec<u32>,
    /// The spans, in order; they cover the tokens exactly. No page that one of them writes to is
    /// in another's list.
    pub spans: Vec<RunSpan>,
}

impl RunBatch {
    /// Appends a span.
    pub fn push(
        &mut self,
        tokens: &[u32],
        past: usize,
        pages: &[u32],
        adapter: Option<AdapterSlot>,
        wanted: Wanted,
    ) {
        let start = self.tokens.len();
        self.tokens.extend_from_slice(tokens);
        let range = start..self.tokens.len();
        self.spans.push(RunSpan { range, past, pages: pages.to_vec(), adapter, wanted });
    }

    /// Tokens whose logits are wanted, by their place in the batch, in order.
    pub fn wanted(&self) -> Vec<usize> {
        let of_span = |span: &RunSpan| match span.wanted {
            Wanted::Nothing => 0..0,
            Wanted::Last => span.range.end - 1..span.range.end,
            Wanted::All => span.range.clone(),
        };
        self.spans.iter().flat_map(of_span).collect()
    }
}

/// What a runner runs on, for people and for measurements.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Description {
    /// What it runs on and how it keeps things, by what is told.
    pub facts: BTreeMap<&'static str, String>,
    /// Bytes of weights that a step reads.
    pub weight_bytes: usize,
}

/// Computes steps.
///
/// # Errors
/// All fail with candle's errors, and when a token, position, page or adapter does not exist: a
/// caller's bug that costs the step, not the process.
pub trait Runner: Send {
    /// How many pages there are.
    fn pages(&self) -> usize;

    /// Reads the batch's tokens, leaves their keys and values in the pages, and returns the logits
    /// (n, vocabulary), row-major, of the n tokens of [`RunBatch::wanted`]. The values may be
    /// overwritten; the next step does.
    fn run(&mut self, batch: &RunBatch) -> Result<&mut [f32]>;

    /// Copies the first `positions` positions of a page to another.
    fn copy_page(&mut self, from: u32, to: u32, positions: usize) -> Result<()>;

    /// Takes a copy of an adapter, for spans to name.
    fn add_adapter(&mut self, adapter: &Adapter) -> Result<AdapterSlot>;

    /// Forgets an adapter.
    fn remove_adapter(&mut self, slot: AdapterSlot);

    /// What it runs on.
    fn describe(&self) -> Description {
        Description::default()
    }

    /// Time by kind of operation since the last call: `linear`, `attention`, `head`, `other`.
    fn take_times(&mut self) -> BTreeMap<&'static str, Duration>;
}
