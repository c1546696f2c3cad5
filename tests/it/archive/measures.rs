//! Nights, training, model versions, suites, evaluations, promotions, and the digest over it all.

use std::time::Duration;

use nightschool::archive::ArchiveError;
use nightschool::archive::EvaluationItem;
use nightschool::archive::EvaluationName;
use nightschool::archive::NightState;
use nightschool::archive::Promotion;
use nightschool::archive::Suite;
use nightschool::archive::SuiteItem;
use nightschool::archive::SuiteOrigin;
use nightschool::archive::TrainPhase;
use nightschool::archive::TrainStep;
use nightschool::config::AdapterSlot;
use nightschool::config::ObjectiveName;
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn suite() -> Suite {
    let item = |n: u32| SuiteItem {
        question_id: format!("q{n}"),
        question: format!("Question {n}?"),
        answers: vec![format!("answer {n}"), "other".into()],
        source_document: "towers".into(),
    };
    Suite::new("bundled", SuiteOrigin::Human, vec![item(2), item(1)])
}

fn answer(question_id: &str) -> EvaluationItem {
    EvaluationItem {
        question_id: question_id.into(),
        answer: Some("answer".into()),
        exact_match: 0.0,
        f1: 1.0 / 3.0,
        answer_in_retrieved: true,
        tokens: 7,
    }
}

fn evaluation_name(suite: &Suite) -> EvaluationName {
    EvaluationName {
        id: "e1".into(),
        suite_id: suite.id.clone(),
        model_version: "base".into(),
        prompt: "five_shot".into(),
    }
}

fn promotion(promoted: bool) -> Promotion {
    Promotion {
        night: 1,
        candidate: "night-1".into(),
        incumbent: "base".into(),
        promoted,
        reason: "lower bound above 0".into(),
        delta: Some(0.05),
        ci: Some((0.01, 0.09)),
    }
}

#[test]
fn one_night_at_a_time() {
    let home = tempfile::tempdir().unwrap();
    let archive = open(&home.path().join("archive.db"));
    assert_eq!(archive.current_unfinished_night().unwrap(), None);
    let night = archive.begin_night(u64::MAX, &json!({"b": 1, "a": [2.5]})).unwrap();
    assert_eq!((night.number, night.seed, night.state), (1, u64::MAX, NightState::Running));
    assert_eq!(archive.current_unfinished_night().unwrap(), Some(night));
    let error = archive.begin_night(1, &json!({})).unwrap_err();
    assert!(matches!(error, ArchiveError::NightUnfinished { number: 1 }), "{error}");
    assert!(archive.finish_night(1, &json!({"f1": 0.5})).unwrap());
    assert!(!archive.finish_night(1, &json!({"f1": 0.9})).unwrap());
    assert!(matches!(archive.finish_night(7, &json!({})), Err(ArchiveError::NotFound { .. })));
    let unit = Unit { night: 1, phase: "late", key: "k" };
    assert!(matches!(archive.record_unit(&unit), Err(ArchiveError::Inconsistent { .. })));
    assert_eq!(archive.begin_night(1, &json!({})).unwrap().number, 2);
    let nights = archive.nights().unwrap();
    assert_eq!(nights[0].report, Some(json!({"f1": 0.5})));
    assert_eq!(nights[0].finished_at, Some(Timestamp::from_second(1_000).unwrap()));
}

#[test]
fn units_are_done_once() {
    let home = tempfile::tempdir().unwrap();
    let archive = open(&home.path().join("archive.db"));
    begin(&archive);
    assert!(!archive.unit_done(&unit("index", "b")).unwrap());
    assert!(archive.record_unit(&unit("index", "b")).unwrap());
    assert!(!archive.record_unit(&unit("index", "b")).unwrap());
    archive.record_unit(&unit("index", "a")).unwrap();
    archive.record_unit(&unit("other", "c")).unwrap();
    assert!(archive.unit_done(&unit("index", "b")).unwrap());
    assert_eq!(archive.units_done(1, "index").unwrap(), ["a", "b"]);
    archive.put_meta("seed", "1").unwrap();
    archive.put_meta("seed", "2").unwrap();
    assert_eq!(archive.meta("seed").unwrap().as_deref(), Some("2"));
    assert_eq!(archive.meta("none").unwrap(), None);
}

