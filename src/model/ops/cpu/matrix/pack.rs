//! Laying out f32 matrices in panels of bf16 tiles, as the tile unit reads them.
//!
//! A left panel's tile holds 16 rows of 32 inner positions; a right panel's holds 16 pairs of inner
//! positions, in each the pairs of 16 columns. Seen as 32-bit pairs the second is the transpose of
//! the first, so both come from one loop: read 16 × 16 pairs in the direction in which the source
//! is contiguous, and transpose them when the tile wants the other.

use std::arch::x86_64::*;
use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use super::Cores;
use super::Matrix;
use super::amx::Depths;
use super::amx::PANEL;
use super::amx::STEP;
use super::amx::STEP_LEN;
use super::amx::first_lanes;

/// Rows of a left tile, columns of a right one, and inner pairs of both.
const SIDE: usize = 16;

/// A cache line of bf16 values: a row of a tile. Packed operands are made of whole ones, because a
/// row that straddles two takes twice as long to load.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line([u16; LINE]);

/// bf16 values of a line.
const LINE: usize = 32;

/// A packed operand.
pub(super) struct Panels {
    lines: Vec<Line>,
    /// How many panels there are.
    count: usize,
    depths: Depths,
}

impl Panels {
    fn new(count: usize, inner: usize) -> Self {
        let depths = Depths::of(inner);
        let len = count * depths.steps() * STEP_LEN / LINE;
        let mut lines = SPARE.with_borrow_mut(|spare| take_fitting(spare, len));
        if lines.len() < len {
            lines = vec![Line([0; LINE]); len];
        }
        Self { lines, count, depths }
    }

    /// How its inner dimension is cut.
    pub(super) fn depths(&self) -> Depths {
        self.depths
    }

    /// `depth` steps of one panel, from a part that begins at step `first`.
    pub(super) fn steps(&self, panel: usize, first: usize, depth: usize) -> &[Line] {
        const LINES: usize = STEP_LEN / LINE;
        let start = (first * self.count + panel * depth) * LINES;
        &self.lines[start..start + depth * LINES]
    }
}

/// The smallest block of at least `len` lines, or an empty one.
fn take_fitting(spare: &mut Vec<Vec<Line>>, len: usize) -> Vec<Line> {
    let fitting = spare.iter().enumerate().filter(|(_, lines)| lines.len() >= len);
    let smallest = fitting.min_by_key(|(_, lines)| lines.len()).map(|(index, _)| index);
    smallest.map(|index| spare.swap_remove(index)).unwrap_or_default()
}

/// Blocks a thread keeps at most; the smallest goes first.
const MAX_SPARE: usize = 16;

thread_local! {
    /// Memory of packed operands that are gone, for those to come.
    static SPARE: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

impl Drop for Panels {
    fn drop(&mut self) {
        let lines = std::mem::take(&mut self.lines);
        // A thread that ends takes its spare memory with it.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            spare.push(lines);
            if spare.len() > MAX_SPARE {
                let smallest = spare.iter().enumerate().min_by_key(|(_, lines)| lines.len());
                smallest.map(|(index, _)| index).map(|index| spare.swap_remove(index));
            }
        });
    }
}

/// Packs all rows of a left operand.
pub(super) fn left(matrix: Matrix<'_>, cores: Cores) -> Panels {
    panels(matrix, false, 0..matrix.rows.div_ceil(PANEL), cores)
}

/// Packs some panels of a right operand.
pub(super) fn right(matrix: Matrix<'_>, which: Range<usize>, cores: Cores) -> Panels {
    panels(matrix.t(), true, which, cores)
}

/// Packs panels `which` of `matrix`, whose rows are the panels'. `pairs_first` chooses the layout
/// of right operands.
fn panels(matrix: Matrix<'_>, pairs_first: bool, which: Range<usize>, cores: Cores) -> Panels {
    const LINES: usize = STEP_LEN / LINE;
    let mut packed = Panels::new(which.len(), matrix.cols);
    let depths = packed.depths;
    let mut rest = &mut packed.lines[..which.len() * depths.steps() * LINES];
    let mut chunks = Vec::with_capacity(which.len() * depths.steps());
    for (first, depth) in depths.iter() {
        let (part, after) = rest.split_at_mut(which.len() * depth * LINES);
        let of_panels = which.clone().zip(part.chunks_mut(depth * LINES));
        chunks.extend(of_panels.map(|(panel, chunk)| (panel, first, chunk)));
        rest = after;
    }
    let pack = |(panel, first, chunk): (usize, usize, &mut [Line])| {
        // SAFETY: the caller has seen that the processor has these instructions.
        unsafe { pack_panel(matrix, pairs_first, panel * PANEL, first * STEP, chunk) };
    };
    match cores {
        Cores::All => chunks.into_par_iter().with_min_len(4).for_each(pack),
        Cores::One => chunks.into_iter().for_each(pack),
    }
    packed
}

