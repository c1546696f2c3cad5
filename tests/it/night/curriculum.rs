//! Nights with a curriculum: tasks chosen by score, groups that go on from earlier rollouts, tasks
//! that are parked and rest, and temperatures that are chosen.

use std::collections::BTreeSet;

use nightschool::archive::StoredRollout;
use nightschool::rollout::StartKind;
use nightschool::task::Standing;
use nightschool::task::StandingReason;

use super::School;

/// All of it at once, in three rounds.
const ALL: [&str; 22] = [
    "warm_start.steps=2",
    "verify.min_words=1",
    "verify.min_chars=3",
    "solve.rounds=3",
    "solve.tasks=8",
    "solve.rollouts=4",
    "train.objective=likelihood",
    "curriculum.sampler=exit",
    "curriculum.min_buffer=2",
    "curriculum.selection_probability=0.8",
    "curriculum.improve_share=0.5",
    "curriculum.diverge_probability=0.5",
    "curriculum.park_after=4",
    "curriculum.retire_attempts=4",
    "curriculum.retire_solved=1.0",
    "curriculum.rehearsal_share=0.125",
    "balance.enabled=true",
    "balance.temperatures=[0.8, 1.1]",
    "balance.thresholds=[0.0, 0.5, 1.0]",
    "balance.queries=10",
    "balance.samples=3",
    "balance.target=16",
];

fn rollouts(school: &School, rounds: u32) -> Vec<StoredRollout> {
    let archive = school.archive();
    (0..rounds).flat_map(|round| archive.rollouts_in(1, round).unwrap()).collect()
}

#[test]
fn a_night_with_all_of_it_killed_anywhere_goes_on_to_the_same_end() {
    let school = School::asking();
    school.finish_with(&ALL);
    let (digest, adapters) = (school.digest(), school.adapters());
    school.begin_again();
    for (line, n) in [
        ("started: temperatures, round 1", 1),
        ("chose the temperature", 1),
        ("started: rollouts, round 2", 1),
        ("ended: rollouts, round 2", 1),
        ("started: training on rollouts, round 2", 1),
        ("picked", 1),
        ("ended: temperatures, round 3", 1),
        ("started: rollouts, round 3", 1),
    ] {
        super::kill_at_nth(school.night_with(&ALL), line, n);
    }
    // It goes on with the settings that it began with.
    school.finish();
    assert_eq!(school.digest(), digest, "the archive's content");
    assert_eq!(school.adapters(), adapters, "the adapters' bytes");
}

#[test]
fn groups_go_on_from_earlier_rollouts_deeper_and_deeper() {
    let school = School::asking();
    let report = school.finish_with(&ALL);
    let archive = school.archive();
    archive.check().unwrap();
    let all = rollouts(&school, 3);
    let mut depths = BTreeSet::new();
    let mut kinds = BTreeSet::new();
    for stored in &all {
        let Some(start) = stored.rollout.start else { continue };
        depths.insert(start.depth);
        kinds.insert(start.kind);
        let from = archive.group(&stored.rollout.task_id, start.night, start.round).unwrap();
        let earlier = &from[start.index as usize].rollout;
        assert!(start.round < stored.round);
        assert_eq!(start.depth, earlier.start.map_or(0, |start| start.depth) + 1);
        assert_eq!(stored.rollout.retrieved, earlier.retrieved, "it is shown what that was");
        // The tiny model's tokens are bytes.
        let prompt: Vec<u8> = stored.rollout.steps[0].tokens.iter().map(|id| *id as u8).collect();
        let said = earlier.answer.as_ref().unwrap();
        assert!(prompt.len() > said.len());
    }
    assert!(!kinds.is_empty() && !kinds.contains(&StartKind::Continue), "{kinds:?}");
    assert!(depths.contains(&1), "{depths:?}");
    let rounds = report["rounds"].as_array().unwrap();
    for (number, round) in rounds.iter().enumerate() {
        let of_round = all.iter().filter(|stored| stored.round == number as u32);
        let told = &round["curriculum"];
        let count = |kind| {
            let of_kind = |one: &&StoredRollout| {
                one.rollout.index == 0 && one.rollout.start.is_some_and(|s| s.kind == kind)
            };
            of_round.clone().filter(of_kind).count()
        };
        assert_eq!(told["sampler"], "exit");
        assert_eq!(told["improved"], count(StartKind::Improve), "round {number}: {told}");
        assert_eq!(told["diverged"], count(StartKind::Diverge), "round {number}: {told}");
        let effective = told["effective_sample_size"].as_f64().unwrap();
        let eligible = told["eligible"].as_f64().unwrap();
        assert!((1.0..=eligible + 1e-6).contains(&effective), "round {number}: {told}");
    }
    assert_eq!(rounds[0]["curriculum"]["improved"], 0, "nothing was there to go on from");
    let deep = all.iter().find(|stored| stored.rollout.start.is_some()).unwrap();
    let (id, start) = (&deep.rollout.task_id, deep.rollout.start.unwrap());
    let shown = school.json(&["task", "show", id]);
    let told = shown["rollouts"].as_array().unwrap().iter().find(|one| !one["start"].is_null());
    assert_eq!(told.unwrap()["start"]["kind"], start.kind.as_str());
    let lineage = school.command(&["task", "lineage", id]).output().unwrap();
    let lineage = String::from_utf8_lossy(&lineage.stdout).into_owned();
    assert!(lineage.contains(&format!("; {} of rollout", start.kind.as_str())), "{lineage}");
}

