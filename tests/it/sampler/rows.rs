//! Rows of any kind: as long as a model's, against a plain f64 implementation, and such as no model
//! should give.

use nightschool::inference::LogitMask;
use nightschool::inference::Sampling;
use nightschool::inference::TokenScore;
use nightschool::rng;
use proptest::prelude::*;
use rand::Rng as _;

use super::check_score;

/// Tokens of the default model.
const VOCABULARY: usize = 49_152;

/// Logits of roughly normal distribution; in steps of `step`, where there is one, so that many are
/// equal.
fn row(seed: u64, n: usize, spread: f32, step: f32) -> Vec<f32> {
    let mut rng = rng::stream(seed, &["row"]);
    let mut normal = || (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0;
    let logit = |x: f32| if step > 0.0 { (x / step).round() * step } else { x };
    (0..n).map(|_| logit(spread * normal())).collect()
}

/// What the filters leave, sorted, and the weights, by the definitions.
struct Reference {
    tokens: Vec<usize>,
    weights: Vec<f64>,
    total: f64,
}

impl Reference {
    fn of(sampling: &Sampling, logits: &[f32], mask: Option<&LogitMask>) -> Self {
        let allowed = |id: &usize| mask.is_none_or(|mask| mask.allows(*id as u32));
        let mut tokens: Vec<usize> = (0..logits.len()).filter(allowed).collect();
        tokens.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
        let scaled = |id: usize| f64::from(logits[id]) / f64::from(sampling.temperature);
        let max = scaled(tokens[0]);
        let weights: Vec<f64> = (0..logits.len()).map(|id| (scaled(id) - max).exp()).collect();
        if sampling.top_k > 0 && sampling.top_k < tokens.len() {
            let last = logits[tokens[sampling.top_k - 1]];
            tokens.retain(|id| logits[*id] >= last);
        }
        if sampling.top_p < 1.0 {
            let all: f64 = tokens.iter().map(|id| weights[*id]).sum();
            let mut before = 0.0;
            tokens.retain(|id| {
                let kept = before < f64::from(sampling.top_p) * all;
                before += weights[*id];
                kept
            });
        }
        tokens.retain(|id| weights[*id] >= f64::from(sampling.min_p));
        let total = tokens.iter().map(|id| weights[*id]).sum();
        Self { tokens, weights, total }
    }

    /// Checks draws; the rounding of f32 may move the last token that is left by a little.
    fn check(&self, sampling: &Sampling, logits: &[f32], mask: Option<&LogitMask>, seed: u64) {
        let mut rng = rng::stream(seed, &["draws"]);
        let last = self.tokens.iter().map(|id| self.weights[*id]).fold(1.0, f64::min);
        for _ in 0..12 {
            let drawn = sampling.draw(&mut logits.to_vec(), &[], mask, &mut rng);
            let id = drawn.token as usize;
            assert!(mask.is_none_or(|mask| mask.allows(drawn.token)));
            assert!(self.weights[id] >= last * (1.0 - 1e-4), "{id} is not left by {sampling:?}");
            let expected = (self.weights[id] / self.total).ln();
            let off = (f64::from(drawn.logprob) - expected).abs();
            // The sum of all that is left is in every log-probability.
            assert!(off < 1e-4, "{drawn:?}, not {expected}, by {sampling:?}");
            check_score(&drawn.score, logits, drawn.token);
        }
    }
}

fn any_sampling() -> impl Strategy<Value = Sampling> {
    let top_k = prop_oneof![Just(0), 1_usize..100, Just(5_000), Just(VOCABULARY)];
    let top_p = prop_oneof![Just(1.0_f32), 0.01_f32..1.0, 0.99_f32..1.0];
    let min_p = prop_oneof![Just(0.0_f32), 0.0_f32..0.01, 0.0_f32..=1.0];
    (0.2_f32..3.0, top_k, top_p, min_p).prop_map(|(temperature, top_k, top_p, min_p)| Sampling {
        top_k,
        top_p,
        min_p,
        ..Sampling::at(temperature)
    })
}

/// Numbers that no model should give, and some it does.
fn any_logit() -> impl Strategy<Value = f32> {
    let odd = [
        f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::MAX,
        f32::MIN,
        f32::MIN_POSITIVE,
        -1e-40,
        0.0,
        -0.0,
    ];
    prop_oneof![1 => prop::sample::select(odd.to_vec()), 1 => -20.0_f32..20.0]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn filters_leave_what_their_definitions_say(
        seed in any::<u64>(),
        spread in prop_oneof![Just(0.0_f32), 0.01_f32..0.3, 1.0_f32..5.0],
        step in prop::sample::select(vec![0.0_f32, 0.0, 0.25]),
        sampling in any_sampling(),
        masked in any::<bool>(),
    ) {
        let logits = row(seed, VOCABULARY, spread, step);
        let forbidden: Vec<u32> = (0..VOCABULARY as u32).filter(|id| id % 7 < 3).collect();
        let mask = masked.then(|| LogitMask::forbid(VOCABULARY, &forbidden).unwrap());
        let reference = Reference::of(&sampling, &logits, mask.as_ref());
        reference.check(&sampling, &logits, mask.as_ref(), seed);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_logits_make_it_fail(
        rows in prop_oneof![
            prop::collection::vec(any_logit(), 1..200),
            // Nothing, or nearly nothing, is possible.
            prop::collection::vec(prop::sample::select(vec![f32::NEG_INFINITY, 3.0]), 1..5),
            prop::collection::vec(Just(f32::NAN), 1..70),
        ],
        temperature in prop::sample::select(vec![0.0, 1e-45, 1e-38, 0.7, 1.0, 9.0, f32::MAX]),
        other in any_sampling(),
        penalty in prop::sample::select(vec![1.0_f32, 1e-40, 0.5, 1.3, f32::MAX]),
        previous in prop::collection::vec(0_u32..250, 0..40),
        allowed in prop::option::of(prop::collection::vec(0_u32..200, 1..60)),
        seed in any::<u64>(),
    ) {
        let sampling = Sampling { temperature, repetition_penalty: penalty, ..other };
        let mask = allowed.and_then(|allowed| LogitMask::allow(rows.len(), &allowed).ok());
        let mut rng = rng::stream(seed, &["odd"]);
        let drawn = sampling.draw(&mut rows.clone(), &previous, mask.as_ref(), &mut rng);
        prop_assert!((drawn.token as usize) < rows.len());
        prop_assert!(mask.as_ref().is_none_or(|mask| mask.allows(drawn.token)));
        let score = drawn.score;
        let all = [drawn.logprob, score.logprob, score.log_normaliser, score.mean_logit];
        prop_assert!(all.iter().all(|x| x.is_finite()), "{drawn:?}");
        prop_assert!(drawn.logprob <= 1e-6 && score.logprob <= 1e-6, "{drawn:?}");
        // Whatever penalty and mask have made of the row.
        prop_assert_eq!(score, TokenScore::of(&rows, drawn.token));
    }
}

#[test]
fn a_long_row_scores_as_in_f64() {
    for (seed, spread) in [(1, 0.0), (2, 0.05), (3, 1.0), (4, 4.0)] {
        let logits = row(seed, VOCABULARY, spread, 0.0);
        for token in (0..VOCABULARY as u32).step_by(3_001) {
            check_score(&TokenScore::of(&logits, token), &logits, token);
        }
    }
}

#[test]
fn the_nucleus_keeps_the_smallest_ids_of_equally_likely_tokens() {
    let mut rng = rng::stream(1, &[]);
    for (n, kept) in [(8, 4), (200, 100), (4_096, 2_048)] {
        let sampling = Sampling { top_p: 0.5, ..Sampling::at(1.0) };
        let drawn: Vec<u32> = (0..2_000)
            .map(|_| sampling.draw(&mut vec![1.5; n], &[], None, &mut rng))
            .inspect(|drawn| assert!((drawn.logprob + (kept as f32).ln()).abs() < 1e-5))
            .map(|drawn| drawn.token)
            .collect();
        assert!(drawn.iter().all(|id| *id < kept), "{n}");
        assert!(drawn.iter().any(|id| *id >= kept - kept / 4));
    }
}

#[test]
fn what_is_not_finite_counts_as_documented() {
    let mut rng = rng::stream(1, &[]);
    let mut draws = |logits: &[f32], mask: Option<&LogitMask>| {
        let mut draw = || Sampling::at(1.0).draw(&mut logits.to_vec(), &[], mask, &mut rng);
        let mut found: Vec<(u32, f32)> =
            (0..200).map(|_| draw()).map(|drawn| (drawn.token, drawn.logprob.exp())).collect();
        found.sort_by_key(|(token, _)| *token);
        found.dedup();
        found
    };
    const INF: f32 = f32::INFINITY;
    // Tokens with +∞ are equally likely, NaN and −∞ impossible.
    assert_eq!(draws(&[INF, 9.0, f32::NAN, INF], None), [(0, 0.5), (3, 0.5)]);
    assert_eq!(draws(&[f32::NAN, 1.0, -INF, 1.0], None), [(1, 0.5), (3, 0.5)]);
    assert_eq!(draws(&[f32::NAN, -INF], None), [(0, 0.5), (1, 0.5)]);
    // The mask allows what is impossible.
    let mask = LogitMask::allow(4, &[1, 2]).unwrap();
    assert_eq!(draws(&[INF, 9.0, 8.0, 1.0], Some(&mask)), [(1, 0.5), (2, 0.5)]);
    assert_eq!(draws(&[1.0, -INF, f32::NAN, 1.0], Some(&mask)), [(1, 0.5), (2, 0.5)]);
    for odd in [-INF, f32::NAN] {
        let drawn = Sampling::at(1.0).draw(&mut [1.0, odd, odd, 1.0], &[], Some(&mask), &mut rng);
        assert_eq!(drawn.score.logprob, f32::MIN);
        assert!((drawn.score.mean_logit - 1.0).abs() < 1e-6, "the mean is of finite logits");
    }
}
