//! The angles of the rotary embedding.

use std::sync::OnceLock;

use candle_core::Result;

/// Positions whose cosines and sines are worked out together.
const POSITIONS_PER_BLOCK: usize = 512;

/// Cosines and sines of the rotary embedding. They are worked out block by block when a position
/// is first used: few runs come near the end of a long context.
#[derive(Debug)]
pub struct RopeTable {
    /// Radians per position of each pair of dimensions (head_dim / 2).
    inverse_frequencies: Vec<f32>,
    /// Each (position, cosines then sines, head_dim / 2), row-major.
    blocks: Vec<OnceLock<Vec<f32>>>,
    positions: usize,
}

impl RopeTable {
    /// Angles position · inverse frequency (Su et al. 2021, eq. 15) for up to `positions`
    /// positions; there is one frequency for each pair of a head's dimensions (head_dim / 2).
    pub fn new(inverse_frequencies: Vec<f32>, positions: usize) -> Self {
        let blocks = positions.div_ceil(POSITIONS_PER_BLOCK);
        let blocks = (0..blocks).map(|_| OnceLock::new()).collect();
        Self { inverse_frequencies, blocks, positions }
    }

    /// How many positions the table covers.
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// Half the width of a head.
    pub(in crate::model) fn half(&self) -> usize {
        self.inverse_frequencies.len()
    }

    /// Cosines and sines at `position`, each (head_dim / 2).
    pub(in crate::model) fn at(&self, position: u32) -> (&[f32], &[f32]) {
        let position = position as usize;
        let (block, row) = (position / POSITIONS_PER_BLOCK, position % POSITIONS_PER_BLOCK);
        let width = 2 * self.half();
        let values = self.blocks[block].get_or_init(|| self.block(block * POSITIONS_PER_BLOCK));
        values[row * width..(row + 1) * width].split_at(self.half())
    }

    fn block(&self, first: usize) -> Vec<f32> {
        let mut values = Vec::with_capacity(POSITIONS_PER_BLOCK * 2 * self.half());
        for position in first..first + POSITIONS_PER_BLOCK {
            let angles = self.inverse_frequencies.iter().map(|f| position as f32 * f);
            values.extend(angles.clone().map(f32::cos));
            values.extend(angles.map(f32::sin));
        }
        values
    }

    /// Fails when one of `positions` lies past the table.
    pub(super) fn check(&self, positions: &[u32]) -> Result<()> {
        match positions.iter().max() {
            Some(&last) if last as usize >= self.positions => {
                candle_core::bail!("position {last} is past the model's {}", self.positions)
            }
            _ => Ok(()),
        }
    }
}
