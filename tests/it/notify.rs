//! Messages of a night's end: to a program, and to an address.

use std::fs;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;
use serde_json::json;

use crate::cli::Desk;
use crate::night::school::School;
use crate::support::http;
use crate::support::http::Call;
use crate::support::http::Reply;

/// A desk whose settings say who is told.
fn desk(notify: &str) -> Desk {
    let desk = Desk::new();
    desk.write("home/nightschool.toml", format!("[notify]\n{notify}\n"));
    desk
}

/// A program that does this in the desk's folder.
fn script(desk: &Desk, text: &str) -> String {
    let script = desk.write("hook.sh", format!("cd {:?}\n{text}\n", desk.path("").display()));
    format!("command = [\"/bin/sh\", {:?}, \"an argument; with $(all)\"]", script.display())
}

fn settings(desk: &Desk, notify: &str) {
    desk.write("home/nightschool.toml", format!("[notify]\n{notify}\n"));
}

/// What a test message came to.
fn test(desk: &Desk, code: i32) -> (Value, String) {
    let (out, err) = desk.run(code, &["notify", "--test", "--json"]);
    (serde_json::from_str(&out).unwrap(), err)
}

#[test]
fn a_program_is_told_on_its_input_and_in_its_environment() {
    let desk = desk("");
    let text = "cat > told.json; env | sort > environment; printf '%s' \"$1\" > argument";
    settings(&desk, &script(&desk, text));
    let mut command = desk.command(&["notify", "--test"]);
    command.env("A_KEY", "s3cret").env("NOTIFY_SOCKET", "/run/systemd/notify");
    command.assert().success().stdout("notify.command: delivered\n");
    let read = |name: &str| fs::read_to_string(desk.path(name)).unwrap();
    let told: Value = serde_json::from_str(&read("told.json")).unwrap();
    let members: Vec<&str> = told.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        members,
        [
            "schema_version",
            "outcome",
            "text",
            "home",
            "host",
            "schedule",
            "night",
            "reason",
            "live_model",
            "at",
            "program_version"
        ]
    );
    assert_eq!(
        (&told["schema_version"], &told["outcome"], &told["reason"]),
        (&json!(1), &Value::Null, &json!("a test message"))
    );
    let environment = read("environment");
    assert!(environment.contains("NIGHTSCHOOL_OUTCOME=test\n"), "{environment}");
    let text = format!("NIGHTSCHOOL_TEXT={}\n", told["text"].as_str().unwrap());
    assert!(environment.contains(&text), "{environment}");
    assert!(!environment.contains("s3cret") && !environment.contains("NOTIFY_SOCKET"));
    assert_eq!(read("argument"), "an argument; with $(all)", "no shell sees it");
}

#[test]
fn a_program_that_fails_is_tried_once_more() {
    let desk = desk("");
    let text = "echo x >> tries; printf 'no \\033[31mmail\\n' >&2; exit 3";
    settings(&desk, &script(&desk, text));
    let (deliveries, error) = test(&desk, 1);
    let why = deliveries["deliveries"][0]["failure"].as_str().unwrap();
    assert!(why.contains("ended with exit status: 3: no [31mmail"), "{why}");
    assert!(error.contains("1 of 1 messages were not delivered"), "{error}");
    assert_eq!(fs::read_to_string(desk.path("tries")).unwrap(), "x\nx\n");
    // Well the second time.
    settings(&desk, &script(&desk, "test -e once && exit 0; touch once; exit 1"));
    assert_eq!(test(&desk, 0).0["deliveries"][0]["failure"], Value::Null);
}

#[test]
fn a_program_that_hangs_is_killed_with_what_it_started() {
    let desk = desk("");
    let text = "sleep 600 & echo $! >> started; wait";
    settings(&desk, &format!("timeout_s = 1\n{}", script(&desk, text)));
    let begun = Instant::now();
    let (deliveries, _) = test(&desk, 1);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    let why = deliveries["deliveries"][0]["failure"].as_str().unwrap();
    assert!(why.contains("was killed after 1 s"), "{why}");
    let started = fs::read_to_string(desk.path("started")).unwrap();
    assert_eq!(started.lines().count(), 2);
    for pid in started.lines() {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        // One that nobody has waited for yet is dead all the same.
        assert!(status.is_empty() || status.contains("State:\tZ"), "{status}");
    }
}

/// A server that answers with these statuses in turn, and what it was asked.
fn server(statuses: &'static [u16]) -> (String, Arc<Mutex<Vec<Call>>>) {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let seen = calls.clone();
    let address = http::serve(move |call| {
        let mut calls = seen.lock().unwrap();
        calls.push(call.clone());
        let status = statuses[(calls.len() - 1).min(statuses.len() - 1)];
        let mut reply = Reply::new(status, format!("you said {:?}", call.header("authorization")));
        reply.headers.push(("location", "/elsewhere".to_string()));
        reply
    });
    (address, calls)
}

