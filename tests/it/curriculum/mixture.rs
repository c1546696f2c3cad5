//! The share of demonstrations: how it falls, and what it comes to in whole steps.

use nightschool::config;
use nightschool::config::WarmStart;
use nightschool::curriculum::demonstration_share;
use nightschool::curriculum::whole_steps;
use proptest::prelude::*;

fn settings(share: f64, half_life: f64) -> WarmStart {
    let flags = [
        format!("warm_start.share={share:?}"),
        format!("warm_start.share_half_life={half_life:?}"),
    ];
    config::load(&[], &flags).unwrap().warm_start
}

#[test]
fn the_share_halves_with_its_half_life_and_with_the_models_own_tasks() {
    let settings = settings(0.5, 3.0);
    let share = |age, code, own| demonstration_share(&settings, age, code, own);
    assert_eq!(share(0.0, 100, 0), 0.5, "a home begins with the share of the settings");
    assert_eq!((share(3.0, 100, 0), share(6.0, 100, 0)), (0.25, 0.125));
    assert_eq!((share(0.0, 100, 100), share(0.0, 100, 300)), (0.25, 0.125));
    assert_eq!(share(3.0, 100, 100), 0.125, "both together");
    assert_eq!(share(0.0, 0, 10), 0.0, "nothing was made by code");
    assert_eq!(share(0.0, 0, 0), 0.0);
    let lasting = self::settings(0.5, 0.0);
    assert_eq!(demonstration_share(&lasting, 1000.0, 10, 0), 0.5, "time does not lower it");
    let off = config::load(&[], &[]).unwrap().warm_start;
    assert_eq!(demonstration_share(&off, 0.0, 100, 0), 0.0, "off by default");
}

#[test]
fn settings_of_the_share_outside_their_range_are_named() {
    for (flag, reason) in [
        ("warm_start.share=1.5", "setting `warm_start.share` is 1.5; it must be from 0 to 1"),
        ("warm_start.share=-0.1", "setting `warm_start.share` is -0.1"),
        ("warm_start.share_half_life=-1.0", "`warm_start.share_half_life` is -1; it must be from"),
        ("curriculum.code_share=2.0", "setting `curriculum.code_share` is 2"),
        ("verify.enforce=perhaps", "`verify.enforce`"),
    ] {
        let error = config::load(&[], &[flag.to_string()]).unwrap_err().to_string();
        assert!(error.contains(reason), "{flag}: {error}");
    }
}

proptest! {
    #[test]
    fn the_share_never_rises_nor_exceeds_the_setting(
        share in 0.0..=1.0_f64, half_life in 0.0..50.0_f64, age in 0.0..500.0_f64,
        older in 0.0..500.0_f64, code in 0..5000_usize, own in 0..5000_usize, more in 0..5000_usize,
    ) {
        let settings = settings(share, half_life);
        let now = demonstration_share(&settings, age, code, own);
        prop_assert!((0.0..=share).contains(&now), "{now}");
        prop_assert!(demonstration_share(&settings, age + older, code, own) <= now);
        prop_assert!(demonstration_share(&settings, age, code, own + more) <= now);
    }

    #[test]
    fn over_the_rounds_it_is_the_share_as_nearly_as_whole_steps_can_be(
        rounds in prop::collection::vec((0.0..=1.0_f64, 0..40_usize), 1..60),
    ) {
        let (mut left_over, mut exact, mut whole) = (0.5, 0.0, 0);
        for (share, steps) in rounds {
            let (taken, left) = whole_steps(share, steps, left_over);
            prop_assert!(taken <= steps);
            exact += share * steps as f64;
            whole += taken;
            left_over = left;
            prop_assert!((exact - whole as f64).abs() <= 0.5 + 1e-6, "{exact}, {whole}");
        }
    }
}
