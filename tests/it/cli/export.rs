//! Exporting and importing from the command line.

use std::fs;

use serde_json::json;

use super::Desk;
use super::play::after_play;
use super::with_corpus;

#[test]
fn tasks_are_exported_and_imported_in_another_home() {
    let desk = after_play();
    insta::assert_snapshot!(
        desk.out(&["task", "export", "out", "--as", "tasks", "--format", "jsonl"]),
        @"Wrote out: 2 rows from 2 tasks, as tasks in jsonl (2 test)"
    );
    insta::assert_snapshot!(
        desk.error(1, &["task", "export", "out", "--as", "sft"]),
        @"error: out is not empty; name another folder, or replace it with --force"
    );
    // The first document is the held-out one.
    let shape = ["--as", "rl-verl", "--origin", "model", "--force", "--license", "cc-by-4.0"];
    let value = desk.json(&[&["task", "export", "prompts"][..], &shape].concat());
    assert_eq!(value["rows"], json!({ "test": 1 }));
    assert_shape!(serde_json::to_string_pretty(&value).unwrap());
    let card = fs::read_to_string(desk.path("prompts/README.md")).unwrap();
    assert!(card.contains("Filters: tasks with `--origin model` that are active; 1 tasks."));
    assert!(card.starts_with("---\nlicense: \"cc-by-4.0\"\n"), "{card}");

    let other = ["--home", "other", "task", "import", "out"];
    // The second task of the two asks the same question.
    insta::assert_snapshot!(desk.out(&other));
    let value = desk.json(&other);
    assert_eq!((&value["known"], &value["accepted"]), (&1.into(), &0.into()));
    assert_shape!(serde_json::to_string_pretty(&value).unwrap());
    let list = desk.out(&["--home", "other", "task", "list", "--output", "tsv"]);
    assert_eq!(list.lines().count(), 2, "{list}");
}

#[test]
fn what_makes_no_sense_is_said() {
    let desk = after_play();
    let error = desk.error(2, &["task", "export", "..", "--as", "sft"]);
    assert!(error.contains("needs a name of its own"), "{error}");
    let (_, error) = desk.run(2, &["task", "export", "out", "--as", "sft", "--validation", "2"]);
    assert!(error.contains("it must lie between 0 and 1"), "{error}");
    let error = desk.error(1, &["task", "export", "out", "--as", "sft", "--night", "7"]);
    assert!(error.contains("no task passes the filters"), "{error}");
    let error = desk.error(1, &["--home", "new", "task", "import", "none.csv"]);
    assert!(error.contains("cannot read none.csv"), "{error}");
    assert!(!desk.path("new").exists() && !desk.path("out").exists());
    let empty = Desk::new();
    empty.error(3, &["task", "export", "out", "--as", "sft"]);
    let help = desk.out(&["task", "--help"]);
    assert!(help.starts_with("Examples:\n"), "{help}");
    assert!(desk.out(&["task", "export", "--help"]).starts_with("Examples:\n"));
}

#[test]
fn a_persons_questions_become_tasks() {
    let desk = with_corpus();
    let rows = [
        json!({ "question": "Who patented the separate condenser?", "answer": "James Watt" }),
        json!({ "question": "Who reached the deep in 1960?", "answers": ["Neil Armstrong"] }),
    ];
    desk.write("own.jsonl", rows.map(|row| row.to_string()).join("\n"));
    assert_shape!(desk.out(&["task", "import", "own.jsonl"]));
    let tasks = desk.json(&["task", "list", "--origin", "person"]);
    assert_eq!(tasks["tasks"][0]["answer"], "James Watt");
    let rejected = desk.json(&["task", "list", "--rejected", "no_evidence"]);
    assert_eq!(rejected["drafts"][0]["proposed_by"], "person");
}
