//! Grouped-query attention over pages (Vaswani et al. 2017, eq. 1; Ainslie et al. 2023), with the
//! softmax taken page by page (Milakov & Gimelshein 2018; FlashAttention, Dao et al. 2022).
//!
//! A query goes through its pages in order, whoever is computed beside it and however its sequence
//! was cut into steps, so its result depends on nothing else.

use super::lanes::Lanes;
use super::lanes::VectorSet;
use super::lanes::dispatch;
use super::pages::SharedPages;
use crate::model::ops::HeadShape;
use crate::model::ops::exp;
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

/// A thread's own memory: state of the query rows.
#[derive(Default)]
pub(super) struct State {
    /// Largest score so far.
    maxima: Vec<f32>,
    /// Sum of exponentials so far.
    sums: Vec<f32>,
    /// Weighted sum of values so far, (row, width).
    outputs: Vec<f32>,
}

impl State {
    fn clear(&mut self, rows: usize, width: usize) {
        self.maxima.clear();
        self.maxima.resize(rows, f32::NEG_INFINITY);
        self.sums.clear();
        self.sums.resize(rows, 0.0);
        self.outputs.clear();
        self.outputs.resize(rows * width, 0.0);
    }
}

/// Attends. `query(token, head of the group)` are scaled queries (head_dim), already rotated;
/// `each(token, head of the group, output)` gets the results (head_dim).
///
/// # Safety
/// The set is this processor's; keys and values up to the last token are written, and nobody
/// writes to them.
pub(super) unsafe fn attend<'q>(
    set: VectorSet,
    work: &Work<'_>,
    shape: HeadShape,
    pages: &SharedPages<'_>,
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
        let first = index * PAGE;
        let view = Page { keys, values, head_dim: shape.head_dim, width };
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

/// Keys and values of one page.
struct Page<'a> {
    /// (dimension, position)
    keys: &'a [u16],
    /// (position, width)
    values: &'a [u16],
    head_dim: usize,
    width: usize,
}

dispatch! {
    /// Takes rows from `start` on through a page.
    ///
    /// # Safety
    /// The set is this processor's; queries point to `head_dim` values.
    unsafe fn visit = visit_page(
        page: &Page<'_>,
        queries: &[*const f32],
        start: usize,
        visible: &dyn Fn(usize) -> usize,
        state: &mut State,
    )
}

#[inline(always)]
unsafe fn visit_page<V: Lanes>(
    page: &Page<'_>,
    queries: &[*const f32],
    start: usize,
    visible: &dyn Fn(usize) -> usize,
    state: &mut State,
) {
    let mut row = start;
    while row < queries.len() {
        // SAFETY: the caller's.
        unsafe {
            row += match queries.len() - row {
                1 => visit_rows::<V, 1>(page, queries, row, visible, state),
                2 => visit_rows::<V, 2>(page, queries, row, visible, state),
                3 => visit_rows::<V, 3>(page, queries, row, visible, state),
                _ => visit_rows::<V, 4>(page, queries, row, visible, state),
            };
        }
    }
}

#[inline(always)]
unsafe fn visit_rows<V: Lanes, const R: usize>(
    page: &Page<'_>,
    queries: &[*const f32],
    row: usize,
    visible: &dyn Fn(usize) -> usize,
    state: &mut State,
) -> usize {
    let queries: &[*const f32; R] = queries[row..row + R].try_into().expect("R rows");
    let mut weights = [[0.0_f32; PAGE]; R];
    // SAFETY: the caller's.
    unsafe { scores::<V, R>(page, queries, &mut weights) };
    let mut factors = [0.0; R];
    for (r, weights) in weights.iter_mut().enumerate() {
        let at = row + r;
        let visible = visible(at).min(PAGE);
        factors[r] = soften(weights, visible, &mut state.maxima[at], &mut state.sums[at]);
    }
    let outputs = &mut state.outputs[row * page.width..(row + R) * page.width];
    // SAFETY: as many outputs as rows; the caller's set.
    unsafe { add_values::<V, R>(page, &weights, &factors, outputs) };
    R
}