#[test]
fn a_temperature_is_chosen_for_each_round_and_what_was_tried_is_not_trained_on() {
    let school = School::asking();
    let report = school.finish_with(&ALL);
    let archive = school.archive();
    for round in 0..3 {
        let decision = archive.balance_decision(1, round).unwrap().unwrap();
        let samples = archive.balance_samples(1, round).unwrap();
        assert_eq!(samples.len(), 2 * 10 * 3);
        let told = &report["rounds"][round as usize]["balance"];
        assert_eq!(told, &decision.figures);
        assert_eq!(told["chosen"]["temperature"], decision.temperature);
        assert_eq!((&told["wanted"], &told["shots"]), (&2.into(), &2.into()));
        assert_eq!(told["cells"].as_array().unwrap().len(), 6);
        let best = told["cells"].as_array().unwrap().iter().map(|cell| cell["score"].as_f64());
        let best = best.map(Option::unwrap).fold(0.0, f64::max);
        assert_eq!(decision.score, best);
        for stored in archive.rollouts_in(1, round).unwrap() {
            let temperature = stored.sampling.unwrap()["temperature"].as_f64().unwrap();
            assert!((temperature - decision.temperature).abs() < 1e-6);
        }
    }
    // The same tasks each time.
    let tried = |round| -> BTreeSet<String> {
        archive.balance_samples(1, round).unwrap().into_iter().map(|one| one.task_id).collect()
    };
    assert!(tried(0) == tried(1) || tried(0).intersection(&tried(1)).count() >= 6);
    // And another choice now and then, when scores are shuffled.
    let shuffled = School::asking();
    let settings = [&ALL[..], &["balance.permute=true", "solve.rounds=1"]].concat();
    let report = shuffled.finish_with(&settings);
    assert_eq!(report["rounds"][0]["balance"]["permuted"], true);
}

#[test]
fn tasks_that_nobody_solves_are_parked_and_tried_again() {
    let school = School::new();
    school.add_documents();
    // It never finds an answer.
    let settings =
        ["curriculum.park_after=3", "curriculum.retry_after=1", "propose.model_drafts=4"];
    let report = school.finish_with(&settings);
    let parked = &report["rounds"][1]["curriculum"];
    assert_eq!((&parked["parked"], &parked["resting"]), (&6.into(), &0.into()), "{parked}");
    let first = school.archive().standings().unwrap();
    assert!(first.values().all(|one| one.reason == StandingReason::Unsolved));
    assert!(first.values().all(|one| (one.attempts, one.solved) == (3, 0)));
    // They were left out of the second round.
    let played = |round| -> BTreeSet<String> {
        let rollouts = school.archive().rollouts_in(1, round).unwrap();
        rollouts.into_iter().map(|stored| stored.rollout.task_id).collect()
    };
    assert_eq!(played(0), first.keys().cloned().collect());
    assert!(played(0).is_disjoint(&played(1)));

    let report = school.finish_with(&settings);
    assert_eq!(report["rounds"][0]["curriculum"]["parked"], 6, "those of the second round");
    let second = school.archive().standings().unwrap();
    let back: Vec<&String> =
        first.keys().filter(|id| second[*id].standing == Standing::Active).collect();
    assert!(!back.is_empty());
    assert!(back.iter().all(|id| second[*id].reason == StandingReason::RetryDue));
    let shown = school.json(&["task", "show", back[0]]);
    let standings = shown["standings"].as_array().unwrap();
    assert_eq!(
        (&standings[0]["standing"], &standings[1]["standing"]),
        (&"parked".into(), &"active".into())
    );
}

#[test]
fn tasks_that_everybody_solves_rest_and_are_rehearsed() {
    let school = School::asking();
    // So cold that it always says the likeliest, which is right.
    let report = school.finish_with(&[
        "warm_start.steps=0",
        "propose.model_drafts=0",
        "solve.temperature=0.05",
        "solve.rounds=3",
        "solve.tasks=4",
        "curriculum.retire_attempts=3",
        "curriculum.retire_solved=0.6",
        "curriculum.rehearsal_share=0.5",
    ]);
    let rounds = report["rounds"].as_array().unwrap();
    let first = &rounds[0]["curriculum"];
    assert_eq!((&first["resting"], &first["rehearsal"]), (&0.into(), &serde_json::Value::Null));
    let second = &rounds[1]["curriculum"];
    assert_eq!(second["resting"], 4, "{report}");
    let rehearsal = &second["rehearsal"];
    assert_eq!(rehearsal["tasks"], 2, "{rehearsal}");
    assert!(rehearsal["solved_then"].as_f64().unwrap() >= 0.6, "{rehearsal}");
    assert!(rehearsal["solved_now"].is_number(), "{rehearsal}");
    let standings = school.archive().standings().unwrap();
    assert!(standings.values().any(|one| one.reason == StandingReason::Solved));
    let shown = school.command(&["run", "show"]).output().unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("Round 2: 4 resting; 2 of them played, solved 100 % then"), "{shown}");
}
