//! Too little room on the disk, and what takes it.

use std::fs;
use std::process::Command;

use nightschool::durable::HomeLock;
use serde_json::Value;

use super::School;
use super::kill_at;

/// More than any disk has free, in gigabytes.
const NEVER: &str = "disk.floor_gb=1000000";

#[test]
fn a_night_begins_nothing_without_room_and_goes_on_later() {
    let school = School::counting();
    school.finish();
    let (digest, adapters) = (school.digest(), school.adapters());
    fs::remove_dir_all(school.home()).unwrap();
    school.add_documents();
    let message = school.error(74, school.night_with(&[NEVER]));
    assert!(message.contains("1.00 PB that stay free (disk.floor_gb)"), "{message}");
    assert!(message.contains("`nightschool doctor --disk`"), "{message}");
    assert!(school.archive().nights().unwrap().is_empty(), "it has not begun");
    // What a night would write is told before it begins, too.
    let large = ["disk.floor_gb=0", "solve.tasks=1000000000", "solve.rollouts=64"];
    let message = school.error(74, school.night_with(&large));
    assert!(message.contains("a night needs") && message.contains("for the archive"), "{message}");
    assert!(message.contains("Most there is taken by"), "{message}");
    assert!(school.archive().nights().unwrap().is_empty(), "nor has this one");

    kill_at(school.night(), "started: rollouts, round 2");
    school.error(74, school.night_with(&[NEVER]));
    assert_eq!(school.json(&["status"])["unfinished_night"]["number"], 1);
    // The floor is that of the present settings, and no part of what the night does.
    school.finish_with(&["disk.floor_gb=0.001"]);
    assert_eq!((school.digest(), school.adapters()), (digest, adapters));
}

/// A night on a small disk, on which a file grows as soon as training begins; then again without
/// the file. `$0` is the home.
const GROWING: &str = r#"set -e
cp -a "$0" "$0.copy"
mount -t tmpfs -o size=80m none "$0"
cp -a "$0.copy/." "$0"
"$@" > /dev/null 2> "$0.log" &
night=$!
until grep -q "started: warm start" "$0.log"; do sleep 0.01; done
head -c 45000000 /dev/zero > "$0/ballast"
if wait $night; then echo went on; else echo ended with $?; fi
rm "$0/ballast"
"$@" > "$0.report" 2> "$0.log-again"
"#;

/// Says nothing on machines that let nobody mount a folder for itself.
#[test]
fn a_night_stops_before_a_round_for_which_there_is_no_room() {
    let school = School::counting();
    let mount = ["--user", "--map-root-user", "--mount", "sh", "-c"];
    let tried = Command::new("unshare").args(mount).arg("mount -t tmpfs none /mnt").output();
    if !tried.is_ok_and(|output| output.status.success()) {
        return;
    }
    let night = school.night_with(&["disk.floor_gb=0.05"]);
    let mut command = Command::new("unshare");
    command.args(mount).arg(GROWING).arg(school.home());
    command.arg(night.get_program()).args(night.get_args());
    for (name, value) in night.get_envs() {
        command.env(name, value.unwrap());
    }
    let output = command.output().unwrap();
    let read = |name: &str| fs::read_to_string(school.path(name)).unwrap();
    let said = read("home.log");
    assert!(output.status.success(), "{output:?}\n{said}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "ended with 74\n", "{said}");
    assert!(said.contains(" of 2 needs ") && said.contains("settings and the rest (45"), "{said}");
    assert!(read("home.log-again").contains("going on with the unfinished night"));
    let report: Value = serde_json::from_str(&read("home.report")).unwrap();
    assert_eq!(report["night"], 1);
}

/// The entry of a kind.
fn part<'v>(disk: &'v Value, what: &str) -> &'v Value {
    let parts = disk["disk"]["parts"].as_array().unwrap();
    parts.iter().find(|part| part["what"] == what).unwrap_or_else(|| panic!("no {what}"))
}

#[test]
fn what_takes_space_is_told_and_goes_as_told() {
    let school = School::counting();
    school.finish_with(&["retention.checkpoints=2"]);
    let backup = school.command(&["archive", "backup"]).output().unwrap();
    assert!(backup.status.success());
    for name in ["adapters/night9-round0", "before-restore-1", ".partial-ab"] {
        fs::create_dir_all(school.home().join(name)).unwrap();
        fs::write(school.home().join(name).join("file"), vec![0; 3000]).unwrap();
    }
    fs::write(school.home().join("archive.db.version-6.backup"), vec![0; 5000]).unwrap();
    for name in ["models/small", "models/hub/own--large/main"] {
        fs::create_dir_all(school.path("cache").join(name)).unwrap();
        fs::write(school.path("cache").join(name).join("model.gguf"), vec![0; 9000]).unwrap();
    }
    let disk = school.json(&["doctor", "--disk"]);
    let shown = school.command(&["doctor", "--disk"]).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    let shown = shown.replace(&school.folder.path().display().to_string(), "SCHOOL");
    insta::with_settings!({ filters => [
        (r"\d+(\.\d+)? ([kMGT]?B)", "SIZE"),
        (r"night00001-\S+", "CHECKPOINT"),
        // Columns are as wide as the folder's name.
        (r" {2,}", "  "),
    ] }, { insta::assert_snapshot!(shown) });

    // All of it is counted, once: weights in the backup are those of the home.
    let sum: u64 = disk["disk"]["parts"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|part| part["what"] != "model")
        .map(|part| part["bytes"].as_u64().unwrap())
        .sum();
    let du = Command::new("du").args(["--apparent-size", "--bytes"]).arg(school.home()).output();
    let du = String::from_utf8(du.unwrap().stdout).unwrap();
    let total = du.lines().last().unwrap().split('\t').next().unwrap().parse::<u64>().unwrap();
    let folders = walkdir::WalkDir::new(school.home()).into_iter().flatten();
    let folders = folders.filter(|entry| entry.file_type().is_dir());
    let of_folders: u64 = folders.map(|entry| entry.metadata().unwrap().len()).sum();
    assert_eq!(sum, total - of_folders);

    // While somebody is at work, what that may need stays.
    let lock = HomeLock::acquire(&school.home()).unwrap();
    let busy = school.json(&["doctor", "--disk"]);
    assert_eq!(busy["disk"]["busy"], true);
    for what in ["index", "adapters_unreferenced", "checkpoints_superseded", "left_behind"] {
        assert_eq!(
            (&part(&busy, what)["how"], part(&disk, what)["how"].is_null()),
            (&Value::Null, false)
        );
    }
    drop(lock);
    for part in disk["disk"]["parts"].as_array().unwrap() {
        let Some(how) = part["how"].as_str().filter(|how| how.starts_with("rm ")) else { continue };
        assert!(Command::new("sh").args(["-c", how]).status().unwrap().success(), "{how}");
    }
    assert_eq!(school.json(&["archive", "check"])["ok"], true);
    let left = school.json(&["doctor", "--disk"]);
    for part in left["disk"]["parts"].as_array().unwrap() {
        assert!(!part["how"].as_str().is_some_and(|how| how.starts_with("rm ")), "{part}");
    }
    school.finish_with(&["solve.rounds=0"]);
}
