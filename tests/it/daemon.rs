//! The daemon: what it decides, and what its process does.

mod messages;

use std::collections::BTreeMap;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::mpsc;
use std::time::Duration;
use std::time::Instant;

use jiff::SignedDuration;
use jiff::Timestamp;
use nightschool::archive::ArchiveReader;
use nightschool::daemon::control;
use nightschool::daemon::control::Answer;
use nightschool::daemon::control::DaemonStatus;
use nightschool::daemon::control::Request;
use nightschool::daemon::plan::Ended;
use nightschool::daemon::plan::Memory;
use nightschool::daemon::plan::Order;
use nightschool::daemon::plan::Plan;
use nightschool::durable::HomeLock;
use nightschool::phase::home::Home;
use nightschool::schedule::Schedule;

use crate::night::school::School;

const NIGHTLY: &str = "about = \"\"\ncron = \"0 1 * * *\"\nzone = \"UTC\"\nuntil = \"06:00\"\nmissed = \"run_once\"\n";
const HOURLY: &str = "about = \"\"\ncron = \"0 * * * *\"\nzone = \"UTC\"\nminutes = 30\n";
pub(crate) const NEVER_DUE: &str =
    "about = \"\"\ncron = \"0 0 29 2 *\"\nzone = \"UTC\"\nminutes = 60\n";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn plan(schedules: &[(&str, &str)], memory: Memory, now: Timestamp) -> Plan {
    let parsed =
        |(name, text): &(&str, &str)| ((*name).to_string(), Schedule::parse(name, text).unwrap());
    Plan::new(schedules.iter().map(parsed).collect::<BTreeMap<_, _>>(), memory, now)
}

/// What a plan orders, looked at every minute for so long, while nights take `minutes` and end so.
fn lived(plan: &mut Plan, from: &str, hours: i64, minutes: i64, how: &[Ended]) -> Vec<String> {
    let mut log = Vec::new();
    let mut ends = how.iter().cycle();
    let mut at_work: Option<Timestamp> = None;
    for minute in 0..hours * 60 {
        let now = at(from) + SignedDuration::from_mins(minute);
        if at_work.is_some_and(|end| end <= now) {
            at_work = None;
            plan.ended(ends.next().unwrap(), now);
            log.push(format!("{now:.0} ended"));
        }
        match plan.order(now, at_work.is_some()) {
            Some(Order::Begin(attempt)) => {
                at_work = Some(now + SignedDuration::from_mins(minutes));
                log.push(format!("{now:.0} {} until {:.0}", attempt.schedule, attempt.end));
            }
            Some(Order::Stop) => {
                log.push(format!("{now:.0} stop"));
                at_work = None;
                plan.ended(&Ended::Stopped, now);
            }
            None => {}
        }
    }
    log
}

