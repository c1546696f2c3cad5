//! Which tasks are chosen: samplers, scores, parking and resting.

mod balance;
mod mechanism;
mod mixture;
mod rest;

use nightschool::config;
use nightschool::config::Curriculum;
use nightschool::curriculum::Choice;
use nightschool::curriculum::Entry;
use nightschool::curriculum::Exit;
use nightschool::curriculum::Learnability;
use nightschool::curriculum::Measured;
use nightschool::curriculum::Sampler;
use nightschool::curriculum::Scored;
use nightschool::curriculum::Uniform;
use nightschool::curriculum::effective_sample_size;
use nightschool::curriculum::places;
use nightschool::curriculum::sampler;
use nightschool::curriculum::score;
use nightschool::rng;
use proptest::prelude::*;

fn curriculum(flags: &[&str]) -> Curriculum {
    let flags: Vec<String> = flags.iter().map(|flag| format!("curriculum.{flag}")).collect();
    config::load(&[], &flags).unwrap().curriculum
}

fn entry(id: &str, measured: Option<Measured>) -> Entry {
    Entry { task_id: id.into(), attempts: 0, solved: 0, model_made: false, measured }
}

fn measured(variance: f64, nights_ago: u32) -> Option<Measured> {
    Some(Measured { variance, nights_ago, estimated: false })
}

/// One that always draws by score.
fn exit(kappa: f64) -> Exit {
    Exit {
        kappa,
        capacity: 1000,
        min_buffer: 0,
        selection_probability: 1.0,
        unplayed_score: 0.1,
        stale_after: 3,
        permuted: false,
    }
}

#[test]
fn learnability_prefers_tasks_solved_half_the_time() {
    let entry = |id: &str, attempts, solved, model_made| Entry {
        attempts,
        solved,
        model_made,
        ..entry(id, None)
    };
    let entries = [
        entry("always", 16, 16, false),
        entry("half", 16, 8, false),
        entry("never", 16, 0, true),
        entry("untried", 0, 0, true),
    ];
    let pick = |n| Learnability.pick(&entries, n, &mut rng::stream(1, &["pick"]));
    assert_eq!(pick(2).places, [3, 1], "the model's own first among equals");
    assert_eq!(pick(9).places.len(), 4);
    assert_eq!(pick(4), pick(4));
    assert_eq!(pick(4).spread, None, "it takes the best: nothing is drawn");
}

#[test]
fn the_score_is_the_variance_of_a_groups_rewards() {
    // Of k right among n it is k/n (1 − k/n).
    for (right, expected) in [(0, 0.0), (1, 0.109_375), (2, 0.1875), (4, 0.25), (7, 0.109_375)] {
        let rewards: Vec<f32> = (0..8).map(|i| f32::from(u8::from(i < right))).collect();
        assert_eq!(score(&rewards), expected, "{right} of 8");
    }
    // Graded: mean 0.5, squares of the distances 0.25, 0.01, 0.01, 0.25 over 4.
    assert!((score(&[0.0, 0.4, 0.6, 1.0]) - 0.13).abs() < 1e-7);
    assert_eq!(score(&[0.1, 0.1, 0.1]), 0.0, "to the last bit, where all are equal");
    assert_eq!((score(&[0.7]), score(&[])), (0.0, 0.0));
}

#[test]
fn high_scores_are_drawn_as_often_as_kappa_says() {
    // Weights exp(10 · 0.25), exp(10 · 0.109375) and 1.
    let entries = [
        entry("a", measured(0.25, 0)),
        entry("b", measured(0.109_375, 0)),
        entry("c", measured(0.0, 0)),
    ];
    let weights = [12.182_494_f64, 2.985_399, 1.0];
    let total: f64 = weights.iter().sum();
    let mut first = [0.0; 3];
    for seed in 0..20_000 {
        let choice = exit(10.0).pick(&entries, 1, &mut rng::stream(seed, &["draw"]));
        first[choice.places[0]] += 1.0 / 20_000.0;
    }
    for (place, weight) in weights.iter().enumerate() {
        assert!((first[place] - weight / total).abs() < 0.01, "{place}: {first:?}");
    }
    let spread = exit(10.0).pick(&entries, 1, &mut rng::stream(0, &[])).spread.unwrap();
    assert_eq!(spread.eligible, 3);
    let expected = total * total / weights.iter().map(|weight| weight * weight).sum::<f64>();
    assert!((spread.effective - expected).abs() < 1e-5, "{spread:?}");
    assert!((effective_sample_size(&[2.0; 5]) - 5.0).abs() < 1e-12);
    // Without preference all are alike; with much the best has it all.
    let effective =
        |kappa| exit(kappa).pick(&entries, 1, &mut rng::stream(0, &[])).spread.unwrap().effective;
    assert!((effective(0.0) - 3.0).abs() < 1e-12);
    assert!(effective(200.0) < 1.001);
}

