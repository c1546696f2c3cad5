//! An adapter for each role: trained apart, stored together, used by role.

use std::fs;
use std::process::Command;

use nightschool::archive::TrainPhase;
use nightschool::config::AdapterSlot;
use nightschool::config::Adapters;
use nightschool::durable;
use nightschool::model::adapter_set;

use super::School;

const PER_ROLE: [&str; 4] =
    ["train.adapters=per_role", "solve.tasks=8", "solve.rollouts=4", "train.groups=2"];

/// The weights of one adapter of a version.
fn weights(school: &School, adapter: &str) -> Vec<u8> {
    let dir = school.home().join("adapters").join(adapter);
    fs::read(dir.join("adapter_model.safetensors")).unwrap()
}

#[test]
fn a_night_with_an_adapter_per_role_killed_anywhere_goes_on_to_the_same_end() {
    let school = School::counting();
    let report = school.finish_with(&PER_ROLE);
    assert!(report["train"]["policy_steps"].as_u64().unwrap() > 0, "{report}");
    let (digest, adapters) = (school.digest(), school.adapters());
    fs::remove_dir_all(school.home()).unwrap();

    school.add_documents();
    for line in [
        "started: warm start on tasks made by code: solver",
        "started: warm start on tasks made by code: proposer",
        "ended: warm start on tasks made by code: proposer",
        "started: drafts by the model",
        "started: training the proposer, round 1",
        "started: training on rollouts, round 1",
        "ended: training on rollouts, round 1",
        "started: rollouts, round 2",
    ] {
        super::kill_at(school.night_with(&PER_ROLE), line);
    }
    // It goes on with the settings that it began with.
    school.finish();
    assert_eq!(school.digest(), digest, "the archive's content");
    assert_eq!(school.adapters(), adapters, "the adapters' bytes");
}

#[test]
fn each_role_trains_its_own_adapter() {
    let school = School::counting();
    school.finish_with(&PER_ROLE);
    let steps = school.archive().train_steps(1).unwrap();
    let trained = |phase, adapter| {
        steps.iter().filter(|step| (step.phase, step.adapter) == (phase, adapter)).count()
    };
    assert_eq!(trained(TrainPhase::WarmStart, AdapterSlot::Solver), 6);
    assert!(trained(TrainPhase::WarmStart, AdapterSlot::Proposer) > 0);
    assert!(trained(TrainPhase::Policy, AdapterSlot::Solver) > 0);
    assert_eq!(trained(TrainPhase::Policy, AdapterSlot::Proposer), 0);
    assert!(trained(TrainPhase::Proposer, AdapterSlot::Proposer) > 0);
    assert_eq!(trained(TrainPhase::Proposer, AdapterSlot::Solver), 0);
    assert!(steps.iter().all(|step| step.adapter != AdapterSlot::Shared));

    let version = school.archive().model_version("night1-warm").unwrap().unwrap();
    assert_eq!(version.adapters, Some(Adapters::PerRole));
    let dir = school.home().join(&version.path);
    let sealed = durable::open_sealed(&dir).unwrap();
    assert_eq!(sealed.content_hash(), version.content_hash);
    assert_eq!(adapter_set::form_of(&dir), Some(Adapters::PerRole));
    for role in ["solver", "proposer"] {
        // Each is a PEFT directory of its own.
        let config = fs::read_to_string(dir.join(role).join("adapter_config.json")).unwrap();
        assert!(config.contains("\"peft_type\": \"LORA\""), "{config}");
    }
    assert_ne!(weights(&school, "night1-warm/solver"), weights(&school, "night1-warm/proposer"));
    // The game trains both.
    for role in ["solver", "proposer"] {
        let (warm, played) = (format!("night1-warm/{role}"), format!("night1-round1/{role}"));
        assert_ne!(weights(&school, &played), weights(&school, &warm), "{role}");
    }
    let listed = school.command(&["model", "list"]).output().unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.contains("adapter per role"), "{listed}");
}

#[test]
fn a_home_goes_from_shared_to_per_role_and_not_back() {
    let school = School::counting();
    school.finish();
    school.set_live("night1-warm");
    school.finish_with(&[&PER_ROLE[..], &["train_proposer.objective=none"]].concat());
    let shared = weights(&school, "night1-warm");
    assert_eq!(
        weights(&school, "night2-round1/proposer"),
        shared,
        "both start from the shared one"
    );
    assert_ne!(weights(&school, "night2-round1/solver"), shared);
    school.set_live("night2-round1");
    let message = school.error(1, school.night_with(&["train.adapters=shared"]));
    assert!(
        message.contains(
            "error: the live version night2-round1 has an adapter for each role, and \
             `train.adapters` = \"shared\" asks for one: two cannot become one; set it to \
             \"per_role\", or use another --home"
        ),
        "{message}"
    );
    assert_eq!(school.archive().nights().unwrap().len(), 2, "no night was begun");
    school.finish_with(&PER_ROLE);
}

#[test]
fn versions_are_evaluated_and_exported_by_role() {
    let school = School::counting();
    school.finish_with(&[&PER_ROLE[..], &["solve.rounds=1"]].concat());
    let question = r#"{"id": "1", "question": "How many doors?", "answers": ["7"]}"#;
    fs::write(school.path("questions.jsonl"), question).unwrap();
    let with_model = |arguments: &[&str]| -> Command {
        let mut command = school.command(arguments);
        command.arg("--model").arg(school.path("model")).current_dir(school.folder.path());
        command
    };
    let eval = ["eval", "--closed-book", "--max-tokens", "4", "--json"];
    let questions = ["--questions", "questions.jsonl", "--adapter", "night1-warm"];
    let output = with_model(&[&eval[..], &questions].concat()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["adapter"].as_str().unwrap().ends_with("night1-warm/solver"), "{report}");

    let export = ["model", "export", "night1-warm", "merged"];
    let message = school.error(2, with_model(&export));
    assert!(message.contains("say which with --role solver or --role proposer"), "{message}");
    assert!(!school.path("merged").exists());
    for role in ["solver", "proposer"] {
        let to = format!("merged-{role}");
        let export = ["model", "export", "night1-warm", &to, "--role", role, "--json"];
        let output = with_model(&export).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(report["adapter"].as_str().unwrap().ends_with(role), "{report}");
        assert!(school.path(&to).join("model.safetensors").is_file());
    }
    let merged = |role: &str| fs::read(school.path(role).join("model.safetensors")).unwrap();
    assert_ne!(merged("merged-solver"), merged("merged-proposer"));
}
