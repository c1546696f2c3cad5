//! `nightschool archive`: the file itself.

mod backup;
mod check;
mod query;

use clap::Subcommand;

use super::Global;

#[derive(Debug, Subcommand)]
#[command(before_help = "\
Examples:
  nightschool archive check
  nightschool archive backup --keep 7
  nightschool archive sql \"SELECT band, count(*) FROM task_view GROUP BY band\"")]
pub(super) enum ArchiveCommand {
    /// Look for damage, and say what it affects
    Check(check::CheckArgs),
    /// Copy archive, adapters and settings as they are now
    Backup(backup::BackupArgs),
    /// Put a backup in the place of what the home has
    Restore(backup::RestoreArgs),
    /// Give back the space of what was deleted
    Vacuum(backup::VacuumArgs),
    /// Run a query of your own; it can only read
    Sql(query::SqlArgs),
    /// Show tables, indexes and views
    Schema(query::SchemaArgs),
}

impl ArchiveCommand {
    /// Whether it only looks at what there is.
    pub(super) fn only_looks(&self) -> bool {
        matches!(self, Self::Sql(_) | Self::Schema(_))
    }
}

pub(super) fn run(global: &Global, command: &ArchiveCommand) -> anyhow::Result<()> {
    match command {
        ArchiveCommand::Check(args) => check::run(global, args),
        ArchiveCommand::Backup(args) => backup::back_up(global, args),
        ArchiveCommand::Restore(args) => backup::restore(global, args),
        ArchiveCommand::Vacuum(args) => backup::vacuum(global, args),
        ArchiveCommand::Sql(args) => query::sql(global, args),
        ArchiveCommand::Schema(args) => query::schema(global, args),
    }
}
