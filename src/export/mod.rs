//! Export: the archive's tasks and rollouts as datasets that other programs train on.
//!
//! A folder in the layout of the Hugging Face hub: `data/train.jsonl` or `.parquet`, `validation`,
//! `test`, and a dataset card that says what is in it and how it was made. The same archive and
//! options give the same bytes. Splits are made by document ([`Sides`]): no row shows words of a
//! document that a stricter split holds. The shape `tasks` is the lossless one, which
//! `nightschool task import` reads again.

mod card;
mod columnar;
mod feature;
mod rows;
mod sides;
mod sink;
mod table;
mod task_row;

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use serde::Serialize;

use crate::archive::ArchiveError;
use crate::archive::ArchiveReader;
use crate::archive::TaskFilter;
use crate::archive::TaskOrder;
use crate::archive::TaskState;
use crate::durable::DurableError;
use crate::durable::PendingDirectory;
use crate::durable::SEAL_FILE;
use crate::durable::write_file;
use crate::model::tokenizer::Tokenizer;
use crate::protocol::PromptError;
use crate::protocol::Prompts;

pub use self::sides::Side;
pub use self::sides::Sides;
pub use self::table::files_of;
pub use self::table::rows_of;
pub use self::task_row::EvidenceRow;
pub use self::task_row::TaskRow;
pub use self::task_row::VerdictRow;

use self::rows::Made;
use self::rows::RowMaker;
use self::sink::Sink;

/// Tasks read at a time.
const PAGE: u32 = 256;

/// What a row is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// Conversations to imitate: TRL's `SFTTrainer`.
    Sft,
    /// A better and a worse answer to the same prompt: TRL's `DPOTrainer` and its kin.
    Preference,
    /// Prompts with their answers: TRL's `GRPOTrainer`.
    RlTrl,
    /// Prompts with their answers: verl's `RLHFDataset`.
    RlVerl,
    /// The tasks themselves, with evidence and verdicts; can be imported again.
    Tasks,
}

impl Shape {
    /// The name on the command line and in the card.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sft => "sft",
            Self::Preference => "preference",
            Self::RlTrl => "rl-trl",
            Self::RlVerl => "rl-verl",
            Self::Tasks => "tasks",
        }
    }
}

/// How rows are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// An object on each line.
    Jsonl,
    /// Apache Parquet, compressed with Snappy.
    Parquet,
}

impl Format {
    /// The name, which is the ending of the files, too.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Jsonl => "jsonl",
            Self::Parquet => "parquet",
        }
    }
}

/// Whose answer a conversation ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The best rollout's.
    Rollout,
    /// The task's own.
    Reference,
}

/// What of a rollout a conversation shows in which the model wrote more than once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turns {
    /// All of it: what the model wrote, and what search answered.
    All,
    /// Its answer, behind a prompt like every other.
    Answer,
}

/// Which passages a prompt shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// Those that search found in the rollout; the evidence where there was no rollout.
    Retrieved,
    /// The task's evidence.
    Evidence,
    /// None: the question alone, for models that search by themselves.
    Nothing,
}

/// What to export and how.
#[derive(Debug, Clone, PartialEq)]
pub struct ExportOptions {
    /// What a row is for.
    pub shape: Shape,
    /// How rows are stored.
    pub format: Format,
    /// Which tasks. Without a state, all of them for [`Shape::Tasks`] and the active ones for
    /// every other shape.
    pub filter: TaskFilter,
    /// The filter in words, for the card; empty for all tasks.
    pub filter_words: String,
    /// How documents are divided.
    pub sides: Sides,
    /// Whose answer [`Shape::Sft`] shows.
    pub target: Target,
    /// How much of a longer rollout it shows.
    pub turns: Turns,
    /// Reward from which a rollout is shown as right, in [0, 1].
    pub min_reward: f32,
    /// By how much the better answer's reward must exceed the worse one's, in [0, 1]; always by
    /// something.
    pub margin: f32,
    /// Which passages prompts show.
    pub shown: Shown,
    /// The template of the prompts, by name.
    pub prompt: String,
    /// What [`Shape::RlVerl`] names as its source, by which verl chooses the reward.
    pub data_source: String,
    /// The licence in the card, by its identifier on the hub.
    pub license: String,
    /// When it was made, for the card; left out unless given, so that the same export is the same.
    pub date: Option<String>,
}

/// What makes text of tasks and rollouts.
pub struct Texts<'a> {
    /// The templates of prompts.
    pub prompts: &'a Prompts,
    /// Opens the tokenizer of the model that wrote the rollouts. Called where a conversation of
    /// several turns is shown.
    pub tokenizer: &'a dyn Fn() -> anyhow::Result<Tokenizer>,
}