/// Scores of R queries: as many positions at a time as two vectors hold.
#[inline(always)]
unsafe fn scores<V: Lanes, const R: usize>(
    page: &Page<'_>,
    queries: &[*const f32; R],
    scores: &mut [[f32; PAGE]; R],
) {
    for column in (0..PAGE).step_by(2 * V::N) {
        // SAFETY: a page has 32 positions of each dimension.
        unsafe {
            let mut acc = [[V::splat(0.0); 2]; R];
            for dimension in 0..page.head_dim {
                let keys = page.keys.as_ptr().add(dimension * PAGE + column);
                let keys = [V::load_half(keys), V::load_half(keys.add(V::N))];
                for (acc, query) in acc.iter_mut().zip(queries) {
                    let q = V::splat(*query.add(dimension));
                    acc[0] = acc[0].fma(q, keys[0]);
                    acc[1] = acc[1].fma(q, keys[1]);
                }
            }
            for (acc, scores) in acc.iter().zip(scores.iter_mut()) {
                acc[0].store(scores.as_mut_ptr().add(column));
                acc[1].store(scores.as_mut_ptr().add(column + V::N));
            }
        }
    }
}

/// Turns scores into exponentials relative to the largest score so far; returns what earlier
/// exponentials have to be multiplied by.
#[inline(always)]
fn soften(scores: &mut [f32; PAGE], visible: usize, max: &mut f32, sum: &mut f32) -> f32 {
    if visible == 0 {
        scores.fill(0.0);
        return 1.0;
    }
    scores[visible..].fill(f32::NEG_INFINITY);
    let mut maxima = [*max; 8];
    for scores in scores.chunks_exact(8) {
        for (max, score) in maxima.iter_mut().zip(scores) {
            *max = if *score > *max { *score } else { *max };
        }
    }
    let new = maxima.into_iter().fold(f32::NEG_INFINITY, f32::max);
    let mut sums = [0.0_f32; 8];
    for scores in scores.chunks_exact_mut(8) {
        for (sum, score) in sums.iter_mut().zip(scores) {
            *score = exp(*score - new);
            *sum += *score;
        }
    }
    let factor = if *max == f32::NEG_INFINITY { 0.0 } else { exp(*max - new) };
    // The exponential of what is not seen is 1e-38, too small to have counted.
    scores[visible..].fill(0.0);
    *sum = *sum * factor + sums.iter().sum::<f32>();
    *max = new;
    factor
}

/// outputs ← factor · outputs + weights · values
#[inline(always)]
unsafe fn add_values<V: Lanes, const R: usize>(
    page: &Page<'_>,
    weights: &[[f32; PAGE]; R],
    factors: &[f32; R],
    outputs: &mut [f32],
) {
    let width = page.width;
    let mut column = 0;
    while column < width {
        // SAFETY: widths are multiples of the widest vector; the caller's set.
        unsafe {
            column += match width - column >= 2 * V::N {
                true => add_columns::<V, R, 2>(page, weights, factors, outputs, column),
                false => add_columns::<V, R, 1>(page, weights, factors, outputs, column),
            };
        }
    }
}

#[inline(always)]
unsafe fn add_columns<V: Lanes, const R: usize, const C: usize>(
    page: &Page<'_>,
    weights: &[[f32; PAGE]; R],
    factors: &[f32; R],
    outputs: &mut [f32],
    column: usize,
) -> usize {
    // SAFETY: C vectors from `column` on lie within a row; the caller's set.
    unsafe {
        let outputs = outputs.as_mut_ptr().add(column);
        let mut acc: [[V; C]; R] = std::array::from_fn(|r| {
            let factor = V::splat(factors[r]);
            std::array::from_fn(|c| V::load(outputs.add(r * page.width + c * V::N)).mul(factor))
        });
        for position in 0..PAGE {
            let values = page.values.as_ptr().add(position * page.width + column);
            let values: [V; C] = std::array::from_fn(|c| V::load_half(values.add(c * V::N)));
            for (acc, weights) in acc.iter_mut().zip(weights) {
                let weight = V::splat(weights[position]);
                for (acc, value) in acc.iter_mut().zip(values) {
                    *acc = acc.fma(weight, value);
                }
            }
        }
        for (r, acc) in acc.iter().enumerate() {
            for (c, acc) in acc.iter().enumerate() {
                acc.store(outputs.add(r * page.width + c * V::N));
            }
        }
    }
    C * V::N
}