#[test]
fn old_scores_shrink_to_the_mean_and_unplayed_tasks_have_an_estimate() {
    let entries = [
        entry("fresh", measured(0.2, 3)),
        entry("stale", measured(0.1, 12)),
        entry("unplayed", None),
    ];
    // The mean is 0.15; three of twelve nights are left of the stale one's 0.1.
    let scores = exit(1.0).scores(&entries);
    let expected = [0.2, 0.25 * 0.1 + 0.75 * 0.15, 0.1];
    let near = |(a, b): (&Scored, f64)| (a.score - b).abs() < 1e-12;
    assert!(scores.iter().zip(expected).all(near), "{scores:?}");
    assert_eq!(scores.iter().map(|one| one.estimated).collect::<Vec<_>>(), [false, true, true]);
    // What is drawn comes with what it was drawn by.
    let choice = exit(1.0).pick(&entries, 3, &mut rng::stream(1, &["draw"]));
    let drawn: Vec<Scored> = choice.places.iter().map(|place| scores[*place]).collect();
    assert_eq!(choice.scores, drawn);
}

#[test]
fn only_the_best_can_be_drawn_and_of_equal_ones_the_latest() {
    let entries = [
        entry("old", measured(0.2, 2)),
        entry("new", measured(0.2, 0)),
        entry("worst", measured(0.0, 0)),
        entry("best", measured(0.25, 3)),
    ];
    let pick = |exit: &Exit, n, seed| exit.pick(&entries, n, &mut rng::stream(seed, &["draw"]));
    let two = Exit { capacity: 2, ..exit(0.0) };
    for seed in 0..50 {
        let mut places = pick(&two, 2, seed).places;
        places.sort_unstable();
        assert_eq!(places, [1, 3]);
    }
    assert_eq!(pick(&two, 1, 0).spread.unwrap().eligible, 2);
    // When they run out, any other takes the place.
    assert_eq!(pick(&two, 4, 0).places.len(), 4);
    // Too few of them: any.
    let few = Exit { min_buffer: 5, ..exit(1000.0) };
    let firsts: std::collections::BTreeSet<usize> =
        (0..200).map(|seed| pick(&few, 1, seed).places[0]).collect();
    assert_eq!(firsts.len(), 4);
    assert_eq!(pick(&few, 1, 0).spread.unwrap().effective, 4.0);
    // With probability 0 of it, nothing is drawn by score.
    let never = Exit { selection_probability: 0.0, ..exit(1000.0) };
    let best = (0..400).filter(|seed| pick(&never, 1, *seed).places == [3]).count();
    assert!((60..140).contains(&best), "{best} of 400");
}

#[test]
fn the_permuted_control_has_the_same_distribution_over_other_tasks() {
    let entries: Vec<Entry> =
        (0..20).map(|i| entry(&i.to_string(), measured(f64::from(i) / 80.0, 0))).collect();
    let permuted = Exit { permuted: true, ..exit(60.0) };
    let mean_place = |exit: &Exit| {
        let first = |seed| exit.pick(&entries, 1, &mut rng::stream(seed, &["draw"])).places[0];
        (0..500).map(first).sum::<usize>() as f64 / 500.0
    };
    assert!(mean_place(&exit(60.0)) > 16.0);
    assert!((mean_place(&permuted) - 9.5).abs() < 1.0, "the scores say nothing any more");
    let effective =
        |exit: &Exit| exit.pick(&entries, 1, &mut rng::stream(1, &[])).spread.unwrap().effective;
    assert!((effective(&permuted) - effective(&exit(60.0))).abs() < 1e-9);
}

