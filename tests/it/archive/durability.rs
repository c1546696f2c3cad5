//! What was acknowledged stays, whatever happens: `kill -9`, failing writes and flushes, damage.

// Says why a test is not run.
#![allow(clippy::print_stderr)]

use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use nightschool::archive::TaskFilter;
use nightschool::rng;
use rand::Rng as _;

use super::*;

/// Where the child writes; set by the parent.
const PATH_VARIABLE: &str = "NIGHTSCHOOL_TEST_ARCHIVE";
/// Units of the child's work.
const UNITS: u32 = 3000;
/// What the child exits with when a write failed.
const FAILED: i32 = 7;

/// Works on, and says of each unit when it is done.
#[test]
#[ignore = "the child process of the other tests"]
fn child_that_acknowledges() {
    let Some(path) = std::env::var_os(PATH_VARIABLE) else { return };
    let outcome = || -> Result<(), nightschool::archive::ArchiveError> {
        let archive = Archive::open(Path::new(&path), clock(0))?;
        archive.sync_corpus(&[towers()], &[])?;
        archive.put_model_version(&base())?;
        archive.set_live_model("base", "the first")?;
        if archive.nights()?.is_empty() {
            archive.begin_night(1, &json!({}))?;
        }
        let first = archive.units_done(1, "rollouts")?.len() as u32;
        for number in first..UNITS {
            try_play(&archive, number)?;
            // Straight to the pipe: the harness keeps what is printed.
            let mut out = std::fs::File::options().append(true).open("/dev/stderr").unwrap();
            writeln!(out, "done {number}").unwrap();
        }
        Ok(())
    };
    if let Err(error) = outcome() {
        writeln!(std::io::stderr(), "failed: {error}").unwrap();
        std::process::exit(FAILED);
    }
}

fn try_play(archive: &Archive, number: u32) -> Result<(), nightschool::archive::ArchiveError> {
    let key = format!("{number:04}");
    let id = content_id(&["draft", &key]);
    let other = content_id(&["other", &key]);
    let drafts = [accepted(Origin::Code, &id), turned_away(Origin::Model, &other, Rejection::Leak)];
    archive.record_drafts(&unit("propose", &key), &drafts)?;
    let rollouts = [rollout(&id, 0, true), rollout(&id, 1, false)];
    archive.record_rollouts(&unit("rollouts", &key), 0, &sampling(), &rollouts)?;
    Ok(())
}

fn child(path: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["archive::durability::child_that_acknowledges", "--exact", "--ignored"])
        .args(["--nocapture", "--test-threads=1"])
        .env(PATH_VARIABLE, path)
        .env("RUST_BACKTRACE", "0")
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

/// That the archive holds the acknowledged units, whole, and nothing half. Returns how many it has.
fn hold_to(path: &Path, acknowledged: Option<u32>) -> usize {
    let archive = open(path);
    assert_eq!(archive.findings().unwrap(), []);
    let played = archive.units_done(1, "rollouts").unwrap();
    for number in 0..acknowledged.map_or(0, |last| last + 1) {
        assert!(played.contains(&format!("{number:04}")), "unit {number} was acknowledged");
    }
    let proposed = archive.units_done(1, "propose").unwrap().len();
    assert_eq!(archive.gate_counts(None).unwrap()[&Origin::Code].accepted, proposed as u64);
    let tasks = archive.tasks(&TaskFilter::default()).unwrap();
    assert_eq!(tasks.iter().map(|task| task.attempts).sum::<u64>(), 2 * played.len() as u64);
    played.len()
}

fn acknowledged(line: &str) -> Option<u32> {
    line.strip_prefix("done ")?.parse().ok()
}

/// Kills the writer at random points, one after another on the same archive.
fn kill_often(times: u32) {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("archive.db");
    let mut draws = rng::stream(1, &["kills", &times.to_string()]);
    let mut before = 0;
    for _ in 0..times {
        let mut child = child(&path).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        // A few units at most, then anywhere in the next one.
        let (wanted, mut last) = (draws.random_range(0..4), None);
        for line in lines.by_ref() {
            last = acknowledged(&line).or(last);
            if last.is_some_and(|last| last as usize >= before + wanted) {
                break;
            }
        }
        std::thread::sleep(std::time::Duration::from_micros(draws.random_range(0..4000)));
        child.kill().unwrap();
        // What it said before it died counts, too.
        last = lines.filter_map(|line| acknowledged(&line)).last().or(last);
        child.wait().unwrap();
        before = hold_to(&path, last);
    }
    assert!(before < UNITS as usize, "the work was over too soon");
}

#[test]
fn what_was_acknowledged_survives_kills() {
    kill_often(20);
}

#[test]
#[ignore = "the long run, by hand: -- archive::durability --ignored 200"]
fn what_was_acknowledged_survives_200_kills() {
    kill_often(200);
}