/// What was exported.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExportSummary {
    /// The folder.
    pub path: PathBuf,
    /// What a row is for.
    #[serde(rename = "as")]
    pub shape: Shape,
    /// How rows are stored.
    pub format: Format,
    /// Tasks that the filters let through.
    pub tasks: u64,
    /// Rows by split; those without rows have no file.
    pub rows: BTreeMap<Side, u64>,
    /// Tasks that gave no row, by reason.
    pub left_out: BTreeMap<&'static str, u64>,
    /// Model versions that wrote the questions, with the number of rows of each.
    pub proposed_by: BTreeMap<String, u64>,
    /// Model versions whose answers are shown, with the number of rows of each.
    pub answered_by: BTreeMap<String, u64>,
    /// Hash of the folder's contents.
    pub hash: String,
}

/// Why there is no export.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The folder holds something.
    #[error("{} is not empty; name another folder, or replace it with --force", path.display())]
    Occupied {
        /// The folder.
        path: PathBuf,
    },
    /// The folder holds something that no export wrote.
    #[error(
        "{} is not a folder that `task export` wrote, so it is not replaced; name another folder, \
         or remove it yourself",
        path.display()
    )]
    NotAnExport {
        /// What is there.
        path: PathBuf,
    },
    /// There is nothing to export.
    #[error("none of {tasks} tasks gives a row ({why}); nothing was written")]
    Nothing {
        /// Tasks that the filters let through.
        tasks: u64,
        /// Why the others were left out.
        why: String,
    },
    /// A file of the export could not be written.
    #[error("could not write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The archive could not be read.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The tokenizer could not be opened.
    #[error(
        "conversations cannot be read without the tokenizer of the model: {why}; with \
             `--turns answer` none is needed"
    )]
    Tokenizer {
        /// The reason.
        why: String,
    },
    /// The prompt failed.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// The folder could not be put in place.
    #[error(transparent)]
    Durable(#[from] DurableError),
}

/// Writes an export to the folder `dir`, which appears whole or not at all. With `replace` an
/// earlier export there is replaced.
///
/// # Errors
/// [`ExportError`]; nothing is then written.
pub fn export(
    archive: &ArchiveReader,
    texts: &Texts<'_>,
    options: &ExportOptions,
    dir: &Path,
    replace: bool,
) -> Result<ExportSummary, ExportError> {
    check_free(dir, replace)?;
    let pending = PendingDirectory::create(dir)?;
    let mut sink = Sink::new(pending.path(), options);
    let mut summary = ExportSummary {
        path: dir.to_path_buf(),
        shape: options.shape,
        format: options.format,
        tasks: 0,
        rows: BTreeMap::new(),
        left_out: BTreeMap::new(),
        proposed_by: BTreeMap::new(),
        answered_by: BTreeMap::new(),
        hash: String::new(),
    };
    let maker = RowMaker { archive, texts, options, tokenizer: OnceCell::new() };
    let mut filter = TaskFilter {
        limit: Some(PAGE),
        order: TaskOrder::Id,
        after: None,
        ..options.filter.clone()
    };
    let mut measured = HashSet::new();
    if options.shape != Shape::Tasks {
        filter.state.get_or_insert(TaskState::Active);
        measured = archive.tasks_of_suites()?;
    }
    loop {
        let (records, next) = archive.task_records(&filter)?;
        for record in &records {
            summary.tasks += 1;
            if measured.contains(&record.task.task.id) {
                *summary.left_out.entry("that a suite asks, too").or_default() += 1;
                continue;
            }
            match maker.make(record, |side| sink.count(side))? {
                Made::Row { side, value, answered_by } => {
                    sink.push(side, &value)?;
                    *summary.proposed_by.entry(record.task.proposed_by.clone()).or_default() += 1;
                    for version in answered_by {
                        *summary.answered_by.entry(version).or_default() += 1;
                    }
                }
                Made::Nothing(why) => *summary.left_out.entry(why).or_default() += 1,
            }
        }
        filter.after = next;
        if next.is_none() {
            break;
        }
    }
    let written = sink.close()?;
    summary.rows = written.rows;
    if summary.rows.is_empty() {
        let reasons = summary.left_out.iter().map(|(why, n)| format!("{n} {why}"));
        let why = reasons.collect::<Vec<_>>().join(", ");
        let why = if why.is_empty() { "no task passes the filters".to_string() } else { why };
        return Err(ExportError::Nothing { tasks: summary.tasks, why });
    }
    let card = card::card(options, &summary, &written.bytes);
    write_file(&pending.path().join("README.md"), card.as_bytes())?;
    summary.hash = pending.seal()?.content_hash();
    Ok(summary)
}

/// Refuses to replace what is not to be replaced.
fn check_free(dir: &Path, replace: bool) -> Result<(), ExportError> {
    let path = dir.to_path_buf();
    if !dir.exists() {
        return Ok(());
    }
    // What cannot be listed is not empty.
    let empty = std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none());
    match (empty, replace) {
        (true, _) => Ok(()),
        (false, false) => Err(ExportError::Occupied { path }),
        (false, true) if dir.join(SEAL_FILE).is_file() && dir.join("data").is_dir() => Ok(()),
        (false, true) => Err(ExportError::NotAnExport { path }),
    }
}
