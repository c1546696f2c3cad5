//! Nights with demonstrations mixed into the game, and with a limit on code-made tasks in play.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use nightschool::archive::TrainPhase;
use nightschool::archive::TrainStep;
use nightschool::config::AdapterSlot;
use nightschool::phase::mixture::Mixture;
use serde_json::Value;

use super::School;

/// Two rounds with several steps of both roles, two demonstrations for three of them at first.
const MIXED: [&str; 10] = [
    "propose.model_drafts=40",
    "verify.min_words=1",
    "verify.min_chars=3",
    "warm_start.steps=2",
    "warm_start.share=0.67",
    "warm_start.share_half_life=0.5",
    "train_proposer.drafts=5",
    "train.groups=2",
    "solve.tasks=12",
    "solve.rollouts=4",
];

fn demonstrations(school: &School, night: u32) -> Vec<TrainStep> {
    let steps = school.archive().train_steps(night).unwrap();
    let mixed = |step: &TrainStep| step.phase == TrainPhase::WarmStart && step.step >= 2;
    steps.into_iter().filter(mixed).collect()
}

/// The tasks that each step on demonstrations of a night learnt from, by adapter and number.
fn shown(school: &School, night: u32) -> BTreeMap<(String, u64), BTreeSet<String>> {
    let sql = format!(
        "SELECT i.adapter, i.step, i.task_id, t.origin FROM train_item i
         JOIN task t ON t.id = i.task_id WHERE i.night = {night} AND i.phase = 'warm_start'"
    );
    let rows = school.json(&["archive", "sql", &sql, "--rows", "100000"]);
    let mut shown: BTreeMap<(String, u64), BTreeSet<String>> = BTreeMap::new();
    for row in rows["rows"].as_array().unwrap() {
        assert_eq!(row["origin"], "code");
        let text = |name: &str| row[name].as_str().unwrap().to_string();
        let step = (text("adapter"), row["step"].as_u64().unwrap());
        shown.entry(step).or_default().insert(text("task_id"));
    }
    shown
}

fn mixtures(report: &Value) -> Vec<Mixture> {
    let rounds = report["rounds"].as_array().unwrap();
    rounds.iter().map(|round| serde_json::from_value(round["mixture"].clone()).unwrap()).collect()
}

