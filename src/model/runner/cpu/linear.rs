//! Linear maps over blocks of rows, with the low-rank terms of adapters.
//!
//! Whatever is multiplied is first laid out as the unit wants it: an [`Operand`]. A panel of
//! weights is then multiplied with all blocks of rows, a few steps at a time, so that it is read
//! from memory once and unpacked in the first-level cache.

use std::ops::Range;

use super::lanes::Lanes;
use super::lanes::VectorSet;
use super::lanes::dispatch;
use super::shared::Shared;
#[cfg(target_arch = "x86_64")]
use super::tiles;
#[cfg(target_arch = "x86_64")]
use super::weights::Form;
use super::weights::Line;
use super::weights::PANEL;
use super::weights::Packed;
use super::weights::STEP;
use super::weights::unpack;
#[cfg(target_arch = "x86_64")]
use crate::model::tile_unit::Configured;

/// What products run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    /// The processor's tiles.
    #[cfg(target_arch = "x86_64")]
    Tiles,
    /// Vector registers.
    Vector(VectorSet),
}

/// Rows that are multiplied together: neighbours, at most [`PANEL`] of them, read with the same
/// adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) rows: Range<usize>,
    /// Which of the step's adapters.
    pub(super) adapter: Option<usize>,
}

/// Cuts `rows` into blocks.
pub(super) fn blocks(rows: Range<usize>, adapter: Option<usize>) -> impl Iterator<Item = Block> {
    let end = rows.end;
    rows.step_by(PANEL).map(move |start| Block { rows: start..(start + PANEL).min(end), adapter })
}

/// Lines of one step of a block: what the tile unit reads.
const STEP_LINES: usize = 2 * PANEL;
/// Steps that are unpacked and multiplied at once: 24 KB of weights, and as much of each block,
/// fit the first-level cache.
const DEPTH: usize = 6;
/// The same for a single block: the next steps are unpacked while these are multiplied.
const SHALLOW: usize = 2;

/// Rows laid out to be multiplied: by block, step and row for tiles, else row by row.
#[derive(Debug, Default)]
pub(super) struct Operand {
    lines: Vec<Line>,
    floats: Vec<f32>,
}

impl Operand {
    /// Room for `blocks` blocks of `steps` steps.
    pub(super) fn reserve(&mut self, unit: Unit, blocks: usize, steps: usize) {
        match unit {
            #[cfg(target_arch = "x86_64")]
            Unit::Tiles => {
                let len = blocks * steps * STEP_LINES;
                if self.lines.len() < len {
                    self.lines.resize(len, Line::ZERO);
                }
            }
            Unit::Vector(_) => {
                let len = blocks * steps * STEP * PANEL;
                if self.floats.len() < len {
                    self.floats.resize(len, 0.0);
                }
            }
        }
    }

    pub(super) fn shared(&mut self, unit: Unit, steps: usize) -> SharedOperand<'_> {
        let (lines, floats) = (Shared::new(&mut self.lines), Shared::new(&mut self.floats));
        SharedOperand { unit, steps, lines, floats }
    }
}

/// An operand as the threads of a step see it.
#[derive(Clone, Copy)]
pub(super) struct SharedOperand<'a> {
    unit: Unit,
    steps: usize,
    lines: Shared<'a, Line>,
    floats: Shared<'a, f32>,
}

impl SharedOperand<'_> {
    /// The same memory for rows of another width.
    pub(super) fn of_steps(self, steps: usize) -> Self {
        Self { steps, ..self }
    }

    /// Lays out one row: `values`, in whole steps, are those from step `first` on.
    ///
    /// # Safety
    /// Only this thread touches the row until the next barrier.
    pub(super) unsafe fn put(&self, block: usize, row: usize, first: usize, values: &[f32]) {
        let steps = values.len() / STEP;
        debug_assert_eq!(values.len() % STEP, 0);
        match self.unit {
            #[cfg(target_arch = "x86_64")]
            Unit::Tiles => {
                let start = (block * self.steps + first) * STEP_LINES;
                // SAFETY: rows are different lines of a step, of which `pack_row` writes only
                // this row's; the unit's processors have AVX-512.
                unsafe { tiles::pack_row(values, row, self.lines.at(start, steps * STEP_LINES)) };
            }
            Unit::Vector(_) => {
                let start = ((block * PANEL + row) * self.steps + first) * STEP;
                // SAFETY: rows do not overlap.
                unsafe { self.floats.part(start..start + steps * STEP) }.copy_from_slice(values);
            }
        }
    }
}

/// A thread's own memory.
pub(super) struct Scratch {
    #[cfg(target_arch = "x86_64")]
    pairs: Vec<Line>,
    floats: Box<super::weights::Floats>,
    sums: Vec<Sums>,
    #[cfg(target_arch = "x86_64")]
    tiles: Option<Configured>,
}

