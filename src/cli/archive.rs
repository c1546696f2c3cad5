//! `nightschool archive`: the file itself.

mod care;
mod query;

use clap::Subcommand;

use super::Global;

#[derive(Debug, Subcommand)]
pub(super) enum ArchiveCommand {
    /// Look for damage, and say what it affects
    Check(care::CheckArgs),
    /// Copy archive, adapters and settings as they are now
    Backup(care::BackupArgs),
    /// Put a backup in the place of what the home has
    Restore(care::RestoreArgs),
    /// Give back the space of what was deleted
    Vacuum(care::VacuumArgs),
    /// Run a query of your own; it can only read
    Sql(query::SqlArgs),
    /// Show tables, indexes and views
    Schema(query::SchemaArgs),
}

pub(super) fn run(global: &Global, command: &ArchiveCommand) -> anyhow::Result<()> {
    match command {
        ArchiveCommand::Check(args) => care::check(global, args),
        ArchiveCommand::Backup(args) => care::back_up(global, args),
        ArchiveCommand::Restore(args) => care::restore(global, args),
        ArchiveCommand::Vacuum(args) => care::vacuum(global, args),
        ArchiveCommand::Sql(args) => query::sql(global, args),
        ArchiveCommand::Schema(args) => query::schema(global, args),
    }
}