#[test]
fn demonstrations_are_mixed_into_the_game_at_a_share_that_falls() {
    let school = School::asking();
    let report = school.finish_with(&MIXED);
    let mixtures = mixtures(&report);
    let (first, second) = (&mixtures[0], &mixtures[1]);
    let part = |one: &Mixture| one.code_tasks as f64 / (one.code_tasks + one.own_tasks) as f64;
    assert!((first.share - 0.67 * part(first)).abs() < 1e-9, "{first:?}");
    // Half a night, one half-life, later.
    assert!((second.share - 0.335 * part(second)).abs() < 1e-9, "{second:?}");
    assert!(second.own_tasks > first.own_tasks, "the model's own tasks take over");
    for one in &mixtures {
        for role in [one.solver, one.proposer] {
            let exact = one.share * role.steps as f64;
            assert!((role.demonstrations as f64 - exact).abs() < 1.0, "{one:?}");
        }
    }
    let told: usize = mixtures.iter().map(Mixture::demonstrations).sum();
    let steps = demonstrations(&school, 1);
    assert!(told > 2, "{mixtures:?}");
    assert_eq!((steps.len(), &report["train"]["demonstration_steps"]), (told, &told.into()));
    assert_eq!(report["train"]["warm_start_steps"], 2);
    let all = ["warm_start_steps", "demonstration_steps", "policy_steps", "proposer_steps"]
        .map(|name| report["train"][name].as_u64().unwrap());
    assert_eq!(report["train"]["steps"], all.iter().sum::<u64>());
    for step in &steps {
        assert_eq!(step.objective.as_str(), "likelihood");
        // At the game's learning rate, and without anything about rollouts.
        assert!((step.metrics["learning_rate"].as_f64().unwrap() - 1e-4).abs() < 1e-9);
        for measure in ["ratio", "sampler_gap", "kl", "reward_mean", "accepted_rate"] {
            assert!(step.metrics.get(measure).is_none(), "{measure}: {}", step.metrics);
        }
    }
    let versions: BTreeSet<&str> = steps.iter().map(|step| step.model_version.as_str()).collect();
    assert_eq!(versions, BTreeSet::from(["night1-warm", "night1-round0"]));
    school.archive().check().unwrap();
    let shown = school.command(&["run", "show"]).output().unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    let line = format!("Round 1: {} steps on demonstrations mixed into", first.demonstrations());
    assert!(shown.contains(&line), "{shown}");
    assert!(shown.contains(&format!("{told} on demonstrations between them")), "{shown}");
    let page = std::fs::read_to_string(school.home().join("reports/night-0001.html")).unwrap();
    assert!(page.contains(r#"<th class="n">demonstrations</th>"#));

    // The next night goes on where the share is by then.
    let second = school.finish_with(&MIXED);
    let share = self::mixtures(&second)[0].share;
    assert!(share > 0.0 && share < 0.67 / 4.0 + 1e-9, "two half-lives: {share}");
}

#[test]
fn what_was_shown_is_not_shown_again_as_long_as_there_is_more() {
    let school = School::asking();
    // One search finds one passage, about which there is one task.
    let few = ["warm_start.questions=1", "warm_start.share_half_life=0.0", "solve.rounds=1"];
    school.finish_with(&[&MIXED[..], &few].concat());
    let of_steps = shown(&school, 1);
    let mut seen = BTreeSet::new();
    for ((_, number), tasks) in &of_steps {
        assert!(seen.is_disjoint(tasks), "step {number} shows {tasks:?} again");
        seen.extend(tasks.clone());
    }
    assert!(of_steps.len() > 4, "{of_steps:?}");

    // When all were shown, they are shown again.
    let school = School::asking();
    let many = ["warm_start.searches=12", "warm_start.share=1.0", "warm_start.share_half_life=0.0"];
    let report = school.finish_with(&[&MIXED[..], &many].concat());
    for one in mixtures(&report) {
        assert!(one.share > 0.5 && one.solver.demonstrations > 0, "{one:?}");
    }
    let last = *demonstrations(&school, 1).iter().map(|step| &step.step).max().unwrap();
    let sizes: Vec<usize> = shown(&school, 1)
        .into_iter()
        .filter(|((_, number), _)| *number == u64::from(last))
        .map(|(_, tasks)| tasks.len())
        .collect();
    assert!(sizes.iter().all(|n| *n > 1), "{sizes:?}");
}

#[test]
fn a_night_killed_between_demonstrations_goes_on_to_the_same_end() {
    for adapters in ["train.adapters=shared", "train.adapters=per_role"] {
        let settings = [&MIXED[..], &[adapters]].concat();
        let school = School::asking();
        school.finish_with(&settings);
        let (digest, weights) = (school.digest(), school.adapters());
        let steps = demonstrations(&school, 1);
        let of = |slot| steps.iter().filter(|step| step.adapter == slot).count();
        let taught = match adapters {
            "train.adapters=shared" => of(AdapterSlot::Shared) == steps.len(),
            _ => of(AdapterSlot::Solver) > 0 && of(AdapterSlot::Proposer) > 0,
        };
        assert!(taught && !steps.is_empty(), "{steps:?}");
        school.begin_again();
        // A step notes how it went before it is stored: after some notes, steps of both kinds are
        // there and one is lost.
        for (line, n) in [
            ("started: training the proposer, round 1", 1),
            ("note=", 3),
            ("note=", 4),
            ("started: training on rollouts, round 1", 1),
            ("note=", 4),
            ("started: training on rollouts, round 2", 1),
            ("note=", 1),
        ] {
            let mut night = school.night_with(&settings);
            night.env("NIGHTSCHOOL_LOG", "info,nightschool::progress=debug");
            super::kill_at_nth(night, line, n);
        }
        school.finish();
        assert_eq!(school.digest(), digest, "{adapters}: the archive's content");
        assert_eq!(school.adapters(), weights, "{adapters}: the adapters' bytes");
    }
}

#[test]
fn nothing_is_mixed_in_when_the_budget_is_used_up() {
    let school = School::asking();
    // The first round may begin, and has spent it all before it trains.
    let settings = [&MIXED[..], &["budget.generated_tokens=200", "solve.rounds=3"]].concat();
    let report = school.finish_with(&settings);
    let first: Mixture = serde_json::from_value(report["rounds"][0]["mixture"].clone()).unwrap();
    assert!(first.share > 0.0 && first.solver.steps + first.proposer.steps > 0, "{first:?}");
    assert_eq!(first.demonstrations(), 0);
    assert_eq!(report["rounds"][1]["mixture"], Value::Null, "it was not played");
    assert_eq!(report["train"]["demonstration_steps"], 0);
}

#[test]
fn tasks_made_by_code_take_no_more_places_than_they_may() {
    let school = School::asking();
    let few = ["propose.model_drafts=4", "curriculum.code_share=0.25"];
    let report = school.finish_with(&[&MIXED[1..6], &few].concat());
    for (round, told) in (0_u32..).zip(report["rounds"].as_array().unwrap()) {
        let told = &told["curriculum"];
        let archive = school.archive();
        let played: BTreeSet<String> = archive
            .rollouts_in(1, round)
            .unwrap()
            .into_iter()
            .map(|stored| stored.rollout.task_id)
            .collect();
        let origin = |id: &String| archive.task_detail(id).unwrap().task.task.origin;
        let by_code = played.iter().filter(|id| origin(id).as_str() == "code").count();
        assert_eq!(told["code_made"], by_code, "{told}");
        // A quarter of six places: one in the first round, two in the second.
        assert_eq!(by_code, round as usize + 1, "{told}");
        assert!(played.len() <= 6);
    }
}
