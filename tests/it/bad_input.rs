//! What goes wrong outside the program gets one clear message, a defined exit status, and leaves
//! nothing half-written.

use std::io::Read;
use std::process::Stdio;
use std::sync::Arc;

use nightschool::archive::Archive;
use nightschool::archive::ArchiveError;
use nightschool::cli::errors;
use nightschool::clock::SystemClock;
use nightschool::durable::DurableError;
use nightschool::durable::HomeLock;
use nightschool::inference::GenerateError;
use nightschool::phase::ingest;

use super::cli::Desk;
use super::cli::SEA;
use super::cli::STEAM;
use super::cli::with_corpus;

/// What is in the home, by name.
fn left_behind(desk: &Desk) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(desk.home().dir()) else { return Vec::new() };
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name();
    entries.map(|entry| name(entry).to_string_lossy().into_owned()).collect()
}

#[test]
fn settings_at_fault_are_named_by_file_line_and_key() {
    let desk = with_corpus();
    let config = |text: &str| drop(desk.write("home/nightschool.toml", text));
    config("seed = 2\n\n[solve]\n# a comment\nruonds = 3\n");
    let error = desk.error(78, &["night", "--now"]);
    assert!(error.contains("DESK/home/nightschool.toml, line 5: `solve.ruonds`"), "{error}");
    assert!(error.contains("unknown field `ruonds`, expected one of `rounds`"), "{error}");
    config("[sovle]\nrounds = 3\n");
    let error = desk.error(78, &["corpus", "add"]);
    assert!(error.contains("DESK/home/nightschool.toml, line 1: `sovle`"), "{error}");
    config("[train]\nrank = \"many\"\n");
    let error = desk.error(78, &["night", "--now"]);
    assert!(error.contains("nightschool.toml, line 2: `train.rank`: invalid type"), "{error}");
    config("[train\n");
    let error = desk.error(78, &["night", "--now"]);
    assert!(error.contains("DESK/home/nightschool.toml: TOML parse error at line 1"), "{error}");
    config("");
    let error = desk.error(78, &["night", "--now", "--set", "train.rank=0"]);
    assert!(error.contains("setting `train.rank` is 0; it must be from 1 to 512"), "{error}");
    let error = desk.error(78, &["night", "--now", "--set", "train.rnak=8"]);
    assert!(error.contains("--set train.rnak=8: `train.rnak`"), "{error}");
}

#[test]
fn a_second_process_on_the_same_home_is_turned_away() {
    let desk = with_corpus();
    let lock = HomeLock::acquire(desk.home().dir()).unwrap();
    let pid = std::process::id();
    for args in [&["corpus", "add"][..], &["night", "--now"], &["init", "--force"]] {
        assert_eq!(
            desk.error(75, args),
            format!(
                "error: DESK/home is in use by another nightschool process (pid {pid}); wait for \
                 it to end or stop it"
            )
        );
    }
    // Looking is allowed.
    assert!(desk.out(&["corpus", "search", "ocean"]).starts_with("1. sea"));
    let status = desk.json(&["status"]);
    assert_eq!((&status["busy"], &status["pid"]), (&true.into(), &pid.into()));
    drop(lock);
    desk.out(&["corpus", "add"]);
}

#[test]
fn a_night_needs_a_corpus_and_the_word_now() {
    let desk = Desk::new();
    let error = desk.error(2, &["night"]);
    assert!(error.contains("`nightschool night --now`") && error.contains("daemon"), "{error}");
    let error = desk.error(1, &["night", "--now"]);
    assert_eq!(
        error,
        "error: DESK/home has no documents to learn from; add some with `nightschool corpus add \
         DIR`"
    );
    let error = desk.error(1, &["demo", "--corpus", "docs"]);
    assert!(error.contains("the bundled corpus") && error.contains("is not at docs"), "{error}");
    assert!(!desk.home().dir().exists());
}

