//! Files and directories that are whole or not there, and the lock on a home.

use std::io;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use nightschool::durable::DurableError;
use nightschool::durable::HomeLock;
use nightschool::durable::PendingDirectory;
use nightschool::durable::ensure_free;
use nightschool::durable::open_sealed;
use nightschool::durable::remove_stale;
use nightschool::durable::write_file;
use nightschool::durable::write_file_with;
use proptest::prelude::*;

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A sealed directory `adapter` with two files, one of them in a folder.
fn sealed(home: &Path) -> std::path::PathBuf {
    let path = home.join("adapter");
    let pending = PendingDirectory::create(&path).unwrap();
    std::fs::write(pending.path().join("weights"), [1, 2, 3]).unwrap();
    std::fs::create_dir(pending.path().join("more")).unwrap();
    std::fs::write(pending.path().join("more/config.json"), "{}").unwrap();
    pending.seal().unwrap();
    path
}

#[test]
fn a_file_is_replaced_whole() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("new/deep/file");
    write_file(&path, b"one").unwrap();
    write_file(&path, b"two").unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"two");
    assert_eq!(names(path.parent().unwrap()), ["file"]);
}

#[test]
fn a_full_disk_leaves_the_old_file_and_nothing_beside_it() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("file");
    write_file(&path, b"old").unwrap();
    let error = write_file_with(&path, |out| {
        out.write_all(&[0; 100_000])?;
        Err(io::ErrorKind::StorageFull.into())
    })
    .unwrap_err();
    assert!(matches!(error, DurableError::DiskFull { .. }), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    assert_eq!(names(home.path()), ["file"]);
}

#[cfg(target_os = "linux")]
#[test]
fn the_device_that_is_always_full_counts_as_a_full_disk() {
    let home = tempfile::tempdir().unwrap();
    let error = write_file_with(&home.path().join("file"), |_| {
        std::fs::File::options().write(true).open("/dev/full")?.write_all(b"x")
    })
    .unwrap_err();
    assert!(matches!(error, DurableError::DiskFull { .. }), "{error}");
    assert!(names(home.path()).is_empty());
}

#[test]
fn free_space_is_asked_for_before_the_work() {
    let home = tempfile::tempdir().unwrap();
    let later = home.path().join("not/there/yet");
    ensure_free(&later, 1).unwrap();
    let error = ensure_free(&later, u64::MAX).unwrap_err();
    assert!(matches!(error, DurableError::TooLittleSpace { needed: u64::MAX, .. }), "{error}");
}

#[test]
fn a_sealed_directory_opens_and_names_its_content() {
    let home = tempfile::tempdir().unwrap();
    let opened = open_sealed(&sealed(home.path())).unwrap();
    assert_eq!(opened.files().keys().collect::<Vec<_>>(), ["more/config.json", "weights"]);
    assert_eq!(opened.files()["weights"].bytes, 3);
    let elsewhere = tempfile::tempdir().unwrap();
    let same = open_sealed(&sealed(elsewhere.path())).unwrap();
    assert_eq!(opened.content_hash(), same.content_hash());
    assert_eq!(names(home.path()), ["adapter"]);
}

#[test]
fn a_sealed_directory_is_replaced_by_a_new_one() {
    let home = tempfile::tempdir().unwrap();
    let path = sealed(home.path());
    let old = open_sealed(&path).unwrap().content_hash();
    let pending = PendingDirectory::create(&path).unwrap();
    std::fs::write(pending.path().join("weights"), [9]).unwrap();
    let sealed = pending.seal().unwrap();
    assert_ne!(sealed.content_hash(), old);
    assert_eq!(open_sealed(&path).unwrap().content_hash(), sealed.content_hash());
    assert_eq!(names(home.path()), ["adapter"]);
}

