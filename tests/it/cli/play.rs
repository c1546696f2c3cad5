//! Looking at a home in which a night has played.

use std::sync::Arc;

use nightschool::archive::Archive;
use nightschool::archive::EvaluationItem;
use nightschool::archive::EvaluationName;
use nightschool::archive::GatedDraft;
use nightschool::archive::ModelKind;
use nightschool::archive::ModelVersion;
use nightschool::archive::Promotion;
use nightschool::archive::Suite;
use nightschool::archive::SuiteItem;
use nightschool::archive::SuiteOrigin;
use nightschool::archive::TrainItem;
use nightschool::archive::TrainPhase;
use nightschool::archive::TrainStep;
use nightschool::archive::Unit;
use nightschool::clock::SystemClock;
use nightschool::config::AdapterSlot;
use nightschool::config::Adapters;
use nightschool::config::ObjectiveName;
use nightschool::rollout::Owner;
use nightschool::rollout::Rollout;
use nightschool::rollout::Score;
use nightschool::rollout::Step;
use nightschool::rollout::StopReason;
use nightschool::task::AnswerKind;
use nightschool::task::Draft;
use nightschool::task::Origin;
use nightschool::task::Rejection;
use nightschool::task::Seed;
use nightschool::task::Split;
use nightschool::task::Task;
use nightschool::task::Verdict;
use serde_json::Value;
use serde_json::json;

use super::Desk;
use super::with_corpus;
use crate::backup::add_version;

/// A draft on the first passage of the corpus; a task if nothing turned it away.
fn gated(archive: &Archive, origin: Origin, id: &str, rejection: Option<Rejection>) -> GatedDraft {
    let passage = archive.passages().unwrap().remove(0);
    let by_model = origin == Origin::Model;
    let question = "Who patented the separate condenser\u{1b}[31m?".to_string();
    let (answer, kind) = ("James Watt".to_string(), AnswerKind::Name);
    let draft = Draft {
        id: id.to_string(),
        origin,
        seed: Seed { answer: answer.clone(), kind, path: vec![passage.id.clone()] },
        question: Some(question.clone()),
        transcript: by_model.then(|| format!("Question: {question}")),
        model_version: if by_model { "base" } else { "code" }.to_string(),
    };
    let verdict =
        Verdict { check: "leak".into(), rejection, required: true, evidence: json!({ "f1": 0.5 }) };
    let task = rejection.is_none().then(|| Task {
        id: id.to_string(),
        origin,
        question,
        answer,
        kind,
        evidence: vec![passage.id],
        split: Split::Train,
        night: Some(1),
    });
    GatedDraft { draft, verdicts: vec![verdict], task, parents: Vec::new() }
}

/// An attempt by a version at the task of the language model.
fn record_rollout(archive: &Archive, night: u32, version: &str, score: Score) {
    let rollout = Rollout {
        task_id: "ab33".into(),
        index: 0,
        model_version: version.into(),
        steps: vec![
            Step { owner: Owner::Tool, tokens: vec![7; 40], logprobs: Vec::new() },
            Step { owner: Owner::Model, tokens: vec![1, 2], logprobs: vec![-0.5, -0.25] },
        ],
        queries: vec!["separate condenser".into()],
        retrieved: Vec::new(),
        answer: Some("Watt".into()),
        stop: StopReason::StopString,
        start: None,
    };
    let unit = Unit { night, phase: "rollouts", key: "0" };
    let sampling = json!({"temperature": 1.0});
    archive.record_rollouts(&unit, 0, &sampling, &[(rollout, score)]).unwrap();
}

/// A desk whose first night is under way: two tasks, one of them tried.
pub(super) fn after_play() -> Desk {
    let desk = with_corpus();
    let archive = Archive::open(&desk.home().archive(), Arc::new(SystemClock)).unwrap();
    let base = ModelVersion {
        id: "base".into(),
        parent: None,
        kind: ModelKind::Base,
        adapters: None,
        path: "model.gguf".into(),
        content_hash: "00".into(),
        night: None,
        note: "as fetched".into(),
    };
    archive.put_model_version(&base).unwrap();
    archive.set_live_model("base", "the first").unwrap();
    archive.begin_night(1, &json!({})).unwrap();
    let drafts = [
        gated(&archive, Origin::Code, "aa11", None),
        gated(&archive, Origin::Model, "aa22", Some(Rejection::Leak)),
        gated(&archive, Origin::Model, "ab33", None),
    ];
    archive.record_drafts(&Unit { night: 1, phase: "propose", key: "0" }, &drafts).unwrap();
    let score = Score { exact_match: 0.0, f1: 0.75, reward: 0.75 };
    record_rollout(&archive, 1, "base", score);
    desk
}

