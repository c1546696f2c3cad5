//! Whole nights of the real program on a tiny model: they end, they go on after `kill -9`, and the
//! end is the same.

mod curriculum;
mod disk;
mod experiment;
mod gate;
mod guards;
mod imports;
mod mixture;
mod objectives;
mod page;
mod proposer;
mod retention;
mod reverify;
mod roles;
pub(crate) mod school;
mod stops;
mod suites;

use std::fs;
use std::io::BufRead;
use std::io::BufReader;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use nightschool::archive::ArchiveReader;
use nightschool::archive::NightState;

use self::school::School;
use crate::support;

/// Starts a night and kills it when it logs `line`.
fn kill_at(night: Command, line: &str) {
    kill_at_nth(night, line, 1);
}

/// Starts a night and kills it when it logs `line` for the `n`-th time.
fn kill_at_nth(mut night: Command, line: &str, n: usize) {
    let mut child = night.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let stderr = BufReader::new(child.stderr.take().unwrap());
    let logged = stderr.lines().map_while(Result::ok).filter(|logged| logged.contains(line));
    let seen = logged.take(n).count();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(seen, n, "the night ended and had said `{line}` so many times");
}

pub(crate) fn digest(home: &Path) -> String {
    let archive = ArchiveReader::open(&home.join("archive.db")).unwrap();
    assert!(archive.nights().unwrap().iter().all(|n| n.state == NightState::Finished));
    archive.content_digest().unwrap()
}

/// The files of every version by their paths, byte for byte.
pub(crate) fn adapters(home: &Path) -> Vec<(String, Vec<u8>)> {
    let root = home.join("adapters");
    let mut all = Vec::new();
    for entry in walkdir::WalkDir::new(&root).sort_by_file_name() {
        let entry = entry.unwrap();
        if entry.file_type().is_file() {
            let name = entry.path().strip_prefix(&root).unwrap().to_string_lossy().into_owned();
            all.push((name, fs::read(entry.path()).unwrap()));
        }
    }
    all
}

#[test]
fn a_night_killed_anywhere_goes_on_to_the_same_end() {
    let school = School::new();
    school.add_documents();
    let report = school.finish();
    assert_eq!(report["night"], 1);
    assert_eq!(report["heldout"]["origin"], "model-made");
    assert_eq!(report["train"]["warm_start_steps"], 6);
    assert_eq!(report["origin"]["model"]["drafts"], 20);
    assert!(report["origin"]["code"]["accepted"].as_u64().unwrap() > 10);
    let (digest, adapters) = (school.digest(), school.adapters());
    assert!(!adapters.is_empty());
    fs::remove_dir_all(school.home()).unwrap();

    school.add_documents();
    for line in [
        "started: tasks made by code",
        "started: evaluation",
        "started: warm start",
        "ended: warm start",
        "started: drafts by the model",
        "started: rollouts, round 2",
    ] {
        school.kill_at(line);
    }
    school.finish();
    assert_eq!(school.digest(), digest, "the archive's content");
    assert_eq!(school.adapters(), adapters, "the adapters' bytes");
}

/// The demo on the default model, made smaller.
struct SmallDemo {
    folder: tempfile::TempDir,
}

impl SmallDemo {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
        let questions = fs::read_to_string(repository.join("corpus/heldout/questions.jsonl"));
        let few: Vec<String> = questions.unwrap().lines().take(20).map(String::from).collect();
        fs::write(folder.path().join("suite.jsonl"), few.join("\n")).unwrap();
        Self { folder }
    }

    fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nightschool"));
        command.arg("--home").arg(self.home()).args(["demo", "--json"]);
        let suite = self.folder.path().join("suite.jsonl");
        command.arg("--set").arg(format!("heldout.suite={}", suite.display()));
        for setting in [
            "propose.code_drafts=120",
            "propose.model_drafts=32",
            "verify.record_on_code=4",
            "warm_start.steps=6",
            "warm_start.searches=1",
            "train.checkpoint_steps=2",
            "train.groups=2",
            "solve.tasks=6",
            "solve.rollouts=4",
        ] {
            command.arg("--set").arg(setting);
        }
        command.env("NIGHTSCHOOL_CACHE", support::cache()).env("NIGHTSCHOOL_LOG", "info");
        command
    }
}

/// `cargo test --release --locked -- --ignored demo_killed`
#[test]
#[ignore = "two small demos on the default model, before a release: about five minutes"]
fn a_demo_killed_at_three_points_goes_on_to_the_same_end() {
    let demo = SmallDemo::new();
    let home = demo.home();
    assert!(demo.command().stdout(Stdio::null()).status().unwrap().success());
    let straight = (digest(&home), adapters(&home));
    fs::remove_dir_all(&home).unwrap();
    for line in ["started: warm start", "started: drafts by the model", "rollouts, round 2"] {
        kill_at(demo.command(), line);
    }
    assert!(demo.command().stdout(Stdio::null()).status().unwrap().success());
    assert_eq!((digest(&home), adapters(&home)), straight);
}

