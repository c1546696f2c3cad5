//! `nightschool run`: the nights that were, and what each did.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use clap::Subcommand;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use super::Global;
use super::Json;
use super::Output;
use super::daemon;
use super::errors::NoSuchObject;
use super::listing::Listing;
use super::listing::ListingArgs;
use super::output::print;
use super::places;
use crate::archive::ArchiveReader;
use crate::archive::Night;
use crate::daemon::control::Request;
use crate::durable;
use crate::phase::page;
use crate::phase::report::Report;

const COLUMNS: &[&str] = &[
    "number",
    "state",
    "started_at",
    "finished_at",
    "drafts",
    "accepted",
    "rollouts",
    "solved",
    "train_steps",
    "promoted",
    "reason",
    "seed",
];
const SHOWN: &[&str] =
    &["number", "state", "started_at", "drafts", "accepted", "rollouts", "solved", "promoted"];

#[derive(Debug, Subcommand)]
#[command(before_help = "\
Examples:
  nightschool run list
  nightschool run show                # the report of the last night
  nightschool run show 12 --json
  nightschool run report --to night.html
  nightschool run pause")]
pub(super) enum RunCommand {
    /// List the nights, the latest first
    List(ListArgs),
    /// Show one night: its report, or how far it is
    Show(ShowArgs),
    /// Write the report of a night as a page for the browser
    Report(ReportArgs),
    /// Have the daemon stop the night under way; it goes on the next time
    Stop(ControlArgs),
    /// Have the daemon begin no night until it is told to go on
    Pause(ControlArgs),
    /// Have the daemon begin nights again
    Resume(ControlArgs),
}

#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  nightschool run list
  nightschool run list --output tsv --columns number,accepted,promoted")]
pub(super) struct ListArgs {
    /// At most so many; 0 for all
    #[arg(long, default_value_t = 30, value_name = "N")]
    limit: usize,
    #[command(flatten)]
    listing: ListingArgs,
}

#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  nightschool run show                # the last night
  nightschool run show 12 --json")]
pub(super) struct ShowArgs {
    /// Its number [default: the latest]
    night: Option<u32>,
    #[command(flatten)]
    json: Json,
}

/// What is asked of the daemon.
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  nightschool run pause                # nothing begins
  nightschool run stop                 # what is under way ends at a safe point
  nightschool run resume")]
pub(super) struct ControlArgs {
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  nightschool run report > night.html
  nightschool run report 12 --to night-12.html")]
pub(super) struct ReportArgs {
    /// Its number [default: the latest that is over]
    night: Option<u32>,
    /// File to write [default: standard output]
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
}

pub(super) fn run(global: &Global, command: &RunCommand) -> anyhow::Result<()> {
    let home = places::home(global)?;
    let archive = || ArchiveReader::open(&home.archive());
    match command {
        RunCommand::List(args) => list(&archive()?, args),
        RunCommand::Show(args) => show(&archive()?, args),
        RunCommand::Report(args) => report(&archive()?, args),
        RunCommand::Stop(args) => daemon::ask(&home, &Request::Stop, args.json),
        RunCommand::Pause(args) => daemon::ask(&home, &Request::Pause, args.json),
        RunCommand::Resume(args) => daemon::ask(&home, &Request::Resume, args.json),
    }
}

fn list(archive: &ArchiveReader, args: &ListArgs) -> anyhow::Result<()> {
    let mut nights = archive.nights()?;
    nights.reverse();
    if args.limit > 0 {
        nights.truncate(args.limit);
    }
    let rows = nights.iter().map(|night| listed(archive, night));
    args.listing.show(Listing {
        name: "nights",
        rows: rows.collect::<Result<_, _>>()?,
        beside: Map::new(),
        columns: COLUMNS,
        shown: SHOWN,
        note: None,
    })
}

fn listed(archive: &ArchiveReader, night: &Night) -> anyhow::Result<Value> {
    let summary = archive.night_summary(night.number)?;
    Ok(json!({
        "number": night.number,
        "state": night.state,
        "started_at": night.started_at,
        "finished_at": night.finished_at,
        "drafts": summary.drafts,
        "accepted": summary.accepted,
        "rollouts": summary.rollouts,
        "solved": summary.solved,
        "train_steps": summary.train_steps,
        "promoted": summary.promotion.as_ref().map(|(promoted, _)| promoted),
        "reason": summary.promotion.as_ref().map(|(_, reason)| reason),
        "seed": night.seed,
    }))
}

/// The night of that number, or the latest of those that `counts`.
fn find(
    archive: &ArchiveReader,
    number: Option<u32>,
    counts: impl Fn(&Night) -> bool,
) -> anyhow::Result<Night> {
    let mut nights = archive.nights()?.into_iter();
    let night = match number {
        Some(number) => nights.find(|night| night.number == number),
        None => nights.rfind(counts),
    };
    night.ok_or_else(|| {
        let which = number.map_or("no night yet".into(), |number| format!("no night {number}"));
        NoSuchObject(format!("the archive has {which}")).into()
    })
}

fn report(archive: &ArchiveReader, args: &ReportArgs) -> anyhow::Result<()> {
    let night = find(archive, args.night, |night| night.report.is_some())?;
    let page = page::render(archive, &night)
        .with_context(|| format!("cannot make a page of night {}", night.number))?;
    match &args.to {
        Some(file) => Ok(durable::write_file(file, page.as_bytes())?),
        None => print(page.trim_end()),
    }
}

fn show(archive: &ArchiveReader, args: &ShowArgs) -> anyhow::Result<()> {
    let night = &find(archive, args.night, |_| true)?;
    let mut value = listed(archive, night)?;
    value["settings"] = night.settings.clone();
    value["report"] = night.report.clone().unwrap_or_default();
    Output::new(args.json.json).show(&value, || match &night.report {
        // A report of another version of this program is shown as it is.
        Some(report) => match serde_json::from_value::<Report>(report.clone()) {
            Ok(report) => report.render(),
            Err(_) => format!("{report:#}"),
        },
        None => format!(
            "Night {} began {:.0} and has not ended: {} drafts, {} accepted, {} rollouts, {} steps",
            night.number,
            night.started_at,
            value["drafts"],
            value["accepted"],
            value["rollouts"],
            value["train_steps"]
        ),
    })
}