#[test]
fn a_corpus_of_nothing_readable_is_said_to_be_empty() {
    let desk = Desk::new();
    std::fs::create_dir(desk.path("docs")).unwrap();
    desk.write("docs/picture.png", b"\x89PNG\0");
    let (out, err) = desk.run(1, &["corpus", "add", "docs"]);
    assert!(out.contains("docs/picture.png"), "{out}");
    assert!(err.contains("the corpus is empty") && err.lines().count() == 1, "{err}");
    let error = desk.error(1, &["corpus", "search", "ocean"]);
    assert!(error.contains("the corpus of DESK/home is empty"), "{error}");
}

#[test]
fn paths_that_are_not_there_leave_no_home() {
    let desk = Desk::new();
    desk.write("docs/steam.md", STEAM);
    let error = desk.error(1, &["corpus", "add", "docs", "dosc"]);
    assert!(error.starts_with("error: cannot add dosc: No such file"), "{error}");
    desk.error(2, &["corpus", "add"]);
    for args in [&["task", "list"][..], &["corpus", "list"], &["task", "show", "a"]] {
        assert!(desk.error(3, args).contains("there is no archive at DESK/home/archive.db yet"));
    }
    assert!(!desk.home().dir().exists());
}

#[test]
fn models_that_are_missing_or_damaged_are_named() {
    let desk = with_corpus();
    let questions = "{\"id\": \"1\", \"question\": \"Who?\", \"answers\": [\"Watt\"]}\n";
    desk.write("questions.jsonl", questions);
    desk.write("corrupt.gguf", b"GGUF and then nothing that makes sense");
    desk.write("other.gguf", b"PK\x03\x04");
    desk.write("folder/notes.txt", "not a model");
    for (model, named) in [
        ("nowhere.gguf", "there is no model at nowhere.gguf"),
        ("other.gguf", "other.gguf is damaged: it does not begin like a GGUF file"),
        ("./folder", "folder lacks config.json"),
        ("a b", "`a b` is not a model"),
    ] {
        let error = desk.error(1, &["model", "fetch", model]);
        assert!(error.contains(named), "{model}: {error}");
        let error = desk.error(1, &["night", "--now", "--model", model]);
        assert!(error.contains(named), "{model}: {error}");
    }
    let eval = ["eval", "--closed-book", "--questions", "questions.jsonl", "--model"];
    for (model, named) in [("nowhere.gguf", "nowhere.gguf"), ("corrupt.gguf", "corrupt.gguf")] {
        let error = desk.error(1, &[&eval[..], &[model]].concat());
        assert!(error.contains(named), "{model}: {error}");
    }
    let error = desk.error(1, &["night", "--now", "--model", "corrupt.gguf"]);
    assert!(error.contains("corrupt.gguf is damaged or not a model file"), "{error}");
}

#[test]
fn a_bad_line_of_a_question_file_is_named() {
    let desk = Desk::new();
    desk.write("sea.txt", SEA);
    let good = "{\"id\": \"1\", \"question\": \"Who?\", \"answers\": [\"Watt\"]}\n";
    for bad in ["{\"id\": \"2\", \"question\": \"Who", "{\"id\": \"2\", \"question\": \"Who?\"}"] {
        desk.write("questions.jsonl", format!("{good}{bad}\n"));
        let args = ["eval", "--corpus", "sea.txt", "--questions", "questions.jsonl"];
        let error = desk.error(1, &args);
        assert!(error.contains("questions.jsonl") && error.contains("line 2"), "{error}");
    }
    let bench = ["bench", "retrieve", "--corpus", "c.jsonl", "--questions", "questions.jsonl"];
    desk.write("c.jsonl", "{\"id\": \"1\", \"title\": \"t\", \"text\": \"t\"}\nnot json\n");
    assert!(desk.error(1, &bench).starts_with("error: c.jsonl, line 2:"));
    assert!(!desk.home().dir().exists());
}

