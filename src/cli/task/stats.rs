//! Totals over tasks, and what became of the drafts.

use clap::Args;
use serde_json::json;

use super::super::Json;
use super::super::Output;
use super::super::output::table;
use super::list::one_of;
use crate::archive::ArchiveReader;
use crate::archive::TaskGrouping;

#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  nightschool task stats
  nightschool task stats --by band
  nightschool task stats --by topic --json")]
pub(in crate::cli) struct StatsArgs {
    /// What tasks are grouped by: origin, night, kind, hops, band, state, document, topic,
    /// proposed-by, played-by
    #[arg(long, default_value = "origin",
          value_parser = |text: &str| one_of(text, &TaskGrouping::ALL, TaskGrouping::as_str))]
    by: TaskGrouping,
    #[command(flatten)]
    json: Json,
}

pub(super) fn run(archive: &ArchiveReader, args: &StatsArgs) -> anyhow::Result<()> {
    let groups = archive.task_stats(args.by)?;
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
