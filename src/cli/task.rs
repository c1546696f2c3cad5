//! `nightschool task`: the questions that were made, where each came from, how they are solved.

mod show;

use clap::Args;
use clap::Subcommand;
use clap::ValueEnum;
use serde_json::json;

use super::Global;
use super::Json;
use super::Output;
use super::output::shortened;
use super::output::table;
use super::places;
use crate::archive::ArchiveReader;
use crate::archive::StoredTask;
use crate::archive::TaskFilter;
use crate::archive::TaskOrder;
use crate::archive::TaskState;
use crate::task::Origin;
use crate::task::Split;

#[derive(Debug, Subcommand)]
pub(super) enum TaskCommand {
    /// List tasks
    List(ListArgs),
    /// Show one task with its lineage: passages, draft, verdicts, rollouts, model versions
    Show(show::ShowArgs),
    /// Totals, and what became of the drafts
    Stats(StatsArgs),
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum OriginName {
    Code,
    Model,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum SplitName {
    Train,
    Heldout,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum StateName {
    Active,
    Retired,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum OrderName {
    Id,
    Newest,
    Hardest,
    MostPlayed,
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Only those written by rules (code) or by the language model (model)
    #[arg(long)]
    origin: Option<OriginName>,
    /// Only those on this side of the split
    #[arg(long)]
    split: Option<SplitName>,
    /// Only those of this night
    #[arg(long, value_name = "N")]
    night: Option<u32>,
    /// Only those that are played, or not any more
    #[arg(long)]
    state: Option<StateName>,
    /// In which order
    #[arg(long, default_value = "newest")]
    order: OrderName,
    /// At most so many; 0 for all
    #[arg(long, default_value_t = 50, value_name = "N")]
    limit: u32,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Args)]
pub(super) struct StatsArgs {
    #[command(flatten)]
    json: Json,
}

impl ListArgs {
    fn filter(&self) -> TaskFilter {
        TaskFilter {
            origin: self.origin.map(|origin| match origin {
                OriginName::Code => Origin::Code,
                OriginName::Model => Origin::Model,
            }),
            split: self.split.map(|split| match split {
                SplitName::Train => Split::Train,
                SplitName::Heldout => Split::Heldout,
            }),
            night: self.night,
            state: self.state.map(|state| match state {
                StateName::Active => TaskState::Active,
                StateName::Retired => TaskState::Retired,
            }),
            limit: (self.limit > 0).then_some(self.limit),
            order: match self.order {
                OrderName::Id => TaskOrder::Id,
                OrderName::Newest => TaskOrder::Newest,
                OrderName::Hardest => TaskOrder::Hardest,
                OrderName::MostPlayed => TaskOrder::MostPlayed,
            },
        }
    }
}

pub(super) fn run(global: &Global, command: &TaskCommand) -> anyhow::Result<()> {
    let archive = ArchiveReader::open(&places::home(global)?.archive())?;
    match command {
        TaskCommand::List(args) => list(&archive, args),
        TaskCommand::Show(args) => show::run(&archive, args),
        TaskCommand::Stats(args) => stats(&archive, args),
    }
}

fn list(archive: &ArchiveReader, args: &ListArgs) -> anyhow::Result<()> {
    let filter = args.filter();
    let tasks = archive.tasks(&filter)?;
    let all = archive.tasks(&TaskFilter { limit: None, ..filter })?.len();
    Output::new(args.json.json).show(&json!({ "total": all, "tasks": tasks }), || {
        if tasks.is_empty() {
            return "No such tasks.".to_string();
        }
        let header = ["task", "origin", "split", "night", "solved", "answer", "question"];
        let mut text = table(&header, tasks.iter().map(row));
        if tasks.len() < all {
            text += &format!("\n\n{} of {all}; --limit 0 lists all", tasks.len());
        }
        text
    })
}

fn row(stored: &StoredTask) -> Vec<String> {
    let task = &stored.task;
    vec![
        task.id.clone(),
        task.origin.as_str().to_string(),
        task.split.as_str().to_string(),
        task.night.to_string(),
        match stored.state {
            TaskState::Active => format!("{}/{}", stored.solved, stored.attempts),
            TaskState::Retired => "retired".to_string(),
        },
        shortened(&task.answer, 30),
        shortened(&task.question, 120),
    ]
}

fn stats(archive: &ArchiveReader, args: &StatsArgs) -> anyhow::Result<()> {
    let groups = archive.task_stats()?;
    let gate = archive.gate_counts(None)?;
    Output::new(args.json.json).show(&json!({ "tasks": groups, "drafts": gate }), || {
        let rows = groups.iter().map(|group| {
            let name = format!("{}, {}", group.origin.as_str(), group.split.as_str());
            let counts = [
                group.active,
                group.retired,
                group.untried,
                group.never_solved,
                group.sometimes_solved,
                group.always_solved,
            ];
            let mut row = vec![name];
            row.extend(counts.iter().map(u64::to_string));
            row.push(format!("{}/{}", group.solved, group.attempts));
            row
        });
        let header =
            ["tasks", "active", "retired", "untried", "never", "sometimes", "always", "solved"];
        let tasks = table(&header, rows);
        let rows = gate.iter().map(|(origin, counts)| {
            let reasons: Vec<String> =
                counts.rejections.iter().map(|(why, n)| format!("{} {n}", why.as_str())).collect();
            let (drafts, accepted) = (counts.drafts.to_string(), counts.accepted.to_string());
            vec![origin.as_str().to_string(), drafts, accepted, reasons.join(", ")]
        });
        let drafts = table(&["drafts by", "made", "accepted", "turned away"], rows);
        format!("{tasks}\n\n{drafts}")
    })
}
