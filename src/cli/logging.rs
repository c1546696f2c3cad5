//! Log lines: to systemd's journal with their fields where stderr goes there, else on stderr.

use std::io::IsTerminal;

use anstream::AutoStream;
use anstream::ColorChoice;
use tracing_journald::Priority;
use tracing_journald::PriorityMappings;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::Global;
use super::errors::UsageError;
use crate::machine;

/// Libraries whose everyday messages would bury this program's.
const QUIET: &str = "tantivy=warn,ureq=warn,rustls=warn,rusqlite_migration=warn";

/// What the names of fields begin with in the journal: `NIGHTSCHOOL_SCHEDULE=overnight`.
const FIELD_PREFIX: &str = "NIGHTSCHOOL";

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
    // Without the journal's own socket, its stream takes lines of text.
    if machine::has_journal()
        && let Ok(journal) = tracing_journald::layer()
    {
        let priorities = PriorityMappings {
            error: Priority::Error,
            warn: Priority::Warning,
            info: Priority::Informational,
            debug: Priority::Debug,
            trace: Priority::Debug,
        };
        let journal = journal
            .with_syslog_identifier("nightschool".to_string())
            .with_field_prefix(Some(FIELD_PREFIX.to_string()))
            .with_priority_mappings(priorities);
        tracing_subscriber::registry().with(filter).with(journal).init();
        return Ok(());
    }
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
