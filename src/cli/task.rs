//! `nightschool task`: the questions that were made, where each came from, how they are solved.

mod diff;
mod export;
mod import;
mod lineage;
mod list;
mod review;
mod show;
mod stats;

use clap::Subcommand;

use super::Global;
use super::places;
use crate::archive::ArchiveReader;
use crate::archive::Decision;

#[derive(Debug, Subcommand)]
#[command(before_help = "\
Examples:
  nightschool task list --band never --sort newest
  nightschool task show ID            # passage, draft, verdicts, rollouts, model versions
  nightschool task review             # accept, reject or edit tasks one by one
  nightschool task export sft --as sft --format parquet   # a dataset for TRL
  nightschool task import questions.csv                   # questions of your own")]
pub(super) enum TaskCommand {
    /// List tasks
    List(list::ListArgs),
    /// Find tasks by their words, the best match first
    Search(list::SearchArgs),
    /// Show one task with its lineage: passages, draft, verdicts, rollouts, model versions
    Show(show::ShowArgs),
    /// Look at tasks one by one and accept, reject or edit them
    Review(review::ReviewArgs),
    /// Take a task out of play
    #[command(before_help = "\
Examples:
  nightschool task retire 3fa9 --note \"the passage is out of date\"")]
    Retire(review::DecideArgs),
    /// Put a task back into play
    #[command(before_help = "\
Examples:
  nightschool task list --state retired
  nightschool task restore 3fa9")]
    Restore(review::DecideArgs),
    /// What a task was made from, and what was made of it
    Lineage(lineage::LineageArgs),
    /// What changed between two nights
    Diff(diff::DiffArgs),
    /// Totals, and what became of the drafts
    Stats(stats::StatsArgs),
    /// Write tasks and answers as a dataset that TRL, verl and `datasets` read
    Export(export::ExportArgs),
    /// Take in tasks of another home, or questions of your own
    Import(import::ImportArgs),
}

impl TaskCommand {
    /// Whether it only looks at what there is.
    pub(super) fn only_looks(&self) -> bool {
        matches!(
            self,
            Self::List(_)
                | Self::Search(_)
                | Self::Show(_)
                | Self::Lineage(_)
                | Self::Diff(_)
                | Self::Stats(_)
        )
    }
}

pub(super) fn run(global: &Global, command: &TaskCommand) -> anyhow::Result<()> {
    let home = places::home(global)?;
    let archive = || ArchiveReader::open(&home.archive());
    match command {
        TaskCommand::List(args) => list::run(&archive()?, args),
        TaskCommand::Search(args) => list::search(&archive()?, args),
        TaskCommand::Show(args) => show::run(&archive()?, args),
        TaskCommand::Review(args) => review::review(global, args),
        TaskCommand::Retire(args) => review::decide(global, args, Decision::Retire),
        TaskCommand::Restore(args) => review::decide(global, args, Decision::Restore),
        TaskCommand::Lineage(args) => lineage::run(&archive()?, args),
        TaskCommand::Diff(args) => diff::run(&archive()?, args),
        TaskCommand::Stats(args) => stats::run(&archive()?, args),
        TaskCommand::Export(args) => export::run(global, &home, &archive()?, args),
        TaskCommand::Import(args) => import::run(global, &home, args),
    }
}