#[test]
fn a_webhook_gets_json_and_the_secret() {
    let (address, calls) = server(&[204]);
    let desk = desk("");
    let secret = desk.write("secret", "  T0P-s3cret\n");
    let to = format!("webhook = \"{address}/hooks/T1/abc?thread=7\"\n");
    settings(&desk, &format!("{to}webhook_secret = {:?}", secret.display()));
    assert_eq!(test(&desk, 0).0["deliveries"][0], json!({"to": "notify.webhook", "failure": null}));
    let credentials = desk.write("credentials/webhook", "from-systemd");
    settings(&desk, &format!("{to}webhook_secret = \"webhook\""));
    let mut command = desk.command(&["notify", "--test"]);
    command.env("CREDENTIALS_DIRECTORY", credentials.parent().unwrap()).assert().success();
    let calls = calls.lock().unwrap();
    assert_eq!(calls.len(), 2);
    assert_eq!(calls[0].path, "/hooks/T1/abc?thread=7");
    assert_eq!(calls[0].header("authorization"), Some("Bearer T0P-s3cret"));
    assert_eq!(calls[0].header("content-type"), Some("application/json"));
    assert_eq!(calls[0].json()["reason"], "a test message");
    assert_eq!(calls[1].header("authorization"), Some("Bearer from-systemd"));
}

#[test]
fn a_webhook_is_tried_again_where_that_may_help() {
    for (statuses, code, tries) in
        [(&[503, 200][..], 0, 2), (&[500, 500], 1, 2), (&[404], 1, 1), (&[302], 1, 1)]
    {
        let (address, calls) = server(statuses);
        let desk = desk("");
        let secret = desk.write("secret", "T0P-s3cret");
        let secret = format!("webhook_secret = {:?}", secret.display());
        settings(&desk, &format!("webhook = \"{address}/hooks\"\n{secret}"));
        let (deliveries, error) = test(&desk, code);
        assert_eq!(calls.lock().unwrap().len(), tries, "{statuses:?}");
        assert!(!format!("{deliveries}{error}").contains("T0P"), "{deliveries}{error}");
        if code > 0 {
            let why = format!("it answered with status {}", statuses[0]);
            assert_eq!(deliveries["deliveries"][0]["failure"], why);
        }
    }
    let desk = desk("");
    settings(&desk, &format!("webhook = \"{}/T0P\"", http::nobody()));
    let (deliveries, error) = test(&desk, 1);
    assert!(!format!("{deliveries}{error}").contains("T0P"), "{deliveries}{error}");
}

#[test]
fn nobody_to_tell_is_said() {
    let desk = desk("");
    let (_, error) = desk.run(1, &["notify", "--test"]);
    assert!(error.contains("set `command` or `webhook` in [notify]"), "{error}");
    let (_, error) = desk.run(2, &["notify"]);
    assert!(error.contains("nightschool notify --test"), "{error}");
}

#[test]
fn a_night_by_hand_tells_and_is_not_harmed_by_who_fails() {
    let school = School::counting();
    let path = |name: &str| school.path(name).display().to_string();
    let script =
        format!("cat >> {0:?}; echo >> {0:?}; echo a reason >&2; exit 1", path("messages"));
    fs::write(school.path("hook.sh"), script).unwrap();
    let (address, calls) = server(&[404]);
    let notify = format!(
        "[notify]\ncommand = [\"/bin/sh\", {:?}]\nwebhook = \"{address}/T0P\"\n",
        path("hook.sh")
    );
    fs::write(school.home().join("nightschool.toml"), notify).unwrap();
    let output = school.night().output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said.matches("a message was not delivered").count(), 2, "{said}");
    assert!(said.contains("a reason") && !said.contains("T0P"), "{said}");
    let messages = fs::read_to_string(school.path("messages")).unwrap();
    let told: Vec<Value> =
        messages.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    // Told twice, since it failed; the same to both.
    assert_eq!((told.len(), &told[0]), (2, &told[1]));
    assert_eq!(told[0], calls.lock().unwrap()[0].json());
    let outcome = if report["promoted"] == true { "promoted" } else { "kept" };
    assert_eq!((&told[0]["outcome"], &told[0]["night"]), (&outcome.into(), &1.into()));
    assert_eq!((&told[0]["reason"], &told[0]["schedule"]), (&report["reason"], &Value::Null));

    // Only of what was asked for.
    let only = school.night_with(&["notify.outcomes=[\"failed\"]", "disk.floor_gb=1000000"]);
    school.error(74, only);
    let calls = calls.lock().unwrap();
    let last = calls.last().unwrap().json();
    assert_eq!((calls.len(), &last["outcome"]), (2, &"failed".into()));
    assert!(last["reason"].as_str().unwrap().contains("disk.floor_gb"), "{last}");
}
