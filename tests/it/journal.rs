//! What is logged, and where: systemd's journal with fields, or lines of text.

use std::collections::BTreeMap;
use std::fs;
use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nightschool::archive::TaskFilter;
use nightschool::machine;

use crate::cli::Desk;
use crate::night::school::School;

#[test]
fn the_journal_is_told_by_device_and_inode() {
    assert!(machine::is_stream("8:1234", 8, 1234));
    for stream in ["8:1235", "9:1234", "8", "", "8:1234:1", "8:x", " 8:1234"] {
        assert!(!machine::is_stream(stream, 8, 1234), "{stream}");
    }
}

/// What `JOURNAL_STREAM` says of a file.
fn stream(file: &File) -> String {
    let found = file.metadata().unwrap();
    format!("{}:{}", found.dev(), found.ino())
}

#[test]
fn an_error_has_its_priority_where_stderr_is_the_journal_s() {
    let desk = Desk::new();
    let said = |of: &str| {
        let file = File::create(desk.path("stderr")).unwrap();
        let other = File::create(desk.path("other")).unwrap();
        let stream = stream(if of == "stderr" { &file } else { &other });
        let mut command = Command::new(env!("CARGO_BIN_EXE_nightschool"));
        command.arg("--home").arg(desk.path("home")).args(["task", "list"]);
        let status = command.env("JOURNAL_STREAM", stream).stderr(file).status().unwrap();
        assert_eq!(status.code(), Some(3));
        fs::read_to_string(desk.path("stderr")).unwrap()
    };
    assert!(said("stderr").starts_with("<3>error: "), "{}", said("stderr"));
    assert!(said("other").starts_with("error: "), "{}", said("other"));
}

/// The fields of a message as a program sends it to the journal.
fn fields(mut message: &[u8]) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    while let Some(end) = message.iter().position(|byte| *byte == b'\n') {
        let line = String::from_utf8(message[..end].to_vec()).unwrap();
        message = &message[end + 1..];
        if let Some((name, value)) = line.split_once('=') {
            all.insert(name.to_string(), value.to_string());
            continue;
        }
        // The value's length, the value, and a line end.
        let (length, rest) = message.split_first_chunk::<8>().unwrap();
        let length = usize::try_from(u64::from_le_bytes(*length)).unwrap();
        all.insert(line, String::from_utf8(rest[..length].to_vec()).unwrap());
        message = &rest[length + 1..];
    }
    all
}

/// Puts the folder in the place of the journal's, for this process alone.
const INSTEAD: &str = "mount -t tmpfs none /run && mkdir -p /run/systemd/journal &&
    mount --bind \"$0\" /run/systemd/journal && exec \"$@\"";

fn with_journal(dir: &Path) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", INSTEAD]).arg(dir);
    command
}

/// Says nothing on machines that let nobody mount a folder for itself.
#[test]
fn the_journal_gets_fields_and_no_words_of_documents() {
    let school = School::counting();
    let dir = school.path("journal");
    fs::create_dir_all(&dir).unwrap();
    if !with_journal(&dir).arg("true").output().is_ok_and(|output| output.status.success()) {
        return;
    }
    let journal = UnixDatagram::bind(dir.join("socket")).unwrap();
    journal.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let night = school.night_with(&["solve.rounds=1", "verify.enforce=false"]);
    let stderr = File::create(school.path("stderr")).unwrap();
    let mut command = with_journal(&dir);
    command.arg(night.get_program()).args(night.get_args());
    for (name, value) in night.get_envs() {
        command.env(name, value.unwrap());
    }
    command.env("JOURNAL_STREAM", stream(&stderr)).stderr(stderr);
    let mut child = command.stdout(std::process::Stdio::null()).spawn().unwrap();
    let (mut messages, mut buffer) = (Vec::new(), vec![0; 1 << 18]);
    loop {
        // Only behind its end is silence the end of messages.
        let over = child.try_wait().unwrap();
        match journal.recv(&mut buffer) {
            Ok(0) => {}
            Ok(length) => messages.push(fields(&buffer[..length])),
            Err(_) if over.is_some() => break assert!(over.unwrap().success()),
            Err(_) => {}
        }
    }
    assert_eq!(fs::read_to_string(school.path("stderr")).unwrap(), "");
    let of = |text: &str| {
        let mut found = messages.iter().filter(|message| message["MESSAGE"].starts_with(text));
        found.next().unwrap_or_else(|| panic!("no message {text}: {messages:?}"))
    };
    let runner = of("runner");
    assert_eq!((runner["PRIORITY"].as_str(), runner["NIGHTSCHOOL_KV"].as_str()), ("6", "f16"));
    assert_eq!(runner["SYSLOG_IDENTIFIER"], "nightschool");
    assert_eq!(of("verify.enforce = false")["PRIORITY"], "4");
    let archive = school.archive();
    let tasks = archive.tasks(&TaskFilter::default()).unwrap();
    let passages = archive.passages().unwrap();
    let words = tasks.iter().map(|stored| stored.task.question.as_str());
    let words = words.chain(passages.iter().map(|passage| passage.text.as_str()));
    let words = words.chain(passages.iter().map(|one| one.title.as_str()));
    let words: Vec<&str> = words.filter(|words| !words.is_empty()).collect();
    assert!(words.len() > 80, "{}", words.len());
    for message in &messages {
        let said = |value: &String| words.iter().any(|words| value.contains(words));
        assert!(!message.values().any(said), "{message:?}");
    }
}
