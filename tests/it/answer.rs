//! Answer matching by the rules of the SQuAD evaluation.

use nightschool::answer;
use proptest::prelude::*;

#[test]
fn normalisation_by_the_rules() {
    for (text, expected) in [
        ("The  Eiffel Tower!", "eiffel tower"),
        ("an A-bomb", "abomb"),
        ("U.S.", "us"),
        ("  the ", ""),
        ("1,000", "1000"),
    ] {
        assert_eq!(answer::normalise(text), expected, "{text}");
    }
}

#[test]
fn scores_by_hand() {
    assert_eq!(answer::exact_match("the Beatles", "Beatles."), 1.0);
    // 1 common word; precision 1/2, recall 1/3.
    assert!((answer::f1("Tycho Smith", "astronomer Tycho Brahe") - 0.4).abs() < 1e-6);
    assert_eq!(answer::f1("", "x"), 0.0);
    assert_eq!(answer::best_match("1755", &["in 1755", "1755"]), (1.0, 1.0));
    assert!(answer::contains("Born in Prague.", "prague"));
    assert!(!answer::contains("Pragueish", "Prague"), "whole words only");
}

proptest! {
    #[test]
    fn f1_is_symmetric_and_bounded(a in "[a-d ]{0,12}", b in "[a-d ]{0,12}") {
        let (forth, back) = (answer::f1(&a, &b), answer::f1(&b, &a));
        prop_assert!((forth - back).abs() < 1e-6);
        prop_assert!((0.0..=1.0).contains(&forth));
        prop_assert_eq!(answer::f1(&a, &a), 1.0);
    }
}
