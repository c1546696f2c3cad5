//! What of past nights is kept, and what becomes of the rest.

use std::collections::BTreeSet;
use std::fs;

use nightschool::archive::ModelKind;
use nightschool::archive::ModelVersion;
use nightschool::config::Adapters;
use nightschool::phase::retention::superfluous;

use super::School;

fn version(night: u32, stage: &str) -> ModelVersion {
    ModelVersion {
        id: format!("night{night}-{stage}"),
        parent: None,
        kind: ModelKind::Adapter,
        adapters: Some(Adapters::Shared),
        path: format!("adapters/night{night}-{stage}"),
        content_hash: "00".into(),
        night: Some(night),
        note: String::new(),
    }
}

#[test]
fn the_oldest_go_and_what_is_needed_stays() {
    let made = [(1, "warm"), (1, "round0"), (2, "round0"), (3, "round0"), (3, "round1")];
    let versions = made.map(|(night, stage)| version(night, stage));
    let always = BTreeSet::from(["night1-warm".to_string()]);
    let go = |night, keep| superfluous(&versions, &always, night, keep);
    assert_eq!(go(3, 0), ["night2-round0", "night1-round0"]);
    assert_eq!(go(3, 1), ["night1-round0"]);
    assert!(go(3, 2).is_empty(), "the live version does not take another's place");
    assert_eq!(go(4, 0), ["night3-round1", "night3-round0", "night2-round0", "night1-round0"]);
    assert!(go(1, 0).is_empty());
}

/// Steps that were each worth a checkpoint.
fn steps_in_rounds(report: &serde_json::Value) -> u64 {
    let steps = |of: &str| report["train"][of].as_u64().unwrap();
    steps("policy_steps") + steps("proposer_steps")
}

#[test]
fn old_versions_lose_their_weights_and_keep_their_rows() {
    let school = School::counting();
    let short = ["solve.rounds=1", "propose.model_drafts=4", "retention.adapters=1"];
    let first = school.finish_with(&short);
    assert!(first["retention"]["versions_removed"].as_array().unwrap().is_empty());
    assert_eq!(first["retention"]["checkpoints_removed"], 3 + steps_in_rounds(&first));
    assert_eq!(school.listed("adapters"), ["night1-round0", "night1-warm"]);
    assert!(school.listed("checkpoints").is_empty());
    school.set_live("night1-warm");
    school.finish_with(&short);
    assert_eq!(school.listed("adapters"), ["night1-round0", "night1-warm", "night2-round0"]);

    let third = school.finish_with(&short);
    assert_eq!(third["retention"]["versions_removed"], serde_json::json!(["night1-round0"]));
    // Live, the newest of past nights, and tonight's.
    let kept = ["night1-warm", "night2-round0", "night3-round0"];
    assert_eq!(school.listed("adapters"), kept);
    let versions = school.json(&["model", "list"])["versions"].clone();
    let removed: Vec<(&str, Option<u64>)> = versions
        .as_array()
        .unwrap()
        .iter()
        .skip(1)
        .map(|version| (version["id"].as_str().unwrap(), version["removed_night"].as_u64()))
        .collect();
    assert_eq!(
        removed,
        [
            ("night1-warm", None),
            ("night1-round0", Some(3)),
            ("night2-round0", None),
            ("night3-round0", None),
        ]
    );
    let listed = school.command(&["model", "list"]).output().unwrap();
    assert!(String::from_utf8_lossy(&listed.stdout).contains("weights removed in night 3"));
    let message = school.error(3, school.command(&["model", "export", "night1-round0", "merged"]));
    assert!(message.contains("night1-round0 were removed at the end of night 3"), "{message}");

    // Killed while it removes them, or before: the next night finds what is left.
    super::kill_at(school.night_with(&short), "removing the weights of");
    assert!(school.archive().removed_versions().unwrap().contains_key("night2-round0"));
    let left = school.home().join("adapters/night1-round0");
    fs::create_dir_all(&left).unwrap();
    fs::write(left.join("adapter_model.safetensors"), "left behind").unwrap();
    school.finish_with(&short);
    let kept = ["night1-warm", "night4-round0", "night5-round0"];
    assert_eq!(school.listed("adapters"), kept, "and nothing half removed");
}

#[test]
fn checkpoints_are_kept_as_many_as_asked_for() {
    let school = School::counting();
    let settings = ["retention.checkpoints=3", "solve.rounds=1", "train.groups=1"];
    let more = ["solve.tasks=12", "solve.rollouts=6", "train_proposer.objective=none"];
    let report = school.finish_with(&[&settings[..], &more].concat());
    let steps = report["train"]["policy_steps"].as_u64().unwrap();
    assert!(steps >= 3, "{report}");
    assert_eq!(report["retention"]["checkpoints_removed"], steps + 3 - 3);
    let kept = school.listed("checkpoints");
    assert_eq!(kept.len(), 3, "{kept:?}");
    assert!(kept.iter().all(|name| name.contains("-2-policy-shared-")), "the newest: {kept:?}");
    school.finish_with(&["solve.rounds=0"]);
    assert!(school.listed("checkpoints").is_empty(), "the next night tidies up");
}

#[test]
fn old_rollouts_lose_their_tokens_and_old_pages_go() {
    let school = School::counting();
    let short = ["solve.rounds=1", "propose.model_drafts=4"];
    let keep = ["retention.rollout_nights=1", "retention.reports=1"];
    let settings = [&short[..], &keep].concat();
    school.finish_with(&settings);
    let played = school.archive().rollouts_in(1, 0).unwrap();
    assert!(!played.is_empty() && played.iter().all(|one| !one.rollout.steps.is_empty()));
    let task = played[0].rollout.task_id.clone();
    school.finish_with(&settings);
    let archive = school.archive();
    for stored in archive.rollouts_in(1, 0).unwrap() {
        assert_eq!((stored.tokens_removed_night, stored.rollout.steps.len()), (Some(2), 0));
    }
    assert!(archive.rollouts_in(2, 0).unwrap().iter().all(|one| !one.rollout.steps.is_empty()));
    assert_eq!(school.listed("reports"), ["night-0002.html"]);
    assert_eq!(school.json(&["archive", "check"])["ok"], true);

    let shown = school.json(&["task", "show", &task, "--tokens"]);
    let first = &shown["rollouts"][0];
    assert_eq!(first["tokens_removed_night"], 2);
    assert_eq!(first["steps"], serde_json::json!([]));
    assert_eq!(first["model_tokens"], played[0].model_tokens);
    assert_eq!(first["score"]["reward"], f64::from(played[0].score.reward));
    let told = school.command(&["task", "show", &task]).output().unwrap();
    assert!(String::from_utf8_lossy(&told.stdout).contains("removed in night 2"));
    // What it says of the past night does not need them.
    assert!(school.command(&["run", "report", "1"]).output().unwrap().status.success());
}
