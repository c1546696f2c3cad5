//! `nightschool eval`: a model on a file of questions, without a home, or on a suite of one.

use std::path::Path;
use std::path::PathBuf;

use clap::Args;

use super::Global;
use super::Json;
use super::Output;
use super::adapters;
use super::errors::UsageError;
use super::interrupt;
use super::places;
use crate::archive::ArchiveReader;
use crate::config::Role;
use crate::evaluation::Question;
use crate::evaluation::standalone;
use crate::evaluation::standalone::EvalArgs;
use crate::evaluation::standalone::EvalCorpus;
use crate::phase::suite;

#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  nightschool eval --corpus ~/documents --questions questions.jsonl
  nightschool eval --corpus ~/documents --questions questions.jsonl --adapter live
  nightschool eval --corpus ~/documents --questions questions.jsonl --answers base.jsonl
  nightschool eval --closed-book --questions questions.jsonl --model ./model.gguf")]
pub(super) struct EvalCliArgs {
    /// Files or folders to search in (default with --suite: the documents of the home)
    #[arg(
        long, value_name = "PATH", num_args = 1..,
        required_unless_present_any = ["closed_book", "suite"]
    )]
    corpus: Vec<PathBuf>,
    /// JSON lines {"id", "question", "answers": [...]}
    #[arg(long, value_name = "FILE", required_unless_present = "suite")]
    questions: Option<PathBuf>,
    /// The questions of a suite of the home in place of a file
    #[arg(long, value_name = "NAME", conflicts_with = "questions")]
    suite: Option<String>,
    /// A PEFT folder, a model version of the home, `live` for the home's live one, or `none`; where
    /// the roles have an adapter each, the solver's
    #[arg(long, default_value = "none", value_name = "ADAPTER")]
    adapter: String,
    /// Without documents: what the model knows by heart
    #[arg(long)]
    closed_book: bool,
    /// A built-in name, a folder, a .gguf file or a hub id
    #[arg(long)]
    model: Option<String>,
    /// Keep each answer in this file, and go on from those that it holds
    #[arg(long, value_name = "FILE")]
    answers: Option<PathBuf>,
    /// Compare, question by question, with the answers that an evaluation kept
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// Name of the prompt (default: the best of the base model, or the one adapters learn with)
    #[arg(long, value_name = "NAME")]
    prompt: Option<String>,
    /// Folder of prompts, NAME.jinja, beside those built in (default: the home's, if there is one)
    #[arg(long, value_name = "DIR")]
    prompts: Option<PathBuf>,
    /// Passages given with each question (default: the setting retrieval.passages)
    #[arg(long, value_name = "N")]
    passages: Option<usize>,
    /// Longest answer in tokens (default: the setting evaluate.max_tokens)
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    #[command(flatten)]
    json: Json,
}

pub(super) fn run(global: &Global, args: &EvalCliArgs) -> anyhow::Result<()> {
    let adapter = adapters::find(global, &args.adapter)?;
    let model = places::model_flag(args.model.as_ref());
    let flags: Vec<String> = model.into_iter().collect();
    let of_home = args.suite.is_some() || adapter.as_ref().is_some_and(|found| found.of_home);
    let settings = places::settings_of_named_home(global, of_home, &flags)?;
    let evaluate = &settings.evaluate;
    let best = match (args.closed_book, &adapter) {
        (true, _) => "closed_book",
        (false, Some(_)) => &evaluate.adapter_prompt,
        (false, None) => &evaluate.base_prompt,
    };
    let prompt = args.prompt.clone().unwrap_or_else(|| best.to_string());
    let prompts = match (&args.prompts, of_home || global.home.is_some()) {
        (Some(folder), _) if !folder.is_dir() => {
            return Err(UsageError(format!("--prompts: no folder {}", folder.display())).into());
        }
        (Some(folder), _) => Some(folder.clone()),
        (None, true) => Some(places::home(global)?.prompts()),
        (None, false) => None,
    };
    let (questions, corpus) = material(global, args)?;
    let eval = EvalArgs {
        model: settings.model,
        cache: places::cache()?,
        corpus,
        suite: args.suite.clone(),
        questions,
        adapter: adapter.map(|found| found.of(Role::Solver)),
        answers: args.answers.clone(),
        against: args.against.clone(),
        prompt,
        prompts,
        passages: args.passages.unwrap_or(settings.retrieval.passages),
        max_tokens: args.max_tokens.unwrap_or(evaluate.max_tokens),
        inference: settings.inference,
        remote: settings.remote,
        interrupt: interrupt::install()?,
    };
    let report = standalone::run(&eval)?;
    Output::new(args.json.json).show(&report, || report.render())
}

/// The questions, and where their answers are looked for.
fn material(global: &Global, args: &EvalCliArgs) -> anyhow::Result<(Vec<Question>, EvalCorpus)> {
    let paths = || EvalCorpus::Paths(args.corpus.clone());
    let Some(name) = &args.suite else {
        let questions = args.questions.as_deref().unwrap_or(Path::new(""));
        let corpus = if args.closed_book { EvalCorpus::Nothing } else { paths() };
        return Ok((standalone::read_questions(questions)?, corpus));
    };
    let archive = ArchiveReader::open(&places::home(global)?.archive())?;
    let questions = suite::questions(&archive.suite_named(name)?);
    let corpus = match (args.closed_book, args.corpus.is_empty()) {
        (true, _) => EvalCorpus::Nothing,
        (false, false) => paths(),
        (false, true) => EvalCorpus::Passages(archive.passages()?),
    };
    Ok((questions, corpus))
}
