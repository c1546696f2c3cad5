//! Products on the processor's tile unit (AMX), for generation.
//!
//! As in training (`model::ops::cpu`), f32 values are split into two bf16 values, and a product of
//! f32 matrices is high · high + high · low + low · high, summed in f32; weights that are bf16
//! have no low part. A row's result does not depend on the rows beside it: each is summed over the
//! inner dimension in the same order, however many there are.

use std::arch::asm;
use std::arch::x86_64::*;

use super::linear::Sums;
use super::weights::BYTE_LINES;
use super::weights::Form;
use super::weights::LINE;
use super::weights::Line;
use super::weights::NIBBLE_LINES;
use super::weights::PANEL;
use super::weights::SCALE_LINES;
use super::weights::STEP_LINES;
use super::weights::TILE;

/// Lines of one step of a left operand or of unpacked weights: high parts, then low parts.
pub(super) const PAIR_LINES: usize = 2 * STEP_LINES;

/// sums ← sums + a · b over some steps. `a` holds pairs; `b` pairs, or only high parts.
macro_rules! products {
    (
        $name:ident,
        $b_step:literal,
        [$($load:literal),*],
        [$($step:literal),*],
        [$($store:literal),*]
    ) => {
        unsafe fn $name(a: *const Line, b: *const Line, steps: usize, sums: &mut Sums) {
            // SAFETY: `a` and `b` hold `steps` steps; the tiles are configured.
            unsafe {
                asm!(
                    $($load,)*
                    "2:",
                    $($step,)*
                    "add {a}, 4096",
                    concat!("add {b}, ", $b_step),
                    "dec {steps}",
                    "jnz 2b",
                    $($store,)*
                    a = inout(reg) a => _,
                    b = inout(reg) b => _,
                    steps = inout(reg) steps => _,
                    row = in(reg) 64_usize,
                    sums = in(reg) sums.0.as_mut_ptr(),
                    sums_row = in(reg) 4 * PANEL,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    };
}

products!(
    wide_by_pairs,
    "4096",
    [
        "tileloadd tmm0, [{sums} + {sums_row}]",
        "tileloadd tmm1, [{sums} + {sums_row} + 64]",
        "tileloadd tmm2, [{sums} + {sums_row} + 2048]",
        "tileloadd tmm3, [{sums} + {sums_row} + 2112]"
    ],
    [
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
        "tdpbf16ps tmm3, tmm5, tmm7"
    ],
    [
        "tilestored [{sums} + {sums_row}], tmm0",
        "tilestored [{sums} + {sums_row} + 64], tmm1",
        "tilestored [{sums} + {sums_row} + 2048], tmm2",
        "tilestored [{sums} + {sums_row} + 2112], tmm3"
    ]
);

products!(
    narrow_by_pairs,
    "4096",
    ["tileloadd tmm0, [{sums} + {sums_row}]", "tileloadd tmm1, [{sums} + {sums_row} + 64]"],
    [
        "tileloadd tmm4, [{a} + {row}]",
        "tileloadd tmm6, [{b} + {row}]",
        "tdpbf16ps tmm0, tmm4, tmm6",
        "tileloadd tmm7, [{b} + {row} + 1024]",
        "tdpbf16ps tmm1, tmm4, tmm7",
        "tileloadd tmm2, [{b} + {row} + 2048]",
        "tdpbf16ps tmm0, tmm4, tmm2",
        "tileloadd tmm3, [{b} + {row} + 3072]",
        "tdpbf16ps tmm1, tmm4, tmm3",
        "tileloadd tmm5, [{a} + {row} + 2048]",
        "tdpbf16ps tmm0, tmm5, tmm6",
        "tdpbf16ps tmm1, tmm5, tmm7"
    ],
    ["tilestored [{sums} + {sums_row}], tmm0", "tilestored [{sums} + {sums_row} + 64], tmm1"]
);

products!(
    wide_by_highs,
    "2048",
    [
        "tileloadd tmm0, [{sums} + {sums_row}]",
        "tileloadd tmm1, [{sums} + {sums_row} + 64]",
        "tileloadd tmm2, [{sums} + {sums_row} + 2048]",
        "tileloadd tmm3, [{sums} + {sums_row} + 2112]"
    ],
    [
        "tileloadd tmm4, [{a} + {row}]",
        "tileloadd tmm6, [{b} + {row}]",
        "tdpbf16ps tmm0, tmm4, tmm6",
        "tileloadd tmm7, [{b} + {row} + 1024]",
        "tdpbf16ps tmm1, tmm4, tmm7",
        "tileloadd tmm5, [{a} + {row} + 1024]",
        "tdpbf16ps tmm2, tmm5, tmm6",
        "tdpbf16ps tmm3, tmm5, tmm7",
        // Low · high.
        "tileloadd tmm4, [{a} + {row} + 2048]",
        "tdpbf16ps tmm0, tmm4, tmm6",
        "tdpbf16ps tmm1, tmm4, tmm7",
        "tileloadd tmm5, [{a} + {row} + 3072]",
        "tdpbf16ps tmm2, tmm5, tmm6",
        "tdpbf16ps tmm3, tmm5, tmm7"
    ],
    [
        "tilestored [{sums} + {sums_row}], tmm0",
        "tilestored [{sums} + {sums_row} + 64], tmm1",
        "tilestored [{sums} + {sums_row} + 2048], tmm2",
        "tilestored [{sums} + {sums_row} + 2112], tmm3"
    ]
);

products!(
    narrow_by_highs,
    "2048",
    ["tileloadd tmm0, [{sums} + {sums_row}]", "tileloadd tmm1, [{sums} + {sums_row} + 64]"],
    [
        "tileloadd tmm4, [{a} + {row}]",
        "tileloadd tmm6, [{b} + {row}]",
        "tdpbf16ps tmm0, tmm4, tmm6",
        "tileloadd tmm7, [{b} + {row} + 1024]",
        "tdpbf16ps tmm1, tmm4, tmm7",
        "tileloadd tmm5, [{a} + {row} + 2048]",
        "tdpbf16ps tmm0, tmm5, tmm6",
        "tdpbf16ps tmm1, tmm5, tmm7"
    ],
    ["tilestored [{sums} + {sums_row}], tmm0", "tilestored [{sums} + {sums_row} + 64], tmm1"]
);

/// sums ← sums + a · bᵀ over the steps of `a`, of which the first `rows` rows matter; `b` is in
/// pairs or in bf16, as `form` says.
///
/// # Safety
/// The tiles are configured on this thread.
pub(super) unsafe fn multiply(a: &[Line], b: &[Line], form: Form, rows: usize, sums: &mut Sums) {
    let steps = a.len() / PAIR_LINES;
    assert!(steps > 0, "a product over nothing");
    let b_lines = if form == Form::Bf16 { STEP_LINES } else { PAIR_LINES };
    assert_eq!(b.len(), steps * b_lines, "operands of different depth");
    let product = match (rows > TILE, form == Form::Bf16) {
        (true, false) => wide_by_pairs,
        (true, true) => wide_by_highs,
        (false, false) => narrow_by_pairs,
        (false, true) => narrow_by_highs,
    };
    // SAFETY: both operands hold `steps` steps.
    unsafe { product(a.as_ptr(), b.as_ptr(), steps, sums) };
}

/// Writes one row of a left operand: `values`, in whole steps, into row `row` of each of the steps
/// from `step` on.
///
/// # Safety
/// The processor has AVX-512; `step` is valid for as many steps, whose row `row` nobody else uses.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn pack_row(values: &[f32], row: usize, mut step: *mut Line) {
    for values in values.chunks_exact(LINE) {
        // SAFETY: a chunk is two vectors; the rows of the two tiles lie one after the other.
        unsafe {
            let (a, b) = (load(values.as_ptr()), load(values.as_ptr().add(TILE)));
            let even = _mm512_castsi512_ps(_mm512_permutex2var_epi32(a, evens(), b));
            let odd = _mm512_castsi512_ps(_mm512_permutex2var_epi32(a, odds(), b));
            let (high, low) = split(even, odd);
            _mm512_store_si512(step.add(row).cast(), high);
            _mm512_store_si512(step.add(STEP_LINES + row).cast(), low);
            step = step.add(PAIR_LINES);
        }
    }
}

/// Writes steps of weights, in any form but the first two, as pairs.
///
/// # Safety
/// The processor has AVX-512.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn unpack(form: Form, lines: &[Line], pairs: &mut [Line]) {
    let (pairs, _) = pairs.as_chunks_mut::<PAIR_LINES>();
    // SAFETY: each is one step.
    unsafe {
        match form {
            Form::F16 => steps(lines, pairs, |lines, pairs| unpack_halves(lines, pairs)),
            Form::Nibbles => steps(lines, pairs, |lines, pairs| unpack_nibbles(lines, pairs)),
            Form::Bytes => steps(lines, pairs, |lines, pairs| unpack_bytes(lines, pairs)),
            Form::Pairs | Form::Bf16 => unreachable!("multiplied as they are"),
        }
    }
}

/// One step in pairs.
type Pairs = [Line; PAIR_LINES];

fn steps<const N: usize>(
    lines: &[Line],
    pairs: &mut [Pairs],
    unpack: impl Fn(&[Line; N], &mut Pairs),
) {
    for (lines, pairs) in lines.as_chunks().0.iter().zip(pairs) {
        unpack(lines, pairs);
    }
}

#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn unpack_halves(lines: &[Line; STEP_LINES], pairs: &mut Pairs) {
    for (index, line) in lines.iter().enumerate() {
        // SAFETY: a line holds twice 16 values.
        unsafe {
            let halves = (&raw const *line).cast::<__m256i>();
            let half = |which| _mm512_cvtph_ps(_mm256_load_si256(halves.add(which)));
            put(half(0), half(1), pairs, index);
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn unpack_nibbles(lines: &[Line; NIBBLE_LINES + SCALE_LINES], pairs: &mut Pairs) {
    // Looked up by the low four bits of an index, which so need not be cut out and converted.
    let numbers = _mm512_set_ps(
        15.0, 14.0, 13.0, 12.0, 11.0, 10.0, 9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0,
    );
    for tile in 0..2 {
        // SAFETY: a line holds 16 scales or offsets, or the numbers of four lines.
        unsafe {
            let scale = _mm512_load_ps((&raw const lines[NIBBLE_LINES + tile]).cast());
            let offset = _mm512_load_ps((&raw const lines[NIBBLE_LINES + 2 + tile]).cast());
            let value =
                |index| _mm512_fmadd_ps(_mm512_permutexvar_ps(index, numbers), scale, offset);
            for p in 0..8 {
                let bytes = (&raw const lines[tile * 4 + p / 2]).cast::<__m256i>().add(p % 2);
                let words = _mm512_cvtepu8_epi16(_mm256_load_si256(bytes));
                let (even, odd) = (value(words), value(_mm512_srli_epi32::<16>(words)));
                put(even, odd, pairs, tile * TILE + p);
                let even = value(_mm512_srli_epi32::<4>(words));
                let odd = value(_mm512_srli_epi32::<20>(words));
                put(even, odd, pairs, tile * TILE + p + 8);
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn unpack_bytes(lines: &[Line; BYTE_LINES + SCALE_LINES], pairs: &mut Pairs) {
    for tile in 0..2 {
        for half in 0..2 {
            // SAFETY: a line holds 16 scales, or the numbers of two lines.
            unsafe {
                let scale = _mm512_load_ps((&raw const lines[BYTE_LINES + 2 * half + tile]).cast());
                for p in 0..TILE / 2 {
                    let line = tile * TILE + half * TILE / 2 + p;
                    let bytes = (&raw const lines[line / 2]).cast::<__m256i>().add(line % 2);
                    let words = _mm512_cvtepi8_epi16(_mm256_load_si256(bytes));
                    let even = _mm512_srai_epi32::<16>(_mm512_slli_epi32::<16>(words));
                    let odd = _mm512_srai_epi32::<16>(words);
                    let even = _mm512_mul_ps(_mm512_cvtepi32_ps(even), scale);
                    let odd = _mm512_mul_ps(_mm512_cvtepi32_ps(odd), scale);
                    put(even, odd, pairs, line);
                }
            }
        }
    }
}

/// Writes a line of pairs: its high parts, and its low parts half a step behind.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn put(even: __m512, odd: __m512, pairs: &mut Pairs, line: usize) {
    let (high, low) = split(even, odd);
    // SAFETY: a line is a vector, aligned.
    unsafe {
        _mm512_store_si512((&raw mut pairs[line]).cast(), high);
        _mm512_store_si512((&raw mut pairs[STEP_LINES + line]).cast(), low);
    }
}

/// The upper halves of f32 values, and what is left of them, rounded: two bf16 values whose sum is
/// the value to within 2⁻¹⁷; `even` and `odd` values side by side.
#[target_feature(enable = "avx512f,avx512bw")]
fn split(even: __m512, odd: __m512) -> (__m512i, __m512i) {
    let upper = _mm512_set1_epi32(0xffff_0000_u32.cast_signed());
    let half = _mm512_set1_epi32(0x8000);
    let (even_bits, odd_bits) = (_mm512_castps_si512(even), _mm512_castps_si512(odd));
    let odd_high = _mm512_and_si512(odd_bits, upper);
    let even_high = _mm512_and_si512(even_bits, upper);
    let high = _mm512_or_si512(_mm512_srli_epi32::<16>(even_bits), odd_high);
    let even_low = _mm512_sub_ps(even, _mm512_castsi512_ps(even_high));
    let odd_low = _mm512_sub_ps(odd, _mm512_castsi512_ps(odd_high));
    let even_low = _mm512_add_epi32(_mm512_castps_si512(even_low), half);
    let odd_low = _mm512_add_epi32(_mm512_castps_si512(odd_low), half);
    // (even >> 16) | (odd & upper)
    let low = _mm512_ternarylogic_epi32::<0xf8>(_mm512_srli_epi32::<16>(even_low), odd_low, upper);
    (high, low)
}

#[target_feature(enable = "avx512f")]
unsafe fn load(from: *const f32) -> __m512i {
    // SAFETY: the caller's.
    unsafe { _mm512_castps_si512(_mm512_loadu_ps(from)) }
}

/// Indices of the even values of two vectors.
#[target_feature(enable = "avx512f")]
fn evens() -> __m512i {
    _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0)
}

/// Indices of the odd values of two vectors.
#[target_feature(enable = "avx512f")]
fn odds() -> __m512i {
    _mm512_set_epi32(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1)
}
