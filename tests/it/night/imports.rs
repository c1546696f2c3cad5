//! A person's questions before the whole gate: its rules, then the checks by the model.

use std::fs;
use std::io::BufRead;
use std::io::BufReader;
use std::process::Command;
use std::process::Stdio;

use nightschool::verifier::CHECKS;
use serde_json::Value;

use super::school::School;

const THINGS: [&str; 5] = ["doors", "windows", "lamps", "benches", "stairs"];
/// What the counting model goes on from with `3` and a line end, and with a line end alone.
const THREE: &str = "xzhsd";
const SILENT: &str = "es3zyc";

/// A school whose model reads 3 from every passage, and knows by heart only how many lamps there
/// are; with questions whose answer is 3 or 7.
fn school() -> School {
    let school = School::counting();
    make_home(&school);
    school
}

fn make_home(school: &School) {
    let forge = THINGS.map(|thing| {
        format!("## Forge and {thing}\n\nThe old forge by the road has 3 {thing} now.\n")
    });
    fs::write(school.path("documents/forge.md"), format!("# Forge\n\n{}", forge.join("\n")))
        .unwrap();
    school.add_documents();
    let prompts = school.home().join("prompts");
    fs::create_dir_all(&prompts).unwrap();
    let passages = "{% for p in passages %}{{ p.text }}\n{% endfor %}===\n{{ question }} ";
    fs::write(prompts.join("few_shot.jinja"), format!("{passages}{THREE}\n")).unwrap();
    let by_heart =
        format!("{{% if 'lamps' in question %}}{THREE}{{% else %}}{SILENT}{{% endif %}}");
    fs::write(prompts.join("closed_book.jinja"), format!("===\n{{{{ question }}}} {by_heart}\n"))
        .unwrap();

    let mut rows = String::from("question,answer\n");
    for owner in ["forge", "mill", "barn", "inn", "school", "bakery", "chapel"] {
        for thing in THINGS {
            let answer = if owner == "forge" { 3 } else { 7 };
            rows += &format!("How many {thing} does the old {owner} by the road have?,{answer}\n");
        }
    }
    rows += "Are there really 7 doors at the old mill by the road?,7\n";
    fs::write(school.path("own.csv"), rows).unwrap();
}

fn import(school: &School) -> Command {
    let mut command = school.command(&["task", "import", "--with-model", "--json"]);
    command.arg(school.path("own.csv"));
    command.arg("--set").arg(format!("model={}", school.path("model").display()));
    command.args(["--set", "evaluate.max_tokens=8", "--set", "verify.uniqueness=true"]);
    command.args(["--set", "verify.samples=1"]);
    // It finds the answer in whatever it reads.
    command.args(["--set", "verify.evidence_needed=false"]);
    command
}

fn report(school: &School) -> Value {
    let output = import(school).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn rejected(report: &Value, reason: &str) -> usize {
    let rejected = report["rejected"].as_array().unwrap().iter();
    rejected.filter(|row| row["reason"] == reason).count()
}

#[test]
fn a_persons_questions_go_through_the_whole_gate() {
    let school = school();
    let first = report(&school);
    assert_eq!((&first["rows"], &first["accepted"]), (&36.into(), &4.into()), "{first}");
    let reasons = ["unsolved", "closed_book", "leak"].map(|reason| rejected(&first, reason));
    assert_eq!(reasons, [30, 1, 1]);

    // What the checks said stands beside the rules' verdicts, with what they looked at.
    let tasks = school.json(&["task", "list"]);
    let id = tasks["tasks"][0]["id"].as_str().unwrap();
    let shown = school.json(&["task", "show", id]);
    assert_eq!(shown["origin"], "person");
    let verdicts = shown["verdicts"].as_array().unwrap();
    let names: Vec<&str> =
        verdicts.iter().filter_map(|verdict| verdict["check"].as_str()).collect();
    let asked = CHECKS.into_iter().filter(|check| *check != "evidence_needed");
    assert_eq!(names, asked.collect::<Vec<_>>());
    let [closed, rag] = [&verdicts[6], &verdicts[7]];
    let answer = |verdict: &Value| verdict["evidence"]["answers"][0]["answer"].clone();
    assert_eq!((&rag["required"], answer(rag)), (&true.into(), "3".into()));
    let read = rag["evidence"]["passages"].as_array().unwrap();
    assert!(read.len() > 1 && read.contains(&shown["evidence"][0]), "noise is read, too: {rag}");
    assert_eq!((&closed["required"], answer(closed)), (&true.into(), "".into()));

    // Again: all of it is known, and said again.
    let again = report(&school);
    assert_eq!((&again["accepted"], &again["known"]), (&0.into(), &4.into()));
    assert_eq!(again["rejected"], first["rejected"]);
}

#[test]
fn the_rules_alone_decide_unless_the_model_is_asked() {
    let school = school();
    let by_rules = school.json(&["task", "import", school.path("own.csv").to_str().unwrap()]);
    assert_eq!((&by_rules["accepted"], rejected(&by_rules, "leak")), (&35.into(), 1));
}

#[test]
fn an_import_that_was_stopped_goes_on() {
    let school = school();
    report(&school);
    let straight = school.digest();
    // The same home again: which documents are held out depends on what comes together.
    fs::remove_dir_all(school.home()).unwrap();
    fs::remove_file(school.path("documents/forge.md")).unwrap();
    school.add_documents();
    make_home(&school);
    let mut child = import(&school).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.by_ref().map_while(Result::ok).any(|line| line.contains("rows of the import")));
    let interrupted = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(interrupted.unwrap().success());
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest:?}");
    let report = report(&school);
    assert_eq!((&report["rows"], rejected(&report, "unsolved")), (&36.into(), 30));
    assert_eq!(school.digest(), straight);
}
