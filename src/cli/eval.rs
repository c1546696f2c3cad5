//! `nightschool eval`: a model on a file of questions, without a home.

use std::path::PathBuf;

use clap::Args;

use super::Global;
use super::Json;
use super::Output;
use super::adapters;
use super::errors::UsageError;
use super::interrupt;
use super::places;
use crate::config::Role;
use crate::evaluation::standalone;
use crate::evaluation::standalone::EvalArgs;

#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  nightschool eval --corpus ~/documents --questions questions.jsonl
  nightschool eval --corpus ~/documents --questions questions.jsonl --adapter live
  nightschool eval --closed-book --questions questions.jsonl --model ./model.gguf")]
pub(super) struct EvalCliArgs {
    /// Files or folders to search in
    #[arg(long, value_name = "PATH", num_args = 1.., required_unless_present = "closed_book")]
    corpus: Vec<PathBuf>,
    /// JSON lines {"id", "question", "answers": [...]}
    #[arg(long, value_name = "FILE")]
    questions: PathBuf,
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
    let of_home = adapter.as_ref().is_some_and(|found| found.of_home);
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
    let eval = EvalArgs {
        model: settings.model,
        cache: places::cache()?,
        corpus: args.corpus.clone(),
        questions: args.questions.clone(),
        adapter: adapter.map(|found| found.of(Role::Solver)),
        closed_book: args.closed_book,
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
