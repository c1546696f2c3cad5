//! `nightschool task export`: datasets for other programs.

use std::path::PathBuf;

use clap::Args;
use clap::ValueEnum;

use super::super::Global;
use super::super::Json;
use super::super::Output;
use super::super::errors::UsageError;
use super::super::places;
use super::list::FilterArgs;
use crate::archive::ArchiveReader;
use crate::archive::TaskFilter;
use crate::export;
use crate::export::ExportOptions;
use crate::export::ExportSummary;
use crate::export::Format;
use crate::export::Shape;
use crate::export::Shown;
use crate::export::Sides;
use crate::export::Target;
use crate::export::Texts;
use crate::export::Turns;
use crate::phase::home::Home;
use crate::phase::open_model;
use crate::protocol::Prompts;

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ShapeArg {
    /// `messages`, for TRL's SFTTrainer
    Sft,
    /// `prompt`, `chosen` and `rejected`, for TRL's DPOTrainer
    Preference,
    /// `prompt` and `answer`, for TRL's GRPOTrainer
    RlTrl,
    /// `data_source`, `prompt`, `reward_model` and so on, for verl
    RlVerl,
    /// The tasks with evidence and verdicts, to import again
    Tasks,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum FormatArg {
    Jsonl,
    Parquet,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum TargetArg {
    /// The best rollout's
    Rollout,
    /// The task's own
    Reference,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum TurnsArg {
    /// All of it: what the model wrote, and what search answered
    All,
    /// Its answer alone
    Answer,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PassagesArg {
    /// What search found; the evidence where nobody searched
    Retrieved,
    /// The task's evidence
    Evidence,
    /// None: the question alone
    None,
}

#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  nightschool task export sft --as sft --format parquet
  nightschool task export prompts --as rl-verl --format parquet --band medium
  nightschool task export pairs --as preference --format jsonl --margin 0.5
  nightschool task export mine --as tasks --format jsonl --origin person")]
pub(in crate::cli) struct ExportArgs {
    /// The folder to write: data/, and README.md, the dataset card
    dir: PathBuf,
    /// What a row is for
    #[arg(long = "as", value_name = "SHAPE")]
    shape: ShapeArg,
    /// How rows are stored
    #[arg(long, default_value = "parquet")]
    format: FormatArg,
    /// Replace an export that is there
    #[arg(long)]
    force: bool,
    /// Share of the training documents that goes to the validation split
    #[arg(long, default_value_t = 0.1, value_name = "SHARE", value_parser = share)]
    validation: f64,
    /// Licence for the card, by its identifier on the Hugging Face hub
    #[arg(long, default_value = "other", value_name = "ID")]
    license: String,
    /// Date for the card; left out unless given, so that the same export has the same bytes
    #[arg(long, value_name = "TEXT")]
    date: Option<String>,
    /// sft: whose answer ends the conversation
    #[arg(long, default_value = "rollout")]
    target: TargetArg,
    /// sft: the reward from which a rollout's answer is taken
    #[arg(long, default_value_t = 1.0, value_name = "REWARD", value_parser = share)]
    min_reward: f64,
    /// sft: what is shown of a rollout in which the model searched by itself
    #[arg(long, default_value = "all", value_name = "WHICH")]
    turns: TurnsArg,
    /// preference: how far apart the two rewards are at least
    #[arg(long, default_value_t = 0.0, value_name = "REWARD", value_parser = share)]
    margin: f64,
    /// Which passages prompts show
    #[arg(long, default_value = "retrieved", value_name = "WHICH")]
    passages: PassagesArg,
    /// The template of prompts: one that the program or the home has
    #[arg(long, default_value = "bare", value_name = "NAME")]
    prompt: String,
    /// rl-verl: the source by which verl chooses the reward; for one that begins with searchR1_,
    /// prompts ask for answer tags and the ground truth is a list
    #[arg(long, default_value = "nightschool", value_name = "NAME")]
    data_source: String,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    json: Json,
}

/// A number in [0, 1].
fn share(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "it must be a number".to_string())?;
    let inside = (0.0..=1.0).contains(&number);
    if inside { Ok(number) } else { Err("it must lie between 0 and 1".to_string()) }
}

pub(super) fn run(
    global: &Global,
    home: &Home,
    archive: &ArchiveReader,
    args: &ExportArgs,
) -> anyhow::Result<()> {
    if args.dir.file_name().is_none() {
        let why = "the folder of an export needs a name of its own, such as `dataset`";
        return Err(UsageError(why.to_string()).into());
    }
    let prompts = Prompts::with_folder(&home.prompts())?;
    let options = options(args);
    let tokenizer = || {
        let settings = places::settings(global, home, &[], &[])?;
        open_model::tokenizer(archive, &settings, &places::cache()?)
    };
    let texts = Texts { prompts: &prompts, tokenizer: &tokenizer };
    let summary = export::export(archive, &texts, &options, &args.dir, args.force)?;
    Output::new(args.json.json).show(&summary, || rendered(&summary))
}

fn options(args: &ExportArgs) -> ExportOptions {
    let filter = args.filter.filter();
    ExportOptions {
        shape: match args.shape {
            ShapeArg::Sft => Shape::Sft,
            ShapeArg::Preference => Shape::Preference,
            ShapeArg::RlTrl => Shape::RlTrl,
            ShapeArg::RlVerl => Shape::RlVerl,
            ShapeArg::Tasks => Shape::Tasks,
        },
        format: match args.format {
            FormatArg::Jsonl => Format::Jsonl,
            FormatArg::Parquet => Format::Parquet,
        },
        filter_words: words(&filter),
        filter,
        sides: Sides { validation: args.validation },
        target: match args.target {
            TargetArg::Rollout => Target::Rollout,
            TargetArg::Reference => Target::Reference,
        },
        turns: match args.turns {
            TurnsArg::All => Turns::All,
            TurnsArg::Answer => Turns::Answer,
        },
        min_reward: args.min_reward as f32,
        margin: args.margin as f32,
        shown: match args.passages {
            PassagesArg::Retrieved => Shown::Retrieved,
            PassagesArg::Evidence => Shown::Evidence,
            PassagesArg::None => Shown::Nothing,
        },
        prompt: args.prompt.clone(),
        data_source: args.data_source.clone(),
        license: args.license.clone(),
        date: args.date.clone(),
    }
}

/// The filter as it was given.
fn words(filter: &TaskFilter) -> String {
    let text = |value: &Option<String>| value.clone();
    let all = [
        ("origin", filter.origin.map(|it| it.as_str().to_string())),
        ("split", filter.split.map(|it| it.as_str().to_string())),
        ("night", filter.night.map(|it| it.to_string())),
        ("since", filter.since.map(|it| it.to_string())),
        ("state", filter.state.map(|it| it.as_str().to_string())),
        ("kind", filter.kind.map(|it| it.as_str().to_string())),
        ("hops", filter.hops.map(|it| it.to_string())),
        ("band", filter.band.map(|it| it.as_str().to_string())),
        ("document", text(&filter.document)),
        ("topic", text(&filter.topic)),
        ("proposed-by", text(&filter.proposed_by)),
        ("played-by", text(&filter.played_by)),
        ("trained-into", text(&filter.trained_into)),
        ("text", text(&filter.text)),
    ];
    let given = all.into_iter().filter_map(|(name, value)| Some(format!("--{name} {}", value?)));
    given.collect::<Vec<_>>().join(" ")
}

fn rendered(summary: &ExportSummary) -> String {
    let rows = summary.rows.iter().map(|(side, rows)| format!("{rows} {}", side.as_str()));
    let mut text = format!(
        "Wrote {}: {} rows from {} tasks, as {} in {} ({})",
        summary.path.display(),
        summary.rows.values().sum::<u64>(),
        summary.tasks,
        summary.shape.as_str(),
        summary.format.as_str(),
        rows.collect::<Vec<_>>().join(", ")
    );
    for (why, n) in &summary.left_out {
        text += &format!("\nLeft out: {n} tasks {why}");
    }
    text
}
