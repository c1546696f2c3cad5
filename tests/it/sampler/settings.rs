//! What a request may ask for, and how it is stored.

use nightschool::inference::LogitMask;
use nightschool::inference::Sampling;
use nightschool::inference::SamplingError;
use nightschool::rng;
use serde_json::json;

#[test]
fn settings_out_of_range_are_named_with_their_range() {
    let base = Sampling::at(1.0);
    for (sampling, expected) in [
        (Sampling::at(-0.5), "temperature is -0.5, but has to be a number of at least 0"),
        (Sampling::at(f32::INFINITY), "temperature is inf"),
        (Sampling::at(f32::NAN), "temperature is NaN"),
        (Sampling { top_p: 0.0, ..base }, "top_p is 0, but has to be above 0 and at most 1"),
        (Sampling { top_p: 1.1, ..base }, "top_p is 1.1"),
        (Sampling { top_p: f32::NAN, ..base }, "top_p is NaN"),
        (Sampling { min_p: -0.1, ..base }, "min_p is -0.1, but has to be at least 0"),
        (Sampling { min_p: 1.5, ..base }, "min_p is 1.5"),
        (Sampling { min_p: f32::NAN, ..base }, "min_p is NaN"),
        (Sampling { repetition_penalty: 0.0, ..base }, "penalty is 0, but has to be a number"),
        (Sampling { repetition_penalty: -1.0, ..base }, "penalty is -1"),
        (Sampling { repetition_penalty: f32::INFINITY, ..base }, "penalty is inf"),
        (Sampling { repetition_penalty: f32::NAN, ..base }, "penalty is NaN"),
    ] {
        let error = sampling.check().unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let edge = Sampling { top_p: f32::MIN_POSITIVE, min_p: 1.0, ..Sampling::at(f32::MAX) };
    for sampling in [Sampling::GREEDY, base, edge, Sampling { top_k: usize::MAX, ..base }] {
        assert_eq!(sampling.check(), Ok(()));
    }
}

#[test]
fn what_older_programs_stored_still_reads() {
    let old: Sampling = serde_json::from_str(r#"{"temperature":0.7,"top_p":1.0}"#).unwrap();
    assert_eq!(old, Sampling::at(0.7));
    let all =
        Sampling { temperature: 0.5, top_k: 40, top_p: 0.75, min_p: 0.25, repetition_penalty: 1.5 };
    let stored = serde_json::to_value(all).unwrap();
    let expected = json!({
        "temperature": 0.5, "top_k": 40, "top_p": 0.75, "min_p": 0.25, "repetition_penalty": 1.5
    });
    assert_eq!(stored, expected);
    assert_eq!(serde_json::from_value::<Sampling>(stored).unwrap(), all);
}

#[test]
fn a_mask_allows_what_it_says() {
    for vocabulary in [1, 2, 63, 64, 65, 127, 128, 200] {
        let listed: Vec<u32> = (0..vocabulary as u32).filter(|id| id % 3 == 0).collect();
        let allow = LogitMask::allow(vocabulary, &listed).unwrap();
        assert_eq!(allow.vocabulary(), vocabulary);
        for id in 0..300 {
            let inside = (id as usize) < vocabulary;
            assert_eq!(allow.allows(id), inside && id % 3 == 0, "{id} of {vocabulary}");
        }
        assert!(!allow.allows(u32::MAX));
        let Ok(forbid) = LogitMask::forbid(vocabulary, &listed) else {
            assert_eq!(vocabulary, 1);
            continue;
        };
        for id in 0..300 {
            let inside = (id as usize) < vocabulary;
            assert_eq!(forbid.allows(id), inside && id % 3 != 0, "{id} of {vocabulary}");
        }
        // However it was made.
        let others: Vec<u32> = (0..vocabulary as u32).filter(|id| id % 3 != 0).collect();
        assert_eq!(forbid, LogitMask::allow(vocabulary, &others).unwrap());
    }
    // Ids outside the vocabulary mean nothing.
    let mask = LogitMask::allow(10, &[3, 10, 64, u32::MAX]).unwrap();
    assert_eq!(mask, LogitMask::allow(10, &[3, 3]).unwrap());
    let all = LogitMask::forbid(10, &[10, u32::MAX]).unwrap();
    assert!((0..10).all(|id| all.allows(id)) && !all.allows(10));
}

#[test]
fn a_mask_that_leaves_nothing_or_is_of_another_model_is_refused() {
    let all: Vec<u32> = (0..70).collect();
    for none in [
        LogitMask::allow(70, &[]),
        LogitMask::allow(70, &[70, 71]),
        LogitMask::forbid(70, &all),
        LogitMask::allow(0, &[0]),
        LogitMask::forbid(0, &[]),
    ] {
        let error = none.unwrap_err();
        assert!(matches!(error, SamplingError::NothingAllowed { .. }));
        assert!(error.to_string().contains("allow at least one"), "{error}");
    }
    let mask = LogitMask::allow(70, &[1]).unwrap();
    assert_eq!(mask.check(70), Ok(()));
    let error = mask.check(96).unwrap_err().to_string();
    assert!(error.contains("about 70 tokens") && error.contains("for 96"), "{error}");
}

/// A mask of another size, drawn with all the same: shorter ones allow nothing beyond them, and
/// one that allows nothing at all is left out.
#[test]
fn a_mask_of_another_size_does_no_harm() {
    let mut rng = rng::stream(1, &[]);
    let logits: Vec<f32> = (0..100).map(|x| x as f32 / 10.0).collect();
    let mut greedy = |mask: &LogitMask| {
        Sampling::GREEDY.draw(&mut logits.clone(), &[], Some(mask), &mut rng).token
    };
    assert_eq!(greedy(&LogitMask::forbid(64, &[63]).unwrap()), 62);
    assert_eq!(greedy(&LogitMask::allow(300, &[7, 299]).unwrap()), 7);
    assert_eq!(greedy(&LogitMask::allow(300, &[100, 299]).unwrap()), 99);
}
