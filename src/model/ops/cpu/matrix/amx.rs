//! f32 matrix products on the tile unit of recent Intel server processors (AMX).
//!
//! The unit multiplies bf16 and sums in f32, at sixteen times the rate of f32 vector arithmetic. An
//! f32 value is the sum of two bf16 values to within 2⁻¹⁷ of itself, so a product of f32 matrices
//! is, to the same precision, three products of bf16 ones: high · high + high · low + low · high
//! (Henry, Tang & Heinecke 2019). That is still five times the rate.
//!
//! Both operands are first laid out in *panels* of 32 rows or columns, cut into steps of 32 along
//! the inner dimension. A step of a panel is four tiles of 1 KB: the high parts of its first and
//! second 16 rows or columns, then their low parts. A few steps of all panels come before the next
//! few, so that what is multiplied at once lies together.

use std::arch::asm;
use std::arch::x86_64::*;
use std::ops::Range;

use rayon::prelude::*;

use super::Cores;
use super::Matrix;
use super::MatrixMut;
use super::pack;
use super::pack::Panels;
use crate::model::tile_unit::Configured;

/// Rows of a left panel, columns of a right panel.
pub(super) const PANEL: usize = 32;
/// Inner positions of one step.
pub(super) const STEP: usize = 32;
/// bf16 values of one step of a panel.
pub(super) const STEP_LEN: usize = 2 * PANEL * STEP;
/// Steps multiplied at once at most: a right panel's share stays in the first-level cache.
const DEPTH: usize = 6;
/// Panels of each side in one task: their share stays in the second-level cache.
const ROW_PANELS: usize = 4;
const COLUMN_PANELS: usize = 8;
/// Right panels laid out at once, which bounds their memory.
const PACKED_COLUMNS: usize = 64;

/// How the inner dimension is cut: as evenly as whole steps allow.
#[derive(Clone, Copy)]
pub(super) struct Depths {
    steps: usize,
    parts: usize,
}

impl Depths {
    /// For an inner dimension of `inner`.
    pub(super) fn of(inner: usize) -> Self {
        let steps = inner.div_ceil(STEP);
        Self { steps, parts: steps.div_ceil(DEPTH) }
    }

    /// Steps in all.
    pub(super) fn steps(self) -> usize {
        self.steps
    }

    /// First step and number of steps of each part.
    pub(super) fn iter(self) -> impl Iterator<Item = (usize, usize)> {
        let start = move |part: usize| part * self.steps / self.parts;
        (0..self.parts).map(move |part| (start(part), start(part + 1) - start(part)))
    }
}

/// A destination that tasks write to in disjoint blocks.
struct Shared {
    data: *mut f32,
    rows: usize,
    cols: usize,
    row_stride: usize,
}

// SAFETY: tasks get disjoint blocks of rows and columns, see `product`.
unsafe impl Sync for Shared {}

