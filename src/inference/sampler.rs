//! Choosing the next token from logits.

use rand::Rng as _;
use serde::Deserialize;
use serde::Serialize;

use crate::rng::Rng;

/// How tokens are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// Divides the logits; 0 takes the most likely token.
    pub temperature: f32,
    /// Keeps the most likely tokens up to this total probability, in (0, 1] (Holtzman et al. 2020).
    pub top_p: f32,
}

/// The tokens that may be chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogitMask {
    allowed: Vec<bool>,
}

impl LogitMask {
    /// Allows `tokens` of a vocabulary of the given size.
    pub fn allow(vocabulary: usize, tokens: &[u32]) -> Self {
        let mut allowed = vec![false; vocabulary];
        for token in tokens {
            if let Some(place) = allowed.get_mut(*token as usize) {
                *place = true;
            }
        }
        Self { allowed }
    }

    /// Whether `token` may be chosen.
    pub fn allows(&self, token: u32) -> bool {
        self.allowed.get(token as usize).copied().unwrap_or(false)
    }
}

impl Sampling {
    /// The most likely token at every position.
    pub const GREEDY: Self = Self { temperature: 0.0, top_p: 1.0 };

    /// The policy's own distribution, scaled by `temperature`.
    pub fn at(temperature: f32) -> Self {
        Self { temperature, top_p: 1.0 }
    }

    /// Draws a token; returns its id and its log-probability in nats under the distribution it was
    /// drawn from (the untempered one when greedy). Ties go to the smallest id.
    pub fn draw(&self, logits: &[f32], rng: &mut Rng) -> (u32, f32) {
        if self.temperature <= 0.0 {
            let best = argmax(logits);
            return (best as u32, logits[best] - log_sum_exp(logits, 1.0));
        }
        let scale = 1.0 / self.temperature;
        let z = log_sum_exp(logits, scale);
        if self.top_p >= 1.0 {
            let uniform: f64 = rng.random();
            let picked = pick(logits.iter().map(|x| x * scale - z), uniform);
            return (picked as u32, logits[picked] * scale - z);
        }
        let kept = self.nucleus(logits, scale, z);
        let mass: f64 = kept.iter().map(|(_, logprob)| f64::from(*logprob).exp()).sum();
        let uniform = rng.random::<f64>() * mass;
        let (id, logprob) = kept[pick(kept.iter().map(|(_, logprob)| *logprob), uniform)];
        (id as u32, logprob - mass.ln() as f32)
    }

    /// The smallest set of most likely tokens whose probability reaches `top_p`.
    fn nucleus(&self, logits: &[f32], scale: f32, z: f32) -> Vec<(usize, f32)> {
        let mut all: Vec<(usize, f32)> =
            logits.iter().enumerate().map(|(id, x)| (id, x * scale - z)).collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let mut mass = 0.0_f64;
        let cut = all.iter().position(|(_, logprob)| {
            mass += f64::from(*logprob).exp();
            mass >= f64::from(self.top_p)
        });
        all.truncate(cut.map_or(all.len(), |last| last + 1));
        all
    }
}

fn argmax(logits: &[f32]) -> usize {
    let mut best = 0;
    for (id, x) in logits.iter().enumerate() {
        if *x > logits[best] {
            best = id;
        }
    }
    best
}

/// ln Σ e^(scale · x), summed in f64 so that 49,152 small terms are not lost.
fn log_sum_exp(logits: &[f32], scale: f32) -> f32 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max) * scale;
    let sum: f64 = logits.iter().map(|x| f64::from((x * scale - max).exp())).sum();
    max + sum.ln() as f32
}

/// The first index at which the running sum of probabilities passes `uniform`.
fn pick(logprobs: impl Iterator<Item = f32>, uniform: f64) -> usize {
    let mut sum = 0.0;
    let mut last = 0;
    for (index, logprob) in logprobs.enumerate() {
        sum += f64::from(logprob.exp());
        last = index;
        if sum > uniform {
            break;
        }
    }
    last
}
