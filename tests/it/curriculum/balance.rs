//! The choice of temperature and threshold, held to values computed by hand.

use nightschool::curriculum::balance::Decision;
use nightschool::curriculum::balance::Drawn;
use nightschool::curriculum::balance::Sample;
use nightschool::curriculum::balance::decide;
use nightschool::curriculum::balance::pass_at;
use nightschool::curriculum::balance::reward_at;
use nightschool::curriculum::balance::score;
use nightschool::rng;
use proptest::prelude::*;

/// Samples by reward and trajectory; those of reward 1 are right.
fn query(samples: &[(f32, &str)]) -> Vec<Sample> {
    let sample = |(reward, trajectory): &(f32, &str)| Sample {
        reward: *reward,
        correct: *reward >= 1.0,
        trajectory: (*trajectory).to_string(),
    };
    samples.iter().map(sample).collect()
}

#[test]
fn the_balance_score_is_that_of_the_formula() {
    // Six kept, four right, of which two are the same: min(3/6, 1) · 3/6.
    let one = query(&[(1.0, "a"), (1.0, "b"), (1.0, "b"), (1.0, "c"), (0.5, "d"), (0.0, "e")]);
    let alone = [one.clone()];
    assert!((score(&alone, 0.0, 6) - 0.25).abs() < 1e-12);
    // From 0.5 on five are kept: min(3/6, 1) · 3/5. From 1 on four: 3/6 · 3/4.
    assert!((score(&alone, 0.5, 6) - 0.3).abs() < 1e-12);
    assert!((score(&alone, 1.0, 6) - 0.375).abs() < 1e-12);
    // More than are wanted are worth no more: 3/4.
    assert!((score(&alone, 1.0, 2) - 0.75).abs() < 1e-12);
    // Nothing kept is 0, and the score is the mean over queries.
    let none = query(&[(0.2, "a"), (0.0, "b")]);
    assert!((score(&[one, none], 1.0, 2) - 0.375).abs() < 1e-12);
    assert_eq!(score(&[], 0.0, 1), 0.0);
    // With a threshold that only right ones pass, and no two alike, it is exploration alone:
    // the mean of min(n′/n*, 1).
    let right = |n: usize| query(&["a", "b", "c", "d"].map(|name| (1.0, name))[..n]);
    assert!((score(&[right(1), right(4)], 1.0, 4) - 0.625).abs() < 1e-12);
}

#[test]
fn exploration_counts_different_right_answers_and_exploitation_the_best_by_reward() {
    let queries = [
        query(&[(1.0, "a"), (1.0, "a"), (0.0, "b"), (0.0, "c")]),
        query(&[(1.0, "a"), (1.0, "b"), (0.0, "c"), (0.0, "d")]),
        query(&[(0.5, "a"), (0.0, "b"), (0.0, "c"), (0.0, "d")]),
        query(&[(1.0, "a"), (0.9, "b"), (0.0, "c"), (0.0, "d")]),
    ];
    assert_eq!((pass_at(&queries, 1), pass_at(&queries, 2)), (0.75, 0.25));
    assert_eq!((reward_at(&queries, 1), reward_at(&queries, 2)), (0.75, 0.5));
    assert_eq!(reward_at(&queries, 5), 0.0, "there are four");
}

/// At 0.5 the same right answer again and again, at 1.0 two right ones and a wrong one.
fn drawn() -> Vec<Drawn> {
    let cold = query(&[(1.0, "a"), (1.0, "a"), (1.0, "a"), (1.0, "a")]);
    let warm = query(&[(1.0, "a"), (1.0, "b"), (0.5, "c"), (0.0, "d")]);
    let at = |temperature, query: &Vec<Sample>| Drawn {
        temperature,
        queries: vec![query.clone(), query.clone()],
    };
    vec![at(0.5, &cold), at(1.0, &warm)]
}

#[test]
fn the_best_pair_is_chosen_with_all_its_figures() {
    let decision = decide(&drawn(), &[0.0, 0.5, 1.0], 2, None).unwrap();
    // 0.5: min(1/2, 1) · 1/4 = 0.125 throughout. 1.0: 1 · 2/4, 1 · 2/3, 1 · 2/2.
    let scores: Vec<f64> = decision.cells.iter().map(|cell| cell.score).collect();
    let expected = [0.125, 0.125, 0.125, 0.5, 2.0 / 3.0, 1.0];
    assert!(scores.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{scores:?}");
    let chosen = decision.chosen;
    assert_eq!((chosen.temperature, chosen.threshold, chosen.score), (1.0, 1.0, 1.0));
    let Decision { wanted, samples, shots, queries, permuted, .. } = decision;
    assert_eq!((wanted, samples, shots, queries, permuted), (2, 4, 2, 2, false));
    let trials: Vec<(f64, f64, f64)> =
        decision.trials.iter().map(|trial| (trial.solved, trial.pass, trial.reward)).collect();
    assert_eq!(trials, [(1.0, 0.0, 1.0), (0.5, 1.0, 1.0)]);
    // Of equal ones the first.
    let tied = decide(&drawn()[..1], &[0.0, 0.5, 1.0], 2, None).unwrap().chosen;
    assert_eq!((tied.temperature, tied.threshold), (0.5, 0.0));
    // S is what is wanted, or what there is.
    assert_eq!(decide(&drawn(), &[0.0], 9, None).unwrap().shots, 4);
    assert_eq!(decide(&[], &[0.0], 1, None), None);
}

#[test]
fn the_control_shuffles_the_scores_and_keeps_them_all() {
    let mut chosen = std::collections::BTreeSet::new();
    for seed in 0..40 {
        let mut rng = rng::stream(seed, &["balance"]);
        let decision = decide(&drawn(), &[0.0, 0.5, 1.0], 2, Some(&mut rng)).unwrap();
        assert!(decision.permuted);
        let mut scores: Vec<f64> = decision.cells.iter().map(|cell| cell.score).collect();
        scores.sort_by(f64::total_cmp);
        assert_eq!((scores[0], scores[2], scores[5]), (0.125, 0.125, 1.0));
        assert_eq!(decision.chosen.score, 1.0);
        chosen.insert(format!("{}/{}", decision.chosen.temperature, decision.chosen.threshold));
    }
    assert_eq!(chosen.len(), 6, "every pair is chosen now and then");
}

proptest! {
    #[test]
    fn scores_lie_between_0_and_1_and_are_highest_where_only_right_answers_are_kept(
        queries in prop::collection::vec(
            prop::collection::vec((0.0_f32..=1.0, any::<bool>(), 0..5_u8), 0..12), 0..6),
        wanted in 1..10_usize,
    ) {
        let sample = |(reward, correct, trajectory): (f32, bool, u8)| Sample {
            reward: if correct { 1.0 } else { reward },
            correct,
            trajectory: format!("{correct} {trajectory}"),
        };
        let queries: Vec<Vec<Sample>> =
            queries.into_iter().map(|one| one.into_iter().map(sample).collect()).collect();
        let mut last = 0.0;
        for threshold in [0.0, 0.25, 0.5, 0.75, 1.0] {
            let score = score(&queries, threshold, wanted);
            prop_assert!((0.0..=1.0).contains(&score), "{}", score);
            // A right answer has reward 1: a stricter threshold only takes wrong ones away.
            prop_assert!(score >= last - 1e-12, "{} after {}", score, last);
            last = score;
        }
        for shots in 1..5 {
            prop_assert!(pass_at(&queries, shots) >= pass_at(&queries, shots + 1));
        }
    }
}
