//! Weights laid out for generation: in panels of 32 outputs, as small as their values allow.
//!
//! A panel is cut into steps of 32 inner positions. A step begins with its numbers, in two tiles of
//! 16 outputs; a tile's *line* p holds, output by output, the numbers of inner positions 2p and
//! 2p + 1: 16-bit pairs in the order in which the processor's tile unit reads them.

use candle_core::Result;
use candle_core::Tensor;
use half::bf16;
use half::f16;

use super::lanes::Lanes;
use super::lanes::dispatch;
use crate::model::stored::BYTE_BLOCK;
use crate::model::stored::Bits;
use crate::model::stored::StoredMatrix;

/// Outputs of a panel.
pub(super) const PANEL: usize = 32;
/// Inner positions of a step.
pub(super) const STEP: usize = 32;
/// Outputs of a tile, and lines of one.
pub(super) const TILE: usize = 16;
/// Values of one line.
pub(super) const LINE: usize = 32;
/// Lines of a step whose values are 16 bits.
pub(super) const STEP_LINES: usize = 2 * TILE;

/// A cache line.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line(pub(super) [u16; LINE]);

impl Line {
    pub(super) const ZERO: Self = Self([0; LINE]);
}

/// How numbers are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// f32 to within 2⁻¹⁷: the sum of two bf16 values; the lines of the first, then of the second.
    Pairs,
    /// bf16, exactly.
    Bf16,
    /// f16, exactly; a line holds the values of position 2p, then those of 2p + 1.
    F16,
    /// 4-bit numbers: 32 bytes hold line p in their low and line p + 8 in their high halves.
    /// Behind them scales, then offsets of the 32 outputs.
    Nibbles,
    /// 8-bit numbers. Behind them the outputs' scales of the first 16 positions, then of the rest.
    Bytes,
}

impl Form {
    /// Lines of one step.
    fn step_lines(self) -> usize {
        match self {
            Self::Pairs => 2 * STEP_LINES,
            Self::Bf16 | Self::F16 => STEP_LINES,
            Self::Nibbles => NIBBLE_LINES + SCALE_LINES,
            Self::Bytes => BYTE_LINES + SCALE_LINES,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Pairs => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::Nibbles => "4 bits",
            Self::Bytes => "8 bits",
        }
    }
}

/// Lines of a step's 4-bit numbers, and of its 8-bit ones.
pub(super) const NIBBLE_LINES: usize = STEP_LINES / 4;
pub(super) const BYTE_LINES: usize = STEP_LINES / 2;
/// Lines of two f32 values for each of 32 outputs.
pub(super) const SCALE_LINES: usize = 4;

/// The weight of a linear map.
#[derive(Debug)]
pub(super) struct Packed {
    form: Form,
    out: usize,
    inner: usize,
    lines: Vec<Line>,
}

impl Packed {
    /// Packs `values` (out, inner).
    pub(super) fn of_floats(values: &[f32], out: usize, inner: usize, form: Form) -> Self {
        let mut packed = Self::empty(form, out, inner);
        for row in 0..out {
            for (at, value) in values[row * inner..(row + 1) * inner].iter().enumerate() {
                packed.put(row, at, *value);
            }
        }
        packed
    }

    /// Packs a quantised matrix as it is.
    pub(super) fn of_stored(stored: &StoredMatrix) -> Self {
        let (out, inner) = stored.dims();
        let form = match stored.bits() {
            Bits::Four => Form::Nibbles,
            Bits::Eight => Form::Bytes,
        };
        let mut packed = Self::empty(form, out, inner);
        for row in 0..out {
            let values = stored.row(row);
            for (at, quant) in values.quants.iter().enumerate() {
                packed.put_quant(row, at, *quant);
            }
            let per_step = if form == Form::Bytes { STEP / BYTE_BLOCK } else { 1 };
            for (block, scale) in values.scales.iter().enumerate() {
                packed.put_scale(row, block / per_step, block % per_step, *scale);
            }
            for (step, offset) in values.offsets.iter().enumerate() {
                packed.put_scale(row, step, 1, *offset);
            }
        }
        packed
    }

    fn empty(form: Form, out: usize, inner: usize) -> Self {
        let steps = out.div_ceil(PANEL) * inner.div_ceil(STEP);
        Self { form, out, inner, lines: vec![Line::ZERO; steps * form.step_lines()] }
    }

    /// The first line of the step that holds a row's value at inner position `at`.
    fn step_of(&self, row: usize, at: usize) -> usize {
        (row / PANEL * self.steps() + at / STEP) * self.form.step_lines()
    }

    /// The line, within 16-bit lines, and the place in it of a value.
    fn place(row: usize, at: usize) -> (usize, usize) {
        let (column, k) = (row % PANEL, at % STEP);
        (column / TILE * TILE + k / 2, column % TILE * 2 + k % 2)
    }

    fn put(&mut self, row: usize, at: usize, value: f32) {
        let step = self.step_of(row, at);
        let (line, place) = Self::place(row, at);
        match self.form {
            Form::F16 => {
                let place = place % 2 * TILE + place / 2;
                self.lines[step + line].0[place] = f16::from_f32(value).to_bits();
            }
            _ => {
                let high = bf16::from_f32(value);
                self.lines[step + line].0[place] = high.to_bits();
                if self.form == Form::Pairs {
                    let low = bf16::from_f32(value - high.to_f32());
                    self.lines[step + STEP_LINES + line].0[place] = low.to_bits();
                }
            }
        }
    }

