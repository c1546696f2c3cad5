//! `kill -9` in the middle of the work, then the same work again.

use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use nightschool::archive::ArchiveReader;
use nightschool::archive::TaskFilter;

use super::*;

/// Where the child writes; set by the parent.
const PATH_VARIABLE: &str = "NIGHTSCHOOL_TEST_ARCHIVE";

const UNITS: u32 = 400;

fn work(path: &Path) {
    let archive = open(path);
    begin(&archive);
    (0..UNITS).for_each(|number| play(&archive, number));
}

#[test]
#[ignore = "the child process of `killed_and_continued_is_the_same_as_straight`"]
fn child_that_is_killed() {
    if let Some(path) = std::env::var_os(PATH_VARIABLE) {
        work(Path::new(&path));
    }
}

fn units_done(path: &Path) -> usize {
    // The child may not have made the tables yet.
    let reader = ArchiveReader::open(path);
    reader.and_then(|reader| reader.units_done(1, "rollouts")).map_or(0, |units| units.len())
}

#[test]
fn killed_and_continued_is_the_same_as_straight() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("archive.db");
    for target in [5, 60, 150] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["archive::crash::child_that_is_killed", "--exact", "--ignored"])
            .env(PATH_VARIABLE, &path)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let start = Instant::now();
        while units_done(&path) < target && child.try_wait().unwrap().is_none() {
            assert!(start.elapsed() < Duration::from_secs(60), "the child does not get on");
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();

        // Every unit is there whole or not at all.
        let archive = open(&path);
        archive.check().unwrap();
        let proposed = archive.units_done(1, "propose").unwrap().len();
        let counts = archive.gate_counts(None).unwrap();
        assert_eq!(counts[&Origin::Code].accepted, proposed as u64);
        assert_eq!(counts[&Origin::Model].drafts, proposed as u64);
        let played = archive.units_done(1, "rollouts").unwrap().len();
        assert!(played >= target && played < UNITS as usize, "{played}");
        assert_eq!(archive.rollouts_in(1, 0).unwrap().len(), 2 * played);
        let tasks = archive.tasks(&TaskFilter::default()).unwrap();
        assert_eq!(tasks.iter().map(|task| task.attempts).sum::<u64>(), 2 * played as u64);
    }
    work(&path);
    let straight = home.path().join("straight.db");
    work(&straight);
    let digest = |path| ArchiveReader::open(path).unwrap().content_digest().unwrap();
    assert_eq!(digest(&path), digest(&straight));
}
