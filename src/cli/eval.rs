//! `nightschool eval`: a model on a file of questions, without a home.

use std::path::PathBuf;

use clap::Args;

use super::Global;
use super::Json;
use super::Output;
use super::errors::NoSuchObject;
use super::errors::UsageError;
use super::interrupt;
use super::places;
use crate::archive::ArchiveReader;
use crate::archive::ModelKind;
use crate::archive::ModelVersion;
use crate::config;
use crate::evaluation::standalone;
use crate::evaluation::standalone::EvalArgs;
use crate::phase::home::Home;

#[derive(Debug, Args)]
pub(super) struct EvalCliArgs {
    /// Files or folders to search in
    #[arg(long, value_name = "PATH", num_args = 1.., required_unless_present = "closed_book")]
    corpus: Vec<PathBuf>,
    /// JSON lines {"id", "question", "answers": [...]}
    #[arg(long, value_name = "FILE")]
    questions: PathBuf,
    /// A PEFT folder, a model version of the home, `live` for the home's live one, or `none`
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
    let adapter = adapter(global, &args.adapter)?;
    let model = places::model_flag(args.model.as_ref());
    let flags: Vec<String> = model.into_iter().collect();
    // No home is needed; one that is named brings its settings, above all its model.
    let named = global.home.is_some() || adapter.as_ref().is_some_and(|found| found.of_home);
    let settings = match named {
        true => places::settings(global, &places::home(global)?, &[], &flags)?,
        false => config::load(&[], &[&global.set[..], &flags].concat())?,
    };
    let evaluate = &settings.evaluate;
    let best = match (args.closed_book, &adapter) {
        (true, _) => "closed_book",
        (false, Some(_)) => &evaluate.adapter_prompt,
        (false, None) => &evaluate.base_prompt,
    };
    let prompt = args.prompt.clone().unwrap_or_else(|| best.to_string());
    let prompts = match (&args.prompts, named) {
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
        adapter: adapter.map(|found| found.path),
        closed_book: args.closed_book,
        prompt,
        prompts,
        passages: args.passages.unwrap_or(settings.retrieval.passages),
        max_tokens: args.max_tokens.unwrap_or(evaluate.max_tokens),
        interrupt: interrupt::install()?,
    };
    let report = standalone::run(&eval)?;
    Output::new(args.json.json).show(&report, || report.render())
}

/// An adapter's folder.
struct Found {
    path: PathBuf,
    /// Whether it was found through a home's archive.
    of_home: bool,
}

fn adapter(global: &Global, name: &str) -> anyhow::Result<Option<Found>> {
    let path = PathBuf::from(name);
    if name == "none" {
        return Ok(None);
    }
    if name != "live" && path.is_dir() {
        return Ok(Some(Found { path, of_home: false }));
    }
    let home = places::home(global)?;
    let version = version(&home, name)?;
    if version.kind == ModelKind::Base {
        tracing::warn!("{name} is the base model, without an adapter");
        return Ok(None);
    }
    Ok(Some(Found { path: home.dir().join(version.path), of_home: true }))
}

/// The model version called `live`, or whose id is or begins with `name`.
fn version(home: &Home, name: &str) -> anyhow::Result<ModelVersion> {
    let missing = |what: String| {
        let list = places::command_for(home, "model list");
        NoSuchObject(format!("{what} in {}; see `{list}`", home.dir().display()))
    };
    if !home.archive().exists() {
        return Err(missing(format!("no adapter folder {name:?}, and no model versions")).into());
    }
    let archive = ArchiveReader::open(&home.archive())?;
    if name == "live" {
        let live = archive.live_model()?;
        return Ok(live.ok_or_else(|| missing("no model is live".to_string()))?);
    }
    let versions = archive.model_versions()?.into_iter().map(|(version, _)| version);
    let mut matching: Vec<ModelVersion> =
        versions.filter(|version| version.id.starts_with(name)).collect();
    if let Some(exact) = matching.iter().position(|version| version.id == name) {
        return Ok(matching.swap_remove(exact));
    }
    match matching.len() {
        0 => Err(missing(format!("no adapter folder or model version {name:?}")).into()),
        1 => Ok(matching.swap_remove(0)),
        n => Err(UsageError(format!("{n} model versions begin with {name:?}; give more")).into()),
    }
}
