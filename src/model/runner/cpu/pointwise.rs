//! Operations on one row: RMS norm, rotary embedding, the gated activation.
//!
//! In loops that the compiler turns into vector instructions of the set they are compiled for.

use super::lanes::Lanes;
use super::lanes::dispatch;
use crate::model::ops::exp;

dispatch! {
    /// y ← x / sqrt(mean(x²) + eps) · weight (Zhang & Sennrich 2019, eq. 4).
    ///
    /// # Safety
    /// The set is this processor's.
    pub(super) unsafe fn rms_norm = normalise(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32])
}

#[inline(always)]
unsafe fn normalise<V: Lanes>(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
    // Sixteen running sums, so that the compiler keeps them in vector registers.
    let mut sums = [0.0_f32; 16];
    let blocks = x.chunks_exact(16);
    let mut sum: f32 = blocks.remainder().iter().map(|x| x * x).sum();
    for block in blocks {
        for (sum, x) in sums.iter_mut().zip(block) {
            *sum += x * x;
        }
    }
    sum += sums.iter().sum::<f32>();
    let inverse = 1.0 / (sum / x.len() as f32 + eps).sqrt();
    for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
        *y = x * inverse * w;
    }
}

dispatch! {
    /// y ← silu(gate) ∘ up (Shazeer 2020, eq. 5).
    ///
    /// # Safety
    /// The set is this processor's.
    pub(super) unsafe fn swiglu = gated(gate: &[f32], up: &[f32], y: &mut [f32])
}

#[inline(always)]
unsafe fn gated<V: Lanes>(gate: &[f32], up: &[f32], y: &mut [f32]) {
    for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
        *y = gate / (1.0 + exp(-gate)) * up;
    }
}

dispatch! {
    /// Rotates one head by the angles whose cosines and sines are given, pairing dimension i with
    /// i + half, and multiplies it by `scale`.
    ///
    /// # Safety
    /// The set is this processor's.
    pub(super) unsafe fn rotate = rotate_head(
        head: &mut [f32],
        cos: &[f32],
        sin: &[f32],
        scale: f32,
    )
}

#[inline(always)]
unsafe fn rotate_head<V: Lanes>(head: &mut [f32], cos: &[f32], sin: &[f32], scale: f32) {
    let (low, high) = head.split_at_mut(cos.len());
    for (((low, high), cos), sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
        (*low, *high) = ((*low * cos - *high * sin) * scale, (*high * cos + *low * sin) * scale);
    }
}
