//! The daemon over HTTP: what it says, what it refuses, and that nobody can hold it up.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;

use nightschool::daemon::control::Request;
use serde_json::Value;

use crate::daemon::Daemon;
use crate::daemon::NEVER_DUE;
use crate::night::school::School;

const TOKEN: &str = "a-token-of-some-length";

/// An answer as it came.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let named = |line: &&str| {
            line.split_once(':').is_some_and(|(found, _)| found.eq_ignore_ascii_case(name))
        };
        Some(self.head.lines().find(named)?.split_once(':')?.1.trim())
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.body))
    }
}

/// Sends `request` as it is and reads until the connection ends.
fn send(address: SocketAddr, request: &str) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    // Whoever refuses early may not read all of it.
    let _ = stream.write_all(request.as_bytes());
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text);
    let text = String::from_utf8(text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_string(), body: body.to_string() }
}

fn get(address: SocketAddr, path: &str) -> Answer {
    send(address, &format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n"))
}

fn post(address: SocketAddr, path: &str, token: Option<&str>) -> Answer {
    let token = token.map(|token| format!("Authorization: Bearer {token}\r\n"));
    let token = token.unwrap_or_default();
    send(address, &format!("POST {path} HTTP/1.1\r\nHost: {address}\r\n{token}\r\n"))
}

/// A home whose daemon listens, with these schedules.
fn home(school: &School, schedules: &[&str], http: &str) {
    std::fs::create_dir_all(school.home().join("schedules")).unwrap();
    let settings = school.short_settings() + http;
    std::fs::write(school.home().join("nightschool.toml"), settings).unwrap();
    for name in schedules {
        let file = school.home().join(format!("schedules/{name}.toml"));
        std::fs::write(file, NEVER_DUE).unwrap();
    }
}

fn start(school: &School) -> (Daemon, SocketAddr) {
    let command = school.command(&["daemon"]);
    let daemon = Daemon::start(command, &school.home(), &school.path("notify"));
    let address = daemon.status().http.expect("it listens");
    assert!(address.ip().is_loopback() && address.port() != 0);
    (daemon, address)
}

const ANY_PORT: &str = "[http]\nlisten = \"127.0.0.1:0\"\n";

/// The JSON with what differs from run to run taken out.
fn shape(mut value: Value, folder: &Path) -> String {
    fn still(value: &mut Value) {
        match value {
            Value::Object(members) => members.iter_mut().for_each(|(name, value)| {
                let figure = [
                    "pid",
                    "seconds",
                    "f1",
                    "em",
                    "answer_in_retrieved",
                    "tokens",
                    "tasks",
                    "gpus",
                ];
                if figure.contains(&name.as_str()) || name.ends_with("_bytes") {
                    *value = format!("[{name}]").into();
                } else {
                    still(value);
                }
            }),
            Value::Array(all) => all.iter_mut().for_each(still),
            Value::Number(number) if number.is_f64() => *value = "[real]".into(),
            _ => {}
        }
    }
    still(&mut value);
    let text = serde_json::to_string_pretty(&value).unwrap();
    text.replace(&folder.display().to_string(), "FOLDER")
}

macro_rules! assert_shape {
    ($text:expr) => {
        insta::with_settings!({ filters => [
            (r"\d{4}-\d\d-\d\dT[0-9:.]+Z", "TIME"),
            (r"127\.0\.0\.1:\d+", "ADDRESS"),
            (r"base-[0-9a-f]{8}", "base-VERSION"),
            (r"[0-9a-f]{64}", "HASH"),
            (r#""reason": "[^"]*""#, r#""reason": "REASON""#),
        ] }, {
            insta::assert_snapshot!($text)
        })
    };
}

#[test]
fn a_home_before_its_first_night_is_told_of() {
    let school = School::counting();
    home(&school, &["leap"], ANY_PORT);
    // Left by a night that was killed: no process can have this number.
    let left = serde_json::json!({
        "pid": i32::MAX, "phase": "rollouts", "done": 1, "total": 2, "note": null, "ended": false,
        "started_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z", "failed": null
    });
    std::fs::write(school.home().join("progress.json"), left.to_string()).unwrap();
    let (_daemon, address) = start(&school);
    let health = get(address, "/healthz");
    assert_eq!((health.status, health.body.as_str()), (200, "ok\n"));
    let ready = get(address, "/readyz");
    assert_eq!((ready.status, ready.body.as_str()), (200, "ready\n"));
    let status = get(address, "/status");
    assert_eq!(status.header("content-type"), Some("application/json"));
    assert_shape!(shape(status.json(), school.folder.path()));
    let page = get(address, "/");
    assert_eq!(page.status, 200);
    for part in ["Waiting for the night.", "leap begins", "<dt>GPU</dt>", "None yet."] {
        assert!(page.body.contains(part), "{part} is not in the page");
    }
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    // Nothing but itself: no style, handler or source that the policy would refuse.
    for outside in [" style=", " onclick=", " src=", "https://", "@import"] {
        assert!(!page.body.contains(outside), "{outside} stands in the page");
    }
    for (path, status) in [
        ("/reports/1", 404),
        ("/reports/x", 404),
        ("/nothing", 404),
        ("//status", 404),
        ("/control/pause", 405),
        ("/reports/..%2f..%2farchive.db", 404),
    ] {
        assert_eq!(get(address, path).status, status, "{path}");
    }
    let head = send(address, &format!("HEAD /status HTTP/1.1\r\nHost: {address}\r\n\r\n"));
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    let posted = post(address, "/status", None);
    assert_eq!((posted.status, posted.header("allow")), (405, Some("GET, HEAD")));
}

#[test]
fn a_home_without_an_archive_or_a_schedule_is_not_ready() {
    let school = School::new();
    home(&school, &[], ANY_PORT);
    let (daemon, address) = start(&school);
    let ready = get(address, "/readyz");
    assert_eq!((ready.status, ready.body.as_str()), (503, "the home has no schedule\n"));
    std::fs::write(school.home().join("schedules/leap.toml"), NEVER_DUE).unwrap();
    daemon.ask(&Request::Reload);
    let ready = get(address, "/readyz");
    assert_eq!(ready.status, 503);
    assert!(ready.body.contains("archive.db"), "{}", ready.body);
    assert_eq!(get(address, "/healthz").status, 200, "it lives all the same");
    assert_eq!(get(address, "/").status, 200);
    school.add_documents();
    let end = Instant::now() + Duration::from_secs(30);
    while get(address, "/readyz").status != 200 {
        assert!(Instant::now() < end, "never ready");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_night_is_seen_as_it_goes_and_when_it_is_over() {
    let school = School::counting();
    let http = format!("{ANY_PORT}token_file = \"token\"\n");
    home(&school, &["leap"], &http);
    // Long enough to be seen at something.
    let long = format!("{NEVER_DUE}\n[settings.solve]\nrounds = 12\n");
    std::fs::write(school.home().join("schedules/leap.toml"), long).unwrap();
    std::fs::write(school.home().join("token"), format!("{TOKEN}\n")).unwrap();
    let (mut daemon, address) = start(&school);
    let begun = post(address, "/control/trigger/leap", Some(TOKEN));
    assert_eq!(begun.status, 200, "{}", begun.body);
    let pid = begun.json()["at_work"]["pid"].clone();
    assert!(pid.is_u64(), "{}", begun.body);
    // What it is at can be followed, here and on the command line.
    let mut phases = std::collections::BTreeSet::new();
    let mut told = false;
    let end = Instant::now() + Duration::from_secs(120);
    while daemon.status().at_work.is_some() {
        let status = get(address, "/status").json();
        if let Some(phase) = status["progress"]["phase"].as_str() {
            assert_eq!(status["progress"]["pid"], pid);
            phases.insert(phase.to_string());
            if !told {
                let status = school.json(&["status"]);
                told = status["progress"]["phase"].is_string();
                assert!(status["daemon"]["at_work"].is_object() || !told, "{status}");
            }
        }
        assert!(Instant::now() < end, "it never ends");
        std::thread::sleep(Duration::from_millis(50));
    }
    // What is read is kept for two seconds, and such a night takes a few.
    assert!(!phases.is_empty());
    assert!(told);
    assert!(!school.home().join("progress.json").exists());

    let (status, page) = settled(address);
    assert_shape!(shape(status, school.folder.path()));
    for part in ["Held-out F1", "Made by code", "href=\"/reports/1\"", "<svg", "95 % intervals"] {
        assert!(page.contains(part), "{part} is not in the page");
    }
    let report = get(address, "/reports/1");
    assert!(report.status == 200 && report.body.contains("<h1>Night 1</h1>"));
    assert!(report.header("content-security-policy").unwrap().contains("default-src 'none'"));

    let text = get(address, "/metrics");
    assert_eq!(text.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let families = check_metrics(&text.body);
    for name in ["nightschool_train_loss", "nightschool_night", "nightschool_daemon_up"] {
        assert!(families.contains_key(name), "{name} is missing: {families:?}");
    }
    assert_eq!(families["nightschool_daemon_up"], [1.0]);
    assert_eq!(families["nightschool_daemon_last_attempt_failed"], [0.0]);
    assert!(families["nightschool_daemon_free_bytes"][0] > 0.0);
    assert!(families["nightschool_daemon_tasks"][0] > 10.0);
    daemon.signal(libc::SIGTERM);
    assert_eq!(daemon.exit(), Some(0));
}

/// The status and the page once what was read before the night's end has become too old.
fn settled(address: SocketAddr) -> (Value, String) {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let status = get(address, "/status").json();
        let page = get(address, "/").body;
        let over = status["last_night"].is_object() && status["progress"].is_null();
        if over && page.contains("Waiting for the night.") && page.contains("/reports/1") {
            return (status, page);
        }
        assert!(Instant::now() < end, "{status}\n{page}");
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Reads a text as Prometheus does; no family, and no line of one, may come twice.
fn check_metrics(text: &str) -> BTreeMap<String, Vec<f64>> {
    let mut types = std::collections::BTreeSet::new();
    let mut samples = std::collections::BTreeSet::new();
    for line in text.lines() {
        if let Some(family) = line.strip_prefix("# TYPE ") {
            let name = family.split(' ').next().unwrap();
            assert!(types.insert(name.to_string()), "{name} is declared twice");
        } else if !line.is_empty() && !line.starts_with('#') {
            let (sample, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
            assert!(samples.insert(sample.to_string()), "{sample} comes twice");
            let name = sample.split('{').next().unwrap();
            assert!(types.contains(name), "{name} has no type before its samples");
        }
    }
    let lines = text.lines().map(|line| Ok(line.to_string()));
    let scrape = prometheus_parse::Scrape::parse(lines).unwrap();
    assert_eq!(scrape.samples.len(), samples.len());
    let mut families: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for sample in scrape.samples {
        let value = match sample.value {
            prometheus_parse::Value::Counter(value) | prometheus_parse::Value::Gauge(value) => {
                value
            }
            other => panic!("{}: {other:?}", sample.metric),
        };
        families.entry(sample.metric).or_default().push(value);
    }
    families
}

#[test]
fn nothing_is_changed_without_the_token() {
    let school = School::counting();
    home(&school, &["leap"], ANY_PORT);
    let (daemon, address) = start(&school);
    for path in ["/control/pause", "/control/stop", "/control/trigger/leap"] {
        let refused = post(address, path, Some(TOKEN));
        assert_eq!(refused.status, 403, "{path}: no token is set");
        assert!(refused.json()["refused"].as_str().unwrap().contains("http.token_file"));
    }
    // The token is read again with the other settings, and the address stays.
    std::fs::write(school.home().join("token"), TOKEN).unwrap();
    home(&school, &["leap"], &format!("{ANY_PORT}token_file = \"token\"\n"));
    daemon.ask(&Request::Reload);
    assert_eq!(daemon.status().http, Some(address));
    let longer = format!("{TOKEN}x");
    for given in [None, Some(""), Some("wrong"), Some(&TOKEN[..20]), Some(longer.as_str())] {
        let refused = post(address, "/control/pause", given);
        assert_eq!(refused.status, 401, "{given:?}");
        assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
    }
    let header = format!("Host: {address}\r\nAuthorization: Bearer {TOKEN}");
    for method in ["GET", "HEAD", "PUT", "OPTIONS"] {
        let asked = send(address, &format!("{method} /control/pause HTTP/1.1\r\n{header}\r\n\r\n"));
        assert_eq!((asked.status, asked.header("allow")), (405, Some("POST")), "{method}");
    }
    assert!(!daemon.status().paused);
    let paused = post(address, "/control/pause", Some(TOKEN));
    assert_eq!((paused.status, &paused.json()["paused"]), (200, &true.into()));
    assert!(daemon.status().paused);
    let end = Instant::now() + Duration::from_secs(30);
    while !get(address, "/").body.contains("<h1 class=\"paused\">Paused.</h1>") {
        assert!(Instant::now() < end, "the page never says so");
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(post(address, "/control/resume", Some(TOKEN)).status, 200);
    assert!(!daemon.status().paused);
    let idle = post(address, "/control/stop", Some(TOKEN));
    assert_eq!(idle.status, 409);
    assert_eq!(idle.json()["refused"], "no night is under way");
    assert_eq!(post(address, "/control/trigger/other", Some(TOKEN)).status, 404);
}

#[test]
fn only_those_who_mean_this_machine_are_answered() {
    let school = School::counting();
    home(&school, &["leap"], ANY_PORT);
    let (_daemon, address) = start(&school);
    let ask = |host: &str| {
        send(address, &format!("GET /healthz HTTP/1.1\r\n{host}Connection: close\r\n\r\n")).status
    };
    let port = address.port();
    for host in ["localhost", "LOCALHOST:8080", "127.0.0.1", "127.9.9.9:1", "[::1]:7411"] {
        assert_eq!(ask(&format!("Host: {host}\r\n")), 200, "{host}");
    }
    for host in [
        "rebound.example",
        "127.0.0.1.example.com",
        "localhost.example:7411",
        "10.0.0.1",
        "[::2]",
        "0.0.0.0",
        "",
    ] {
        assert_eq!(ask(&format!("Host: {host}\r\n")), 421, "{host}");
    }
    assert_eq!(ask(""), 421, "without a host");
    assert_eq!(ask("Host: localhost\r\nHost: rebound.example\r\n"), 421, "two of them");
    let absolute =
        format!("GET http://rebound.example:{port}/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(send(address, &absolute).status, 421);
}

#[test]
fn requests_that_are_too_large_are_refused() {
    let school = School::counting();
    home(&school, &["leap"], ANY_PORT);
    let (_daemon, address) = start(&school);
    let head = format!("Host: {address}\r\n");
    let padding = "x".repeat(64 << 10);
    let long = send(address, &format!("GET /healthz HTTP/1.1\r\n{head}X-Pad: {padding}\r\n\r\n"));
    assert_eq!(long.status, 431);
    let many: String = (0..200).map(|n| format!("X-{n}: 1\r\n")).collect();
    assert_eq!(send(address, &format!("GET /healthz HTTP/1.1\r\n{head}{many}\r\n")).status, 431);
    let length = padding.len();
    let body = format!("POST /control/pause HTTP/1.1\r\n{head}Content-Length: {length}\r\n\r\n");
    assert_eq!(send(address, &(body + &padding)).status, 413);
    let chunk = format!("{length:x}\r\n{padding}\r\n0\r\n\r\n");
    let chunked =
        format!("POST /control/pause HTTP/1.1\r\n{head}Transfer-Encoding: chunked\r\n\r\n");
    assert_eq!(send(address, &(chunked + &chunk)).status, 413);
    assert_eq!(get(address, "/healthz").status, 200);
}

#[test]
fn slow_clients_hold_nobody_up() {
    let school = School::counting();
    home(&school, &["leap"], ANY_PORT);
    let (daemon, address) = start(&school);
    let mut slow: Vec<TcpStream> = (0..40).map(|_| TcpStream::connect(address).unwrap()).collect();
    for stream in slow.iter_mut().skip(20) {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: ").unwrap();
    }
    let start = Instant::now();
    for path in ["/healthz", "/status", "/", "/metrics"] {
        assert_eq!(get(address, path).status, 200, "{path}");
    }
    assert!(!daemon.status().paused, "the socket answers, too");
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    // They are sent away.
    for stream in &mut slow {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut rest = Vec::new();
        let read = stream.read_to_end(&mut rest);
        assert!(read.is_ok() || start.elapsed() < Duration::from_secs(20), "{read:?}");
    }
    assert!(start.elapsed() < Duration::from_secs(25), "{:?}", start.elapsed());
}

#[test]
fn names_are_no_markup_in_the_page() {
    let school = School::counting();
    let name = "<img src=x onerror=alert(1)>&\"'";
    home(&school, &[name], ANY_PORT);
    // As a night that failed would leave it.
    let failed = serde_json::json!({
        "pid": 1, "phase": "<b>", "done": 0, "total": 0, "note": null, "ended": false,
        "started_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z",
        "failed": "<script>alert(2)</script>"
    });
    std::fs::write(school.home().join("progress.json"), failed.to_string()).unwrap();
    let (_daemon, address) = start(&school);
    let page = get(address, "/").body;
    assert!(page.contains("&lt;img src=x onerror=alert(1)&gt;&amp;"), "{page}");
    assert!(page.contains("&lt;script&gt;alert(2)"), "{page}");
    assert!(!page.contains("<img") && !page.contains("<script>alert"), "{page}");
    let status = get(address, "/status").json();
    assert_eq!(status["schedules"][0]["name"], name);
    assert!(status["errors"][0]["message"].as_str().unwrap().contains("<script>alert(2)</script>"));
    let families = check_metrics(&get(address, "/metrics").body);
    assert_eq!(families["nightschool_daemon_last_attempt_failed"], [1.0]);
    let text = school.command(&["status"]).output().unwrap();
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("the last night failed at 2026-01-01"), "{text}");
}

#[test]
fn a_night_that_fails_says_why() {
    let school = School::counting();
    home(&school, &["leap"], ANY_PORT);
    let settings = format!("model = \"/nowhere\"\n{ANY_PORT}");
    std::fs::write(school.home().join("nightschool.toml"), settings).unwrap();
    let (daemon, address) = start(&school);
    daemon.ask(&Request::Trigger { schedule: "leap".to_string() });
    daemon.until("failed", |status| status.at_work.as_ref().is_some_and(|work| work.pid.is_none()));
    let end = Instant::now() + Duration::from_secs(30);
    let status = loop {
        let status = get(address, "/status").json();
        if status["errors"][0].is_object() {
            break status;
        }
        assert!(Instant::now() < end, "{status}");
        std::thread::sleep(Duration::from_millis(200));
    };
    assert!(status["progress"].is_null(), "nothing is under way: {status}");
    let message = status["errors"][0]["message"].as_str().unwrap();
    assert!(message.contains("/nowhere"), "{message}");
    assert!(get(address, "/").body.contains("The night of leap failed."));
}

#[test]
fn settings_that_would_open_it_to_others_are_refused() {
    let school = School::counting();
    for (listen, why) in [
        ("0.0.0.0:7411", "it must be a loopback address"),
        ("192.168.1.4:80", "it must be a loopback address"),
        ("[::]:7411", "it must be a loopback address"),
        ("localhost:7411", "such as 127.0.0.1:7411"),
        ("7411", "such as 127.0.0.1:7411"),
    ] {
        home(&school, &["leap"], &format!("[http]\nlisten = \"{listen}\"\n"));
        for arguments in [&["daemon", "--check"][..], &["daemon"]] {
            let message = school.error(78, school.command(arguments));
            assert!(message.contains("setting `http.listen`"), "{message}");
            assert!(message.contains(listen) && message.contains(why), "{message}");
        }
    }
    let with_token = format!("{ANY_PORT}token_file = \"token\"\n");
    home(&school, &["leap"], &with_token);
    let message = school.error(78, school.command(&["daemon", "--check"]));
    assert!(message.contains("`http.token_file` is ") && message.contains("home/token"));
    std::fs::write(school.home().join("token"), "short").unwrap();
    let message = school.error(78, school.command(&["daemon"]));
    assert!(message.contains("16 or more") && !message.contains("short"), "{message}");
    std::fs::write(school.home().join("token"), TOKEN).unwrap();
    let checked = school.json(&["daemon", "--check"]);
    assert_eq!(checked["http"], "127.0.0.1:0");
    // A night has no say in it.
    let schedule = format!("{NEVER_DUE}[settings.http]\nlisten = \"127.0.0.1:0\"\n");
    std::fs::write(school.home().join("schedules/leap.toml"), schedule).unwrap();
    let message = school.error(78, school.command(&["daemon", "--check"]));
    assert!(message.contains("nightschool.toml"), "{message}");
}

#[test]
fn it_listens_as_the_settings_say_when_they_are_read_again() {
    let school = School::counting();
    home(&school, &["leap"], "");
    let command = school.command(&["daemon"]);
    let daemon = Daemon::start(command, &school.home(), &school.path("notify"));
    assert_eq!(daemon.status().http, None, "off unless it is asked for");
    home(&school, &["leap"], ANY_PORT);
    daemon.ask(&Request::Reload);
    let address = daemon.status().http.unwrap();
    assert_eq!(get(address, "/healthz").status, 200);
    // A port that somebody has: all stays as it was.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let other = taken.local_addr().unwrap();
    home(&school, &["leap"], &format!("[http]\nlisten = \"{other}\"\n"));
    match daemon.ask(&Request::Reload) {
        nightschool::daemon::control::Answer::Refused(why) => {
            assert!(why.contains(&other.to_string()), "{why}");
        }
        answer => panic!("{answer:?}"),
    }
    assert_eq!(get(address, "/healthz").status, 200);
    drop(taken);
    daemon.ask(&Request::Reload);
    assert_eq!(daemon.status().http, Some(other));
    assert_eq!(get(other, "/healthz").status, 200);
    assert!(TcpStream::connect(address).is_err(), "nobody listens there any more");
    home(&school, &["leap"], "");
    daemon.ask(&Request::Reload);
    assert_eq!(daemon.status().http, None);
    assert!(TcpStream::connect(other).is_err());
}
