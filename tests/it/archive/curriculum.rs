//! Where rollouts began, standings of tasks, and what temperatures were chosen from.

use nightschool::archive::Archive;
use nightschool::archive::ArchiveError;
use nightschool::archive::BalanceDecision;
use nightschool::archive::BalanceSample;
use nightschool::archive::FinishedGroup;
use nightschool::archive::StandingChange;
use nightschool::archive::TraceKind;
use nightschool::rollout::Rollout;
use nightschool::rollout::Score;
use nightschool::rollout::Start;
use nightschool::rollout::StartKind;
use nightschool::task::Origin;
use nightschool::task::Standing;
use nightschool::task::StandingReason;
use serde_json::json;

use super::accepted;
use super::begin;
use super::document;
use super::file;
use super::open;
use super::rollout;
use super::sampling;
use super::towers;
use super::unit;

/// A start from a rollout of the first night.
fn start(kind: StartKind, depth: u32, round: u32, index: u32) -> Start {
    Start { kind, depth, night: 1, round, index, steps: None }
}

/// A group of two in a round, with their start and what they were shown.
fn group(start: Option<Start>, shown: &str) -> Vec<(Rollout, Score)> {
    [rollout("t1", 0, true), rollout("t1", 1, false)]
        .map(|(rollout, score)| {
            (Rollout { start, retrieved: vec![shown.into()], ..rollout }, score)
        })
        .to_vec()
}

fn play(
    archive: &Archive,
    round: u32,
    rollouts: &[(Rollout, Score)],
) -> Result<bool, ArchiveError> {
    let key = round.to_string();
    archive.record_rollouts(&unit("solve", &key), round, &sampling(), rollouts)
}

/// A task that was played in three rounds: from its question, and twice from there on.
fn deepened(archive: &Archive) {
    begin(archive);
    archive.record_drafts(&unit("propose", "1"), &[accepted(Origin::Code, "t1")]).unwrap();
    play(archive, 0, &group(None, "p1")).unwrap();
    play(archive, 1, &group(Some(start(StartKind::Improve, 1, 0, 0)), "p1")).unwrap();
    play(archive, 2, &group(Some(start(StartKind::Diverge, 2, 1, 1)), "p1")).unwrap();
}

#[test]
fn rollouts_say_where_they_began() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("archive.db");
    let archive = open(&path);
    deepened(&archive);
    archive.check().unwrap();
    let detail = archive.task_detail("t1").unwrap();
    let starts: Vec<_> = detail.rollouts.iter().map(|stored| stored.rollout.start).collect();
    let (improve, diverge) =
        (start(StartKind::Improve, 1, 0, 0), start(StartKind::Diverge, 2, 1, 1));
    assert_eq!(starts, [None, None, Some(improve), Some(improve), Some(diverge), Some(diverge)]);
    let groups = archive.finished_groups().unwrap();
    assert_eq!(groups.len(), 3);
    let first = FinishedGroup {
        task_id: "t1".into(),
        night: 1,
        round: 0,
        model_version: "base".into(),
        start: None,
        // The other one was cut off: it is an attempt without a reward.
        rewards: vec![0.1],
        attempts: 2,
        solved: 1,
    };
    assert_eq!(groups[0], first);
    assert_eq!(groups[2], FinishedGroup { round: 2, start: Some(diverge), ..first });
    let trace = archive.task_trace("t1").unwrap();
    let plays: Vec<&str> = trace
        .graph
        .node_weights()
        .filter(|node| node.kind == TraceKind::Rollouts)
        .map(|node| node.about.as_str())
        .collect();
    assert_eq!(
        plays,
        [
            "1 of 2 solved",
            "1 of 2 solved; improve of rollout 0, depth 1",
            "1 of 2 solved; diverge of rollout 1, depth 2",
        ]
    );
    assert!(!petgraph::algo::is_cyclic_directed(&trace.graph));
}

#[test]
fn a_group_has_one_start_and_that_is_there() {
    let home = tempfile::tempdir().unwrap();
    let archive = open(&home.path().join("archive.db"));
    deepened(&archive);
    let digest = archive.content_digest().unwrap();
    let nowhere = group(Some(start(StartKind::Improve, 1, 0, 7)), "p1");
    let mut mixed = group(Some(start(StartKind::Improve, 1, 0, 0)), "p1");
    mixed[1].0.start = None;
    let mut late = group(None, "p1");
    late[1].0.start = Some(start(StartKind::Improve, 1, 0, 0));
    for wrong in [nowhere, mixed, late] {
        let error = play(&archive, 3, &wrong).unwrap_err();
        assert!(matches!(error, ArchiveError::Inconsistent { .. }), "{error}");
        assert_eq!(archive.content_digest().unwrap(), digest);
    }
    // One deeper than what it started from.
    play(&archive, 3, &group(Some(start(StartKind::Improve, 3, 0, 0)), "p1")).unwrap();
    let findings = archive.findings().unwrap();
    assert_eq!((findings.len(), findings[0].place.as_str()), (1, "group_start"));
}

