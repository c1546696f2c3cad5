//! What attention does with one page, and how pages are written, for each type of their numbers.

use half::f16;

use super::lanes::Lanes;
use super::lanes::dispatch;
use super::pages::LANES;
use crate::model::ops::exp;
use crate::model::runner::PAGE;

/// A thread's own memory: state of the query rows.
#[derive(Default)]
pub(super) struct State {
    /// Largest score so far.
    pub(super) maxima: Vec<f32>,
    /// Sum of exponentials so far.
    pub(super) sums: Vec<f32>,
    /// Weighted sum of values so far, (row, width).
    pub(super) outputs: Vec<f32>,
}

impl State {
    pub(super) fn clear(&mut self, rows: usize, width: usize) {
        self.maxima.clear();
        self.maxima.resize(rows, f32::NEG_INFINITY);
        self.sums.clear();
        self.sums.resize(rows, 0.0);
        self.outputs.clear();
        self.outputs.resize(rows * width, 0.0);
    }
}

/// Keys and values of one page.
pub(super) struct Page<'a, E> {
    /// (dimension, position)
    pub(super) keys: &'a [E],
    /// (position, width)
    pub(super) values: &'a [E],
    pub(super) head_dim: usize,
    pub(super) width: usize,
    /// Keys and values of the page that comes next.
    pub(super) next: Option<(&'a [E], &'a [E])>,
}

/// Has the processor fetch the line of `side` that begins at `at`, a little every time something is
/// computed: pages lie far apart, so it would not guess which comes next, and all at once would
/// hold up what is computed now.
#[inline(always)]
fn prefetch<E>(side: &[E], at: usize, lines: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in 0..lines {
        use std::arch::x86_64::_MM_HINT_T0;
        use std::arch::x86_64::_mm_prefetch;
        let place = side.as_ptr().wrapping_add(at).wrapping_byte_add(64 * line);
        // SAFETY: a hint, which may name any address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(place.cast()) };
    }
}

/// Cache lines of `n` numbers.
const fn lines_of<E>(n: usize) -> usize {
    (n * size_of::<E>()).div_ceil(64)
}

/// A number as pages keep it.
pub trait Element: Copy + Default + Send + Sync + 'static {
    /// Its name, as settings have it.
    const NAME: &'static str;

    /// A vector's worth of numbers.
    ///
    /// # Safety
    /// As [`Lanes`].
    #[doc(hidden)]
    unsafe fn load<V: Lanes>(from: *const Self) -> V;

    /// Writes a vector, rounded if need be.
    ///
    /// # Safety
    /// As [`Lanes`].
    #[doc(hidden)]
    unsafe fn store<V: Lanes>(vector: V, to: *mut Self);
}

impl Element for f16 {
    const NAME: &'static str = "f16";

    #[inline(always)]
    unsafe fn load<V: Lanes>(from: *const Self) -> V {
        // SAFETY: the caller's.
        unsafe { V::load_half(from.cast()) }
    }

    #[inline(always)]
    unsafe fn store<V: Lanes>(vector: V, to: *mut Self) {
        // SAFETY: the caller's.
        unsafe { vector.store_half(to.cast()) }
    }
}

impl Element for f32 {
    const NAME: &'static str = "f32";

    #[inline(always)]
    unsafe fn load<V: Lanes>(from: *const Self) -> V {
        // SAFETY: the caller's.
        unsafe { V::load(from) }
    }

    #[inline(always)]
    unsafe fn store<V: Lanes>(vector: V, to: *mut Self) {
        // SAFETY: the caller's.
        unsafe { vector.store(to) }
    }
}

dispatch! {
    /// Writes a key with its dimensions a page apart, and a value.
    ///
    /// # Safety
    /// The set is this processor's; there is room.
    pub(super) unsafe fn write<E: Element> = write_pair(
        key: &[f32],
        keys: *mut E,
        value: &[f32],
        values: *mut E,
    )
}

#[inline(always)]
unsafe fn write_pair<V: Lanes, E: Element>(
    key: &[f32],
    keys: *mut E,
    value: &[f32],
    values: *mut E,
) {
    let mut rounded = [E::default(); LANES];
    for first in (0..key.len()).step_by(V::N) {
        // SAFETY: widths are multiples of the widest vector; the caller's.
        unsafe {
            E::store(V::load(key.as_ptr().add(first)), rounded.as_mut_ptr());
            for (at, number) in rounded[..V::N].iter().enumerate() {
                *keys.add((first + at) * PAGE) = *number;
            }
            E::store(V::load(value.as_ptr().add(first)), values.add(first));
        }
    }
}

dispatch! {
    /// Takes rows from `start` on through a page: row r sees `visible(r)` positions of it.
    ///
    /// # Safety
    /// The set is this processor's; queries point to `head_dim` values.
    pub(super) unsafe fn visit<E: Element> = visit_page(
        page: &Page<'_, E>,
        queries: &[*const f32],
        start: usize,
        visible: &dyn Fn(usize) -> usize,
        state: &mut State,
    )
}

