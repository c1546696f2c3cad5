//! `nightschool suite`: frozen questions that versions are measured on.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use clap::Subcommand;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use super::Global;
use super::Json;
use super::Output;
use super::listing::Listing;
use super::listing::ListingArgs;
use super::output::table;
use super::places;
use crate::archive::Archive;
use crate::archive::ArchiveReader;
use crate::clock::SystemClock;
use crate::durable::HomeLock;
use crate::export;
use crate::phase::suite;
use crate::phase::suite::MODEL_MADE;
use crate::phase::suite::MODEL_MADE_SEALED;
use crate::phase::suite::SuiteReport;

#[derive(Debug, Subcommand)]
#[command(before_help = "\
Examples:
  nightschool suite import exam questions.csv
  nightschool night --now --set heldout.suite=exam   # exam decides what is promoted
  nightschool eval --suite exam --adapter live
  nightschool suite show exam")]
pub(super) enum SuiteCommand {
    /// Freeze questions of your own under a name
    Import(ImportArgs),
    /// List suites
    List(ListArgs),
    /// Show the questions of a suite
    Show(ShowArgs),
}

impl SuiteCommand {
    /// Whether it only looks at what there is.
    pub(super) fn only_looks(&self) -> bool {
        !matches!(self, Self::Import(_))
    }
}

#[derive(Debug, Args)]
#[command(
    before_help = "\
Examples:
  nightschool suite import exam questions.csv
  nightschool suite import exam questions.jsonl --json",
    after_help = "\
Questions are rows of .jsonl, .csv or .parquet:
  question   the question
  answer     the right answer; or `answers`, a list (in CSV with | between), of which each is right
  id         optional: what tells it from the others
  title      optional: the document that it is about, by which intervals are resampled
A suite never changes under its name, and no task that asks the same is trained on."
)]
pub(super) struct ImportArgs {
    /// What to call it: letters, digits, - and _
    #[arg(value_parser = suite_name)]
    name: String,
    /// The file with the questions
    file: PathBuf,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  nightschool suite list
  nightschool suite list --json")]
pub(super) struct ListArgs {
    #[command(flatten)]
    listing: ListingArgs,
}

#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  nightschool suite show exam
  nightschool suite show exam --output tsv")]
pub(super) struct ShowArgs {
    /// What it is called
    name: String,
    #[command(flatten)]
    listing: ListingArgs,
}

/// A name that looks like no file and is not the program's own.
fn suite_name(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
    if text.is_empty() || !text.chars().all(plain) {
        return Err("a name has letters, digits, - and _ only".to_string());
    }
    if [MODEL_MADE, MODEL_MADE_SEALED].contains(&text) {
        return Err("that is what a suite is called that a home makes by itself".to_string());
    }
    Ok(text.to_string())
}

pub(super) fn run(global: &Global, command: &SuiteCommand) -> anyhow::Result<()> {
    let home = places::home(global)?;
    match command {
        SuiteCommand::Import(args) => {
            // Looked at before anything is made, so that a misspelt path leaves no home behind.
            drop(export::rows_of(&args.file)?);
            let _lock = HomeLock::acquire(home.dir())?;
            let archive = Archive::open(&home.archive(), Arc::new(SystemClock))?;
            let report = suite::import(&archive, &args.name, &args.file)?;
            Output::new(args.json.json).show(&report, || rendered(&report))
        }
        SuiteCommand::List(args) => list(&ArchiveReader::open(&home.archive())?, args),
        SuiteCommand::Show(args) => show(&ArchiveReader::open(&home.archive())?, args),
    }
}

fn rendered(report: &SuiteReport) -> String {
    let SuiteReport { name, questions, .. } = report;
    let mut text = match report.known {
        true => format!("The suite {name} was there with the same {questions} questions"),
        false => format!("The suite {name} has {questions} questions and never changes now"),
    };
    if report.tasks_left_out > 0 {
        text += &format!(
            "\n{} tasks ask the same as a suite: they are not trained on",
            report.tasks_left_out
        );
    }
    if !report.unreadable.is_empty() {
        let rows = report.unreadable.iter();
        let rows = rows.map(|unreadable| vec![unreadable.row.to_string(), unreadable.why.clone()]);
        text += &format!("\n\nUnreadable:\n{}", table(&["row", "why"], rows));
    }
    text
}

fn list(archive: &ArchiveReader, args: &ListArgs) -> anyhow::Result<()> {
    let suites = archive.suites()?;
    let rows = suites.iter().map(serde_json::to_value).collect::<Result<_, _>>()?;
    args.listing.show(Listing {
        name: "suites",
        rows,
        beside: Map::new(),
        columns: &["name", "origin", "questions", "evaluations", "frozen_at", "id"],
        shown: &["name", "origin", "questions", "evaluations", "frozen_at"],
        note: None,
    })
}

fn show(archive: &ArchiveReader, args: &ShowArgs) -> anyhow::Result<()> {
    let suite = archive.suite_named(&args.name)?;
    let rows = suite.items.iter().map(serde_json::to_value).collect::<Result<_, _>>()?;
    let members = json!({ "id": suite.id, "name": suite.name, "origin": suite.origin });
    args.listing.show(Listing {
        name: "questions",
        rows,
        beside: match members {
            Value::Object(members) => members,
            _ => Map::new(),
        },
        columns: &["question_id", "question", "answers", "source_document"],
        shown: &["question_id", "question", "answers"],
        note: None,
    })
}
