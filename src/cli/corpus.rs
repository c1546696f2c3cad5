//! `nightschool corpus`: add documents, look for words in them, list where they came from.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use clap::Subcommand;
use serde_json::json;

use super::Global;
use super::Json;
use super::Output;
use super::errors::UsageError;
use super::output::or_dash;
use super::output::printable;
use super::output::table;
use super::places;
use crate::archive::Archive;
use crate::archive::ArchiveError;
use crate::archive::ArchiveReader;
use crate::archive::FileState;
use crate::clock::SystemClock;
use crate::durable::HomeLock;
use crate::phase::curate;
use crate::phase::home::Home;
use crate::phase::ingest;
use crate::phase::ingest::IngestReport;
use crate::retrieval::Hit;
use crate::retrieval::LexicalIndex;
use crate::retrieval::Retriever;
use crate::task::Split;

#[derive(Debug, Subcommand)]
#[command(before_help = "\
Examples:
  nightschool corpus add ~/documents   # .md, .txt, .rst, .html and .jsonl files
  nightschool corpus search \"who painted the ceiling\" -k 5
  nightschool corpus list")]
pub(super) enum CorpusCommand {
    /// Add files and folders, and read again what changed in those added before
    Add(AddArgs),
    /// Find passages
    Search(SearchArgs),
    /// List the files, with what became of each
    List(ListArgs),
    /// Take out a document, and what was made of it if asked
    Remove(RemoveArgs),
}

impl CorpusCommand {
    /// Whether it only looks at what there is.
    pub(super) fn only_looks(&self) -> bool {
        matches!(self, Self::Search(_) | Self::List(_))
    }
}

#[derive(Debug, Args)]
#[command(
    before_help = "\
Examples:
  nightschool corpus list --documents   # ids
  nightschool corpus remove 3fa94c21b0d95e77 --with-derived",
    after_help = "\
The document stays out when its file is read again. Adapters that learnt from it are named: weights
cannot be unlearnt. Copies and backups made before still hold it."
)]
pub(super) struct RemoveArgs {
    /// The document's id
    document: String,
    /// The drafts, tasks and rollouts, too, that were made of it
    #[arg(long)]
    with_derived: bool,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  nightschool corpus add ~/documents notes.md
  nightschool corpus add              # reads again what changed in what was added before")]
pub(super) struct AddArgs {
    /// Files or folders; none to read again only what was added before
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  nightschool corpus search \"who painted the ceiling\"
  nightschool corpus search \"steam engine\" -k 20 --json")]
