//! A message by a program of the person's own.

use std::io::Read as _;
use std::io::Seek as _;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Child;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use super::Failure;
use super::Message;

/// How often the program is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// How much of what it says about a failure is read, in bytes.
const SAID_BYTES: u64 = 2000;
/// What it gets of this process's environment: no keys and no sockets.
const PASSED_ON: [&str; 9] =
    ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "TZ", "TMPDIR"];

/// Says why a program cannot be run, as far as that can be seen.
pub(super) fn check(program: &str) -> Result<(), String> {
    let file = std::fs::metadata(program).map_err(|error| error.to_string())?;
    match file.is_file() && file.permissions().mode() & 0o111 != 0 {
        true => Ok(()),
        false => Err("it is no program".to_string()),
    }
}

/// Runs the program with the message as JSON on its standard input. It must end within `timeout`;
/// else it is killed, with all that it started.
pub(super) fn run(
    program: &str,
    arguments: &[String],
    message: &Message,
    timeout: Duration,
) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::new(format!("{program}: {error}"));
    // A file: a pipe that nobody empties would hold the program up.
    let mut said = tempfile::tempfile().map_err(failed)?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear().process_group(0);
    let passed_on = PASSED_ON.iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
    command.envs(passed_on).envs(variables(message));
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(said.try_clone().map_err(failed)?);
    let mut child = command.spawn().map_err(failed)?;
    let told = serde_json::to_vec(message).unwrap_or_default();
    if let Some(mut input) = child.stdin.take() {
        // It fits into a pipe. Who does not read it has the environment.
        let _ = input.write_all(&told);
    }
    match wait(&mut child, timeout).map_err(failed)? {
        Some(status) if status.success() => Ok(()),
        Some(status) => {
            let mut text = Vec::new();
            // What it said is a help, and no more.
            let _ = said.rewind().and_then(|()| said.take(SAID_BYTES).read_to_end(&mut text));
            let text = String::from_utf8_lossy(&text);
            let colon = if text.trim().is_empty() { "" } else { ": " };
            Err(Failure::new(format!("{program} ended with {status}{colon}{text}")))
        }
        None => {
            let seconds = timeout.as_secs();
            Err(Failure::new(format!("{program} was killed after {seconds} s")))
        }
    }
}

fn variables(message: &Message) -> Vec<(&'static str, String)> {
    let night = message.night.map(|night| night.to_string());
    let all = [
        ("NIGHTSCHOOL_OUTCOME", Some(message.outcome().to_string())),
        ("NIGHTSCHOOL_TEXT", Some(message.text.clone())),
        ("NIGHTSCHOOL_HOME", Some(message.home.clone())),
        ("NIGHTSCHOOL_SCHEDULE", message.schedule.clone()),
        ("NIGHTSCHOOL_NIGHT", night),
    ];
    all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

/// Waits for the child's end; none where it had to be killed.
fn wait(child: &mut Child, timeout: Duration) -> std::io::Result<Option<ExitStatus>> {
    let end = Instant::now() + timeout;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= end {
            break;
        }
        std::thread::sleep(LOOK);
    }
    if let Ok(group) = i32::try_from(child.id()) {
        // SAFETY: a signal to the group that this child leads; it was not waited for, so that the
        // number is no other group's.
        unsafe { libc::kill(-group, libc::SIGKILL) };
    }
    child.wait()?;
    Ok(None)
}