#[test]
fn an_altered_or_unfinished_directory_is_refused() {
    let home = tempfile::tempdir().unwrap();
    type Damage = fn(&Path);
    let cases: [(Damage, &str); 6] = [
        (|path| std::fs::write(path.join("weights"), [1, 2, 4]).unwrap(), "weights differs"),
        (|path| std::fs::write(path.join("weights"), [1, 2]).unwrap(), "weights differs"),
        (|path| std::fs::remove_file(path.join("weights")).unwrap(), "weights is missing"),
        (|path| std::fs::write(path.join("more/x"), "x").unwrap(), "more/x was added"),
        (|path| std::fs::remove_file(path.join("seal.json")).unwrap(), "no seal.json"),
        (|path| std::fs::write(path.join("seal.json"), "{").unwrap(), "cannot be read"),
    ];
    for (damage, expected) in cases {
        let path = sealed(home.path());
        damage(&path);
        let error = open_sealed(&path).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let error = open_sealed(&home.path().join("nothing")).unwrap_err();
    assert!(matches!(error, DurableError::NotSealed { .. }), "{error}");
}

#[test]
fn what_a_dead_writer_left_is_removed() {
    let home = tempfile::tempdir().unwrap();
    sealed(home.path());
    // Forgotten, as by a killed process.
    let pending = PendingDirectory::create(&home.path().join("second")).unwrap();
    std::fs::write(pending.path().join("half"), "x").unwrap();
    std::mem::forget(pending);
    std::fs::write(home.path().join(".partial-file"), "x").unwrap();
    assert_eq!(remove_stale(home.path()).unwrap(), 2);
    assert_eq!(remove_stale(home.path()).unwrap(), 0);
    assert_eq!(names(home.path()), ["adapter"]);
    assert_eq!(remove_stale(&home.path().join("nowhere")).unwrap(), 0);
    let pending = PendingDirectory::create(&home.path().join("second")).unwrap();
    drop(pending);
    assert_eq!(names(home.path()), ["adapter"]);
}

/// Where the child takes the lock; set by the parent.
const HOME_VARIABLE: &str = "NIGHTSCHOOL_TEST_HOME";

#[test]
#[ignore = "the child process of `a_home_has_one_owner`"]
fn child_that_holds_the_lock() {
    if let Some(home) = std::env::var_os(HOME_VARIABLE) {
        let _lock = HomeLock::acquire(Path::new(&home)).unwrap();
        std::fs::write(Path::new(&home).join("ready"), "").unwrap();
        std::thread::sleep(Duration::from_secs(60));
    }
}

#[test]
fn a_home_has_one_owner() {
    let home = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["durable::child_that_holds_the_lock", "--exact", "--ignored"])
        .env(HOME_VARIABLE, home.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while !home.path().join("ready").exists() {
        assert!(start.elapsed() < Duration::from_secs(30), "the child does not get the lock");
        std::thread::sleep(Duration::from_millis(5));
    }
    let error = HomeLock::acquire(home.path()).unwrap_err();
    assert!(error.to_string().contains(&format!("(pid {})", child.id())), "{error}");
    child.kill().unwrap();
    child.wait().unwrap();
    // The system gave the lock back; the next owner holds it until it lets go.
    let lock = HomeLock::acquire(home.path()).unwrap();
    let error = HomeLock::acquire(home.path()).unwrap_err();
    let own = std::process::id();
    assert!(matches!(error, DurableError::Busy { pid: Some(pid), .. } if pid == own), "{error}");
    drop(lock);
    HomeLock::acquire(home.path()).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn any_changed_byte_breaks_the_seal(
        bytes in proptest::collection::vec(any::<u8>(), 1..500),
        at in any::<proptest::sample::Index>(),
        flip in 1..=255u8,
    ) {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("d");
        let pending = PendingDirectory::create(&path).unwrap();
        std::fs::write(pending.path().join("f"), &bytes).unwrap();
        pending.seal().unwrap();
        prop_assert!(open_sealed(&path).is_ok());
        let mut changed = bytes.clone();
        changed[at.index(bytes.len())] ^= flip;
        std::fs::write(path.join("f"), &changed).unwrap();
        let altered = matches!(open_sealed(&path), Err(DurableError::Altered { .. }));
        prop_assert!(altered);
    }
}
