//! What stops training, and what a night makes of it; and a checkpoint that is lost.

use std::fs;

use super::School;
use super::kill_at;
use super::kill_at_nth;

/// A first step that is finite, and weights behind it that are not.
const OVERFLOW: [&str; 2] = ["train.alpha=1e20", "warm_start.learning_rate=1.0"];

fn metrics(school: &School) -> Vec<String> {
    let text = fs::read_to_string(school.home().join("metrics.prom")).unwrap();
    text.lines().map(String::from).collect()
}

#[test]
fn a_warm_start_that_overflows_ends_training_and_not_the_night() {
    let school = School::counting();
    let report = school.finish_with(&OVERFLOW);
    let train = &report["train"];
    assert_eq!(
        train["stopped"],
        "step 4 of the warm start: 4 steps in a row had a loss or gradient that was not finite, \
         more than the limit 3"
    );
    assert_eq!((&train["skipped_steps"], &train["warm_start_steps"]), (&4.into(), &5.into()));
    assert_eq!((&train["policy_steps"], &report["rollouts"]), (&0.into(), &0.into()));
    assert_eq!(report["origin"]["model"]["drafts"], 0, "no round was played");
    assert!(report["heldout"]["before"]["n"].as_u64().unwrap() > 0, "the night went on");
    assert!(report["candidate"].as_str().unwrap().starts_with("base-"), "{report}");
    assert_eq!(report["reason"], "training was stopped before a version was stored");
    assert!(school.listed("adapters").is_empty(), "nothing was stored");

    let steps = school.json(&["train", "steps"]);
    assert_eq!(steps["stopped"]["measure"], "skipped");
    let listed = steps["steps"].as_array().unwrap();
    assert_eq!(listed.iter().filter(|step| step["metrics"]["skipped"] == true).count(), 4);
    assert!(listed[3]["stopped"].is_null() && listed[4]["stopped"] == train["stopped"]);
    let shown = school.command(&["train", "steps", "--night", "1"]).output().unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("STOPPED: 4 steps in a row") && shown.contains("not finite"), "{shown}");

    let lines = metrics(&school);
    let of_warm = r#"{phase="warm_start",adapter="shared",objective="likelihood"}"#;
    for line in [
        format!("nightschool_train_steps_total{of_warm} 5"),
        format!("nightschool_train_skipped_steps_total{of_warm} 4"),
        "nightschool_train_stopped 1".to_string(),
        "nightschool_night 1".to_string(),
    ] {
        assert!(lines.contains(&line), "{line} is not in {lines:#?}");
    }

    // Stopped, killed and gone through again, it stops where it stopped.
    let digest = school.digest();
    fs::remove_dir_all(school.home()).unwrap();
    school.add_documents();
    kill_at(school.night_with(&OVERFLOW), "training stopped at");
    school.finish();
    assert_eq!(school.digest(), digest);
}

#[test]
fn a_bound_of_its_own_lets_more_steps_pass() {
    let school = School::counting();
    let more = ["tripwires.skipped_max=10", "train_proposer.objective=none"];
    let report = school.finish_with(&[&OVERFLOW[..], &more].concat());
    assert_eq!(report["train"]["skipped_steps"].as_u64().unwrap(), 5, "{report}");
    assert!(report["train"]["stopped"].is_null());
}

#[test]
fn rollouts_that_overflow_keep_the_version_stored_last() {
    let school = School::counting();
    let settings = [
        "train_proposer.objective=none",
        "train.learning_rate=1.0",
        "train.alpha=1e20",
        "warm_start.learning_rate=1e-24",
        "train.group_key=round",
        "train.groups=2",
        "solve.tasks=12",
        "solve.rollouts=6",
        "tripwires.skipped_max=1",
        "tripwires.kl_max=1e30",
        "tripwires.grad_norm_max=1e30",
        "tripwires.ratio_max=1e30",
        "tripwires.sampler_gap_max=1e30",
        "tripwires.clip_fraction_max=2.0",
        "tripwires.entropy_min=-1.0",
    ];
    let report = school.finish_with(&settings);
    let stopped = report["train"]["stopped"].as_str().unwrap();
    assert!(stopped.contains("training on rollouts: 2 steps in a row"), "{stopped}");
    assert_eq!(report["candidate"], "night1-warm", "{report}");
    assert_eq!(school.listed("adapters"), ["night1-warm"]);
}

#[test]
fn a_tripwire_stops_the_game_and_is_listed() {
    let school = School::counting();
    let settings = ["tripwires.entropy_max=0.0001", "solve.tasks=12", "solve.rollouts=6"];
    let report = school.finish_with(&[&settings[..], &["train_proposer.objective=none"]].concat());
    let stopped = report["train"]["stopped"].as_str().unwrap();
    assert!(stopped.starts_with("step 0 of training on rollouts: entropy was"), "{stopped}");
    assert_eq!(
        (&report["candidate"], &report["train"]["policy_steps"]),
        (&"night1-warm".into(), &1.into())
    );
    let steps = school.json(&["train", "steps"]);
    let stop = &steps["stopped"];
    assert_eq!((&stop["measure"], &stop["limit"]), (&"entropy".into(), &0.0001.into()));
    let last = steps["steps"].as_array().unwrap().last().unwrap();
    assert_eq!((&last["phase"], &last["stopped"]), (&"policy".into(), &stopped.into()));
    // The next night begins without it.
    let second = school.finish_with(&["solve.tasks=12", "solve.rollouts=6"]);
    assert!(second["train"]["stopped"].is_null(), "{second}");
    assert!(metrics(&school).contains(&"nightschool_train_stopped 0".to_string()));
}

#[test]
fn a_checkpoint_that_is_lost_costs_time_and_nothing_else() {
    let school = School::counting();
    school.finish();
    let (digest, adapters) = (school.digest(), school.adapters());
    fs::remove_dir_all(school.home()).unwrap();
    school.add_documents();
    let mut night = school.night();
    night.env("NIGHTSCHOOL_LOG", "info,nightschool::progress=debug");
    // In the third stretch of two steps: the first two have their checkpoints.
    kill_at_nth(night, "note=", 5);
    let checkpoints = school.listed("checkpoints");
    assert_eq!(
        checkpoints.iter().filter(|name| name.starts_with("night")).collect::<Vec<_>>(),
        ["night00001-1-warm_start-shared-000002", "night00001-1-warm_start-shared-000004"]
    );
    let newest = school.home().join("checkpoints/night00001-1-warm_start-shared-000004");
    fs::write(newest.join("moments.safetensors"), "cut short").unwrap();
    let output = school.night().output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{log}");
    assert!(log.contains("training some steps again") && log.contains("moments"), "{log}");
    assert_eq!((school.digest(), school.adapters()), (digest, adapters));
}
