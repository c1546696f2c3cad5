//! Whom the daemon tells of a night's end, and of what.

use super::*;

/// A school whose daemon has a program write down what it is told.
struct Told {
    school: School,
}

impl Told {
    fn new() -> Self {
        let school = School::counting();
        std::fs::create_dir_all(school.home().join("schedules")).unwrap();
        std::fs::write(school.home().join("schedules/leap.toml"), NEVER_DUE).unwrap();
        let told = Self { school };
        told.write_settings(&told.school.short_settings());
        told
    }

    fn write_settings(&self, rest: &str) {
        let script = self.school.path("tell.sh");
        let messages = self.school.path("messages");
        let text = format!("cat >> {0:?} && echo >> {0:?}", messages.display());
        std::fs::write(&script, text).unwrap();
        let notify = format!("[notify]\ncommand = [\"/bin/sh\", {:?}]\n", script.display());
        std::fs::write(self.school.home().join("nightschool.toml"), format!("{rest}{notify}"))
            .unwrap();
    }

    fn daemon(&self, name: &str) -> Daemon {
        let command = self.school.command(&["daemon"]);
        Daemon::start(command, &self.school.home(), &self.school.path(name))
    }

    /// The messages, once there are so many.
    fn messages(&self, n: usize) -> Vec<serde_json::Value> {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let text = std::fs::read_to_string(self.school.path("messages")).unwrap_or_default();
            let all: Vec<serde_json::Value> =
                text.lines().map_while(|line| serde_json::from_str(line).ok()).collect();
            if all.len() >= n {
                assert_eq!(all.len(), n, "{text}");
                return all;
            }
            assert!(Instant::now() < end, "only these were told: {text}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn begin(daemon: &Daemon) -> u32 {
    let Answer::Status(status) = daemon.ask(&trigger("leap")) else { panic!("refused") };
    status.at_work.unwrap().pid.unwrap()
}

#[test]
fn nights_are_told_once_stopped_and_over() {
    let told = Told::new();
    let mut daemon = told.daemon("first");
    begin(&daemon);
    daemon.until("under way", |_| {
        ArchiveReader::open(&daemon.home.archive())
            .and_then(|archive| archive.nights())
            .is_ok_and(|nights| !nights.is_empty())
    });
    let Answer::Status(_) = daemon.ask(&Request::Stop) else { panic!("refused") };
    daemon.until("stopped", |status| status.at_work.is_none());
    let stopped = told.messages(1).remove(0);
    assert_eq!((&stopped["outcome"], &stopped["night"]), (&"stopped".into(), &1.into()));
    assert_eq!(stopped["schedule"], "leap");
    begin(&daemon);
    daemon.until("over", |status| status.at_work.is_none());
    // Its process told nobody: there would be three.
    let over = told.messages(2).remove(1);
    let report = told.school.json(&["run", "show"])["report"].clone();
    let outcome = if report["promoted"] == true { "promoted" } else { "kept" };
    assert_eq!(over["outcome"], outcome);
    assert_eq!((&over["reason"], &over["live_model"]), (&report["reason"], &report["live"]));
    daemon.signal(libc::SIGTERM);
    assert_eq!(daemon.exit(), Some(0));
    told.messages(2);
}

#[test]
fn a_night_that_was_killed_and_refused_settings_are_told() {
    let told = Told::new();
    let mut daemon = told.daemon("first");
    let pid = i32::try_from(begin(&daemon)).unwrap();
    // SAFETY: a signal to the night of this test's daemon.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    let failed = told.messages(1).remove(0);
    assert_eq!(failed["outcome"], "failed");
    assert!(failed["reason"].as_str().unwrap().contains("its process was killed"), "{failed}");
    daemon.signal(libc::SIGTERM);
    assert_eq!(daemon.exit(), Some(0));

    std::fs::remove_file(told.school.home().join("daemon.json")).unwrap();
    let mut daemon = told.daemon("second");
    // Told by the settings that were accepted last.
    std::fs::write(told.school.home().join("nightschool.toml"), "seed = \"none\"\n").unwrap();
    begin(&daemon);
    let refused = told.messages(2).remove(1);
    assert_eq!(refused["outcome"], "refused", "{refused}");
    daemon.signal(libc::SIGTERM);
    assert_eq!(daemon.exit(), Some(0));
}

#[test]
fn who_cannot_be_told_is_found_by_the_check() {
    let told = Told::new();
    let check = |notify: &str| {
        let text = format!("{}[notify]\n{notify}\n", told.school.short_settings());
        std::fs::write(told.school.home().join("nightschool.toml"), text).unwrap();
        told.school.command(&["daemon", "--check"]).output().unwrap()
    };
    assert!(check("command = [\"/bin/sh\"]").status.success());
    for (notify, why) in [
        ("command = [\"/nowhere/mail\"]", "`notify.command` names /nowhere/mail: No such file"),
        ("command = [\"/etc/passwd\"]", "it is no program"),
        ("webhook_secret = \"/nowhere/secret\"", "`notify.webhook_secret` cannot be used"),
        ("webhook_secret = \"NO_SUCH_SECRET\"", "$CREDENTIALS_DIRECTORY"),
    ] {
        let output = check(notify);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(78) && said.contains(why), "{said}");
    }
}