/// A desk with two nights: one that ended with an adapter live, and one in which that has played.
pub(super) fn two_nights() -> Desk {
    let desk = after_play();
    let archive = Archive::open(&desk.home().archive(), Arc::new(SystemClock)).unwrap();
    let unit = |phase| Unit { night: 1, phase, key: "0" };
    add_version(&desk, &archive, "night1-warm");
    let step = TrainStep {
        phase: TrainPhase::WarmStart,
        adapter: AdapterSlot::Shared,
        step: 0,
        objective: ObjectiveName::Likelihood,
        model_version: "base".into(),
        metrics: json!({ "loss": 2.5, "tokens": 512, "skipped": false }),
        items: vec![TrainItem::Task { task_id: "ab33".into() }],
    };
    archive.record_train_steps(&unit("warm_start"), &[step]).unwrap();
    let item = SuiteItem {
        question_id: "q1".into(),
        question: "How deep is the Challenger Deep?".into(),
        answers: vec!["10,935 metres".into()],
        source_document: "sea".into(),
    };
    let suite = Suite::new("own", SuiteOrigin::Human, vec![item]);
    archive.freeze_suite(&suite).unwrap();
    let name = EvaluationName {
        id: "after".into(),
        suite_id: suite.id,
        model_version: "night1-warm".into(),
        prompt: "bare".into(),
    };
    let answered = EvaluationItem {
        question_id: "q1".into(),
        answer: Some("10,935".into()),
        exact_match: 0.0,
        f1: 0.5,
        answer_in_retrieved: true,
        tokens: 7,
    };
    archive.record_evaluation_items(&unit("answers"), &name, &[answered]).unwrap();
    let figures = json!({ "n": 1, "em": 0.0, "f1": 0.5 });
    archive.record_evaluation(&unit("evaluation"), &name, &figures).unwrap();
    let promotion = Promotion {
        night: 1,
        candidate: "night1-warm".into(),
        incumbent: "base".into(),
        promoted: true,
        reason: "lower bound above 0".into(),
        delta: Some(0.25),
        ci: Some((0.125, 0.375)),
    };
    archive.record_promotion(&unit("promotion"), &promotion).unwrap();
    archive.finish_night(1, &json!({ "promoted": true })).unwrap();
    archive.begin_night(2, &json!({})).unwrap();
    let score = Score { exact_match: 1.0, f1: 1.0, reward: 1.0 };
    record_rollout(&archive, 2, "night1-warm", score);
    desk
}

#[test]
fn tasks_are_listed_and_shown_by_the_beginning_of_their_id() {
    let desk = after_play();
    insta::assert_snapshot!(desk.out(&["task", "list"]));
    let only = ["--origin", "model", "--split", "train", "--night", "1", "--json"];
    assert_shape!(desk.out(&[&["task", "list"][..], &only].concat()));
    assert_eq!(desk.out(&["task", "list", "--night", "2"]), "No such tasks.\n");
    let first = desk.json(&["task", "list", "--limit", "1"]);
    let next = first["next"].as_str().unwrap();
    assert!(desk.out(&["task", "list", "--limit", "1"]).contains(&format!("--after {next}")));
    let second = desk.json(&["task", "list", "--limit", "1", "--after", next]);
    assert_eq!((second["tasks"].as_array().unwrap().len(), &second["next"]), (1, &Value::Null));
    assert_ne!(first["tasks"][0]["id"], second["tasks"][0]["id"]);
    let error = desk.error(2, &["task", "list", "--after", "there"]);
    assert!(error.contains("take `next` of the page before"), "{error}");

    assert_shape!(desk.out(&["task", "show", "ab"]));
    assert_shape!(desk.out(&["task", "show", "ab33", "--json"]));
    let with_tokens = desk.json(&["task", "show", "ab33", "--tokens"]);
    assert_eq!(with_tokens["rollouts"][0]["steps"][1]["tokens"], json!([1, 2]));
    insta::assert_snapshot!(
        desk.error(3, &["task", "show", "zz"]),
        @r#"error: the archive has no task "zz""#
    );
    insta::assert_snapshot!(
        desk.error(2, &["task", "show", "a"]),
        @r#"error: 2 tasks have an id that begins with "a"; give more of it"#
    );
}