#[inline(always)]
unsafe fn visit_page<V: Lanes, E: Element>(
    page: &Page<'_, E>,
    queries: &[*const f32],
    start: usize,
    visible: &dyn Fn(usize) -> usize,
    state: &mut State,
) {
    let mut row = start;
    let mut next = page.next;
    while row < queries.len() {
        let page = &Page { next, ..*page };
        // SAFETY: the caller's.
        unsafe {
            row += match queries.len() - row {
                1 => visit_rows::<V, E, 1>(page, queries, row, visible, state),
                2 => visit_rows::<V, E, 2>(page, queries, row, visible, state),
                3 => visit_rows::<V, E, 3>(page, queries, row, visible, state),
                _ => visit_rows::<V, E, 4>(page, queries, row, visible, state),
            };
        }
        next = None;
    }
}

#[inline(always)]
unsafe fn visit_rows<V: Lanes, E: Element, const R: usize>(
    page: &Page<'_, E>,
    queries: &[*const f32],
    row: usize,
    visible: &dyn Fn(usize) -> usize,
    state: &mut State,
) -> usize {
    let queries: &[*const f32; R] = queries[row..row + R].try_into().expect("R rows");
    let mut weights = [[0.0_f32; PAGE]; R];
    // SAFETY: the caller's.
    unsafe { scores::<V, E, R>(page, queries, &mut weights) };
    let mut factors = [0.0; R];
    // What lies behind it may be an earlier owner's, and anything: it is not even multiplied by 0.
    let mut reach = 0;
    for (r, weights) in weights.iter_mut().enumerate() {
        let at = row + r;
        let visible = visible(at).min(PAGE);
        reach = reach.max(visible);
        factors[r] = soften(weights, visible, &mut state.maxima[at], &mut state.sums[at]);
    }
    let outputs = &mut state.outputs[row * page.width..(row + R) * page.width];
    // SAFETY: as many outputs as rows; the caller's set.
    unsafe { add_values::<V, E, R>(page, &weights, &factors, reach, outputs) };
    R
}

/// Scores of R queries: as many positions at a time as two vectors hold.
#[inline(always)]
unsafe fn scores<V: Lanes, E: Element, const R: usize>(
    page: &Page<'_, E>,
    queries: &[*const f32; R],
    scores: &mut [[f32; PAGE]; R],
) {
    for column in (0..PAGE).step_by(2 * V::N) {
        // SAFETY: a page has 32 positions of each dimension.
        unsafe {
            let mut acc = [[V::splat(0.0); 2]; R];
            for dimension in 0..page.head_dim {
                if let (Some((keys, _)), 0) = (page.next, column) {
                    prefetch(keys, dimension * PAGE, lines_of::<E>(PAGE));
                }
                let keys = page.keys.as_ptr().add(dimension * PAGE + column);
                let keys: [V; 2] = [E::load(keys), E::load(keys.add(V::N))];
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
    let mut maxima = [*max; 16];
    for scores in scores.chunks_exact(16) {
        for (max, score) in maxima.iter_mut().zip(scores) {
            *max = if *score > *max { *score } else { *max };
        }
    }
    let new = maxima.into_iter().fold(f32::NEG_INFINITY, f32::max);
    let mut sums = [0.0_f32; 16];
    for scores in scores.chunks_exact_mut(16) {
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

/// outputs ← factor · outputs + weights · values, over the first `reach` positions.
#[inline(always)]
unsafe fn add_values<V: Lanes, E: Element, const R: usize>(
    page: &Page<'_, E>,
    weights: &[[f32; PAGE]; R],
    factors: &[f32; R],
    reach: usize,
    outputs: &mut [f32],
) {
    let width = page.width;
    let mut column = 0;
    while column < width {
        // SAFETY: widths are multiples of the widest vector; the caller's set.
        unsafe {
            column += match width - column >= 2 * V::N {
                true => add_columns::<V, E, R, 2>(page, weights, factors, reach, outputs, column),
                false => add_columns::<V, E, R, 1>(page, weights, factors, reach, outputs, column),
            };
        }
    }
}

#[inline(always)]
unsafe fn add_columns<V: Lanes, E: Element, const R: usize, const C: usize>(
    page: &Page<'_, E>,
    weights: &[[f32; PAGE]; R],
    factors: &[f32; R],
    reach: usize,
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
        for position in 0..reach {
            if let (Some((_, values)), 0) = (page.next, column) {
                prefetch(values, position * page.width, lines_of::<E>(page.width));
            }
            let values = page.values.as_ptr().add(position * page.width + column);
            let values: [V; C] = std::array::from_fn(|c| E::load(values.add(c * V::N)));
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
