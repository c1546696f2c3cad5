//! What changed between two nights.

use clap::Args;

use super::super::Json;
use super::super::Output;
use super::super::model::versions;
use super::super::output::table;
use crate::archive::ArchiveReader;

#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  nightschool task diff 11 12")]
pub(in crate::cli) struct DiffArgs {
    /// The number of a night
    before: u32,
    /// That of another
    after: u32,
    #[command(flatten)]
    json: Json,
}

pub(super) fn run(archive: &ArchiveReader, args: &DiffArgs) -> anyhow::Result<()> {
    let difference = archive.night_difference(args.before, args.after)?;
    Output::new(args.json.json).show(&difference, || {
        let rows = difference.nights.iter().map(|night| {
            let reasons: Vec<String> =
                night.rejections.iter().map(|(why, n)| format!("{why} {n}")).collect();
            vec![
                night.night.to_string(),
                night.drafts.to_string(),
                night.accepted.to_string(),
                reasons.join(", "),
                format!("{}/{}", night.solved, night.rollouts),
                night.train_steps.to_string(),
                night.promotion.as_ref().map_or("–".into(), |(promoted, reason)| {
                    format!("{}, {reason}", if *promoted { "promoted" } else { "kept" })
                }),
            ]
        });
        let header = ["night", "drafts", "accepted", "turned away", "solved", "steps", "candidate"];
        format!(
            "{}\n\n{} tasks were added from one to the other\n\n{}",
            table(&header, rows),
            difference.tasks_added,
            versions::plays(&difference.plays)
        )
    })
}
