//! Grouped-query attention over pages (Vaswani et al. 2017, eq. 1; Ainslie et al. 2023), with the
//! softmax taken page by page (Milakov & Gimelshein 2018; FlashAttention, Dao et al. 2022).
//!
//! A query goes through its pages in order, whoever is computed beside it and however its sequence
//! was cut into steps, so its result depends on nothing else.

use super::kernels::Element;
use super::kernels::Page;
use super::kernels::State;
use super::kernels::visit;
use super::lanes::VectorSet;
use super::pages::SharedPages;
use crate::model::ops::HeadShape;
use crate::model::runner::PAGE;

/// Query tokens that go through the pages together, which then stay in the first-level cache.
pub(super) const TOKENS: usize = 16;

/// What one call attends: some tokens of a span, with the query heads that share a kv head.
pub(super) struct Work<'a> {
    pub(super) pages: &'a [u32],
    pub(super) layer: usize,
    pub(super) kv_head: usize,
    /// Position of the first token in its sequence.
    pub(super) position: usize,
    pub(super) tokens: usize,
}

/// Attends. `query(token, head of the group)` are scaled queries (head_dim), already rotated;
/// `each(token, head of the group, output)` gets the results (head_dim).
///
/// # Safety
/// The set is this processor's; keys and values up to the last token are written, and nobody
/// writes to them.
pub(super) unsafe fn attend<'q, E: Element>(
    set: VectorSet,
    work: &Work<'_>,
    shape: HeadShape,
    pages: &SharedPages<'_, E>,
    state: &mut State,
    query: impl Fn(usize, usize) -> &'q [f32],
    mut each: impl FnMut(usize, usize, &[f32]),
) {
    let (group, width) = (shape.heads / shape.kv_heads, pages.layout.width);
    let rows = work.tokens * group;
    state.clear(rows, width);
    let queries: Vec<*const f32> =
        (0..rows).map(|row| query(row / group, row % group).as_ptr()).collect();
    let last = work.position + work.tokens - 1;
    for (index, page) in work.pages[..=last / PAGE].iter().enumerate() {
        // SAFETY: the caller's.
        let (keys, values) = unsafe { pages.read(*page, work.layer, work.kv_head) };
        // SAFETY: only fetched, not read.
        let next = work.pages[index + 1..=last / PAGE]
            .first()
            .map(|next| unsafe { pages.read(*next, work.layer, work.kv_head) });
        let first = index * PAGE;
        let view = Page { keys, values, head_dim: shape.head_dim, width, next };
        // Positions of the page that a row sees.
        let visible = |row: usize| (work.position + row / group + 1).saturating_sub(first);
        let start = (0..rows).find(|row| visible(*row) > 0).unwrap_or(rows);
        // SAFETY: the caller's; queries are as wide as heads.
        unsafe { visit(set, &view, &queries, start, &visible, state) };
    }
    for row in 0..rows {
        let output = &mut state.outputs[row * width..row * width + shape.head_dim];
        let inverse = 1.0 / state.sums[row];
        output.iter_mut().for_each(|x| *x *= inverse);
        each(row / group, row % group, output);
    }
}
