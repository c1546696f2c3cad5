//! Log lines, on stderr.

use std::io::IsTerminal;

use anstream::AutoStream;
use anstream::ColorChoice;
use tracing_subscriber::EnvFilter;

use super::Global;
use super::errors::UsageError;

/// Libraries whose everyday messages would bury this program's.
const QUIET: &str = "tantivy=warn,ureq=warn,rustls=warn,rusqlite_migration=warn";

/// Starts logging: as `--log` says, else `-v`, else `NIGHTSCHOOL_LOG`. Without any of them phases
/// are told of where no progress bar shows them.
///
/// # Errors
/// When the filter cannot be read.
pub(super) fn start(global: &Global) -> anyhow::Result<()> {
    let terminal = std::io::stderr().is_terminal();
    let variable = std::env::var("NIGHTSCHOOL_LOG").ok().filter(|filter| !filter.is_empty());
    let chosen = match &global.log {
        Some(filter) => Some(filter.clone()),
        None if global.verbose => Some("debug".to_string()),
        None => variable,
    };
    let level = chosen.unwrap_or_else(|| if terminal { "warn" } else { "info" }.to_string());
    let filter = EnvFilter::try_new(format!("{QUIET},{level}")).map_err(|error| {
        UsageError(format!("the log filter `{level}` cannot be read: {error}; try `debug`"))
    })?;
    // One decision for errors, log lines and progress bars, by NO_COLOR, CLICOLOR_FORCE and so on.
    let colours = AutoStream::choice(&std::io::stderr()) != ColorChoice::Never;
    console::set_colors_enabled_stderr(colours);
    tracing_subscriber::fmt()
        .compact()
        .with_target(false)
        .with_ansi(colours)
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    Ok(())
}