    fn put_quant(&mut self, row: usize, at: usize, quant: u8) {
        let step = self.step_of(row, at);
        let (line, place) = Self::place(row, at);
        let (tile, p) = (line / TILE, line % TILE);
        let (byte, quant) = match self.form {
            Form::Nibbles => {
                let shift = p / 8 * 4;
                ((tile * 8 + p % 8) * LINE + place, quant << shift)
            }
            _ => (line * LINE + place, quant),
        };
        let (word, shift) = (byte / 2, byte % 2 * 8);
        self.lines[step + word / LINE].0[word % LINE] |= u16::from(quant) << shift;
    }

    /// One of the two f32 values that each output has in a step.
    fn put_scale(&mut self, row: usize, step: usize, which: usize, value: f32) {
        let numbers = self.form.step_lines() - SCALE_LINES;
        let first = self.step_of(row, step * STEP) + numbers;
        let word = 2 * (which * PANEL + row % PANEL);
        let line = &mut self.lines[first + word / LINE].0;
        line[word % LINE] = value.to_bits() as u16;
        line[word % LINE + 1] = (value.to_bits() >> 16) as u16;
    }

    /// Results of the map.
    pub(super) fn out(&self) -> usize {
        self.out
    }

    /// Panels of outputs.
    pub(super) fn panels(&self) -> usize {
        self.out.div_ceil(PANEL)
    }

    /// Steps of each panel.
    pub(super) fn steps(&self) -> usize {
        self.inner.div_ceil(STEP)
    }

    pub(super) fn form(&self) -> Form {
        self.form
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(self.lines.as_slice())
    }

    /// `count` steps of a panel.
    pub(super) fn slice(&self, panel: usize, first: usize, count: usize) -> &[Line] {
        let per_step = self.form.step_lines();
        let start = (panel * self.steps() + first) * per_step;
        &self.lines[start..start + count * per_step]
    }
}

/// The smallest form that holds all of `values` exactly, or [`Form::Pairs`].
pub(super) fn smallest_form(values: &[f32]) -> Form {
    if values.iter().all(|value| bf16::from_f32(*value).to_f32() == *value) {
        Form::Bf16
    } else if values.iter().all(|value| f16::from_f32(*value).to_f32() == *value) {
        Form::F16
    } else {
        Form::Pairs
    }
}

/// The values of a contiguous f32 tensor on the CPU.
pub(super) fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.flatten_all()?.to_vec1()
}

/// A step's values as f32: (inner position, output), row-major.
pub(super) type Floats = [f32; STEP * PANEL];

dispatch! {
    /// Writes the values of one step of weights in `form`.
    ///
    /// # Safety
    /// The set is this processor's; `lines` is one step.
    pub(super) unsafe fn unpack = unpack_floats(form: Form, lines: &[Line], floats: &mut Floats)
}

/// In loops that the compiler turns into vector instructions of the set it is compiled for.
#[inline(always)]
unsafe fn unpack_floats<V: Lanes>(form: Form, lines: &[Line], floats: &mut Floats) {
    // SAFETY: any bits are numbers; the pointers stay within the step's lines.
    let bytes = |at: usize| unsafe { &*lines.as_ptr().cast::<u8>().add(at).cast::<[u8; LINE]>() };
    let scales = |numbers: usize, at: usize| unsafe {
        &*lines.as_ptr().add(numbers).cast::<f32>().add(at).cast::<[f32; TILE]>()
    };
    for tile in 0..2 {
        for p in 0..TILE {
            let line = tile * TILE + p;
            let mut put = |which: usize, values: [f32; TILE]| {
                let at = (2 * p + which) * PANEL + tile * TILE;
                floats[at..at + TILE].copy_from_slice(&values);
            };
            for which in 0..2 {
                let value = |i: usize, line: usize| lines[line].0[2 * i + which];
                put(
                    which,
                    match form {
                        Form::Pairs => std::array::from_fn(|i| {
                            widen(value(i, line)) + widen(value(i, line + STEP_LINES))
                        }),
                        Form::Bf16 => std::array::from_fn(|i| widen(value(i, line))),
                        Form::F16 => std::array::from_fn(|i| {
                            f16::from_bits(lines[line].0[which * TILE + i]).to_f32()
                        }),
                        Form::Nibbles => {
                            let numbers = bytes((tile * 8 + p % 8) * LINE);
                            let shift = p / 8 * 4;
                            let scale = scales(NIBBLE_LINES, tile * TILE);
                            let offset = scales(NIBBLE_LINES, PANEL + tile * TILE);
                            std::array::from_fn(|i| {
                                let quant = (numbers[2 * i + which] >> shift) & 15;
                                f32::from(quant) * scale[i] + offset[i]
                            })
                        }
                        Form::Bytes => {
                            let numbers = bytes(line * LINE);
                            let block = 2 * p / BYTE_BLOCK;
                            let scale = scales(BYTE_LINES, block * PANEL + tile * TILE);
                            std::array::from_fn(|i| {
                                f32::from(numbers[2 * i + which].cast_signed()) * scale[i]
                            })
                        }
                    },
                );
            }
        }
    }
}

fn widen(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}