/// `cargo test --release --locked -- --ignored tripwire`
#[test]
#[ignore = "a small demo on the default model, before a release: about two minutes"]
fn a_tripwire_stops_the_game_and_keeps_what_was_stored() {
    let demo = SmallDemo::new();
    let output = demo.command().args(["--set", "tripwires.entropy_max=0.0001"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let stopped = report["train"]["stopped"].as_str().unwrap();
    assert!(stopped.contains("entropy was") && stopped.contains("above the limit"), "{stopped}");
    assert_eq!(report["train"]["policy_steps"], 1);
    assert_eq!(report["candidate"], "night1-warm");
}

#[test]
fn a_second_night_goes_on_in_the_same_home() {
    let school = School::new();
    school.add_documents();
    assert_eq!(school.finish()["night"], 1);
    let second = school.finish();
    assert_eq!(second["night"], 2);
    assert!(second["origin"]["code"]["drafts"].as_u64().unwrap() > 0);
    let shown = school.command(&["task", "list", "--json"]).output().unwrap();
    let tasks: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    let tasks = tasks["tasks"].as_array().unwrap();
    let nights: std::collections::BTreeSet<u64> =
        tasks.iter().filter_map(|task| task["night"].as_u64()).collect();
    assert!(nights.contains(&1), "{nights:?}");
}

#[test]
fn ctrl_c_stops_a_night_and_the_next_call_goes_on() {
    let school = School::new();
    school.add_documents();
    let mut child = school.night().stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.by_ref().map_while(Result::ok).any(|line| line.contains("started: warm start")));
    let interrupted = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(interrupted.unwrap().success());
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest:?}");
    assert_eq!(school.finish()["night"], 1);
}

#[test]
fn an_evaluation_goes_on_where_it_was_and_is_compared_with_another() {
    let school = School::new();
    let lines = (1..=45).map(|id| {
        format!(r#"{{"id": "{id}", "question": "Who built tower {id}?", "answers": ["Odo"]}}"#)
    });
    fs::write(school.path("questions.jsonl"), lines.collect::<Vec<_>>().join("\n")).unwrap();
    let eval = |tokens: &str, more: &[&str]| {
        let mut command = school.command(&["eval", "--json", "--max-tokens", tokens, "--model"]);
        command.arg(school.path("model")).arg("--corpus").arg(school.path("documents"));
        command.arg("--questions").arg(school.path("questions.jsonl"));
        command.arg("--answers").arg(school.path("answers.jsonl")).args(more);
        command
    };
    let report = |mut command: Command| -> serde_json::Value {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let whole = report(eval("4", &[]));
    let kept = fs::read_to_string(school.path("answers.jsonl")).unwrap();
    assert_eq!(kept.lines().count(), 46);
    // Cut off within a line: what is whole stays, the rest is answered again, to the same.
    let cut = kept.lines().take(21).map(|line| format!("{line}\n")).collect::<String>();
    fs::write(school.path("answers.jsonl"), cut + r#"{"id": "4"#).unwrap();
    let again = report(eval("4", &["--against", school.path("answers.jsonl").to_str().unwrap()]));
    assert_eq!(fs::read_to_string(school.path("answers.jsonl")).unwrap(), kept);
    assert_eq!(
        (&again["n"], &again["em"], &again["f1"]),
        (&whole["n"], &whole["em"], &whole["f1"])
    );
    assert_eq!(again["against"]["n"], 45);
    assert_eq!(again["against"]["f1_ci"], serde_json::json!([0.0, 0.0]));
    // Other answers are not mixed with them.
    let message = school.error(1, eval("5", &[]));
    assert!(message.contains("`max_tokens` is 4 there and 5 here"), "{message}");
}

#[test]
fn an_evaluation_takes_prompts_of_ones_own() {
    let school = School::new();
    let question = r#"{"id": "1", "question": "Who built the tower?", "answers": ["Odo"]}"#;
    fs::write(school.path("questions.jsonl"), question).unwrap();
    fs::create_dir_all(school.path("prompts")).unwrap();
    fs::write(school.path("prompts/mine.jinja"), "Short.\n===\n{{ question }}\n").unwrap();
    let eval = |prompts: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nightschool"));
        command.args(["eval", "--closed-book", "--max-tokens", "4", "--json", "--prompt", "mine"]);
        command.arg("--model").arg(school.path("model"));
        command.arg("--questions").arg(school.path("questions.jsonl"));
        command.arg("--prompts").arg(school.path(prompts)).output().unwrap()
    };
    let output = eval("prompts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["prompt"], &report["n"]), (&"mine".into(), &1.into()));
    assert_eq!(eval("nowhere").status.code(), Some(2));
}