#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn pack_panel(
    matrix: Matrix<'_>,
    pairs_first: bool,
    first_row: usize,
    first_inner: usize,
    panel: &mut [Line],
) {
    for (step, tiles) in panel.chunks_exact_mut(STEP_LEN / LINE).enumerate() {
        let inner = first_inner + step * STEP;
        let (high, low) = tiles.split_at_mut(2 * SIDE);
        for (half, (high, low)) in
            high.chunks_exact_mut(SIDE).zip(low.chunks_exact_mut(SIDE)).enumerate()
        {
            let row = first_row + half * SIDE;
            // SAFETY: as this function; the tiles hold 16 vectors each.
            unsafe {
                let (mut highs, mut lows) = match matrix.col_stride == 1 {
                    true => along_rows(matrix, row, inner),
                    false => along_columns(matrix, row, inner),
                };
                if pairs_first == (matrix.col_stride == 1) {
                    highs = transposed(highs);
                    lows = transposed(lows);
                }
                for (index, (h, l)) in highs.into_iter().zip(lows).enumerate() {
                    _mm512_store_si512((&raw mut high[index]).cast(), h);
                    _mm512_store_si512((&raw mut low[index]).cast(), l);
                }
            }
        }
    }
}

/// 16 rows of 32 inner positions: vector r holds row r's pairs. Zeros past the edges.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn along_rows(
    matrix: Matrix<'_>,
    row: usize,
    inner: usize,
) -> ([__m512i; SIDE], [__m512i; SIDE]) {
    let mut highs = [_mm512_setzero_si512(); SIDE];
    let mut lows = highs;
    let left = matrix.cols - inner;
    let (mask_a, mask_b) = (first_lanes(left), first_lanes(left.saturating_sub(SIDE)));
    for r in 0..SIDE.min(matrix.rows.saturating_sub(row)) {
        // SAFETY: masked lanes are not read; the others lie within the matrix.
        let (a, b) = unsafe {
            let at = matrix.data.as_ptr().add((row + r) * matrix.row_stride + inner);
            (
                _mm512_maskz_loadu_ps(mask_a, at),
                _mm512_maskz_loadu_ps(mask_b, at.wrapping_add(SIDE)),
            )
        };
        (highs[r], lows[r]) = split(a, b);
    }
    (highs, lows)
}

/// 16 rows of 32 inner positions of a matrix whose columns are contiguous: vector p holds the 16
/// rows' pairs at inner positions 2p and 2p + 1. Zeros past the edges.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn along_columns(
    matrix: Matrix<'_>,
    row: usize,
    inner: usize,
) -> ([__m512i; SIDE], [__m512i; SIDE]) {
    let mut highs = [_mm512_setzero_si512(); SIDE];
    let mut lows = highs;
    let mask = first_lanes(matrix.rows.saturating_sub(row));
    let interleave = _mm512_set_epi16(
        31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4,
        19, 3, 18, 2, 17, 1, 16, 0,
    );
    for p in 0..SIDE {
        let read = |k: usize| match k < matrix.cols {
            // SAFETY: masked lanes are not read; the others lie within the matrix.
            true => unsafe {
                let at = matrix.data.as_ptr().add(k * matrix.col_stride);
                _mm512_maskz_loadu_ps(mask, at.wrapping_add(row))
            },
            false => _mm512_setzero_ps(),
        };
        let (a, b) = (read(inner + 2 * p), read(inner + 2 * p + 1));
        let (high, low) = split(a, b);
        highs[p] = _mm512_permutexvar_epi16(interleave, high);
        lows[p] = _mm512_permutexvar_epi16(interleave, low);
    }
    (highs, lows)
}

/// The bf16 values nearest to a (first half) and b (second half), and those nearest to what is
/// left.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn split(a: __m512, b: __m512) -> (__m512i, __m512i) {
    // SAFETY: both types are 512 plain bits.
    let bits = |x: __m512bh| unsafe { std::mem::transmute::<__m512bh, __m512i>(x) };
    let high = bits(_mm512_cvtne2ps_pbh(b, a));
    let widen =
        |half: __m256i| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half)));
    let high_a = widen(_mm512_castsi512_si256(high));
    let high_b = widen(_mm512_extracti64x4_epi64::<1>(high));
    let low = bits(_mm512_cvtne2ps_pbh(_mm512_sub_ps(b, high_b), _mm512_sub_ps(a, high_a)));
    (high, low)
}

/// The transpose of a 16 × 16 matrix of 32-bit values: pairs, then quads, then lanes.
#[target_feature(enable = "avx512f")]
fn transposed(m: [__m512i; SIDE]) -> [__m512i; SIDE] {
    let mut a = m;
    for i in (0..SIDE).step_by(2) {
        a[i] = _mm512_unpacklo_epi32(m[i], m[i + 1]);
        a[i + 1] = _mm512_unpackhi_epi32(m[i], m[i + 1]);
    }
    let mut b = a;
    for i in (0..SIDE).step_by(4) {
        b[i] = _mm512_unpacklo_epi64(a[i], a[i + 2]);
        b[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 2]);
        b[i + 2] = _mm512_unpacklo_epi64(a[i + 1], a[i + 3]);
        b[i + 3] = _mm512_unpackhi_epi64(a[i + 1], a[i + 3]);
    }
    let mut c = b;
    for i in 0..4 {
        c[i] = _mm512_shuffle_i32x4::<0x88>(b[i], b[i + 4]);
        c[i + 4] = _mm512_shuffle_i32x4::<0xdd>(b[i], b[i + 4]);
        c[i + 8] = _mm512_shuffle_i32x4::<0x88>(b[i + 8], b[i + 12]);
        c[i + 12] = _mm512_shuffle_i32x4::<0xdd>(b[i + 8], b[i + 12]);
    }
    let mut d = c;
    for i in 0..8 {
        d[i] = _mm512_shuffle_i32x4::<0x88>(c[i], c[i + 8]);
        d[i + 8] = _mm512_shuffle_i32x4::<0xdd>(c[i], c[i + 8]);
    }
    d
}
