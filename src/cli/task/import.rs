//! `nightschool task import`: tasks of another home, questions of a person.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use super::super::Global;
use super::super::Json;
use super::super::Output;
use super::super::output::or_dash;
use super::super::output::shortened;
use super::super::output::table;
use super::super::places;
use crate::archive::Archive;
use crate::clock::SystemClock;
use crate::durable::HomeLock;
use crate::phase::home::Home;
use crate::phase::import;
use crate::phase::import::ImportReport;
use crate::phase::import::ImportSource;

#[derive(Debug, Args)]
#[command(
    before_help = "\
Examples:
  nightschool task import questions.csv
  nightschool task import questions.csv --with-model
  nightschool task import mine      # a folder that `task export --as tasks` wrote
  nightschool --home other task import mine/data/train.jsonl",
    after_help = "\
Questions of your own are rows of .jsonl, .csv or .parquet:
  question   ends with a question mark
  answer     stands in a passage; or `answers`, a list (in CSV with | between), of which one does
  document   optional: id, title or file of the document to look in
  evidence   optional: id of the passage, or words that stand in it
Each goes through the gate's rules; with --with-model also through the model's checks, like the
drafts of a night: the live version must find the answer among other passages, and the base model
must not know it by heart. What they turn away is listed and stored with the reason. Ctrl-C stops
between batches; the same command goes on from there."
)]
pub(in crate::cli) struct ImportArgs {
    /// A file, or the folder of an export
    #[arg(value_name = "FILE")]
    path: PathBuf,
    /// Let the model check questions of your own too, not the rules alone
    #[arg(long)]
    with_model: bool,
    #[command(flatten)]
    json: Json,
}

pub(super) fn run(global: &Global, home: &Home, args: &ImportArgs) -> anyhow::Result<()> {
    let settings = places::settings(global, home, &[], &[])?;
    // Looked at before anything is made, so that a misspelt path leaves no home behind.
    let source = ImportSource::at(&args.path)?;
    let model = match args.with_model {
        true => Some(places::model_context(global)?),
        false => None,
    };
    let _lock = HomeLock::acquire(home.dir())?;
    let archive = Archive::open(&home.archive(), Arc::new(SystemClock))?;
    let report = import::import(home, &archive, &settings, &source, model.as_ref())?;
    Output::new(args.json.json).show(&report, || rendered(&report))
}

fn rendered(report: &ImportReport) -> String {
    let mut text = format!(
        "{} rows read: {} tasks added, {} known before, {} turned away, {} unreadable\n\
         {} documents and {} passages added with them",
        report.rows,
        report.accepted,
        report.known,
        report.rejected.len(),
        report.unreadable.len(),
        report.documents_added,
        report.passages_added,
    );
    if !report.rejected.is_empty() {
        let rows = report.rejected.iter().map(|rejected| {
            vec![
                rejected.row.to_string(),
                rejected.reason.as_str().to_string(),
                shortened(&rejected.answer, 40),
                or_dash(rejected.question.as_ref().map(|question| shortened(question, 80))),
            ]
        });
        text +=
            &format!("\n\nTurned away:\n{}", table(&["row", "reason", "answer", "question"], rows));
    }
    if !report.unreadable.is_empty() {
        let rows = report.unreadable.iter();
        let rows = rows.map(|unreadable| vec![unreadable.row.to_string(), unreadable.why.clone()]);
        text += &format!("\n\nUnreadable:\n{}", table(&["row", "why"], rows));
    }
    text
}
