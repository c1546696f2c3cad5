//! The sampler against transformers: `scripts/make_sampler_fixtures.py` made the distributions.

mod rows;
mod settings;

use std::collections::BTreeMap;

use nightschool::inference::Drawn;
use nightschool::inference::LogitMask;
use nightschool::inference::Sampling;
use nightschool::inference::TokenScore;
use nightschool::rng;
use serde::Deserialize;
use statrs::distribution::ChiSquared;
use statrs::distribution::ContinuousCDF as _;

/// Draws of a case.
const DRAWS: usize = 20_000;

#[derive(Deserialize)]
struct Fixture {
    rows: BTreeMap<String, Vec<f32>>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    row: String,
    previous: Vec<u32>,
    forbidden: Vec<u32>,
    sampling: Sampling,
    probabilities: Vec<f64>,
}

impl Case {
    fn name(&self) -> String {
        format!("{} {:?}, {} forbidden", self.row, self.sampling, self.forbidden.len())
    }

    fn mask(&self) -> Option<LogitMask> {
        let mask = || LogitMask::forbid(self.probabilities.len(), &self.forbidden).unwrap();
        (!self.forbidden.is_empty()).then(mask)
    }

    fn draw(&self, logits: &[f32], n: usize, seed: u64) -> Vec<Drawn> {
        let (mask, mut rng) = (self.mask(), rng::stream(seed, &["sampler"]));
        let mut draw =
            || self.sampling.draw(&mut logits.to_vec(), &self.previous, mask.as_ref(), &mut rng);
        (0..n).map(|_| draw()).collect()
    }
}

fn fixture() -> Fixture {
    serde_json::from_str(include_str!("../fixtures/sampler.json")).unwrap()
}

/// ln Σ e^logit and the mean logit, in f64.
fn normaliser_and_mean(logits: &[f32]) -> (f64, f64) {
    let wide = || logits.iter().map(|x| f64::from(*x));
    let max = wide().fold(f64::NEG_INFINITY, f64::max);
    let normaliser = max + wide().map(|x| (x - max).exp()).sum::<f64>().ln();
    (normaliser, wide().sum::<f64>() / logits.len() as f64)
}

/// That a score is the one of `token` under `logits`.
fn check_score(score: &TokenScore, logits: &[f32], token: u32) {
    let (normaliser, mean) = normaliser_and_mean(logits);
    let logprob = f64::from(logits[token as usize]) - normaliser;
    let found = [score.logprob, score.log_normaliser, score.mean_logit].map(f64::from);
    for (found, expected) in found.into_iter().zip([logprob, normaliser, mean]) {
        assert!((found - expected).abs() < 1e-5, "{score:?} for {logprob} {normaliser} {mean}");
    }
}

/// Pearson's statistic and its degrees of freedom; the rarest cells are pooled until each expects
/// at least 5.
fn chi_square(counts: &[usize], probabilities: &[f64]) -> (f64, usize) {
    let n = counts.iter().sum::<usize>() as f64;
    let mut cells: Vec<(f64, f64)> =
        probabilities.iter().zip(counts).map(|(p, count)| (p * n, *count as f64)).collect();
    cells.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut pooled: Vec<(f64, f64)> = Vec::new();
    for (expected, count) in cells {
        match pooled.last_mut() {
            Some(last) if last.0 < 5.0 => *last = (last.0 + expected, last.1 + count),
            _ => pooled.push((expected, count)),
        }
    }
    let statistic = pooled.iter().map(|(expected, count)| (count - expected).powi(2) / expected);
    (statistic.sum(), pooled.len() - 1)
}

/// What chi-square with these degrees of freedom exceeds with probability 10⁻⁴.
fn critical(freedom: usize) -> f64 {
    ChiSquared::new(freedom as f64).unwrap().inverse_cdf(1.0 - 1e-4)
}

#[test]
fn the_test_itself_tells_distributions_apart() {
    let (statistic, freedom) = chi_square(&[4_800, 5_200], &[0.5, 0.5]);
    assert_eq!((statistic, freedom), (16.0, 1));
    assert!(chi_square(&[1_000, 8_999, 1], &[0.11, 0.8899, 0.0001]).0 < critical(1));
    assert!(chi_square(&[1_000, 9_000], &[0.115, 0.885]).0 > critical(1));
}

