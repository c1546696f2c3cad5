//! Lists of tasks, and finding tasks by their words.

use clap::Args;
use clap::ValueEnum;
use jiff::Span;
use jiff::Timestamp;
use serde_json::Map;
use serde_json::Value;

use super::super::errors::UsageError;
use super::super::listing::Listing;
use super::super::listing::ListingArgs;
use crate::archive::ArchiveReader;
use crate::archive::Band;
use crate::archive::Cursor;
use crate::archive::StoredTask;
use crate::archive::TaskFilter;
use crate::archive::TaskOrder;
use crate::archive::TaskState;
use crate::task::AnswerKind;
use crate::task::Origin;
use crate::task::Rejection;
use crate::task::Split;

/// What a task can be listed with.
const COLUMNS: &[&str] = &[
    "id",
    "origin",
    "question",
    "answer",
    "kind",
    "evidence",
    "split",
    "night",
    "document_id",
    "topic",
    "proposed_by",
    "played_by",
    "state",
    "state_reason",
    "attempts",
    "solved",
    "band",
];
const SHOWN: &[&str] =
    &["id", "origin", "night", "state", "band", "solved", "attempts", "answer", "question"];
const DRAFT_COLUMNS: &[&str] =
    &["id", "origin", "night", "proposed_by", "rejection", "answer", "question"];

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Sort {
    Newest,
    Oldest,
    Hardest,
}

/// The names of a closed set, for `--help` and for its errors.
pub(super) fn one_of<T: Copy>(
    text: &str,
    all: &[T],
    name: impl Fn(T) -> &'static str,
) -> Result<T, String> {
    let names = || all.iter().map(|one| name(*one)).collect::<Vec<_>>().join(", ");
    let found = all.iter().find(|one| name(**one) == text);
    found.copied().ok_or_else(|| format!("it must be one of {}", names()))
}

#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  nightschool task list --band never --sort newest
  nightschool task list --text \"eiffel tower\" --state active
  nightschool task list --night 12 --output tsv --columns id,answer,question
  nightschool task list --rejected leak --night 12")]
pub(in crate::cli) struct ListArgs {
    /// Drafts that the gate turned away in place of tasks; for one reason, or all
    #[arg(long, value_name = "REASON", num_args = 0..=1, default_missing_value = "any",
          value_parser = rejection)]
    rejected: Option<Rejected>,
    /// In which order
    #[arg(long, default_value = "newest")]
    sort: Sort,
    /// At most so many; 0 for all
    #[arg(long, default_value_t = 50, value_name = "N")]
    limit: u32,
    /// Go on behind another page: `next` of its JSON
    #[arg(long, value_name = "CURSOR")]
    after: Option<Cursor>,
    #[command(flatten)]
    listing: ListingArgs,
    #[command(flatten)]
    filter: FilterArgs,
}

#[derive(Debug, Clone, Copy)]
struct Rejected(Option<Rejection>);

fn rejection(text: &str) -> Result<Rejected, String> {
    match text {
        "any" => Ok(Rejected(None)),
        text => Ok(Rejected(Some(one_of(text, &Rejection::ALL, Rejection::as_str)?))),
    }
}

/// Which tasks.
#[derive(Debug, Args)]
#[command(next_help_heading = "Filters")]
pub(in crate::cli) struct FilterArgs {
    /// Written by rules (code), by the language model (model) or by a person (person)
    #[arg(long, value_parser = |text: &str| one_of(text, &Origin::ALL, Origin::as_str))]
    origin: Option<Origin>,
    /// On this side of the split: train, heldout
    #[arg(long, value_parser = |text: &str| one_of(text, &Split::ALL, Split::as_str))]
    split: Option<Split>,
    /// Accepted in this night
    #[arg(long, value_name = "N")]
    night: Option<u32>,
    /// Accepted in nights since this time (2026-01-31T22:00:00Z) or age (36h, 7d, 2w)
    #[arg(long, value_name = "WHEN", value_parser = since)]
    since: Option<Timestamp>,
    /// Played (active), waiting to be verified again (stale), or not played any more (retired)
    #[arg(long, value_parser = |text: &str| one_of(text, &TaskState::ALL, TaskState::as_str))]
    state: Option<TaskState>,
    /// Whose answer is a date, number, name or title
    #[arg(long, value_parser = |text: &str| one_of(text, &AnswerKind::ALL, AnswerKind::as_str))]
    kind: Option<AnswerKind>,
    /// That combine so many passages
    #[arg(long, value_name = "N")]
    hops: Option<u32>,
    /// As hard as this: untried, always (solved), easy, medium, hard, never
    #[arg(long, value_parser = |text: &str| one_of(text, &Band::ALL, Band::as_str))]
    band: Option<Band>,
    /// Whose first passage stands in the document of this id
    #[arg(long, value_name = "ID")]
    document: Option<String>,
    /// Whose first passage stands in a document of this title
    #[arg(long, value_name = "TITLE")]
    topic: Option<String>,
    /// That this model version wrote
    #[arg(long, value_name = "VERSION")]
    proposed_by: Option<String>,
    /// Whose latest rollout is this model version's
    #[arg(long, value_name = "VERSION")]
    played_by: Option<String>,
    /// That this model version, or one that it came from, was trained on
    #[arg(long, value_name = "VERSION")]
    trained_into: Option<String>,
    /// With all these words in question or answer
    #[arg(long, value_name = "WORDS")]
    text: Option<String>,
}