#[test]
fn lists_have_forms_for_programs() {
    let desk = after_play();
    let columns = ["--columns", "id,answer,question"];
    insta::assert_snapshot!(
        desk.out(&[&["task", "list", "--output", "tsv"][..], &columns].concat())
    );
    let lines = desk.out(&["task", "search", "condenser", "--output", "jsonl"]);
    let found: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(found.len(), 2);
    assert_eq!(desk.out(&["task", "list", "--text", "zeppelin", "--output", "jsonl"]), "");
    insta::assert_snapshot!(desk.out(&["task", "list", "--rejected"]));
    assert_eq!(desk.out(&["task", "list", "--rejected", "length"]), "No such drafts.\n");
    for (args, why) in [
        (&["task", "list", "--columns", "mood"][..], "there is no `mood`, but id, origin"),
        (&["task", "list", "--band", "odd"], "one of untried, always, easy, medium, hard, never"),
        (&["task", "list", "--since", "soon"], "neither a time (2026-01-31T22:00:00Z) nor an age"),
        (&["task", "list", "--rejected", "--band", "hard"], "by reason and --night only"),
    ] {
        let error = desk.error(2, args);
        assert!(error.contains(why), "{args:?}: {error}");
    }
}

#[test]
fn totals_versions_and_the_unfinished_night_are_shown() {
    let desk = after_play();
    insta::assert_snapshot!(desk.out(&["task", "stats"]));
    assert_shape!(desk.out(&["task", "stats", "--json"]));
    assert_shape!(desk.out(&["model", "list", "--json"]));
    let status = desk.json(&["status"]);
    assert_eq!(status["live_model"]["id"], "base");
    assert_eq!(status["unfinished_night"]["number"], 1);
    assert!(status["last_night"].is_null());
}

#[test]
fn training_steps_are_listed_with_the_one_that_stopped() {
    let desk = after_play();
    let archive = Archive::open(&desk.home().archive(), Arc::new(SystemClock)).unwrap();
    assert_eq!(desk.out(&["train", "steps"]), "No training in night 1.\n");
    let step = |phase, objective, step, metrics| TrainStep {
        phase,
        adapter: AdapterSlot::Solver,
        step,
        objective,
        model_version: "base".into(),
        metrics,
        items: Vec::new(),
    };
    let warm = json!({ "loss": 2.5, "grad_norm": 1.25, "learning_rate": 0.0001, "entropy": 3.0,
        "tokens": 512, "skipped": false });
    let skipped = json!({ "loss": null, "grad_norm": null, "tokens": 512, "skipped": true });
    let far = json!({ "loss": 0.5, "kl": 25.0, "ratio": 1.0, "reward_mean": 0.25, "tokens": 9 });
    let rows = [
        step(TrainPhase::WarmStart, ObjectiveName::Likelihood, 0, warm),
        step(TrainPhase::WarmStart, ObjectiveName::Likelihood, 1, skipped),
        step(TrainPhase::Policy, ObjectiveName::Preference, 0, far),
    ];
    let unit = Unit { night: 1, phase: "warm_start", key: "0" };
    archive.record_train_steps(&unit, &rows).unwrap();
    insta::assert_snapshot!(desk.out(&["train", "steps"]));
    assert_shape!(desk.out(&["train", "steps", "--night", "1", "--json"]));
    insta::assert_snapshot!(
        desk.error(3, &["train", "steps", "--night", "2"]),
        @"error: DESK/home has had no night 2 yet"
    );
}

#[test]
fn versions_without_weights_are_said_to_have_none() {
    let desk = after_play();
    let archive = Archive::open(&desk.home().archive(), Arc::new(SystemClock)).unwrap();
    let old = ModelVersion {
        id: "night1-warm".into(),
        parent: Some("base".into()),
        kind: ModelKind::Adapter,
        adapters: Some(Adapters::PerRole),
        path: "adapters/night1-warm".into(),
        content_hash: "01".into(),
        night: Some(1),
        note: "warm start".into(),
    };
    archive.put_model_version(&old).unwrap();
    let unit = Unit { night: 1, phase: "retention", key: "versions" };
    archive.record_removed_versions(&unit, &[old.id]).unwrap();
    insta::assert_snapshot!(desk.out(&["model", "list"]));
    insta::assert_snapshot!(
        desk.error(3, &["model", "export", "night1-warm", "merged"]),
        @"error: the weights of night1-warm were removed at the end of night 1, as `retention.adapters` \
          says; see `nightschool model list` for versions that have theirs"
    );
}

#[test]
fn model_versions_are_found_for_an_evaluation() {
    let desk = after_play();
    let questions = "{\"id\": \"1\", \"question\": \"Who?\", \"answers\": [\"Watt\"]}\n";
    desk.write("questions.jsonl", questions);
    let eval = ["eval", "--closed-book", "--questions", "questions.jsonl", "--adapter"];
    let error = desk.error(3, &[&eval[..], &["nosuch"]].concat());
    assert!(
        error.contains("no adapter folder or model version \"nosuch\" in DESK/home"),
        "{error}"
    );
}