#[test]
fn draws_have_the_reference_distribution_and_its_log_probabilities() {
    let Fixture { rows, cases } = fixture();
    assert!(cases.len() >= 12);
    for case in &cases {
        let (name, logits) = (case.name(), &rows[&case.row]);
        let mut counts = vec![0; logits.len()];
        for drawn in case.draw(logits, DRAWS, 1) {
            let p = case.probabilities[drawn.token as usize];
            assert!(p > 0.0, "{name}: {} was drawn, but is out", drawn.token);
            let off = (f64::from(drawn.logprob) - p.ln()).abs();
            assert!(off < 1e-4, "{name}: {drawn:?} with probability {p}");
            check_score(&drawn.score, logits, drawn.token);
            counts[drawn.token as usize] += 1;
        }
        let (statistic, freedom) = chi_square(&counts, &case.probabilities);
        assert!(statistic < critical(freedom), "{name}: {statistic} with {freedom} degrees");
    }
}

#[test]
fn scores_are_of_the_raw_logits_whatever_is_drawn_how() {
    let Fixture { rows, cases } = fixture();
    for case in &cases {
        let logits = &rows[&case.row];
        for drawn in case.draw(logits, 50, 2) {
            assert_eq!(drawn.score, TokenScore::of(logits, drawn.token), "{}", case.name());
        }
    }
    for logits in rows.values() {
        for token in 0..logits.len() as u32 {
            check_score(&TokenScore::of(logits, token), logits, token);
        }
    }
    // The uniform distribution has no self-certainty, the one of one token all there is.
    let score = TokenScore::of(&[2.5; 77], 3);
    assert!(score.self_certainty(77).abs() < 1e-5, "{score:?}");
}

#[test]
fn draws_follow_from_logits_request_and_seed() {
    let Fixture { rows, cases } = fixture();
    for case in &cases {
        let logits = &rows[&case.row];
        assert_eq!(case.draw(logits, 100, 3), case.draw(logits, 100, 3));
        assert_ne!(case.draw(logits, 100, 3), case.draw(logits, 100, 4), "{}", case.name());
    }
}

#[test]
fn nothing_set_is_the_policys_own_distribution() {
    let rows = fixture().rows;
    let mut rng = rng::stream(5, &["sampler"]);
    for logits in rows.values() {
        for _ in 0..200 {
            let drawn = Sampling::at(1.0).draw(&mut logits.clone(), &[1, 2], None, &mut rng);
            assert_eq!(drawn.logprob, drawn.score.logprob);
        }
    }
}

#[test]
fn greedy_is_the_first_of_the_most_likely_tokens() {
    let Fixture { rows, cases } = fixture();
    for case in &cases {
        let logits = &rows[&case.row];
        let greedy = Case {
            sampling: Sampling { temperature: 0.0, ..case.sampling },
            row: case.row.clone(),
            previous: case.previous.clone(),
            forbidden: case.forbidden.clone(),
            probabilities: case.probabilities.clone(),
        };
        // What is drawn never has a higher probability; filters keep the most likely tokens.
        let best = case.probabilities.iter().copied().fold(0.0, f64::max);
        let first = case.probabilities.iter().position(|p| *p == best).unwrap();
        let drawn = greedy.draw(logits, 2, 6);
        assert_eq!(drawn[0].token as usize, first, "{}", case.name());
        assert_eq!(drawn[0], drawn[1]);
    }
    let (mut logits, mut rng) = (vec![0.0; 300], rng::stream(1, &[]));
    for token in [299, 130, 70, 69] {
        logits[token] = 4.0;
        let drawn = Sampling::GREEDY.draw(&mut logits.clone(), &[], None, &mut rng);
        assert_eq!(drawn.token as usize, token);
        check_score(&drawn.score, &logits, drawn.token);
        // Its log-probability is that of temperature 1.
        assert_eq!(drawn.logprob, drawn.score.logprob);
    }
}
