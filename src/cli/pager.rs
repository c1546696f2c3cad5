//! Text that is longer than the screen goes through a pager.

use std::io::ErrorKind;
use std::io::IsTerminal as _;
use std::io::Write as _;
use std::process::Command;
use std::process::Stdio;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use console::Term;

use super::errors::OutputError;

/// Whether the command that runs may page.
static ALLOWED: AtomicBool = AtomicBool::new(false);

/// Lets this run page what it prints for people.
pub(super) fn allow() {
    ALLOWED.store(true, Ordering::Relaxed);
}

/// Shows the text in a pager where one is wanted, and says whether it did.
pub(super) fn show(text: &str) -> Result<bool, OutputError> {
    let Some(mut pager) = wanted(text) else { return Ok(false) };
    let mut child = match pager.stdin(Stdio::piped()).spawn() {
        Ok(child) => child,
        Err(error) => {
            tracing::debug!("{:?} does not start: {error}", pager.get_program());
            return Ok(false);
        }
    };
    leave_ctrl_c_to_the_pager();
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| writeln!(stdin, "{text}"));
    child.wait()?;
    match written {
        // Who quits a pager has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(true),
        written => Ok(written.map(|()| true)?),
    }
}

/// The pager for this text: none where it fits the screen, and where there is no screen.
fn wanted(text: &str) -> Option<Command> {
    if !ALLOWED.load(Ordering::Relaxed) || !std::io::stdout().is_terminal() {
        return None;
    }
    let (rows, columns) = Term::stdout().size_checked()?;
    let columns = usize::from(columns).max(1);
    let height = |line| console::measure_text_width(line).div_ceil(columns).max(1);
    // One row is the shell's.
    if text.lines().map(height).sum::<usize>() < usize::from(rows) {
        return None;
    }
    let named = std::env::var("NIGHTSCHOOL_PAGER").or_else(|_| std::env::var("PAGER"));
    let words = shlex::split(&named.unwrap_or_else(|_| "less".to_string()))?;
    let (program, arguments) = words.split_first().filter(|(program, _)| *program != "cat")?;
    let mut pager = Command::new(program);
    pager.args(arguments);
    if std::env::var_os("LESS").is_none() {
        // Ends at once if all fits, keeps colours, leaves the text on the screen.
        pager.env("LESS", "FRX");
    }
    Some(pager)
}

/// While a pager runs, Ctrl-C is its own; this program waits for it to end.
fn leave_ctrl_c_to_the_pager() {
    // SAFETY: the signal is ignored: no handler is run.
    unsafe { libc::signal(libc::SIGINT, libc::SIG_IGN) };
}