#[test]
fn training_and_promotion() {
    let home = tempfile::tempdir().unwrap();
    let archive = open(&home.path().join("archive.db"));
    begin(&archive);
    let step = |phase, step| TrainStep {
        phase,
        adapter: AdapterSlot::Shared,
        step,
        objective: ObjectiveName::Likelihood,
        model_version: "night-1".into(),
        metrics: json!({"loss": 2.5, "kl": 1e-9, "tokens": 512}),
        items: Vec::new(),
    };
    let policy = [step(TrainPhase::Policy, 0)];
    let of = |adapter| TrainStep { adapter, ..step(TrainPhase::WarmStart, 0) };
    let warm = [of(AdapterSlot::Solver), of(AdapterSlot::Proposer)];
    assert!(archive.record_train_steps(&unit("policy", "0"), &policy).unwrap());
    assert!(archive.record_train_steps(&unit("warm", "0"), &warm).unwrap());
    assert!(!archive.record_train_steps(&unit("warm", "0"), &warm).unwrap());
    assert_eq!(archive.train_steps(1).unwrap(), [&warm[..], &policy[..]].concat());

    archive.put_model_version(&adapter(1)).unwrap();
    let moved = ModelVersion { path: "elsewhere".into(), ..adapter(1) };
    archive.put_model_version(&moved).unwrap();
    assert_eq!(archive.model_version("night-1").unwrap(), Some(moved));
    let changed = ModelVersion { content_hash: "99".into(), ..adapter(1) };
    let error = archive.put_model_version(&changed).unwrap_err();
    assert!(matches!(error, ArchiveError::Frozen { .. }), "{error}");
    let error = archive.set_live_model("nobody", "the first").unwrap_err();
    assert!(matches!(error, ArchiveError::NotFound { .. }), "{error}");

    let wrong = Promotion { incumbent: "night-1".into(), ..promotion(true) };
    let error = archive.record_promotion(&unit("promote", "1"), &wrong).unwrap_err();
    assert!(matches!(error, ArchiveError::Inconsistent { .. }), "{error}");
    assert!(archive.record_promotion(&unit("promote", "1"), &promotion(true)).unwrap());
    assert!(!archive.record_promotion(&unit("promote", "1"), &promotion(true)).unwrap());
    assert_eq!(archive.live_model().unwrap().unwrap().id, "night-1");
    assert_eq!(archive.promotions().unwrap(), [promotion(true)]);
    let ids: Vec<_> = archive.model_versions().unwrap().into_iter().map(|(m, _)| m.id).collect();
    assert_eq!(ids, ["base", "night-1"]);
}

#[test]
fn a_candidate_that_is_not_promoted_leaves_the_incumbent_live() {
    let home = tempfile::tempdir().unwrap();
    let archive = open(&home.path().join("archive.db"));
    begin(&archive);
    archive.put_model_version(&adapter(1)).unwrap();
    let kept = Promotion { delta: None, ci: None, ..promotion(false) };
    archive.record_promotion(&unit("promote", "1"), &kept).unwrap();
    assert_eq!(archive.live_model().unwrap().unwrap().id, "base");
    assert_eq!(archive.promotions().unwrap(), [kept]);
}

#[test]
fn rows_of_versions_outlive_their_weights() {
    let home = tempfile::tempdir().unwrap();
    let archive = open(&home.path().join("archive.db"));
    begin(&archive);
    archive.put_model_version(&adapter(1)).unwrap();
    let remove = |ids: &[&str]| {
        let ids: Vec<String> = ids.iter().map(|id| (*id).to_string()).collect();
        archive.record_removed_versions(&unit("retention", "versions"), &ids)
    };
    let error = remove(&["night-1", "base"]).unwrap_err();
    insta::assert_snapshot!(
        error,
        @"the archive refused to mark the weights of base, which is live, as removed"
    );
    assert!(matches!(remove(&["night-9"]), Err(ArchiveError::NotFound { .. })));
    assert!(archive.removed_versions().unwrap().is_empty(), "nothing of a failed call remains");
    assert!(remove(&["night-1"]).unwrap());
    assert!(!remove(&["night-1"]).unwrap());
    assert_eq!(archive.removed_versions().unwrap(), [("night-1".to_string(), 1)].into());
    assert_eq!(archive.model_version("night-1").unwrap(), Some(adapter(1)));
    let error = archive.set_live_model("night-1", "the first").unwrap_err();
    assert!(error.to_string().contains("whose weights were removed"), "{error}");
}