#[test]
fn a_full_disk_leaves_the_corpus_as_it_was() {
    let desk = with_corpus();
    let archive = Archive::open(&desk.home().archive(), Arc::new(SystemClock)).unwrap();
    let before = (archive.passages().unwrap(), archive.source_files().unwrap());
    archive.limit_size(1).unwrap();
    // No two sentences alike, or they would be one passage.
    let long: String = (0..20_000).map(|n| format!("Tower {n} was built in {n}. ")).collect();
    desk.write("docs/long.txt", long);
    let error = ingest::sync(&archive, 0.1, 1).unwrap_err();
    assert_eq!(errors::exit_of(&error), errors::Exit::NoSpace);
    let message = errors::message(&error);
    assert!(message.starts_with("no space left to write") && message.contains("free some"));
    assert_eq!((archive.passages().unwrap(), archive.source_files().unwrap()), before);
    drop(archive);
    assert_eq!(desk.json(&["corpus", "add"])["files_read"], 1);
    assert!(!left_behind(&desk).iter().any(|name| name.starts_with(".partial")));
}

#[test]
fn other_files_in_the_place_of_the_archive_are_left_alone() {
    let desk = Desk::new();
    desk.write("docs/steam.md", STEAM);
    desk.write("home/archive.db", "my notes");
    for args in [&["corpus", "add", "docs"][..], &["status"], &["task", "list"]] {
        let error = desk.error(1, args);
        assert!(error.contains("archive.db is not a database"), "{error}");
    }
    assert_eq!(std::fs::read(desk.home().archive()).unwrap(), b"my notes");
}

#[test]
fn a_closed_pipe_is_no_error() {
    let desk = Desk::new();
    // More than a pipe holds.
    for n in 0..2000 {
        desk.write(&format!("docs/{n}-{}.txt", "a long name ".repeat(8)), format!("Text {n}."));
    }
    desk.out(&["corpus", "add", "docs"]);
    let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin("nightschool"));
    command.env("NIGHTSCHOOL_HOME", desk.home().dir()).args(["corpus", "list"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 10]).unwrap();
    drop(stdout);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_under_standard_output_is_an_error() {
    let desk = with_corpus();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin("nightschool"));
    command.env("NIGHTSCHOOL_HOME", desk.home().dir()).args(["corpus", "list", "--json"]);
    let output = command.stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("cannot write to standard output: No space left"), "{error}");
}

#[test]
fn every_error_has_its_exit_status_however_deep_it_lies() {
    let path = std::path::PathBuf::from("home");
    let busy = || DurableError::Busy { path: path.clone(), pid: None };
    let prefix = || "a".to_string();
    let cases: [(anyhow::Error, u8); 9] = [
        (anyhow::anyhow!("anything"), 1),
        (errors::UsageError("what".into()).into(), 2),
        (ArchiveError::Ambiguous { prefix: prefix(), matches: 2 }.into(), 2),
        (ArchiveError::NotFound { kind: "task", id: prefix() }.into(), 3),
        (ArchiveError::Missing { path: path.clone() }.into(), 3),
        (busy().into(), 75),
        (ArchiveError::Copy(busy()).into(), 75),
        (ArchiveError::Busy { path: path.clone() }.into(), 75),
        (GenerateError::Interrupted.into(), 130),
    ];
    for (error, code) in cases {
        let deep = error.context("night 3").context("phase propose");
        assert_eq!(errors::exit_of(&deep).code(), code, "{deep:#}");
        assert!(errors::message(&deep).starts_with("phase propose: night 3: "));
    }
    let closed = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
    assert_eq!(errors::exit_of(&errors::OutputError(closed).into()).code(), 0);
    // A pipe that breaks elsewhere is a failure like any other.
    let elsewhere = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
    assert_eq!(errors::exit_of(&anyhow::Error::from(elsewhere)).code(), 1);
    let stopped = errors::message(&GenerateError::Interrupted.into());
    assert_eq!(stopped, "stopped on request; the same command goes on from there");
}