#[test]
fn samplers_go_by_the_name_in_the_settings() {
    let entries = [entry("a", measured(0.25, 0)), entry("b", None)];
    for (flag, spread) in [
        ("sampler=uniform", Some(2)),
        ("sampler=learnability", None),
        ("sampler=exit", Some(2)),
        ("sampler=exit_permuted", Some(2)),
    ] {
        let Choice { places, spread: told, .. } =
            sampler(&curriculum(&[flag])).pick(&entries, 2, &mut rng::stream(1, &[]));
        assert_eq!(places.len(), 2, "{flag}");
        assert_eq!(told.map(|spread| spread.eligible), spread, "{flag}");
    }
    let error = config::load(&[], &["curriculum.sampler=exit2".into()]).unwrap_err().to_string();
    assert!(error.contains("`curriculum.sampler`") && error.contains("`exit_permuted`"), "{error}");
    for (flag, reason) in [
        ("curriculum.capacity=0", "`curriculum.capacity` is 0; it must be from 1"),
        ("curriculum.min_buffer=513", "`curriculum.min_buffer` is 513; it must be from 0 to 512"),
        ("curriculum.improve_share=1.5", "`curriculum.improve_share` is 1.5"),
        ("curriculum.unplayed_score=0.3", "it must be from 0 to 0.25"),
        ("balance.temperatures=[]", "`balance.temperatures` is empty"),
        ("balance.temperatures=[1.0, 0.5, 1.0]", "`balance.temperatures` has a value twice"),
        ("balance.thresholds=[1.5]", "`balance.thresholds` is 1.5; it must be from 0 to 1"),
    ] {
        let error = config::load(&[], &[flag.into()]).unwrap_err().to_string();
        assert!(error.contains(reason), "{flag}: {error}");
    }
}

#[test]
fn a_share_of_the_places_is_kept_over_the_rounds() {
    let of = |share, n| (0..10).map(|round| places(share, n, round)).collect::<Vec<_>>();
    assert_eq!(of(0.25, 4), [1; 10]);
    assert_eq!(of(0.1, 5), [0, 1, 0, 1, 0, 1, 0, 1, 0, 1]);
    assert_eq!(of(0.0, 64), [0; 10]);
    assert_eq!(of(1.0, 64), [64; 10]);
    assert_eq!(of(0.3, 8).iter().sum::<usize>(), 24);
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let measured = prop::option::of((0.0..=0.25, 0..40_u32, any::<bool>()));
    let one = (measured, 0..20_u64, any::<bool>());
    prop::collection::vec(one, 0..40).prop_map(|all| {
        let entry = |(i, (measured, attempts, model_made)): (usize, _)| {
            let measured: Option<(f64, u32, bool)> = measured;
            Entry {
                attempts,
                solved: attempts / 2,
                model_made,
                ..entry(
                    &i.to_string(),
                    measured.map(|(variance, nights_ago, estimated)| Measured {
                        variance,
                        nights_ago,
                        estimated,
                    }),
                )
            }
        };
        all.into_iter().enumerate().map(entry).collect()
    })
}

proptest! {
    /// Whatever the entries: as many different places as there can be, the same ones for the same
    /// seed, from a distribution whose effective size is possible.
    #[test]
    fn choices_are_distinct_complete_and_repeatable(
        entries in entries(), n in 0..50_usize, seed: u64, kappa in 0.0..100.0, capacity in 1..50_usize,
        min_buffer in 0..20_usize, selection_probability in 0.0..=1.0, permuted: bool,
    ) {
        let exit = Exit { capacity, min_buffer, selection_probability, permuted, ..exit(kappa) };
        let samplers: [&dyn Sampler; 3] = [&exit, &Uniform, &Learnability];
        for sampler in samplers {
            let pick = || sampler.pick(&entries, n, &mut rng::stream(seed, &["pick"]));
            let choice = pick();
            prop_assert_eq!(&choice, &pick());
            let different: std::collections::BTreeSet<_> = choice.places.iter().collect();
            prop_assert_eq!(different.len(), n.min(entries.len()));
            prop_assert!(choice.places.iter().all(|place| *place < entries.len()));
            if let Some(spread) = choice.spread {
                prop_assert!(spread.eligible <= entries.len());
                let effective = spread.effective;
                prop_assert!(effective > 1.0 - 1e-9, "{}", effective);
                prop_assert!(effective < spread.eligible as f64 + 1e-6, "{}", effective);
            }
        }
        if let Some(spread) = exit.pick(&entries, n, &mut rng::stream(seed, &[])).spread {
            let known = entries.iter().filter(|entry| entry.measured.is_some()).count();
            prop_assert!(known < min_buffer || spread.eligible <= capacity);
        }
    }
}
