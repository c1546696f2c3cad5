//! `nightschool archive`: the file itself.

mod query;

use clap::Subcommand;

use super::Global;

#[derive(Debug, Subcommand)]
pub(super) enum ArchiveCommand {
    /// Run a query of your own; it can only read
    Sql(query::SqlArgs),
    /// Show tables, indexes and views
    Schema(query::SchemaArgs),
}

pub(super) fn run(global: &Global, command: &ArchiveCommand) -> anyhow::Result<()> {
    match command {
        ArchiveCommand::Sql(args) => query::sql(global, args),
        ArchiveCommand::Schema(args) => query::schema(global, args),
    }
}