/// dst ← [dst +] alpha · Σ lhs · rhs; the caller has checked the shapes.
pub(super) fn sum_of_products(
    dst: MatrixMut<'_>,
    accumulate: bool,
    alpha: f32,
    terms: &[(&Panels, Matrix<'_>)],
    cores: Cores,
) {
    let shared =
        Shared { data: dst.data, rows: dst.rows, cols: dst.cols, row_stride: dst.row_stride };
    let (rows, columns) = (dst.rows.div_ceil(PANEL), dst.cols.div_ceil(PANEL));
    for first_column in (0..columns).step_by(PACKED_COLUMNS) {
        let packed = first_column..(first_column + PACKED_COLUMNS).min(columns);
        let rights: Vec<Panels> =
            terms.iter().map(|(_, rhs)| pack::right(*rhs, packed.clone(), cores)).collect();
        let across = packed.len().div_ceil(COLUMN_PANELS);
        let tasks = rows.div_ceil(ROW_PANELS) * across;
        let task = |index: usize| {
            let (down, over) = (index / across * ROW_PANELS, index % across * COLUMN_PANELS);
            let block = Block {
                rows: down..(down + ROW_PANELS).min(rows),
                columns: over..(over + COLUMN_PANELS).min(packed.len()),
                first_column,
            };
            // SAFETY: this code is reached only where the unit is; tasks differ in their rows or
            // columns of the destination.
            unsafe {
                let _configured = Configured::new();
                let mut adds = accumulate;
                for ((left, _), right) in terms.iter().zip(&rights) {
                    block.multiply(left, right, &shared, alpha, adds);
                    adds = true;
                }
            }
        };
        match cores {
            Cores::All => (0..tasks).into_par_iter().for_each(task),
            Cores::One => (0..tasks).for_each(task),
        }
    }
}

/// The panels of one task.
struct Block {
    rows: Range<usize>,
    /// Counted from the first packed one.
    columns: Range<usize>,
    first_column: usize,
}

impl Block {
    /// # Safety
    /// The tiles must be configured. No other thread may touch the block's rows and columns of the
    /// destination, whose pointer is valid for its dimensions.
    unsafe fn multiply(
        &self,
        left: &Panels,
        right: &Panels,
        dst: &Shared,
        alpha: f32,
        accumulate: bool,
    ) {
        let mut sums = Sums([0.0; PANEL * PANEL]);
        for (first, depth) in left.depths().iter() {
            let adds = accumulate || first > 0;
            for column in self.columns.clone() {
                let b = right.steps(column, first, depth);
                for row in self.rows.clone() {
                    let a = left.steps(row, first, depth);
                    let at = (row * PANEL, (self.first_column + column) * PANEL);
                    // SAFETY: both slices hold `depth` steps, `sums` a 32 × 32 block, and the
                    // block of the destination is this task's alone.
                    unsafe {
                        multiply_panels(a.as_ptr().cast(), b.as_ptr().cast(), depth, &mut sums);
                        add_block(&sums, dst, at, alpha, adds);
                    }
                }
            }
        }
    }
}

/// A 32 × 32 block of results, aligned to cache lines.
#[repr(align(64))]
struct Sums([f32; PANEL * PANEL]);

/// sums ← a · b over `depth` steps: four accumulating tiles, two of each operand.
unsafe fn multiply_panels(a: *const u16, b: *const u16, depth: usize, sums: &mut Sums) {
    // SAFETY: `a` and `b` hold `depth` steps of 4 KB, `sums` 4 KB; the tiles are configured.
    unsafe {
        asm!(
            "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
            "2:",
            // High · high.
            "tileloadd tmm4, [{a} + {row}]",
            "tileloadd tmm6, [{b} + {row}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b} + {row} + 1024]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{a} + {row} + 1024]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            // High · low.
            "tileloadd tmm6, [{b} + {row} + 2048]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tileloadd tmm7, [{b} + {row} + 3072]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm3, tmm5, tmm7",
            // Low · high.
            "tileloadd tmm4, [{a} + {row} + 2048]",
            "tileloadd tmm6, [{b} + {row}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b} + {row} + 1024]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{a} + {row} + 3072]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {a}, 4096",
            "add {b}, 4096",
            "dec {depth}",
            "jnz 2b",
            "tilestored [{sums} + {sums_row}], tmm0",
            "tilestored [{sums} + {sums_row} + 64], tmm1",
            "tilestored [{sums} + {sums_row} + 2048], tmm2",
            "tilestored [{sums} + {sums_row} + 2112], tmm3",
            a = inout(reg) a => _,
            b = inout(reg) b => _,
            depth = inout(reg) depth => _,
            row = in(reg) 64_usize,
            sums = in(reg) sums.0.as_mut_ptr(),
            sums_row = in(reg) 4 * PANEL,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// Adds alpha · sums to the destination at (row, column), or sets it; what lies past the edge is
/// left out.
#[target_feature(enable = "avx512f")]
unsafe fn add_block(sums: &Sums, dst: &Shared, at: (usize, usize), alpha: f32, adds: bool) {
    let rows = PANEL.min(dst.rows - at.0);
    let masks = [0, LANES].map(|lane| first_lanes((dst.cols - at.1).saturating_sub(lane)));
    let scale = _mm512_set1_ps(alpha);
    for row in 0..rows {
        let start = (at.0 + row) * dst.row_stride + at.1;
        for (half, mask) in masks.into_iter().enumerate() {
            // SAFETY: lanes past the edge are masked; the others lie within the destination, in
            // this task's block.
            unsafe {
                let into = dst.data.wrapping_add(start + half * LANES);
                let sum = _mm512_load_ps(sums.0.as_ptr().add(row * PANEL + half * LANES));
                let sum = match adds {
                    true => _mm512_fmadd_ps(sum, scale, _mm512_maskz_loadu_ps(mask, into)),
                    false => _mm512_mul_ps(sum, scale),
                };
                _mm512_mask_storeu_ps(into, mask, sum);
            }
        }
    }
}

/// f32 values of a vector register.
pub(super) const LANES: usize = 16;

/// A mask of the first `n` lanes, or of all.
pub(super) fn first_lanes(n: usize) -> __mmask16 {
    if n >= LANES { !0 } else { (1 << n) - 1 }
}
