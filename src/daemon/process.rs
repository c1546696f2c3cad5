//! A night's process: a child of this program that owns the home and does the night's work. A
//! crash of it costs a unit of work and never the daemon.

use std::path::Path;
use std::process::ExitStatus;
use std::process::Stdio;

use anyhow::Context as _;
use tokio::process::Child;
use tokio::process::Command;

use super::plan::Ended;

/// Exit statuses of this program, as `cli::errors` has them.
const NO_SPACE: i32 = 74;
const BUSY: i32 = 75;
const CONFIG: i32 = 78;
const USAGE: i32 = 2;
const INTERRUPTED: i32 = 130;

/// A night's process.
pub(super) struct NightProcess {
    child: Child,
    asked: bool,
}

impl NightProcess {
    /// Starts a night in `home` with the settings of a schedule's file.
    ///
    /// # Errors
    /// When no process can be started.
    pub(super) fn start(program: &Path, home: &Path, schedule: &Path) -> anyhow::Result<Self> {
        let mut command = Command::new(program);
        command.arg("--home").arg(home).args(["night", "--now", "--schedule"]).arg(schedule);
        // Its log goes where the daemon's goes; its report stands in the archive. It must not tell
        // systemd anything in the daemon's name.
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC").kill_on_drop(true);
        #[cfg(target_os = "linux")]
        stop_with_parent(&mut command);
        let child = command.spawn().context("cannot start the night's process")?;
        Ok(Self { child, asked: false })
    }

    /// Its process id, while it runs.
    pub(super) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Asks it to stop at the next safe point; a second time, to stop at once.
    pub(super) fn stop(&mut self) {
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            let signal = if self.asked { libc::SIGKILL } else { libc::SIGTERM };
            self.asked = true;
            // SAFETY: a signal to a child that was not waited for: the id is no other process's.
            unsafe { libc::kill(pid, signal) };
        }
    }

    /// Whether it was asked to stop.
    pub(super) fn is_asked(&self) -> bool {
        self.asked
    }

    /// Waits for its end. May be dropped and called again.
    pub(super) async fn ended(&mut self) -> Ended {
        match self.child.wait().await {
            Ok(status) => named(status, self.asked),
            Err(error) => Ended::Failed(format!("its process cannot be waited for: {error}")),
        }
    }
}

/// A night without its daemon would hold the home against the next one: the system asks it to stop
/// when the daemon is gone, however that ended.
#[cfg(target_os = "linux")]
fn stop_with_parent(command: &mut Command) {
    // SAFETY: between fork and exec, prctl alone is called, which allocates and locks nothing.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
}

fn named(status: ExitStatus, asked: bool) -> Ended {
    match status.code() {
        Some(0) => Ended::Done,
        Some(INTERRUPTED) => Ended::Stopped,
        _ if asked => Ended::Stopped,
        Some(BUSY) => Ended::Failed("another process uses the home".to_string()),
        Some(NO_SPACE) => Ended::Failed("the disk has too little room".to_string()),
        Some(code @ (CONFIG | USAGE)) => {
            Ended::Refused(format!("its process ended with status {code}; its log says why"))
        }
        Some(code) => {
            Ended::Failed(format!("its process ended with status {code}; its log says why"))
        }
        None => Ended::Failed(format!("its process was killed: {status}")),
    }
}
