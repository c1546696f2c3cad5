//! Ctrl-C: the first stops at the next safe point, the second at once.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use anyhow::Context;

use super::errors::Exit;

/// Returns a flag that is set when the person or the system asks the program to stop.
///
/// # Errors
/// When the system does not let signals be handled.
pub(super) fn install() -> anyhow::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let shared = flag.clone();
    ctrlc::set_handler(move || {
        if shared.swap(true, Ordering::SeqCst) {
            std::process::exit(i32::from(Exit::Interrupted.code()));
        }
        // A closed stderr must not end the night's orderly stop.
        let _ = writeln!(
            std::io::stderr(),
            "stopping: the piece of work under way is dropped, all before it is kept; the same \
             command goes on from there (Ctrl-C again stops at once)"
        );
    })
    .context("cannot listen for Ctrl-C")?;
    Ok(flag)
}