/// A block of results, (row, output).
#[repr(C, align(64))]
#[derive(Clone)]
pub(super) struct Sums(pub(super) [f32; PANEL * PANEL]);

impl Sums {
    /// The results of one row.
    pub(super) fn row(&self, row: usize) -> &[f32] {
        &self.0[row * PANEL..(row + 1) * PANEL]
    }
}

impl Scratch {
    /// For at most `blocks` blocks.
    pub(super) fn new(unit: Unit, blocks: usize) -> Self {
        #[cfg(target_arch = "x86_64")]
        let tiled = unit == Unit::Tiles;
        Self {
            #[cfg(target_arch = "x86_64")]
            pairs: vec![Line::ZERO; if tiled { DEPTH * STEP_LINES } else { 0 }],
            floats: Box::new([0.0; STEP * PANEL]),
            sums: vec![Sums([0.0; PANEL * PANEL]); blocks],
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the unit is chosen only where the processor has it.
            tiles: tiled.then(|| unsafe { Configured::new() }),
        }
    }

    /// Sets the sums of all blocks to zero.
    fn clear(&mut self, blocks: usize) {
        for sums in &mut self.sums[..blocks] {
            sums.0.fill(0.0);
        }
    }

    /// sums\[i\] ← sums\[i\] + operand · panelᵀ for the rows of each of `blocks`, which lie in the
    /// operand's blocks from `first_block` on.
    ///
    /// # Safety
    /// Nobody writes to the operand.
    unsafe fn multiply(
        &mut self,
        left: &SharedOperand<'_>,
        first_block: usize,
        blocks: &[Block],
        weight: &Packed,
        panel: usize,
    ) {
        let steps = weight.steps();
        let depth = if blocks.len() == 1 { SHALLOW } else { DEPTH };
        for first in (0..steps).step_by(depth) {
            let count = depth.min(steps - first);
            let lines = weight.slice(panel, first, count);
            // SAFETY: nobody writes to the operand.
            match left.unit {
                #[cfg(target_arch = "x86_64")]
                Unit::Tiles => unsafe {
                    let at = Place { left, first_block, blocks, first, count };
                    self.multiply_tiles(&at, weight.form(), lines);
                },
                Unit::Vector(set) => unsafe {
                    let at = Place { left, first_block, blocks, first, count };
                    self.multiply_vectors(&at, set, weight, lines);
                },
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    unsafe fn multiply_tiles(&mut self, at: &Place<'_>, form: Form, lines: &[Line]) {
        debug_assert!(self.tiles.is_some());
        let (right, form) = match form {
            Form::Pairs | Form::Bf16 => (lines, form),
            _ => {
                let pairs = &mut self.pairs[..at.count * STEP_LINES];
                // SAFETY: processors with tiles have AVX-512.
                unsafe { tiles::unpack(form, lines, pairs) };
                (&*pairs, Form::Pairs)
            }
        };
        for (index, block) in at.blocks.iter().enumerate() {
            let start = ((at.first_block + index) * at.left.steps + at.first) * STEP_LINES;
            // SAFETY: nobody writes to the operand; tiles are configured.
            unsafe {
                let a = at.left.lines.read(start..start + at.count * STEP_LINES);
                tiles::multiply(a, right, form, block.rows.len(), &mut self.sums[index]);
            }
        }
    }

    unsafe fn multiply_vectors(
        &mut self,
        at: &Place<'_>,
        set: VectorSet,
        weight: &Packed,
        lines: &[Line],
    ) {
        let per_step = lines.len() / at.count;
        let stride = at.left.steps * STEP;
        for (step, lines) in lines.chunks_exact(per_step).enumerate() {
            // SAFETY: `lines` is one step; the set is this processor's.
            unsafe { unpack(set, weight.form(), lines, &mut self.floats) };
            for (index, block) in at.blocks.iter().enumerate() {
                let first_row = (at.first_block + index) * PANEL;
                let start = first_row * stride + (at.first + step) * STEP;
                let len = (block.rows.len() - 1) * stride + STEP;
                // SAFETY: nobody writes to the operand.
                unsafe {
                    let x = at.left.floats.read(start..start + len);
                    let sums = &mut self.sums[index];
                    multiply_step(set, &self.floats, x, stride, block.rows.len(), sums);
                }
            }
        }
    }
}

/// Which part of an operand meets which steps.
struct Place<'a> {
    left: &'a SharedOperand<'a>,
    first_block: usize,
    blocks: &'a [Block],
    first: usize,
    count: usize,
}

dispatch! {
    /// sums ← sums + x · weights over one step, for `rows` rows of x that lie `stride` apart.
    ///
    /// # Safety
    /// The set is this processor's; x has the rows.
    unsafe fn multiply_step = multiply_floats(
        weights: &super::weights::Floats,
        x: &[f32],
        stride: usize,
        rows: usize,
        sums: &mut Sums,
    )
}

#[inline(always)]
unsafe fn multiply_floats<V: Lanes>(
    weights: &super::weights::Floats,
    x: &[f32],
    stride: usize,
    rows: usize,
    sums: &mut Sums,
) {
    let mut row = 0;
    while row < rows {
        let x = x[row * stride..].as_ptr();
        let sums = sums.0[row * PANEL..].as_mut_ptr();
        let left = rows - row;
        // SAFETY: as many rows as there are; the caller's set.
        unsafe {
            row += match left {
                1 => rows_of::<V, 1>(weights, x, stride, sums),
                2 | 3 => rows_of::<V, 2>(weights, x, stride, sums),
                4 | 5 => rows_of::<V, 4>(weights, x, stride, sums),
                _ if V::N == 16 => rows_of::<V, 6>(weights, x, stride, sums),
                _ => rows_of::<V, 4>(weights, x, stride, sums),
            };
        }
    }
}

/// R rows, in registers: as many outputs at a time as twice the width of one.
#[inline(always)]
unsafe fn rows_of<V: Lanes, const R: usize>(
    weights: &super::weights::Floats,
    x: *const f32,
    stride: usize,
    sums: *mut f32,
) -> usize {
    for column in (0..PANEL).step_by(2 * V::N) {
        // SAFETY: 32 outputs of R rows, 32 inner positions; the caller's set.
        unsafe {
            let mut acc: [[V; 2]; R] = std::array::from_fn(|r| {
                let at = sums.add(r * PANEL + column);
                [V::load(at), V::load(at.add(V::N))]
            });
            for k in 0..STEP {
                let w = weights.as_ptr().add(k * PANEL + column);
                let w = [V::load(w), V::load(w.add(V::N))];
                for (r, acc) in acc.iter_mut().enumerate() {
                    let x = V::splat(*x.add(r * stride + k));
                    acc[0] = acc[0].fma(x, w[0]);
                    acc[1] = acc[1].fma(x, w[1]);
                }
            }
            for (r, acc) in acc.iter().enumerate() {
                let at = sums.add(r * PANEL + column);
                acc[0].store(at);
                acc[1].store(at.add(V::N));
            }
        }
    }
    R
}

/// The low-rank term of one map for the rows of one adapter: their inner values, laid out, and the
/// matrix that they meet.
pub(super) struct LowRank<'a> {
    pub(super) inner: SharedOperand<'a>,
    /// The operand's block in which those of the adapter's first block lie.
    pub(super) first_block: usize,
    pub(super) up: &'a Packed,
}

/// One panel of a map's results for all rows. `low_rank(block)` is the term of a block, if its
/// adapter has one; `each(row, results)` gets up to 32 results of a row.
///
/// # Safety
/// Nobody writes to the operands.
pub(super) unsafe fn panel<'a>(
    scratch: &mut Scratch,
    left: &SharedOperand<'_>,
    blocks: &[Block],
    weight: &Packed,
    panel: usize,
    low_rank: impl Fn(usize) -> Option<LowRank<'a>>,
    mut each: impl FnMut(usize, &[f32]),
) {
    scratch.clear(blocks.len());
    // SAFETY: the caller's.
    unsafe { scratch.multiply(left, 0, blocks, weight, panel) };
    for (index, block) in blocks.iter().enumerate() {
        if let Some(term) = low_rank(index) {
            scratch.sums.swap(0, index);
            let (inner, first) = (&term.inner, term.first_block);
            // SAFETY: the caller's.
            unsafe { scratch.multiply(inner, first, &blocks[index..=index], term.up, panel) };
            scratch.sums.swap(0, index);
        }
        let width = PANEL.min(weight.out() - panel * PANEL);
        for (row, at) in block.rows.clone().enumerate() {
            each(at, &scratch.sums[index].row(row)[..width]);
        }
    }
}

/// The inner values of a low-rank term for one block: one panel of its down-projection, laid out
/// as a step of `into`'s block `target`.
///
/// # Safety
/// Nobody writes to `left`; only this thread writes to that step.
pub(super) unsafe fn low_rank_inner(
    scratch: &mut Scratch,
    left: &SharedOperand<'_>,
    (index, block): (usize, &Block),
    (down, panel): (&Packed, usize),
    into: &SharedOperand<'_>,
    target: usize,
) {
    scratch.clear(1);
    let blocks = std::slice::from_ref(block);
    // SAFETY: the caller's.
    unsafe {
        scratch.multiply(left, index, blocks, down, panel);
        for row in 0..block.rows.len() {
            into.put(target, row, panel, scratch.sums[0].row(row));
        }
    }
}
