//! Backups of a home, and a home restored from one, through the command line.

// Says why a test is not run.
#![allow(clippy::print_stderr)]

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use nightschool::archive::Archive;
use nightschool::archive::ArchiveReader;
use nightschool::archive::ModelKind;
use nightschool::archive::ModelVersion;
use nightschool::archive::Unit;
use nightschool::clock::SystemClock;
use nightschool::config::Adapters;
use nightschool::durable::HomeLock;
use nightschool::durable::PendingDirectory;
use serde_json::Value;
use serde_json::json;

use super::archive::durability::fault_library;
use super::cli::Desk;
use super::cli::with_corpus;

fn open(desk: &Desk) -> Archive {
    Archive::open(&desk.home().archive(), Arc::new(SystemClock)).unwrap()
}

/// Makes an adapter version with weights in the home.
pub(crate) fn add_version(desk: &Desk, archive: &Archive, id: &str) {
    let path = format!("adapters/{id}");
    let pending = PendingDirectory::create(&desk.home().dir().join(&path)).unwrap();
    std::fs::write(pending.path().join("adapter_model.safetensors"), id).unwrap();
    std::fs::write(pending.path().join("adapter_config.json"), "{}").unwrap();
    let version = ModelVersion {
        id: id.into(),
        parent: Some("base".into()),
        kind: ModelKind::Adapter,
        adapters: Some(Adapters::Shared),
        path,
        content_hash: pending.seal().unwrap().content_hash(),
        night: Some(1),
        note: "policy".into(),
    };
    archive.put_model_version(&version).unwrap();
}

/// A home with documents, settings, a night under way and an adapter that is live.
fn lived_in() -> Desk {
    let desk = with_corpus();
    let archive = open(&desk);
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
    archive.begin_night(1, &json!({})).unwrap();
    add_version(&desk, &archive, "night1-warm");
    archive.set_live_model("night1-warm", "the first").unwrap();
    desk.write("home/nightschool.toml", "seed = 7\n");
    desk.write("home/prompts/solver.txt", "Answer.\n");
    desk
}

fn digest(home: &Path) -> String {
    ArchiveReader::open(&home.join("archive.db")).unwrap().content_digest().unwrap()
}

/// The names and contents of the files that a restore is about.
fn contents(home: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for name in ["nightschool.toml", "prompts/solver.txt"] {
        files.extend(std::fs::read(home.join(name)).map(|bytes| (name.to_string(), bytes)));
    }
    for version in ["night1-warm", "night1-later"] {
        let path = format!("adapters/{version}/adapter_model.safetensors");
        files.extend(std::fs::read(home.join(&path)).map(|bytes| (path, bytes)));
    }
    files
}

/// Goes on with the home after its backup.
fn go_on(desk: &Desk) {
    let archive = open(desk);
    archive.record_unit(&Unit { night: 1, phase: "later", key: "0" }).unwrap();
    add_version(desk, &archive, "night1-later");
    archive.set_live_model("night1-later", "better").unwrap();
    desk.write("home/nightschool.toml", "seed = 8\n");
    std::fs::remove_file(desk.path("home/prompts/solver.txt")).unwrap();
}

fn backup(desk: &Desk, args: &[&str]) -> (PathBuf, Value) {
    let made = desk.json(&[&["archive", "backup"], args].concat());
    let path = made["path"].as_str().unwrap().replace("DESK", &desk.path("").display().to_string());
    (PathBuf::from(path), made)
}

#[test]
fn a_backup_brings_everything_back_and_keeps_what_was_there() {
    let desk = lived_in();
    let home = desk.home().dir().to_path_buf();
    let before = (digest(&home), contents(&home));
    // A night at work holds the lock, and a write is under way.
    let lock = HomeLock::acquire(&home).unwrap();
    let writer = rusqlite::Connection::open(home.join("archive.db")).unwrap();
    writer.execute_batch("BEGIN IMMEDIATE; INSERT INTO meta VALUES ('half', 'done')").unwrap();
    let (path, made) = backup(&desk, &[]);
    drop((writer, lock));
    assert_eq!(made["live_model"], "night1-warm");
    assert_eq!(made["adapters"], json!(["night1-warm"]));
    assert_eq!(made["missing"], json!([]));
    assert!(path.join("manifest.json").is_file() && path.starts_with(home.join("backups")));

    go_on(&desk);
    let after = (digest(&home), contents(&home));
    assert_ne!(after, before);
    let name = path.file_name().unwrap().to_str().unwrap();
    let error = desk.error(1, &["archive", "restore", name]);
    assert!(error.contains("is not empty") && error.contains("--force"), "{error}");
    let lock = HomeLock::acquire(&home).unwrap();
    let error = desk.error(75, &["archive", "restore", name, "--force"]);
    assert!(error.contains("in use"), "{error}");
    drop(lock);
    assert_eq!((digest(&home), contents(&home)), after);

    let restored = desk.json(&["archive", "restore", name, "--force"]);
    assert_eq!(restored["live_model"], "night1-warm");
    assert_eq!((digest(&home), contents(&home)), before);
    assert_eq!(digest(&home.join("before-restore-1")), after.0);
    desk.out(&["archive", "check"]);
    // And the work goes on in it.
    go_on(&desk);
    assert_eq!((digest(&home), contents(&home)), after);

    // Into a new home, from another folder.
    let other = desk.path("other");
    let args = ["--home", other.to_str().unwrap(), "archive", "restore", path.to_str().unwrap()];
    desk.out(&args);
    assert_eq!((digest(&other), contents(&other)), before);
}

