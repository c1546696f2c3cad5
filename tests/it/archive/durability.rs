//! What was acknowledged stays, whatever happens: `kill -9`, failing writes and flushes, damage.

use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use nightschool::archive::ArchiveReader;
use nightschool::archive::TaskFilter;
use nightschool::rng;
use rand::Rng as _;
use rusqlite::Connection;

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
        eprintln!("failed: {error}");
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
    if let Some(last) = acknowledged {
        assert!(played.contains(&format!("{last:04}")), "unit {last} was acknowledged");
        assert!(played.len() > last as usize);
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
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        // A few units at most, then anywhere in the next one.
        let (wanted, mut last) = (draws.random_range(0..4), None);
        for line in lines.map_while(Result::ok) {
            last = acknowledged(&line).or(last);
            if last.is_some_and(|last| last as usize >= before + wanted) {
                break;
            }
        }
        std::thread::sleep(std::time::Duration::from_micros(draws.random_range(0..4000)));
        child.kill().unwrap();
        child.wait().unwrap();
        before = hold_to(&path, last);
    }
    assert!(before < UNITS as usize, "the work was over too soon");
}

#[test]
fn what_was_acknowledged_survives_kills() {
    kill_often(12);
}

#[test]
#[ignore = "some minutes"]
fn what_was_acknowledged_survives_200_kills() {
    kill_often(200);
}

/// The library that makes system calls fail; none where there is no C compiler.
fn fault_library(folder: &Path) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/archive/fault.c");
    let library = folder.join("libfault.so");
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&library)
        .arg(source)
        .arg("-ldl")
        .status()
        .ok()?;
    compiled.success().then_some(library)
}

/// Lets calls on the archive's files fail at random places: one, or all from there on.
fn fail_often(times: u32) {
    const EIO: i32 = 5;
    const ENOSPC: i32 = 28;
    let home = tempfile::tempdir().unwrap();
    let Some(library) = fault_library(home.path()) else {
        eprintln!("not run: there is no C compiler");
        return;
    };
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
#[ignore = "some minutes"]
fn what_was_acknowledged_survives_200_failing_writes() {
    fail_often(200);
}

fn played(home: &tempfile::TempDir) -> PathBuf {
    let path = home.path().join("archive.db");
    let archive = open(&path);
    begin(&archive);
    (0..60).for_each(|number| play(&archive, number));
    path
}

#[test]
fn what_follows_from_the_rest_is_found_wrong_and_mended() {
    let home = tempfile::tempdir().unwrap();
    let path = played(&home);
    let digest = || ArchiveReader::open(&path).unwrap().content_digest().unwrap();
    let whole = digest();
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch(
            "UPDATE task SET attempts = attempts + 5 WHERE number < 9;
             DELETE FROM task_play;
             DELETE FROM task_words WHERE rowid = 3;",
        )
        .unwrap();
    drop(connection);
    let findings = ArchiveReader::open(&path).unwrap().findings().unwrap();
    assert_eq!(findings.len(), 3, "{findings:?}");
    assert!(findings.iter().all(|finding| finding.derivable));
    assert!(findings[0].what.contains("times, the first"), "{findings:?}");
    Archive::open_damaged(&path).unwrap().repair().unwrap();
    assert_eq!(ArchiveReader::open(&path).unwrap().findings().unwrap(), []);
    assert_eq!(digest(), whole);
}

/// Overwrites the root page of a table or index.
fn overwrite(path: &Path, name: &str) {
    let connection = Connection::open(path).unwrap();
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    let root: i64 = connection
        .query_row("SELECT rootpage FROM sqlite_schema WHERE name = ?1", [name], |row| row.get(0))
        .unwrap();
    drop(connection);
    use std::io::Seek as _;
    let mut file = std::fs::File::options().write(true).open(path).unwrap();
    file.seek(std::io::SeekFrom::Start((root as u64 - 1) * 4096)).unwrap();
    file.write_all(&[0xAA; 4096]).unwrap();
}

#[test]
fn a_damaged_page_is_named_with_what_it_affects() {
    let home = tempfile::tempdir().unwrap();
    let path = played(&home);
    overwrite(&path, "task_band");
    let findings = ArchiveReader::open(&path).unwrap().findings().unwrap();
    assert!(findings.iter().any(|f| f.affects.contains("index task_band: all 60 rows of task")));
    assert!(findings.iter().all(|finding| finding.derivable), "{findings:?}");
    Archive::open_damaged(&path).unwrap().repair().unwrap();
    assert_eq!(ArchiveReader::open(&path).unwrap().findings().unwrap(), []);

    overwrite(&path, "verdict");
    let findings = ArchiveReader::open(&path).unwrap().findings().unwrap();
    let named = |f: &nightschool::archive::Finding| {
        f.affects.starts_with("table verdict: not all rows of verdict can be read")
    };
    assert!(findings.iter().any(named), "{findings:?}");
    assert!(findings.iter().any(|finding| !finding.derivable));
}

#[test]
fn numbers_and_words_stay_when_space_is_given_back() {
    let home = tempfile::tempdir().unwrap();
    let archive = open(&played(&home));
    let before = archive.search_tasks("tower", 100).unwrap();
    let id = before[0].task.id.clone();
    let document = before[0].document_id.clone();
    let digest = archive.content_digest().unwrap();
    archive.vacuum().unwrap();
    assert_eq!(archive.search_tasks("tower", 100).unwrap(), before);
    assert_eq!(archive.content_digest().unwrap(), digest);
    assert_eq!(archive.findings().unwrap(), []);
    assert!(archive.task_detail(&id).is_ok());
    archive.remove_document(&document, true).unwrap();
    let [large, small] = archive.vacuum().unwrap();
    assert!(small < large, "{large} {small}");
}

#[test]
fn a_slow_reader_sees_its_state_and_the_log_is_cut_behind_it() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("archive.db");
    let archive = open(&path);
    begin(&archive);
    play(&archive, 0);
    let reader = Connection::open(&path).unwrap();
    let count = |sql: &str| reader.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    reader.execute_batch("BEGIN").unwrap();
    assert_eq!(count("SELECT count(*) FROM task"), 1);
    (1..400).for_each(|number| play(&archive, number));
    // Its own state, whatever was written since; and no write waited for it.
    assert_eq!(count("SELECT count(*) FROM task"), 1);
    reader.execute_batch("COMMIT").unwrap();
    assert_eq!(count("SELECT count(*) FROM task"), 400);
    (400..1200).for_each(|number| play(&archive, number));
    let wal = std::fs::metadata(home.path().join("archive.db-wal")).unwrap().len();
    assert!(wal <= 64 << 20, "{wal}");
}
