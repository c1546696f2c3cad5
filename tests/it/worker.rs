//! The worker that has the model: what a night comes to does not depend on what becomes of it.

use std::fs;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use nightschool::archive::ArchiveReader;
use nightschool::archive::NightState;
use rand::Rng as _;
use rand::SeedableRng as _;

use crate::night::adapters;
use crate::night::digest;
use crate::night::school::School;

/// Processes that a process has started.
fn children(pid: u32) -> Vec<u32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace().filter_map(|id| id.parse().ok()).collect()
}

fn signal(pid: u32, signal: i32) {
    let pid = i32::try_from(pid).unwrap();
    // SAFETY: a signal to a process that this test has started.
    unsafe { libc::kill(pid, signal) };
}

/// What a home holds: the archive's digest, and the adapters' files.
type Content = (String, Vec<(String, Vec<u8>)>);

/// What a home holds in the end.
fn content(school: &School) -> Content {
    (digest(&school.home()), adapters(&school.home()))
}

/// A school with what a night in it comes to that nothing disturbs, and no trace of that night.
fn undisturbed(settings: &[&str]) -> (School, Content) {
    let school = School::new();
    school.add_documents();
    school.finish_with(settings);
    let content = content(&school);
    assert!(!content.1.is_empty());
    school.begin_again();
    (school, content)
}

fn start(mut night: Command) -> Child {
    night.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// The worker of a night, once it has one.
fn worker_of(night: &mut Child) -> Option<u32> {
    let end = Instant::now() + Duration::from_secs(120);
    loop {
        if let Some(worker) = children(night.id()).first() {
            return Some(*worker);
        }
        if night.try_wait().unwrap().is_some() {
            return None;
        }
        assert!(Instant::now() < end, "no worker was started");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether the night of a school's home is over.
fn is_over(school: &School) -> bool {
    let nights = ArchiveReader::open(&school.home().join("archive.db")).unwrap().nights().unwrap();
    nights.first().is_some_and(|night| night.state == NightState::Finished)
}

/// Ends a night, or its worker, at this many random times, until it is over.
fn end_often(kills: usize, seed: u64) {
    // It may be hit again and again before it has answered anything.
    let patient = ["worker.failures=100"];
    let (school, expected) = undisturbed(&patient);
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let (mut of_nights, mut of_workers) = (0, 0);
    while of_nights + of_workers < kills {
        let mut night = start(school.night_with(&patient));
        while of_nights + of_workers < kills {
            let Some(worker) = worker_of(&mut night) else { break };
            std::thread::sleep(Duration::from_millis(rng.random_range(0..1500)));
            if rng.random::<bool>() {
                signal(worker, libc::SIGKILL);
                of_workers += 1;
                continue;
            }
            night.kill().unwrap();
            of_nights += 1;
            break;
        }
        let status = night.wait().unwrap();
        assert!(status.success() || status.code().is_none(), "it failed: {status}");
        // One may be killed when all is done but the process's end.
        if is_over(&school) {
            assert_eq!(content(&school), expected);
            school.begin_again();
        }
    }
    school.finish_with(&patient);
    assert_eq!(content(&school), expected, "after {of_nights} and {of_workers} kills");
}

#[test]
fn nights_and_workers_that_are_killed_come_to_the_same_end() {
    end_often(6, 1);
}

#[test]
#[ignore = "the long run, by hand: -- worker:: --ignored"]
fn nights_and_workers_killed_at_100_points_come_to_the_same_end() {
    end_often(100, 2);
}

#[test]
fn a_model_in_the_nights_own_process_comes_to_the_same() {
    let (school, expected) = undisturbed(&[]);
    school.finish_with(&["worker.process=false"]);
    assert_eq!(adapters(&school.home()), expected.1);
}

#[test]
fn a_worker_that_hangs_is_replaced() {
    let (school, expected) = undisturbed(&[]);
    let mut command = school.night_with(&["worker.silence_s=2"]);
    let mut night = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let worker = worker_of(&mut night).expect("a worker");
    std::thread::sleep(Duration::from_millis(500));
    signal(worker, libc::SIGSTOP);
    let output = night.wait_with_output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
    assert!(log.contains("it gave no sign of life"), "{log}");
    assert_eq!(content(&school), expected);
}

#[test]
fn a_worker_without_enough_memory_gets_smaller_and_then_fails_the_night() {
    let school = School::new();
    school.add_documents();
    let night = school.night_with(&["worker.memory_mb=1", "worker.failures=2"]);
    let log = school.error(1, night);
    assert_eq!(log.matches("ran out of memory").count(), 1, "{log}");
    assert!(log.contains("the worker failed 2 times in a row"), "{log}");
    assert!(log.contains("worker.memory_mb"), "{log}");
    // Nothing is lost: with enough of it the night goes on.
    let report = school.finish();
    assert_eq!(report["night"], 1);
    let archive = ArchiveReader::open(&school.home().join("archive.db")).unwrap();
    assert_eq!(archive.nights().unwrap().len(), 1);
}

#[test]
fn a_worker_says_why_it_cannot_have_the_model() {
    let school = School::new();
    school.add_documents();
    let weights = school.path("model").join("model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    let log = school.error(1, school.night());
    assert!(log.contains("is damaged or not a model file"), "{log}");
    let archive = ArchiveReader::open(&school.home().join("archive.db")).unwrap();
    assert!(archive.nights().unwrap().is_empty(), "no night stays unfinished for it");
}

#[test]
fn a_worker_ends_with_its_night() {
    let school = School::new();
    school.add_documents();
    let mut night = start(school.night());
    let worker = worker_of(&mut night).expect("a worker");
    night.kill().unwrap();
    night.wait().unwrap();
    let end = Instant::now() + Duration::from_secs(30);
    while fs::exists(format!("/proc/{worker}/exe")).unwrap_or(false) {
        assert!(Instant::now() < end, "the worker lives on");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn by_hand_a_worker_says_what_it_is_for() {
    let school = School::new();
    let mut command = school.command(&["worker"]);
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("a worker is started by a night"), "{message}");
}
