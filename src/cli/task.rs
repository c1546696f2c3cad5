//! `nightschool task`: the questions that were made, where each came from, how they are solved.

mod diff;
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
    Retire(review::DecideArgs),
    /// Put a task back into play
    Restore(review::DecideArgs),
    /// What a task was made from, and what was made of it
    Lineage(lineage::LineageArgs),
    /// What changed between two nights
    Diff(diff::DiffArgs),
    /// Totals, and what became of the drafts
    Stats(stats::StatsArgs),
}

pub(super) fn run(global: &Global, command: &TaskCommand) -> anyhow::Result<()> {
    match command {
        TaskCommand::Review(args) => return review::review(global, args),
        TaskCommand::Retire(args) => return review::decide(global, args, Decision::Retire),
        TaskCommand::Restore(args) => return review::decide(global, args, Decision::Restore),
        _ => {}
    }
    let archive = ArchiveReader::open(&places::home(global)?.archive())?;
    match command {
        TaskCommand::Review(_) | TaskCommand::Retire(_) | TaskCommand::Restore(_) => Ok(()),
        TaskCommand::List(args) => list::run(&archive, args),
        TaskCommand::Search(args) => list::search(&archive, args),
        TaskCommand::Show(args) => show::run(&archive, args),
        TaskCommand::Lineage(args) => lineage::run(&archive, args),
        TaskCommand::Diff(args) => diff::run(&archive, args),
        TaskCommand::Stats(args) => stats::run(&archive, args),
    }
}