#[test]
fn suites_are_frozen_and_evaluations_complete() {
    let home = tempfile::tempdir().unwrap();
    let archive = open(&home.path().join("archive.db"));
    begin(&archive);
    let suite = suite();
    assert!(archive.freeze_suite(&suite).unwrap());
    assert!(!archive.freeze_suite(&suite).unwrap());
    assert_eq!(archive.suite("bundled").unwrap().as_ref(), Some(&suite));
    assert_eq!(archive.suite("mine").unwrap(), None);
    let shorter = Suite::new("bundled", suite.origin, suite.items[..1].to_vec());
    let error = archive.freeze_suite(&shorter).unwrap_err();
    insta::assert_snapshot!(
        error,
        @r#"suite "bundled" is in the archive with other content and cannot be replaced"#
    );

    let name = evaluation_name(&suite);
    let one = unit("evaluate", "q1");
    assert!(archive.record_evaluation_items(&one, &name, &[answer("q1")]).unwrap());
    assert!(!archive.record_evaluation_items(&one, &name, &[answer("q1")]).unwrap());
    let metrics = json!({"n": 2, "f1": 0.3, "seconds": 12.5});
    let error = archive.record_evaluation(&unit("evaluate", "end"), &name, &metrics).unwrap_err();
    assert!(matches!(error, ArchiveError::Inconsistent { .. }), "{error}");
    let stranger = archive.record_evaluation_items(&unit("evaluate", "?"), &name, &[answer("q9")]);
    assert!(matches!(stranger, Err(ArchiveError::Inconsistent { .. })));
    assert_eq!(archive.evaluation("e1").unwrap().unwrap().metrics, None);
    archive.record_evaluation_items(&unit("evaluate", "q2"), &name, &[answer("q2")]).unwrap();
    assert!(archive.record_evaluation(&unit("evaluate", "end"), &name, &metrics).unwrap());
    let stored = archive.evaluation("e1").unwrap().unwrap();
    assert_eq!((stored.metrics, stored.night, &stored.name), (Some(metrics), 1, &name));
    assert_eq!(archive.evaluation_items("e1").unwrap(), [answer("q2"), answer("q1")]);
    assert_eq!(archive.evaluations(1).unwrap().len(), 1);
    let other = EvaluationName { prompt: "zero_shot".into(), ..name };
    let error = archive.record_evaluation_items(&unit("evaluate", "x"), &other, &[]).unwrap_err();
    assert!(matches!(error, ArchiveError::Frozen { .. }), "{error}");
}

/// A whole night at a place and time of its own, that took `seconds`.
fn night(home: &Path, clock: Arc<ManualClock>, seconds: f64, f1: f64) -> String {
    let archive = Archive::open(&home.join("archive.db"), clock.clone()).unwrap();
    begin(&archive);
    play(&archive, 0);
    clock.advance(Duration::from_secs_f64(seconds));
    let path = home.to_string_lossy().into_owned();
    archive.put_model_version(&ModelVersion { path, ..adapter(1) }).unwrap();
    let suite = suite();
    archive.freeze_suite(&suite).unwrap();
    let items = [answer("q1"), answer("q2")];
    let name = evaluation_name(&suite);
    archive.record_evaluation_items(&unit("evaluate", "all"), &name, &items).unwrap();
    let metrics = json!({"f1": f1, "seconds": seconds});
    archive.record_evaluation(&unit("evaluate", "end"), &name, &metrics).unwrap();
    archive.record_promotion(&unit("promote", "1"), &promotion(true)).unwrap();
    let report = json!({"heldout": [{"f1": f1, "tokens_per_s": 1.0 / seconds}]});
    archive.finish_night(1, &report).unwrap();
    archive.check().unwrap();
    archive.content_digest().unwrap()
}

#[test]
fn the_digest_sees_content_and_neither_clock_nor_place() {
    let homes: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    let first = night(homes[0].path(), clock(0), 10.0, 0.5);
    let later = night(homes[1].path(), clock(9_999_999), 77.0, 0.5);
    let better = night(homes[2].path(), clock(0), 10.0, 0.6);
    assert_eq!(first, later);
    assert_ne!(first, better);
    let tables = |home: &tempfile::TempDir| open(&home.path().join("archive.db")).table_digests();
    let (first, better) = (tables(&homes[0]).unwrap(), tables(&homes[2]).unwrap());
    let differing: Vec<_> = first.keys().filter(|table| first[*table] != better[*table]).collect();
    assert_eq!(differing, ["evaluation", "night"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn the_digest_does_not_depend_on_the_order_of_units(
        order in Just((0..6u32).collect::<Vec<_>>()).prop_shuffle(),
        repeated in 0..6u32,
    ) {
        let digest = |order: &[u32]| {
            let home = tempfile::tempdir().unwrap();
            let archive = open(&home.path().join("archive.db"));
            begin(&archive);
            order.iter().for_each(|number| play(&archive, *number));
            archive.content_digest().unwrap()
        };
        let straight = digest(&[0, 1, 2, 3, 4, 5]);
        let mut shuffled = order;
        shuffled.push(repeated);
        prop_assert_eq!(&digest(&shuffled), &straight);
        shuffled.retain(|number| *number != repeated);
        prop_assert_ne!(&digest(&shuffled), &straight);
    }
}
