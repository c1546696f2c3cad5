//! Balance of exploration and exploitation (B-STaR, Zeng et al. 2024): at which temperature answers
//! are drawn, and from which reward on they are learnt.

use std::collections::BTreeSet;

use rand::seq::SliceRandom;
use serde::Deserialize;
use serde::Serialize;

use crate::rng::Rng;

/// An answer that was drawn to find that out.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Its reward, in [0, 1].
    pub reward: f32,
    /// Whether it matches the verified answer.
    pub correct: bool,
    /// What tells different answers apart: a hash of all that the model wrote.
    pub trajectory: String,
}

/// What was drawn at one temperature, by query.
#[derive(Debug, Clone, PartialEq)]
pub struct Drawn {
    /// The temperature.
    pub temperature: f64,
    /// The samples of each query.
    pub queries: Vec<Vec<Sample>>,
}

/// Exploration and exploitation at one temperature.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// The temperature.
    pub temperature: f64,
    /// Share of the samples that are right.
    pub solved: f64,
    /// Pass@K-S: share of the queries with S different right answers or more among the K samples.
    pub pass: f64,
    /// Reward@K-S: share of the queries whose S samples of highest reward are all right.
    pub reward: f64,
}

/// The balance score of a temperature and a threshold.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// The temperature.
    pub temperature: f64,
    /// Reward from which an answer is kept.
    pub threshold: f64,
    /// The score, in [0, 1].
    pub score: f64,
}

/// What is chosen, and all that it was chosen from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// The chosen temperature and threshold with their score.
    pub chosen: Cell,
    /// n*: different right answers wanted of a query.
    pub wanted: usize,
    /// K: samples of a query at a temperature.
    pub samples: usize,
    /// S of Pass@K-S and Reward@K-S: `wanted`, or `samples` where that is less.
    pub shots: usize,
    /// Queries.
    pub queries: usize,
    /// Whether the scores were shuffled before the choice.
    pub permuted: bool,
    /// Each temperature.
    pub trials: Vec<Trial>,
    /// Each temperature with each threshold; as they were chosen by, so after a shuffle.
    pub cells: Vec<Cell>,
}

/// The right answers among `samples` that have the reward `threshold`, the same ones once.
fn different<'s>(samples: impl Iterator<Item = &'s Sample>) -> usize {
    let right = samples.filter(|sample| sample.correct);
    right.map(|sample| sample.trajectory.as_str()).collect::<BTreeSet<_>>().len()
}

/// BS(T, τ): the mean over queries of min(n′/n*, 1) · n′/n, n samples that are kept, n′ different
/// right ones of them, n* = `wanted`. A query of which nothing is kept has 0.
pub fn score(queries: &[Vec<Sample>], threshold: f64, wanted: usize) -> f64 {
    let of = |samples: &Vec<Sample>| {
        // Compared as the trainer does.
        let kept = || samples.iter().filter(|sample| sample.reward >= threshold as f32);
        let (n, right) = (kept().count() as f64, different(kept()) as f64);
        if n == 0.0 { 0.0 } else { (right / wanted.max(1) as f64).min(1.0) * right / n }
    };
    mean(queries.iter().map(of))
}

/// Pass@K-S: share of the queries with `shots` different right answers or more.
pub fn pass_at(queries: &[Vec<Sample>], shots: usize) -> f64 {
    mean(queries.iter().map(|samples| f64::from(u8::from(different(samples.iter()) >= shots))))
}

/// Reward@K-S: share of the queries whose `shots` samples of highest reward, of equal ones the
/// first, are all right.
pub fn reward_at(queries: &[Vec<Sample>], shots: usize) -> f64 {
    let of = |samples: &Vec<Sample>| {
        let mut ranked: Vec<&Sample> = samples.iter().collect();
        ranked.sort_by(|a, b| b.reward.total_cmp(&a.reward));
        let best = ranked.iter().take(shots);
        f64::from(u8::from(samples.len() >= shots && best.into_iter().all(|one| one.correct)))
    };
    mean(queries.iter().map(of))
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let n = values.len().max(1) as f64;
    values.sum::<f64>() / n
}

/// Chooses the temperature and threshold with the highest score; of equal ones the first, in the
/// order of temperatures, then of thresholds. With `shuffle` the scores are shuffled over them
/// first: a control. None where nothing was drawn.
pub fn decide(
    drawn: &[Drawn],
    thresholds: &[f64],
    wanted: usize,
    shuffle: Option<&mut Rng>,
) -> Option<Decision> {
    let samples = drawn.iter().flat_map(|one| &one.queries).map(Vec::len).max()?;
    let shots = wanted.min(samples).max(1);
    let trials = drawn.iter().map(|Drawn { temperature, queries }| {
        let all = || queries.iter().flatten();
        let right = all().filter(|sample| sample.correct).count();
        Trial {
            temperature: *temperature,
            solved: right as f64 / all().count().max(1) as f64,
            pass: pass_at(queries, shots),
            reward: reward_at(queries, shots),
        }
    });
    let trials = trials.collect();
    let mut cells: Vec<Cell> = drawn
        .iter()
        .flat_map(|Drawn { temperature, queries }| {
            thresholds.iter().map(|threshold| Cell {
                temperature: *temperature,
                threshold: *threshold,
                score: score(queries, *threshold, wanted),
            })
        })
        .collect();
    let permuted = shuffle.is_some();
    if let Some(rng) = shuffle {
        let mut scores: Vec<f64> = cells.iter().map(|cell| cell.score).collect();
        scores.shuffle(rng);
        cells.iter_mut().zip(scores).for_each(|(cell, score)| cell.score = score);
    }
    let first = *cells.first()?;
    let better = |best: Cell, cell: &Cell| if cell.score > best.score { *cell } else { best };
    let chosen = cells.iter().fold(first, better);
    let queries = drawn.first()?.queries.len();
    Some(Decision { chosen, wanted, samples, shots, queries, permuted, trials, cells })
}