#[test]
fn what_went_on_from_a_rollout_is_taken_out_with_it() {
    let home = tempfile::tempdir().unwrap();
    let archive = open(&home.path().join("archive.db"));
    let bridges = document("bridges", &["It spans the bay."]);
    let shown = bridges.passages[0].id.clone();
    begin(&archive);
    archive.sync_corpus(&[towers(), file("bridges.md", vec![bridges])], &[]).unwrap();
    archive.record_drafts(&unit("propose", "1"), &[accepted(Origin::Code, "t1")]).unwrap();
    play(&archive, 0, &group(None, "p1")).unwrap();
    let (mut rollouts, start_of) = (group(None, "p1"), start(StartKind::Improve, 1, 1, 1));
    rollouts[1].0.retrieved = vec![shown];
    play(&archive, 1, &rollouts).unwrap();
    play(&archive, 2, &group(Some(start_of), "p1")).unwrap();
    play(&archive, 3, &group(Some(start(StartKind::Diverge, 2, 2, 0)), "p1")).unwrap();
    play(&archive, 4, &group(Some(start(StartKind::Improve, 1, 0, 0)), "p1")).unwrap();
    let removal = archive.remove_document("bridges", true).unwrap();
    // One that was shown it, and the two groups, one after the other, that began there.
    assert_eq!((removal.rollouts, removal.tasks), (5, 0));
    archive.check().unwrap();
    let left = archive.rollouts_of("t1").unwrap();
    let places: Vec<(u32, u32)> =
        left.iter().map(|stored| (stored.round, stored.rollout.index)).collect();
    assert_eq!(places, [(0, 0), (0, 1), (1, 0), (4, 0), (4, 1)]);

    let change = StandingChange {
        task_id: "t1".into(),
        night: 1,
        round: 5,
        standing: Standing::Parked,
        reason: StandingReason::Unsolved,
        attempts: 4,
        solved: 0,
    };
    archive.record_standings(&unit("standings", "5"), &[change]).unwrap();
    archive.record_balance_samples(&unit("balance", "5"), 5, &[sample(0)]).unwrap();
    let removal = archive.remove_document("towers", true).unwrap();
    assert_eq!((removal.rollouts, removal.tasks), (5, 1));
    archive.check().unwrap();
    assert!(archive.standings().unwrap().is_empty());
    assert!(archive.balance_samples(1, 5).unwrap().is_empty());
}

fn sample(index: u32) -> BalanceSample {
    BalanceSample {
        task_id: "t1".into(),
        temperature: 0.7,
        index,
        reward: 0.5,
        exact_match: 0.0,
        trajectory: "ab".into(),
    }
}

#[test]
fn standings_and_choices_come_back_and_are_stored_once() {
    let home = tempfile::tempdir().unwrap();
    let archive = open(&home.path().join("archive.db"));
    deepened(&archive);
    assert!(archive.standings().unwrap().is_empty());
    let change = |round, standing, reason, attempts, solved| StandingChange {
        task_id: "t1".into(),
        night: 1,
        round,
        standing,
        reason,
        attempts,
        solved,
    };
    let parked = change(3, Standing::Parked, StandingReason::Unsolved, 8, 0);
    let active = change(4, Standing::Active, StandingReason::RetryDue, 0, 0);
    let (first, second) = (unit("standings", "3"), unit("standings", "4"));
    assert!(archive.record_standings(&first, std::slice::from_ref(&parked)).unwrap());
    assert!(!archive.record_standings(&first, std::slice::from_ref(&parked)).unwrap());
    assert_eq!(archive.standings().unwrap()["t1"], parked);
    archive.record_standings(&second, std::slice::from_ref(&active)).unwrap();
    assert_eq!(archive.standings().unwrap()["t1"], active);
    assert_eq!(archive.task_detail("t1").unwrap().standings, [parked, active]);
    let unknown = StandingChange {
        task_id: "nobody".into(),
        ..change(5, Standing::Parked, StandingReason::Unsolved, 8, 0)
    };
    let error = archive.record_standings(&unit("standings", "5"), &[unknown]).unwrap_err();
    assert!(matches!(error, ArchiveError::Inconsistent { .. }), "{error}");

    let samples = [sample(0), sample(1)];
    assert!(archive.record_balance_samples(&unit("balance/3", "0"), 3, &samples).unwrap());
    assert!(!archive.record_balance_samples(&unit("balance/3", "0"), 3, &samples).unwrap());
    assert_eq!(archive.balance_samples(1, 3).unwrap(), samples);
    assert!(archive.balance_samples(1, 2).unwrap().is_empty());
    let decision = BalanceDecision {
        night: 1,
        round: 3,
        model_version: "base".into(),
        temperature: 0.7,
        threshold: 0.6,
        score: 0.25,
        permuted: false,
        figures: json!({"cells": [0.25, 0.1]}),
    };
    let unit = unit("balance/3", "decision");
    assert!(archive.record_balance_decision(&unit, &decision).unwrap());
    assert!(!archive.record_balance_decision(&unit, &decision).unwrap());
    assert_eq!(archive.balance_decision(1, 3).unwrap(), Some(decision));
    assert_eq!(archive.balance_decision(1, 2).unwrap(), None);
    let task = archive.task_detail("t1").unwrap().task;
    assert_eq!((task.attempts, task.solved), (6, 3), "what was tried is no attempt");
    archive.check().unwrap();
}