/// A time, or one so long ago.
fn since(text: &str) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    let wrong = || format!("`{text}` is neither a time (2026-01-31T22:00:00Z) nor an age (7d)");
    let span: Span = text.parse().map_err(|_| wrong())?;
    // Without a calendar at hand a day has 24 hours.
    let long = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).map_err(|_| wrong())?;
    Timestamp::now().checked_sub(long.abs()).map_err(|_| wrong())
}

impl FilterArgs {
    pub(in crate::cli) fn filter(&self) -> TaskFilter {
        TaskFilter {
            origin: self.origin,
            split: self.split,
            night: self.night,
            since: self.since,
            state: self.state,
            kind: self.kind,
            hops: self.hops,
            band: self.band,
            document: self.document.clone(),
            topic: self.topic.clone(),
            proposed_by: self.proposed_by.clone(),
            played_by: self.played_by.clone(),
            trained_into: self.trained_into.clone(),
            text: self.text.clone(),
            ..TaskFilter::default()
        }
    }
}

pub(super) fn run(archive: &ArchiveReader, args: &ListArgs) -> anyhow::Result<()> {
    if let Some(Rejected(rejection)) = args.rejected {
        return rejected(archive, args, rejection);
    }
    let page = archive.task_page(&TaskFilter {
        limit: (args.limit > 0).then_some(args.limit),
        order: match args.sort {
            Sort::Newest => TaskOrder::Newest,
            Sort::Oldest => TaskOrder::Oldest,
            Sort::Hardest => TaskOrder::Hardest,
        },
        after: args.after,
        ..args.filter.filter()
    })?;
    let next = page.next.map(|cursor| cursor.to_string());
    let mut beside = Map::new();
    beside.insert("next".into(), next.clone().into());
    args.listing.show(Listing {
        name: "tasks",
        rows: rows(&page.tasks)?,
        beside,
        columns: COLUMNS,
        shown: SHOWN,
        note: next.map(|next| format!("There are more: --after {next}")),
    })
}

fn rows(tasks: &[StoredTask]) -> serde_json::Result<Vec<Value>> {
    tasks.iter().map(serde_json::to_value).collect()
}

fn rejected(
    archive: &ArchiveReader,
    args: &ListArgs,
    rejection: Option<Rejection>,
) -> anyhow::Result<()> {
    let night = args.filter.night;
    if args.filter.filter() != (TaskFilter { night, ..TaskFilter::default() }) {
        let why = "--rejected lists drafts, which can be chosen by reason and --night only";
        return Err(UsageError(why.into()).into());
    }
    let limit = (args.limit > 0).then_some(args.limit);
    let drafts = archive.rejected_drafts(rejection, night, limit)?;
    args.listing.show(Listing {
        name: "drafts",
        rows: drafts.iter().map(serde_json::to_value).collect::<Result<_, _>>()?,
        beside: Map::new(),
        columns: DRAFT_COLUMNS,
        shown: DRAFT_COLUMNS,
        note: None,
    })
}

#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  nightschool task search \"eiffel tower\"
  nightschool task search condenser steam --limit 5 --output tsv")]
pub(in crate::cli) struct SearchArgs {
    /// The words
    #[arg(required = true)]
    words: Vec<String>,
    /// At most so many
    #[arg(long, default_value_t = 20, value_name = "N")]
    limit: u32,
    #[command(flatten)]
    listing: ListingArgs,
}

pub(super) fn search(archive: &ArchiveReader, args: &SearchArgs) -> anyhow::Result<()> {
    let tasks = archive.search_tasks(&args.words.join(" "), args.limit)?;
    args.listing.show(Listing {
        name: "tasks",
        rows: rows(&tasks)?,
        beside: Map::new(),
        columns: COLUMNS,
        shown: &["id", "band", "answer", "question"],
        note: None,
    })
}
