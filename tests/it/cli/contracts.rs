//! What `--json` prints, held by a snapshot for each command that no other test holds.
//!
//! What depends on the machine or the time is taken out. Of a real night, whose numbers and words
//! differ from processor to processor, only the kinds of the values are held.

use std::fs;

use serde_json::Map;
use serde_json::Value;

use super::Desk;
use super::play::two_nights;
use crate::night::school::School;

/// Members whose names are data: reasons with counts.
const COUNTS: [&str; 2] = ["rejections", "groups_left_out"];

/// Holds a text to the snapshot of this name.
fn hold(name: &str, text: &str) {
    insta::with_settings!({ filters => [
        (r"\d{4}-\d\d-\d\dT[0-9:.]+Z", "TIME"),
        (r"[0-9a-f]{16}", "ID"),
        (r#""(bytes\w*|program_version|archive_version)": (\d+|"\d[^"]*")"#, r#""$1": "VALUE""#),
    ] }, {
        insta::assert_snapshot!(name, text);
    });
}

/// Holds what a command prints as JSON to the snapshot called like the command.
fn hold_json(desk: &Desk, args: &[&str]) {
    let value = desk.json(args);
    hold(&named(args), &pretty(&value));
}

/// The command's own words.
fn named(args: &[&str]) -> String {
    let words = args.iter().take(2).take_while(|word| !word.starts_with('-'));
    words.copied().collect::<Vec<_>>().join("-")
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap()
}

/// The kinds of values in the place of the values; a list as one element that stands for all.
fn kinds(value: &Value) -> Value {
    match value {
        Value::Null => "null".into(),
        Value::Bool(_) => "bool".into(),
        Value::Number(_) => "number".into(),
        Value::String(_) => "string".into(),
        Value::Array(items) => items.iter().map(kinds).reduce(merged).into_iter().collect(),
        Value::Object(members) => {
            let kind = |(name, value): (&String, &Value)| match value {
                Value::Object(_) if COUNTS.contains(&name.as_str()) => "counts".into(),
                // What there is to set has its own reference.
                Value::Object(_) if name == "settings" => "settings".into(),
                value => kinds(value),
            };
            members.iter().map(|one| (one.0.clone(), kind(one))).collect::<Map<_, _>>().into()
        }
    }
}

/// The kinds of two values that stand at the same place.
fn merged(one: Value, other: Value) -> Value {
    match (one, other) {
        (one, other) if one == other => one,
        (Value::Object(mut all), Value::Object(others)) => {
            for (name, other) in others {
                let kind = match all.get(&name) {
                    Some(one) => merged(one.clone(), other),
                    None => other,
                };
                all.insert(name, kind);
            }
            all.into()
        }
        (Value::Array(one), Value::Array(other)) => {
            one.into_iter().chain(other).reduce(merged).into_iter().collect()
        }
        (Value::String(one), Value::String(other)) => {
            let mut kinds: Vec<&str> = one.split(" or ").chain(other.split(" or ")).collect();
            kinds.sort_unstable();
            kinds.dedup();
            kinds.join(" or ").into()
        }
        // What is null now and then, and lists of a name with figures.
        (Value::String(_), whole) | (whole, _) => whole,
    }
}

#[test]
fn looking() {
    let desk = two_nights();
    for args in [
        &["task", "search", "condenser"][..],
        &["task", "lineage", "ab33"],
        &["task", "diff", "1", "2"],
        &["run", "list"],
        &["run", "show", "1"],
        &["model", "show", "live"],
        &["model", "diff", "base", "live"],
        &["corpus", "list"],
        &["archive", "sql", "SELECT id, origin, night, band, solved FROM task_view ORDER BY id"],
        &["archive", "check"],
        &["status"],
    ] {
        hold_json(&desk, args);
    }
    hold("corpus-list-documents", &pretty(&desk.json(&["corpus", "list", "--documents"])));
    hold("archive-schema", &pretty(&kinds(&desk.json(&["archive", "schema"]))));
    let rejected = desk.json(&["task", "list", "--rejected"]);
    hold("task-list-rejected", &pretty(&rejected));
}

#[test]
fn deciding() {
    let desk = two_nights();
    for args in [
        &["task", "retire", "aa11", "--note", "out of date"][..],
        &["task", "restore", "aa11"],
        &["model", "rollback"],
        &["model", "promote", "night1-warm"],
        &["archive", "vacuum"],
    ] {
        hold_json(&desk, args);
    }
    let documents = desk.json(&["corpus", "list", "--documents"]);
    let removed: Vec<Value> = documents["documents"]
        .as_array()
        .unwrap()
        .iter()
        .map(|document| {
            let id = document["id"].as_str().unwrap();
            desk.json(&["corpus", "remove", id, "--with-derived"])
        })
        .collect();
    hold("corpus-remove", &pretty(&removed.into()));
}

#[test]
fn keeping() {
    let desk = two_nights();
    let made = desk.json(&["archive", "backup"]);
    hold("archive-backup", &pretty(&made));
    let name = made["path"].as_str().unwrap().rsplit('/').next().unwrap();
    hold_json(&desk, &["archive", "restore", name, "--force"]);
    fs::remove_file(desk.path("home/adapters/night1-warm/adapter_config.json")).unwrap();
    let (found, _) = desk.run(1, &["archive", "check", "--json"]);
    hold("archive-check-found", &found);
}

#[test]
fn a_real_night() {
    let school = School::counting();
    let report = school.finish();
    hold("night", &pretty(&kinds(&report)));
    let candidate = report["candidate"].as_str().unwrap();
    let questions = r#"{"id": "1", "question": "How many doors has the inn?", "answers": ["7"]}"#;
    fs::write(school.path("questions.jsonl"), questions).unwrap();
    let path = |name: &str| school.path(name).display().to_string();
    let (model, questions) = (path("model"), path("questions.jsonl"));
    let documents = path("documents");
    let versions = school.json(&["model", "list"])["versions"].clone();
    let base = versions.as_array().unwrap().iter().find(|one| one["kind"] == "base").unwrap();
    let base = base["id"].as_str().unwrap();
    for args in [
        &["status", "--digest"][..],
        &["run", "show"],
        &["run", "list"],
        &["model", "list"],
        &["model", "show", candidate],
        &["model", "diff", base, candidate],
        &["train", "steps"],
        &["task", "list"],
        &["task", "diff", "1", "1"],
        &["doctor", "--model", &model],
        &["eval", "--model", &model, "--corpus", &documents, "--questions", &questions],
    ] {
        hold(&format!("night-{}", named(args)), &pretty(&kinds(&school.json(args))));
    }
}
