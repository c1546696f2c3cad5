//! Quantised matrices as their file stores them, for engines that compute with them as they are.
//!
//! Types of the ggml library whose values are scale · q + offset with 4-bit q, or scale · q with
//! 8-bit q. A row's values, computed in f32, are those that dequantising gives.

use candle_core::quantized::GgmlDType;
use candle_core::quantized::QTensor;
use half::f16;

/// Values that share a scale where q has 4 bits.
pub const NIBBLE_BLOCK: usize = 32;
/// Values that share a scale where q has 8 bits.
pub const BYTE_BLOCK: usize = 16;

/// A quantised matrix (rows, inner).
#[derive(Debug)]
pub struct StoredMatrix {
    dtype: GgmlDType,
    rows: usize,
    inner: usize,
    data: Vec<u8>,
}

/// How many bits the whole numbers of a matrix have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bits {
    /// 0 to 15, with an offset.
    Four,
    /// −128 to 127, without.
    Eight,
}

/// One row, taken apart.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct StoredRow {
    /// Whole numbers (inner): those of 4 bits as they are, those of 8 bits as two's complement.
    pub quants: Vec<u8>,
    /// One for each block.
    pub scales: Vec<f32>,
    /// One for each block; empty with 8 bits.
    pub offsets: Vec<f32>,
}

impl StoredMatrix {
    /// The matrix behind `tensor`; none when its type is not one of those above.
    pub fn of(tensor: &QTensor) -> candle_core::Result<Option<Self>> {
        let dtype = tensor.dtype();
        let (rows, inner) = tensor.shape().dims2()?;
        if bits(dtype).is_none() || inner % NIBBLE_BLOCK != 0 {
            return Ok(None);
        }
        Ok(Some(Self { dtype, rows, inner, data: tensor.data()?.into_owned() }))
    }

    /// (rows, inner).
    pub fn dims(&self) -> (usize, usize) {
        (self.rows, self.inner)
    }

    /// What its whole numbers are.
    pub fn bits(&self) -> Bits {
        bits(self.dtype).expect("checked when it was made")
    }

    /// The same matrix with row i in the place that `order` gives: its row order[i].
    #[must_use]
    pub fn reordered(&self, order: &[usize]) -> Self {
        let row = self.data.len() / self.rows;
        let data = order.iter().flat_map(|from| &self.data[from * row..(from + 1) * row]);
        let Self { dtype, rows, inner, .. } = *self;
        Self { dtype, rows, inner, data: data.copied().collect() }
    }

    /// Takes one row apart.
    pub fn row(&self, index: usize) -> StoredRow {
        let length = self.data.len() / self.rows;
        let data = &self.data[index * length..(index + 1) * length];
        let mut row = StoredRow::default();
        for block in data.chunks_exact(self.dtype.type_size()) {
            match self.dtype {
                GgmlDType::Q4_0 => {
                    let scale = half(block, 0);
                    row.nibbles(&block[2..], scale, -8.0 * scale);
                }
                GgmlDType::Q4_1 => row.nibbles(&block[4..], half(block, 0), half(block, 2)),
                GgmlDType::Q4K => row.super_block_of_nibbles(block),
                GgmlDType::Q8_0 => {
                    row.quants.extend(&block[2..]);
                    row.scales.extend([half(block, 0); NIBBLE_BLOCK / BYTE_BLOCK]);
                }
                GgmlDType::Q6K => row.super_block_of_six_bits(block),
                _ => unreachable!("refused when the matrix was made"),
            }
        }
        row
    }
}

fn bits(dtype: GgmlDType) -> Option<Bits> {
    match dtype {
        GgmlDType::Q4_0 | GgmlDType::Q4_1 | GgmlDType::Q4K => Some(Bits::Four),
        GgmlDType::Q8_0 | GgmlDType::Q6K => Some(Bits::Eight),
        _ => None,
    }
}

/// The half-precision number at byte `at`.
fn half(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

impl StoredRow {
    /// A block: the low halves of the bytes are its first values, the high halves the others.
    fn nibbles(&mut self, bytes: &[u8], scale: f32, offset: f32) {
        self.quants.extend(bytes.iter().map(|byte| byte & 0x0f));
        self.quants.extend(bytes.iter().map(|byte| byte >> 4));
        self.scales.push(scale);
        self.offsets.push(offset);
    }

    /// 256 values: scales and offsets of 8 blocks are 6-bit multiples of two numbers.
    fn super_block_of_nibbles(&mut self, block: &[u8]) {
        let (scale, minimum) = (half(block, 0), half(block, 2));
        let packed = &block[4..16];
        // The first four blocks' multiples are the low six bits of a byte each; the others' four
        // low bits share bytes, and their two high bits are those that the first four leave free.
        let multiples = |index: usize| match index {
            0..4 => (packed[index] & 63, packed[index + 4] & 63),
            _ => (
                (packed[index + 4] & 15) | ((packed[index - 4] >> 6) << 4),
                (packed[index + 4] >> 4) | ((packed[index] >> 6) << 4),
            ),
        };
        for (pair, bytes) in block[16..].chunks_exact(NIBBLE_BLOCK).enumerate() {
            for (half, shift) in [(0, 0), (1, 4)] {
                let (of_scale, of_minimum) = multiples(2 * pair + half);
                self.quants.extend(bytes.iter().map(|byte| (byte >> shift) & 0x0f));
                self.scales.push(scale * f32::from(of_scale));
                self.offsets.push(-minimum * f32::from(of_minimum));
            }
        }
    }

    /// 256 values of six bits, 32 less than stored; scales of 16 blocks are 8-bit multiples.
    fn super_block_of_six_bits(&mut self, block: &[u8]) {
        let (low, rest) = block.split_at(128);
        let (high, rest) = rest.split_at(64);
        let (multiples, _) = rest.split_at(16);
        let scale = half(rest, 16);
        for (low, high) in low.chunks_exact(64).zip(high.chunks_exact(32)) {
            for quarter in 0..4 {
                let low = &low[quarter % 2 * 32..][..32];
                self.quants.extend(low.iter().zip(high).map(|(low, high)| {
                    let low = if quarter < 2 { low & 0x0f } else { low >> 4 };
                    let high = (high >> (2 * quarter)) & 3;
                    (low | (high << 4)).wrapping_sub(32)
                }));
            }
        }
        self.scales.extend(multiples.iter().map(|m| scale * f32::from(m.cast_signed())));
    }
}