#[test]
fn nights_begin_and_stop_with_their_windows() {
    let from = "2027-06-03T00:00:00Z";
    let mut short = plan(&[("nightly", NIGHTLY)], Memory::default(), at(from));
    let days = lived(&mut short, from, 48, 90, &[Ended::Done]);
    insta::assert_snapshot!(days.join("\n"), @"
    2027-06-03T01:00:00Z nightly until 2027-06-03T06:00:00Z
    2027-06-03T02:30:00Z ended
    2027-06-04T01:00:00Z nightly until 2027-06-04T06:00:00Z
    2027-06-04T02:30:00Z ended
    ");
    let mut long = plan(&[("nightly", NIGHTLY)], Memory::default(), at(from));
    let stopped = lived(&mut long, from, 24, 600, &[Ended::Done]);
    insta::assert_snapshot!(stopped.join("\n"), @"
    2027-06-03T01:00:00Z nightly until 2027-06-03T06:00:00Z
    2027-06-03T06:00:00Z stop
    ");
}

#[test]
fn one_night_runs_at_a_time() {
    let from = "2027-06-03T00:30:00Z";
    let both = [("hourly", HOURLY), ("nightly", NIGHTLY)];
    let mut plan = plan(&both, Memory::default(), at(from));
    let log = lived(&mut plan, from, 4, 20, &[Ended::Done]);
    insta::assert_snapshot!(log.join("\n"), @"
    2027-06-03T01:00:00Z hourly until 2027-06-03T01:30:00Z
    2027-06-03T01:20:00Z ended
    2027-06-03T01:20:00Z nightly until 2027-06-03T06:00:00Z
    2027-06-03T01:40:00Z ended
    2027-06-03T02:00:00Z hourly until 2027-06-03T02:30:00Z
    2027-06-03T02:20:00Z ended
    2027-06-03T03:00:00Z hourly until 2027-06-03T03:30:00Z
    2027-06-03T03:20:00Z ended
    2027-06-03T04:00:00Z hourly until 2027-06-03T04:30:00Z
    2027-06-03T04:20:00Z ended
    ");
}

#[test]
fn failures_are_tried_again_and_then_given_up() {
    let from = "2027-06-03T00:59:00Z";
    let failed = Ended::Failed("it broke".to_string());
    let mut broken = plan(&[("nightly", NIGHTLY)], Memory::default(), at(from));
    let log = lived(&mut broken, from, 24, 5, std::slice::from_ref(&failed));
    insta::assert_snapshot!(log.join("\n"), @"
    2027-06-03T01:00:00Z nightly until 2027-06-03T06:00:00Z
    2027-06-03T01:05:00Z ended
    2027-06-03T01:06:00Z nightly until 2027-06-03T06:00:00Z
    2027-06-03T01:11:00Z ended
    2027-06-03T01:13:00Z nightly until 2027-06-03T06:00:00Z
    2027-06-03T01:18:00Z ended
    ");
    let what = |plan: &Plan| plan.memory().schedules["nightly"].last.clone().unwrap().what;
    assert_eq!(what(&broken), "given up after 3 failures: it broke");
    let mut better = plan(&[("nightly", NIGHTLY)], Memory::default(), at(from));
    let log = lived(&mut better, from, 24, 5, &[failed, Ended::Done]);
    assert_eq!(log.len(), 4, "{log:?}");
    assert_eq!(what(&better), "done");
    let mut refused = plan(&[("nightly", NIGHTLY)], Memory::default(), at(from));
    let log = lived(&mut refused, from, 24, 5, &[Ended::Refused("no".to_string())]);
    assert_eq!(log.len(), 2, "{log:?}");
}

#[test]
fn what_was_done_is_remembered_and_a_pause_too() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("daemon.json");
    let from = "2027-06-03T00:00:00Z";
    let mut first = plan(&[("nightly", NIGHTLY)], Memory::read(&file).unwrap(), at(from));
    assert_eq!(lived(&mut first, from, 2, 10, &[Ended::Done]).len(), 2);
    first.memory().write(&file).unwrap();
    // Another process, in the same window: the night was had.
    let again = "2027-06-03T02:00:00Z";
    let mut second = plan(&[("nightly", NIGHTLY)], Memory::read(&file).unwrap(), at(again));
    assert_eq!(lived(&mut second, again, 12, 10, &[Ended::Done]), Vec::<String>::new());
    second.pause(true);
    second.memory().write(&file).unwrap();
    let mut third = plan(&[("nightly", NIGHTLY)], Memory::read(&file).unwrap(), at(again));
    assert_eq!(lived(&mut third, again, 48, 10, &[Ended::Done]), Vec::<String>::new());
    third.pause(false);
    let later = "2027-06-05T03:00:00Z";
    assert_eq!(lived(&mut third, later, 2, 10, &[Ended::Done]).len(), 2);
    std::fs::write(&file, "{").unwrap();
    assert!(Memory::read(&file).unwrap_err().to_string().contains("daemon.json is damaged"));
}

/// A daemon of its own process; killed when the test is over.
pub(crate) struct Daemon {
    child: Child,
    pub(crate) home: Home,
    /// What systemd would be told.
    told: mpsc::Receiver<String>,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Daemon {
    pub(crate) fn start(mut command: Command, home: &Path, notify: &Path) -> Self {
        let socket = UnixDatagram::bind(notify).unwrap();
        let (sender, told) = mpsc::channel();
        // Like systemd, it always listens: a sender waits while too many messages lie unread.
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length) = socket.recv(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                if sender.send(text).is_err() {
                    break;
                }
            }
        });
        let child = command
            .env("NOTIFY_SOCKET", notify)
            .env("WATCHDOG_USEC", "2000000")
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let daemon = Self { child, home: Home::at(home), told };
        daemon.wait_for("READY=1");
        daemon
    }

    /// Waits until systemd is told something that begins so.
    pub(crate) fn wait_for(&self, what: &str) -> String {
        loop {
            let text = self.told.recv_timeout(Duration::from_secs(60));
            let text = text.unwrap_or_else(|_| panic!("no {what}"));
            if let Some(line) = text.lines().find(|line| line.starts_with(what)) {
                return line.to_string();
            }
        }
    }

    pub(crate) fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.child.id()).unwrap();
        // SAFETY: a signal to a child of this test.
        unsafe { libc::kill(pid, signal) };
    }

    pub(crate) fn ask(&self, request: &Request) -> Answer {
        control::ask(&self.home.socket(), request).unwrap().expect("a daemon")
    }

    pub(crate) fn status(&self) -> DaemonStatus {
        match self.ask(&Request::Status) {
            Answer::Status(status) => status,
            Answer::Refused(why) => panic!("{why}"),
        }
    }

    pub(crate) fn until(&self, what: &str, holds: impl Fn(&DaemonStatus) -> bool) -> DaemonStatus {
        let end = Instant::now() + Duration::from_secs(120);
        loop {
            let status = self.status();
            if holds(&status) {
                return status;
            }
            assert!(Instant::now() < end, "never {what}: {status:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn last(&self) -> String {
        self.status().schedules[0].last.clone().unwrap_or_default()
    }

    pub(crate) fn exit(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

fn trigger(schedule: &str) -> Request {
    Request::Trigger { schedule: schedule.to_string() }
}

#[test]
fn a_daemon_has_a_process_do_the_night() {
    let school = School::counting();
    let settings = school.short_settings();
    std::fs::create_dir_all(school.home().join("schedules")).unwrap();
    std::fs::write(school.home().join("nightschool.toml"), settings).unwrap();
    std::fs::write(school.home().join("schedules/leap.toml"), NEVER_DUE).unwrap();
    let notify = school.path("notify");
    let mut daemon = Daemon::start(school.command(&["daemon"]), &school.home(), &notify);
    daemon.wait_for("STATUS=waiting");
    // The loop goes on, and only that feeds the watchdog.
    daemon.wait_for("WATCHDOG=1");
    let second = school.command(&["daemon"]).output().unwrap();
    assert_eq!(second.status.code(), Some(75), "{}", String::from_utf8_lossy(&second.stderr));

    assert!(matches!(daemon.ask(&trigger("other")), Answer::Refused(_)));
    assert!(matches!(daemon.ask(&Request::Stop), Answer::Refused(_)));
    let Answer::Status(status) = daemon.ask(&trigger("leap")) else { panic!("refused") };
    assert!(status.at_work.unwrap().pid.is_some());
    daemon.wait_for("STATUS=a night of leap");
    assert!(matches!(daemon.ask(&trigger("leap")), Answer::Refused(_)));
    // Stopped at a safe point, then gone on with, to its end.
    let Answer::Status(_) = daemon.ask(&Request::Stop) else { panic!("refused") };
    daemon.until("stopped", |status| status.at_work.is_none());
    let stopped = daemon.last();
    let Answer::Status(_) = daemon.ask(&trigger("leap")) else { panic!("refused") };
    daemon.until("over", |status| status.at_work.is_none());
    assert_eq!(daemon.last(), "done", "after: {stopped}");
    let archive = ArchiveReader::open(&daemon.home.archive()).unwrap();
    assert!(archive.nights().unwrap()[0].finished_at.is_some());

    daemon.signal(libc::SIGTERM);
    daemon.wait_for("STOPPING=1");
    assert_eq!(daemon.exit(), Some(0));
    assert!(!daemon.home.socket().exists());
}

#[test]
fn a_daemon_that_was_killed_goes_on_with_its_night() {
    let school = School::counting();
    std::fs::create_dir_all(school.home().join("schedules")).unwrap();
    std::fs::write(school.home().join("nightschool.toml"), school.short_settings()).unwrap();
    std::fs::write(school.home().join("schedules/leap.toml"), NEVER_DUE).unwrap();
    let start =
        |name: &str| Daemon::start(school.command(&["daemon"]), &school.home(), &school.path(name));
    let first = start("first");
    let Answer::Status(status) = first.ask(&trigger("leap")) else { panic!("refused") };
    assert!(status.at_work.unwrap().pid.is_some());
    first.until("under way", |_| {
        ArchiveReader::open(&first.home.archive())
            .and_then(|archive| archive.nights())
            .is_ok_and(|nights| !nights.is_empty())
    });
    // However the daemon ends, its night does, too, and another goes on.
    let first_home = first.home.clone();
    drop(first);
    let end = Instant::now() + Duration::from_secs(60);
    while HomeLock::acquire(first_home.dir()).is_err() {
        assert!(Instant::now() < end, "the night lives on");
        std::thread::sleep(Duration::from_millis(50));
    }
    let mut second = start("second");
    second.until("over", |status| status.at_work.is_none());
    assert_eq!(second.last(), "done");
    second.signal(libc::SIGTERM);
    assert_eq!(second.exit(), Some(0));
}

#[test]
fn a_faulty_schedule_changes_nothing() {
    let school = School::counting();
    let file = school.home().join("schedules/leap.toml");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, NEVER_DUE).unwrap();
    let mut daemon =
        Daemon::start(school.command(&["daemon"]), &school.home(), &school.path("notify"));
    let next = |daemon: &Daemon| daemon.status().schedules[0].next;
    let before = next(&daemon);
    std::fs::write(&file, NEVER_DUE.replace("29 2", "31 2")).unwrap();
    daemon.signal(libc::SIGHUP);
    assert!(daemon.wait_for("MONOTONIC_USEC=").len() > "MONOTONIC_USEC=".len());
    daemon.wait_for("READY=1");
    assert_eq!(next(&daemon), before);
    let Answer::Refused(why) = daemon.ask(&Request::Reload) else { panic!("it was taken") };
    assert!(why.contains("never comes"), "{why}");
    std::fs::write(&file, NEVER_DUE.replace("29 2", "28 2")).unwrap();
    daemon.signal(libc::SIGHUP);
    daemon.wait_for("READY=1");
    assert!(next(&daemon) < before);
    // A night that cannot do its work costs nothing but the attempt.
    std::fs::write(school.home().join("nightschool.toml"), "model = \"/nowhere\"\n").unwrap();
    let Answer::Status(_) = daemon.ask(&trigger("leap")) else { panic!("refused") };
    daemon.until("failed", |status| {
        status.schedules[0]
            .last
            .as_ref()
            .is_some_and(|last| last.starts_with("failed, tried again"))
    });
    // Nobody waits for that attempt.
    daemon.signal(libc::SIGTERM);
    assert_eq!(daemon.exit(), Some(0));
}

/// Says nothing on machines without systemd's own tool.
#[test]
fn the_units_are_sound_and_shut_in() {
    let folder = tempfile::tempdir().unwrap();
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    let names = ["nightschool.service", "nightschool-backup.service", "nightschool-backup.timer"];
    for name in names {
        let unit = std::fs::read_to_string(units.join(name)).unwrap();
        // It looks for the program, which is not installed here.
        let unit = unit.replace("/usr/bin/nightschool", env!("CARGO_BIN_EXE_nightschool"));
        std::fs::write(folder.path().join(name), unit).unwrap();
    }
    let analyze = |arguments: &[&str]| {
        let mut command = Command::new("systemd-analyze");
        let output = command.current_dir(folder.path()).args(arguments).output().ok()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Some((output.status.success(), said))
    };
    for name in names {
        let place = format!("./{name}");
        let verified = analyze(&["verify", "--man=no", &place]);
        assert!(verified.is_none_or(|(fine, said)| fine && said.is_empty()), "{name}");
        if name.ends_with(".service") {
            let shut_in = analyze(&["security", "--offline=true", "--threshold=25", &place]);
            assert!(shut_in.is_none_or(|(fine, _)| fine), "{name}");
        }
    }
}
