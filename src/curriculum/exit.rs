//! Exploratory iteration's choice (ExIt, Jiang et al. 2025): in proportion to exp(κ S), S the
//! variance of the rewards of an entry's latest group under one policy.

use rand::Rng as _;
use rand::seq::SliceRandom;

use super::sampler::Choice;
use super::sampler::Entry;
use super::sampler::Sampler;
use super::sampler::Scored;
use super::sampler::Spread;
use crate::config::Curriculum;
use crate::rng::Rng;

/// The score S of a group: the variance of its rewards over n, at most ¼ for rewards in [0, 1]; 0
/// for less than two.
pub fn score(rewards: &[f32]) -> f64 {
    // Where all are equal it is exactly 0, whatever rounding makes of their mean.
    if rewards.windows(2).all(|pair| pair[0] == pair[1]) {
        return 0.0;
    }
    let n = rewards.len() as f64;
    let mean = rewards.iter().map(|reward| f64::from(*reward)).sum::<f64>() / n;
    rewards.iter().map(|reward| (f64::from(*reward) - mean).powi(2)).sum::<f64>() / n
}

/// 1 / Σ P² of probabilities in proportion to `weights`, of which one at least is above 0.
pub fn effective_sample_size(weights: &[f64]) -> f64 {
    let total: f64 = weights.iter().sum();
    let squares: f64 = weights.iter().map(|weight| (weight / total).powi(2)).sum();
    1.0 / squares
}

/// The sampler. Entries without a group of their own are scored by an estimate; the best so many by
/// score can be drawn. It draws without replacement, each place by score with a probability, and
/// any entry otherwise.
#[derive(Debug, Clone, PartialEq)]
pub struct Exit {
    /// κ.
    pub kappa: f64,
    /// Entries that can be drawn by score.
    pub capacity: usize,
    /// Entries of which something is known below which nothing is drawn by score.
    pub min_buffer: usize,
    /// How probably a place is filled by score.
    pub selection_probability: f64,
    /// Score of an entry that was never played.
    pub unplayed_score: f64,
    /// Nights after which a measured score counts as an estimate.
    pub stale_after: u32,
    /// Whether the scores are shuffled over the entries that can be drawn.
    pub permuted: bool,
}

impl Exit {
    /// That of the settings.
    pub fn new(settings: &Curriculum, permuted: bool) -> Self {
        Self {
            kappa: settings.kappa,
            capacity: settings.capacity,
            min_buffer: settings.min_buffer,
            selection_probability: settings.selection_probability,
            unplayed_score: settings.unplayed_score,
            stale_after: settings.stale_after,
            permuted,
        }
    }

    /// The scores that entries are drawn by. One that was measured a > `stale_after` nights ago
    /// is worth w S + (1 − w) S̄ with w = `stale_after` / a, S̄ the mean of all that were measured.
    pub fn scores(&self, entries: &[Entry]) -> Vec<Scored> {
        let measured: Vec<f64> =
            entries.iter().filter_map(|entry| Some(entry.measured?.variance)).collect();
        let mean = measured.iter().sum::<f64>() / measured.len().max(1) as f64;
        let of = |entry: &Entry| match entry.measured {
            None => Scored { score: self.unplayed_score, estimated: true },
            Some(latest) if latest.nights_ago <= self.stale_after => {
                Scored { score: latest.variance, estimated: latest.estimated }
            }
            Some(latest) => {
                let kept = f64::from(self.stale_after) / f64::from(latest.nights_ago);
                Scored { score: kept * latest.variance + (1.0 - kept) * mean, estimated: true }
            }
        };
        entries.iter().map(of).collect()
    }

    /// The entries that can be drawn by score, best first, with their scores: of equal ones those
    /// whose group is the latest.
    fn buffer(&self, entries: &[Entry], scores: &[Scored], rng: &mut Rng) -> Vec<(usize, f64)> {
        let mut ranked: Vec<(usize, u64)> =
            (0..entries.len()).map(|place| (place, rng.random())).collect();
        let age = |place: usize| entries[place].measured.map_or(u32::MAX, |one| one.nights_ago);
        ranked.sort_by(|(a, draw_a), (b, draw_b)| {
            scores[*b]
                .score
                .total_cmp(&scores[*a].score)
                .then(age(*a).cmp(&age(*b)))
                .then(draw_a.cmp(draw_b))
                .then(a.cmp(b))
        });
        ranked.truncate(self.capacity);
        let mut kept: Vec<f64> = ranked.iter().map(|(place, _)| scores[*place].score).collect();
        if self.permuted {
            kept.shuffle(rng);
        }
        ranked.into_iter().map(|(place, _)| place).zip(kept).collect()
    }
}

impl Sampler for Exit {
    fn pick(&self, entries: &[Entry], n: usize, rng: &mut Rng) -> Choice {
        let scores = self.scores(entries);
        let mut buffer = self.buffer(entries, &scores, rng);
        let known = entries.iter().filter(|entry| entry.measured.is_some()).count();
        if known < self.min_buffer {
            buffer.clear();
        }
        let spread = match buffer.first() {
            None => Spread::even(entries.len()),
            Some(_) => {
                let best = buffer.iter().map(|(_, score)| *score).fold(f64::MIN, f64::max);
                let weights: Vec<f64> =
                    buffer.iter().map(|(_, score)| (self.kappa * (score - best)).exp()).collect();
                let effective = effective_sample_size(&weights);
                Some(Spread { eligible: buffer.len(), effective })
            }
        };
        // In the order of κ S + Gumbel noise the draws are those of exp(κ S), one after another
        // without replacement.
        let mut noisy: Vec<(usize, f64)> = buffer
            .into_iter()
            .map(|(place, score)| {
                let gumbel = -(-rng.random::<f64>().ln()).ln();
                (place, self.kappa * score + gumbel)
            })
            .collect();
        noisy.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let mut by_score = noisy.into_iter().map(|(place, _)| place);
        let mut any: Vec<usize> = (0..entries.len()).collect();
        any.shuffle(rng);
        let mut any = any.into_iter();
        let mut taken = vec![false; entries.len()];
        let mut places = Vec::new();
        while places.len() < n.min(entries.len()) {
            let selects = rng.random::<f64>() < self.selection_probability;
            let next = match selects {
                true => by_score.find(|place| !taken[*place]),
                false => None,
            };
            let Some(place) = next.or_else(|| any.find(|place| !taken[*place])) else { break };
            taken[place] = true;
            places.push(place);
        }
        let scores = places.iter().map(|place| scores[*place]).collect();
        Choice { places, scores, spread }
    }
}