#[test]
fn a_backup_that_is_not_whole_is_refused_and_changes_nothing() {
    let desk = lived_in();
    let home = desk.home().dir().to_path_buf();
    let (path, _) = backup(&desk, &[]);
    let before = (digest(&home), contents(&home));
    let archive = path.join("archive.db");
    let mut bytes = std::fs::read(&archive).unwrap();
    bytes[5000] ^= 1;
    std::fs::write(&archive, bytes).unwrap();
    let args = ["archive", "restore", path.to_str().unwrap(), "--force"];
    let error = desk.error(1, &args);
    assert!(error.contains("archive.db differs from what was written"), "{error}");
    let error = desk.error(3, &["archive", "restore", "nowhere"]);
    assert!(error.contains("there is no backup nowhere"), "{error}");
    assert_eq!((digest(&home), contents(&home)), before);
}

#[test]
fn old_backups_make_room_for_new_ones_and_nothing_else_does() {
    let desk = lived_in();
    let folder = desk.path("backups");
    desk.write("backups/not-a-backup/file", "kept");
    let args = ["--keep", "2", folder.to_str().unwrap()];
    let made: Vec<(PathBuf, Value)> = (0..4).map(|_| backup(&desk, &args)).collect();
    assert_eq!(made[3].1["removed"].as_array().unwrap().len(), 1);
    let there: Vec<bool> = made.iter().map(|(path, _)| path.exists()).collect();
    assert_eq!(there, [false, false, true, true]);
    assert!(folder.join("not-a-backup/file").exists());
}

#[test]
fn weights_that_are_gone_are_told_by_check_and_left_out_of_a_backup() {
    let desk = lived_in();
    std::fs::remove_dir_all(desk.path("home/adapters/night1-warm")).unwrap();
    let (out, err) = desk.run(1, &["archive", "check", "--json"]);
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["findings"][0]["kind"], "weights");
    assert_eq!(report["findings"][0]["place"], "night1-warm");
    assert!(err.contains("archive restore BACKUP"), "{err}");
    let (out, err) = desk.run(0, &["archive", "backup", "--json"]);
    let made: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(made["missing"], json!(["night1-warm"]));
    assert!(err.contains("the weights of night1-warm are not whole"), "{err}");
}

/// Kills a restore at every rename that it makes: the home is the old one or the new one.
#[test]
fn a_restore_that_is_killed_anywhere_leaves_the_old_home_or_the_new_one() {
    let desk = lived_in();
    let home = desk.home().dir().to_path_buf();
    let library = fault_library(&desk.path(""));
    let (path, _) = backup(&desk, &[desk.path("backups").to_str().unwrap()]);
    let new = (digest(&home), contents(&home));
    go_on(&desk);
    let old = (digest(&home), contents(&home));
    let (mut killed, mut seen_new) = (0, 0);
    for at in 1..60 {
        let args = ["archive", "restore", path.to_str().unwrap(), "--force"];
        let mut command = desk.command(&args);
        command.env("LD_PRELOAD", &library).env("FAULT_KILL", at.to_string());
        let done = command.output().unwrap().status.success();
        // Any command puts things in order first.
        desk.out(&["archive", "check"]);
        let now = (digest(&home), contents(&home));
        assert!(now == old || now == new, "killed at rename {at}");
        if done {
            assert_eq!(now, new);
            break;
        }
        killed += 1;
        seen_new += u32::from(now == new);
        if now == new {
            go_on(&desk);
            assert_eq!((digest(&home), contents(&home)), old);
        }
    }
    // The list of moves itself is put in place by a call that the library does not see.
    assert!(killed > 5 && seen_new > 0, "{killed} {seen_new}");
}

#[test]
fn a_full_disk_is_named_and_the_same_command_goes_on_later() {
    let desk = lived_in();
    let library = fault_library(&desk.path(""));
    let before = digest(desk.home().dir());
    let added = desk.write("more/new.md", "# A tower\n\nThe tower was built in 1889.\n");
    let args = ["corpus", "add", added.to_str().unwrap()];
    let mut command = desk.command(&args);
    command.env("LD_PRELOAD", &library);
    command.env("FAULT_AT", "1").env("FAULT_CALLS", "1000000").env("FAULT_ERRNO", "28");
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(74), "{said}");
    assert!(
        said.contains("no space left to write") && said.contains("same command again"),
        "{said}"
    );
    assert_eq!(digest(desk.home().dir()), before);
    desk.out(&args);
    desk.out(&["archive", "check"]);
}

#[test]
fn space_is_given_back_only_while_nobody_is_at_work() {
    let desk = lived_in();
    let report = desk.json(&["archive", "vacuum"]);
    assert!(report["bytes_after"].as_u64().unwrap() > 0);
    let lock = HomeLock::acquire(desk.home().dir()).unwrap();
    desk.error(75, &["archive", "vacuum"]);
    desk.error(75, &["archive", "check", "--repair"]);
    drop(lock);
    let empty = desk.path("empty");
    for verb in ["check", "backup", "vacuum"] {
        desk.error(3, &["--home", empty.to_str().unwrap(), "archive", verb]);
        assert!(!empty.exists(), "{verb}");
    }
}

#[test]
fn damage_is_named_and_repaired_from_the_command_line() {
    let desk = lived_in();
    let connection = rusqlite::Connection::open(desk.home().archive()).unwrap();
    connection
        .execute_batch("INSERT INTO task_words (rowid, question, answer) VALUES (5, 'a', 'b')")
        .unwrap();
    drop(connection);
    let (out, err) = desk.run(1, &["archive", "check"]);
    assert!(out.contains("task_words: 1 tasks that the index of words lacks"), "{out}");
    assert!(err.contains("archive check --repair"), "{err}");
    let (out, _) = desk.run(0, &["archive", "check", "--repair"]);
    assert!(out.contains("The archive is whole now."), "{out}");
    assert_eq!(desk.json(&["archive", "check"])["ok"], true);
}
