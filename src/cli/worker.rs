//! `nightschool worker`: has the model for a night; started by this program alone.

use std::ffi::OsString;

use super::Global;
use crate::worker;

/// The command line of a worker that logs as this process does.
pub(super) fn command_line(global: &Global) -> anyhow::Result<Vec<OsString>> {
    let mut line = vec![std::env::current_exe()?.into_os_string()];
    if let Some(filter) = &global.log {
        line.extend(["--log".into(), filter.into()]);
    }
    if global.verbose {
        line.push("--verbose".into());
    }
    line.push("worker".into());
    Ok(line)
}

pub(super) fn run() -> anyhow::Result<()> {
    // Ctrl-C reaches all processes of a terminal: what is to be done about it, the night decides.
    #[cfg(unix)]
    // SAFETY: ignoring a signal runs no code of this program.
    unsafe {
        libc::signal(libc::SIGINT, libc::SIG_IGN)
    };
    worker::prefer_to_be_killed();
    worker::serve(std::io::stdin(), std::io::stdout())
}
