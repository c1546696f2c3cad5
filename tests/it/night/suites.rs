//! Suites of people's questions: frozen, listed, measured, and never trained on.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use super::school::School;

const ROWS: &str = "\
id,question,answer,answers,title
a,Who built the tower?,Odo,,Tower
b,When was the mill closed?,,1820|in 1820,Mill
a,Who built the bridge?,Ida,,
,What has no answer?,,,
,How deep is the well?,9 metres,,
,How deep is the well?,9 metres,,
";

fn import(school: &School, name: &str, file: &str) -> Command {
    let mut command = school.command(&["suite", "import", name, "--json"]);
    command.arg(school.path(file));
    command
}

fn imported(school: &School, name: &str, file: &str) -> serde_json::Value {
    let output = import(school, name, file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Freezes questions as the suite `exam`.
fn exam(school: &School, questions: &BTreeSet<String>) -> serde_json::Value {
    let row = |question| serde_json::json!({ "question": question, "answer": "7" }).to_string();
    let rows: Vec<String> = questions.iter().map(row).collect();
    fs::write(school.path("exam.jsonl"), rows.join("\n")).unwrap();
    imported(school, "exam", "exam.jsonl")
}

/// The questions of training tasks.
fn train_questions(school: &School) -> BTreeSet<String> {
    let tasks = school.json(&["task", "list", "--limit", "1000", "--split", "train"]);
    let tasks = tasks["tasks"].as_array().unwrap().iter();
    tasks.map(|task| task["question"].as_str().unwrap().to_string()).collect()
}

#[test]
fn a_suite_is_frozen_listed_and_shown() {
    let school = School::new();
    fs::write(school.path("own.csv"), ROWS).unwrap();
    let report = imported(&school, "own", "own.csv");
    insta::assert_json_snapshot!("suite_import", report);
    // The same again changes nothing; other questions are refused.
    let again = imported(&school, "own", "own.csv");
    assert_eq!((&again["known"], &again["id"]), (&true.into(), &report["id"]));
    fs::write(school.path("other.csv"), "question,answer\nWho built the barn?,Ida\n").unwrap();
    let refused = school.error(1, import(&school, "own", "other.csv"));
    assert!(refused.contains("import these under another name"), "{refused}");
    imported(&school, "other", "other.csv");

    let mut listed = school.json(&["suite", "list"]);
    for suite in listed["suites"].as_array_mut().unwrap() {
        assert!(suite["frozen_at"].take().is_string());
    }
    insta::assert_json_snapshot!("suite_list", listed);
    insta::assert_json_snapshot!("suite_show", school.json(&["suite", "show", "own"]));
    school.error(3, school.command(&["suite", "show", "none"]));

    fs::write(school.path("none.csv"), "question,answer\n,lost\n").unwrap();
    let empty = school.error(1, import(&school, "none", "none.csv"));
    assert!(empty.contains("holds no question; row 1: it has no `question`"), "{empty}");
    for name in ["model-made", "own.csv", "a/b"] {
        school.error(2, import(&school, name, "own.csv"));
    }
}

#[test]
fn an_imported_suite_is_measured() {
    let school = School::counting();
    fs::write(school.path("own.csv"), ROWS).unwrap();
    imported(&school, "own", "own.csv");
    let eval = |more: &[&str]| {
        let mut command =
            school.command(&["eval", "--suite", "own", "--max-tokens", "4", "--json"]);
        command.args(more).arg("--model").arg(school.path("model"));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    for more in [&[][..], &["--closed-book"]] {
        let report = eval(more);
        assert_eq!((&report["suite"], &report["n"]), (&"own".into(), &3.into()));
    }
    school.error(3, {
        let mut command = school.command(&["eval", "--suite", "none", "--model"]);
        command.arg(school.path("model"));
        command
    });
}

#[test]
fn no_draft_repeats_a_question_of_the_suite_that_decides() {
    let before = School::new();
    before.add_documents();
    before.finish();
    let questions = train_questions(&before);
    assert!(questions.len() > 10);

    let school = School::new();
    school.add_documents();
    exam(&school, &questions);
    let report = school.finish_with(&["heldout.suite=exam"]);
    assert_eq!(report["heldout"]["suite"], "exam");
    assert_eq!(report["heldout"]["origin"], "human");
    assert_eq!(train_questions(&school).intersection(&questions).count(), 0);
    let rejected = school.json(&["task", "list", "--rejected", "duplicate", "--limit", "1000"]);
    let rejected = rejected["drafts"].as_array().unwrap().iter();
    let rejected: BTreeSet<&str> =
        rejected.filter_map(|draft| draft["question"].as_str()).collect();
    assert!(questions.iter().filter(|question| rejected.contains(question.as_str())).count() > 10);
}

#[test]
fn tasks_that_a_suite_asks_are_not_trained_on() {
    let school = School::new();
    school.add_documents();
    school.finish();
    let questions = train_questions(&school);
    let report = exam(&school, &questions);
    assert_eq!(report["tasks_left_out"], questions.len());
    let report = school.finish_with(&["heldout.suite=exam", "propose.code_drafts=120"]);
    assert_eq!(report["heldout"]["suite"], "exam");
    let query = "SELECT t.night, count(*) AS n FROM train_item i JOIN task t ON t.id = i.task_id
                 WHERE i.night = 2 GROUP BY 1";
    let trained = school.json(&["archive", "sql", query]);
    let nights: Vec<u64> = trained["rows"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|row| row["night"].as_u64())
        .collect();
    assert_eq!(nights, [2], "{trained}");
    let played = "SELECT DISTINCT t.night FROM rollout r JOIN task t ON t.id = r.task_id
                  WHERE r.night = 2";
    let played = school.json(&["archive", "sql", played]);
    assert_eq!(played["rows"], serde_json::json!([{ "night": 2 }]));

    // An export to train on leaves them out, too.
    let output = school.command(&["task", "export", "--as", "rl-trl", "--json"]);
    let output = { output }.arg(school.path("prompts")).output().unwrap();
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(summary["left_out"]["that a suite asks, too"], questions.len());
}

#[test]
fn a_suite_that_is_nowhere_stops_a_night_before_it_begins() {
    let school = School::new();
    school.add_documents();
    fs::write(school.path("own.csv"), ROWS).unwrap();
    imported(&school, "own", "own.csv");
    let message = school.error(78, school.night_with(&["heldout.suite=nowhere"]));
    assert!(
        message.contains("neither a suite of this home (there are: own) nor a file"),
        "{message}"
    );
    assert!(school.archive().nights().unwrap().is_empty());
}
