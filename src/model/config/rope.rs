//! Rotary frequencies and the ways to stretch them to longer contexts.

use std::f64::consts::TAU;

/// What the rotary embedding's frequencies are made from.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Base of the geometric series.
    pub theta: f64,
    /// How the frequencies are lowered for a longer context.
    pub scaling: RopeScaling,
}

/// How rotary frequencies are lowered; in the order of how many models do it so.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Llama 3.1 and later (`rope_type` `llama3`): frequencies whose wavelength is long against
    /// the original context are divided by `factor`, short ones stay, those between are blended.
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f64,
        /// Wavelengths above `original_positions / low_freq_factor` are long.
        low_freq_factor: f64,
        /// Wavelengths below `original_positions / high_freq_factor` are short.
        high_freq_factor: f64,
        /// Positions of the model before it was stretched.
        original_positions: usize,
    },
    /// All divided by `factor` (Chen et al. 2023, position interpolation).
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Each divided by its own number (head_dim / 2), as GGUF files store `rope_freqs.weight`.
    Divisors(Vec<f32>),
}

/// `low_freq_factor`, `high_freq_factor` and `original_max_position_embeddings` of every Llama 3
/// that scales its frequencies.
const LLAMA3: (f64, f64, usize) = (1.0, 4.0, 8192);

/// The wavelengths, in positions, between which Llama 3 blends.
struct Blend {
    factor: f64,
    low: f64,
    high: f64,
    original: f64,
}

impl Blend {
    /// What a frequency is divided by.
    fn divisor(&self, inverse: f64) -> f64 {
        let cycles = self.original * inverse / TAU;
        let share = ((cycles - self.low) / (self.high - self.low)).clamp(0.0, 1.0);
        1.0 / (share + (1.0 - share) / self.factor)
    }
}

impl Rope {
    /// Frequencies theta^(−2i/head_dim) as they are (Su et al. 2021, eq. 15).
    pub fn plain(theta: f64) -> Self {
        Self { theta, scaling: RopeScaling::None }
    }

    /// From the divisors of a GGUF file, one for each pair of dimensions. Llama 3's are recognised,
    /// so that such a model can be written down as a Hugging Face folder.
    pub fn from_divisors(theta: f64, divisors: Vec<f32>) -> Self {
        let factor = f64::from(divisors.iter().copied().fold(0.0, f32::max));
        let (low_freq_factor, high_freq_factor, original_positions) = LLAMA3;
        let scaling =
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_positions };
        let llama3 = Self { theta, scaling };
        let close = |(inverse, divisor): (f64, &f32)| {
            (llama3.divisor(0, inverse) / f64::from(*divisor) - 1.0).abs() < 1e-4
        };
        if factor > 1.0 && llama3.unscaled(2 * divisors.len()).zip(&divisors).all(close) {
            return llama3;
        }
        Self { theta, scaling: RopeScaling::Divisors(divisors) }
    }

    /// Radians per position of each pair of dimensions (head_dim / 2); `None` when they are not
    /// all finite and above zero, or the divisors are not as many.
    pub fn inverse_frequencies(&self, head_dim: usize) -> Option<Vec<f32>> {
        if let RopeScaling::Divisors(divisors) = &self.scaling
            && divisors.len() != head_dim / 2
        {
            return None;
        }
        let scaled = self.unscaled(head_dim).enumerate().map(|(pair, inverse)| {
            let scaled = (inverse / self.divisor(pair, inverse)) as f32;
            (scaled.is_finite() && scaled > 0.0).then_some(scaled)
        });
        scaled.collect()
    }

    fn unscaled(&self, head_dim: usize) -> impl Iterator<Item = f64> {
        let theta = self.theta;
        (0..head_dim / 2).map(move |i| theta.powf(-2.0 * i as f64 / head_dim as f64))
    }

    /// What the frequency `inverse` of pair number `pair` is divided by.
    fn divisor(&self, pair: usize, inverse: f64) -> f64 {
        match &self.scaling {
            RopeScaling::None => 1.0,
            RopeScaling::Linear { factor } => *factor,
            RopeScaling::Divisors(divisors) => f64::from(divisors[pair]),
            &RopeScaling::Llama3 {
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                original_positions,
            } => Blend { factor, low, high, original: original_positions as f64 }.divisor(inverse),
        }
    }
}