pub(super) struct SearchArgs {
    /// Words to look for
    query: String,
    /// How many passages
    #[arg(short, default_value_t = 5, value_name = "N")]
    k: usize,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  nightschool corpus list             # files, and what became of each
  nightschool corpus list --documents --json")]
pub(super) struct ListArgs {
    /// List documents in place of files
    #[arg(long)]
    documents: bool,
    #[command(flatten)]
    json: Json,
}

pub(super) fn run(global: &Global, command: &CorpusCommand) -> anyhow::Result<()> {
    let home = places::home(global)?;
    match command {
        CorpusCommand::Add(args) => add(global, &home, args),
        CorpusCommand::Search(args) => search(&home, args),
        CorpusCommand::List(args) if args.documents => list_documents(&home, args),
        CorpusCommand::List(args) => list_files(&home, args),
        CorpusCommand::Remove(args) => remove(global, &home, args),
    }
}

fn remove(global: &Global, home: &Home, args: &RemoveArgs) -> anyhow::Result<()> {
    let (_lock, archive) = places::writable(global)?;
    let removal = curate::remove_document(home, &archive, &args.document, args.with_derived)?;
    Output::new(args.json.json).show(&removal, || {
        let mut text = format!(
            "{} is out: {} passages, {} drafts, {} tasks, {} rollouts, {} questions of suites\n",
            removal.document_id,
            removal.passages,
            removal.drafts,
            removal.tasks,
            removal.rollouts,
            removal.suite_questions
        );
        if removal.tasks_retired > 0 {
            text += &format!(
                "{} tasks that rest on it stay, out of play; --with-derived takes them out\n",
                removal.tasks_retired
            );
        }
        match removal.versions.as_slice() {
            [] => text + "no adapter was trained on it",
            versions => text + &format!("adapters trained on it: {}", versions.join(", ")),
        }
    })
}

fn add(global: &Global, home: &Home, args: &AddArgs) -> anyhow::Result<()> {
    let settings = places::settings(global, home, &[], &[])?;
    // Looked at before anything is made, so that a misspelt path leaves no home behind.
    for path in &args.paths {
        if let Err(error) = path.metadata() {
            anyhow::bail!("cannot add {}: {error}; check the spelling of the path", path.display());
        }
    }
    if args.paths.is_empty() && !home.archive().exists() {
        let message = "nothing was added before; give files or folders to add";
        return Err(UsageError(message.to_string()).into());
    }
    let _lock = HomeLock::acquire(home.dir())?;
    let archive = Archive::open(&home.archive(), Arc::new(SystemClock))?;
    // A suite of the person's own takes the place of held-out documents.
    let own = settings.heldout.suite.is_some();
    let share = if own { 0.0 } else { settings.heldout.documents };
    let report = ingest::ingest(&archive, &args.paths, share, settings.seed)?;
    ingest::open_index(home, &archive)?;
    Output::new(args.json.json).show(&report, || summary(&report))?;
    if report.passages_active == 0 {
        anyhow::bail!(
            "the corpus is empty: nothing in what was added could be read; .md, .txt, .rst, .html \
             and .jsonl files can"
        );
    }
    Ok(())
}

fn summary(report: &IngestReport) -> String {
    let mut text = format!(
        "{} files read, {} unchanged, {} vanished\n\
         {} documents added, {} retired, {} back\n\
         {} passages added, {} retired, {} back, {} duplicates; {} in the corpus now\n",
        report.files_read,
        report.unchanged,
        report.vanished,
        report.documents_added,
        report.documents_retired,
        report.documents_restored,
        report.passages_added,
        report.passages_retired,
        report.passages_restored,
        report.duplicates,
        report.passages_active,
    );
    if report.tasks_retired + report.tasks_stale + report.tasks_restored > 0 {
        text += &format!(
            "{} tasks set aside with their evidence, {} to be verified again, {} back\n",
            report.tasks_retired, report.tasks_stale, report.tasks_restored
        );
    }
    if !report.skipped.is_empty() {
        let rows = report.skipped.iter().map(|skipped| {
            let place = match skipped.line {
                Some(line) => format!("{}:{line}", skipped.path),
                None => skipped.path.clone(),
            };
            vec![place, skipped.reason.as_str().to_string(), skipped.detail.clone()]
        });
        text += &format!("\nLeft out:\n{}\n", table(&["file", "reason", "detail"], rows));
    }
    text
}

fn search(home: &Home, args: &SearchArgs) -> anyhow::Result<()> {
    let archive = ArchiveReader::open(&home.archive())?;
    // Whoever holds the lock may be building the same index: then one in memory has to do.
    let index = match HomeLock::acquire(home.dir()) {
        Ok(_lock) => ingest::open_index(home, &archive)?,
        Err(_) => LexicalIndex::in_memory(archive.passages()?)?,
    };
    if index.is_empty() {
        let add = places::command_for(home, "corpus add DIR");
        anyhow::bail!("the corpus of {} is empty; add to it with `{add}`", home.dir().display());
    }
    let hits = index.search(&args.query, args.k)?;
    let value = json!({
        "query": args.query,
        "hits": hits.iter().map(|hit| json!({
            "rank": hit.rank,
            "score": hit.score,
            "passage_id": hit.passage.id,
            "document_id": hit.passage.document_id,
            "title": hit.passage.title,
            "ordinal": hit.passage.ordinal,
            "text": hit.passage.text,
        })).collect::<Vec<_>>(),
    });
    Output::new(args.json.json).show(&value, || {
        if hits.is_empty() {
            return "No passage has any of these words.".to_string();
        }
        hits.iter().map(rendered).collect::<Vec<_>>().join("\n\n")
    })
}

fn rendered(hit: &Hit) -> String {
    let passage = &hit.passage;
    let text = printable(&passage.text);
    format!(
        "{}. {}  [{}, score {:.2}]\n{text}",
        hit.rank,
        printable(&passage.title),
        passage.id,
        hit.score
    )
}

fn list_files(home: &Home, args: &ListArgs) -> anyhow::Result<()> {
    let archive = ArchiveReader::open(&home.archive())?;
    let roots = ingest::roots(&archive)?;
    let files = archive.source_files()?;
    let passages = archive.passages()?.len();
    let value = json!({ "roots": roots, "files": files, "passages": passages });
    Output::new(args.json.json).show(&value, || {
        let name = |state| match state {
            FileState::Read => "read",
            FileState::Skipped => "skipped",
            FileState::Vanished => "vanished",
        };
        let rows = files.iter().map(|file| {
            let reason = file.reason.clone();
            vec![file.path.clone(), name(file.state).to_string(), or_dash(reason)]
        });
        let places =
            roots.iter().map(|root| vec![root.label.clone(), root.path.display().to_string()]);
        format!(
            "{}\n\n{}\n\n{passages} passages in the corpus",
            table(&["file", "state", "reason"], rows),
            table(&["added", "from"], places)
        )
    })
}

fn list_documents(home: &Home, args: &ListArgs) -> anyhow::Result<()> {
    let archive: Result<ArchiveReader, ArchiveError> = ArchiveReader::open(&home.archive());
    let documents = archive?.documents()?;
    Output::new(args.json.json).show(&json!({ "documents": documents }), || {
        let rows = documents.iter().map(|document| {
            let side = match document.split {
                Split::Train => "train",
                Split::Heldout => "held out",
            };
            let state = if document.retired { "retired" } else { "present" };
            let (id, title) = (document.id.clone(), document.title.clone());
            vec![id, title, side.to_string(), state.to_string()]
        });
        table(&["document", "title", "side", "state"], rows)
    })
}