/// The library that makes system calls fail.
pub(crate) fn fault_library(folder: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/archive/fault.c");
    let library = folder.join("libfault.so");
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&library)
        .arg(source)
        .arg("-ldl")
        .status()
        .expect("a C compiler, which the bundled SQLite needs, too");
    assert!(compiled.success());
    library
}

/// Lets calls on the archive's files fail at random places: one, or all from there on.
fn fail_often(times: u32) {
    const EIO: i32 = 5;
    const ENOSPC: i32 = 28;
    let home = tempfile::tempdir().unwrap();
    let library = fault_library(home.path());
    let mut draws = rng::stream(1, &["faults", &times.to_string()]);
    let (mut failed, mut path) = (0, home.path().join("0/archive.db"));
    for number in 0..times {
        // A new archive from time to time: its making is to be cut off, too.
        if number % 10 == 0 {
            path = home.path().join(format!("{number}/archive.db"));
            std::fs::create_dir(path.parent().unwrap()).unwrap();
        }
        let errno = if draws.random() { EIO } else { ENOSPC };
        let calls = if draws.random() { 1 } else { 1_000_000 };
        let mut child = child(&path)
            .env("LD_PRELOAD", &library)
            .env("FAULT_AT", draws.random_range(1..250).to_string())
            .env("FAULT_CALLS", calls.to_string())
            .env("FAULT_ERRNO", errno.to_string())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (mut last, mut said) = (None, String::new());
        for line in lines.map_while(Result::ok) {
            last = acknowledged(&line).or(last);
            said = line.strip_prefix("failed: ").map_or(said, String::from);
            // A fault that SQLite could live with.
            if last.is_some_and(|last| last % 100 == 99) {
                child.kill().unwrap();
            }
        }
        let code = child.wait().unwrap().code();
        if code == Some(FAILED) {
            failed += 1;
            let named = said.contains(&path.display().to_string());
            assert!(named && !said.contains("damaged"), "{said}");
            assert!(errno != ENOSPC || calls == 1 || said.contains("space"), "{said}");
        }
        hold_to(&path, last);
    }
    assert!(failed * 3 > times, "only {failed} of {times} faults were met");
}

#[test]
fn what_was_acknowledged_survives_failing_writes() {
    fail_often(12);
}

#[test]
#[ignore = "the long run, by hand: -- archive::durability --ignored 200"]
fn what_was_acknowledged_survives_200_failing_writes() {
    fail_often(200);
}

#[test]
fn a_disk_that_is_found_full_when_flushed_is_called_full() {
    let home = tempfile::tempdir().unwrap();
    let library = fault_library(home.path());
    // The making of the archive, and its first units.
    for at in 1..9 {
        let path = home.path().join(format!("{at}/archive.db"));
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        let output = child(&path)
            .env("LD_PRELOAD", &library)
            .envs([("FAULT_FLUSH", "1"), ("FAULT_CALLS", "1000000"), ("FAULT_ERRNO", "28")])
            .env("FAULT_AT", at.to_string())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(FAILED), "{said}");
        assert!(said.contains(&format!("no space left to write {}", path.display())), "{said}");
        hold_to(&path, said.lines().filter_map(acknowledged).next_back());
    }
}

/// Programs of others: the `sqlite3` command line, and Python's module, if they are there.
fn foreign_readers(path: &Path, sql: &str) -> Vec<Command> {
    let mut command_line = Command::new("sqlite3");
    command_line.arg("-readonly").arg(path).arg(sql);
    let mut python = Command::new("python3");
    python.arg("-c").arg(
        "import sqlite3, sys
for row in sqlite3.connect(sys.argv[1], timeout=10).execute(sys.argv[2]): print(row[0])",
    );
    python.arg(path).arg(sql);
    vec![command_line, python]
}

#[test]
fn other_programs_read_while_it_is_written() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("archive.db");
    let mut child = child(&path).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let mut wait_for = |unit: u32| {
        lines.find(|line| acknowledged(line).is_some_and(|done| done >= unit)).unwrap();
    };
    wait_for(3);
    let (mut before, mut readers) = (3, 0);
    for round in 1..4 {
        let queries =
            ["SELECT count(*) FROM task_view WHERE attempts > 0", "PRAGMA integrity_check"];
        for (number, sql) in queries.into_iter().enumerate() {
            for mut reader in foreign_readers(&path, sql) {
                let Ok(output) = reader.output() else {
                    // Not installed here.
                    continue;
                };
                let text = String::from_utf8_lossy(&output.stdout).trim().to_string();
                let said = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{said}");
                readers += 1;
                if number == 0 {
                    let tasks: u32 = text.parse().unwrap();
                    assert!(tasks >= before, "{tasks} after {before}");
                    before = tasks;
                } else {
                    assert_eq!(text, "ok");
                }
            }
        }
        wait_for(before + round);
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(readers > 0 || Command::new("python3").output().is_err());
    hold_to(&path, Some(before));
}
