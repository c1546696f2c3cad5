//! Totals over tasks, and what became of the drafts.

use clap::Args;
use clap::ValueEnum;
use serde_json::json;

use super::super::Json;
use super::super::Output;
use super::super::output::table;
use crate::archive::ArchiveReader;
use crate::archive::TaskGrouping;

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Grouping {
    Origin,
    Night,
    Kind,
    Hops,
    Band,
    State,
    Document,
    Topic,
    ProposedBy,
    PlayedBy,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct StatsArgs {
    /// What tasks are grouped by
    #[arg(long, default_value = "origin")]
    by: Grouping,
    #[command(flatten)]
    json: Json,
}

impl Grouping {
    fn grouping(self) -> TaskGrouping {
        match self {
            Self::Origin => TaskGrouping::Origin,
            Self::Night => TaskGrouping::Night,
            Self::Kind => TaskGrouping::Kind,
            Self::Hops => TaskGrouping::Hops,
            Self::Band => TaskGrouping::Band,
            Self::State => TaskGrouping::State,
            Self::Document => TaskGrouping::Document,
            Self::Topic => TaskGrouping::Topic,
            Self::ProposedBy => TaskGrouping::ProposedBy,
            Self::PlayedBy => TaskGrouping::PlayedBy,
        }
    }
}

pub(super) fn run(archive: &ArchiveReader, args: &StatsArgs) -> anyhow::Result<()> {
    let groups = archive.task_stats(args.by.grouping())?;
    let gate = archive.gate_counts(None)?;
    Output::new(args.json.json).show(&json!({ "tasks": groups, "drafts": gate }), || {
        let rows = groups.iter().map(|group| {
            let counts = [
                group.active,
                group.stale,
                group.retired,
                group.untried,
                group.never_solved,
                group.sometimes_solved,
                group.always_solved,
            ];
            let mut row = vec![group.group.clone()];
            row.extend(counts.iter().map(u64::to_string));
            row.push(format!("{}/{}", group.solved, group.attempts));
            row
        });
        let header = [
            "tasks",
            "active",
            "stale",
            "retired",
            "untried",
            "never",
            "sometimes",
            "always",
            "solved",
        ];
        let tasks = table(&header, rows);
        let rows = gate.iter().filter(|(_, counts)| counts.drafts > 0).map(|(origin, counts)| {
            let reasons: Vec<String> =
                counts.rejections.iter().map(|(why, n)| format!("{} {n}", why.as_str())).collect();
            let (drafts, accepted) = (counts.drafts.to_string(), counts.accepted.to_string());
            vec![origin.as_str().to_string(), drafts, accepted, reasons.join(", ")]
        });
        let drafts = table(&["drafts by", "made", "accepted", "turned away"], rows);
        format!("{tasks}\n\n{drafts}")
    })
}
