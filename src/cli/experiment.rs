//! `nightschool experiment`: does a method help? Arms at equal cost, over several seeds.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use clap::Subcommand;
use serde_json::Map;
use serde_json::json;

use super::Global;
use super::Json;
use super::Output;
use super::demo;
use super::errors::NoSuchObject;
use super::listing::Listing;
use super::listing::ListingArgs;
use super::output;
use super::places;
use crate::clock::SystemClock;
use crate::config;
use crate::config::experiment::BUILT_IN;
use crate::config::experiment::Experiment;
use crate::phase::experiment;
use crate::phase::experiment::ArmResult;
use crate::phase::experiment::Bench;
use crate::phase::experiment::Results;
use crate::phase::night::NightContext;
use crate::phase::night::SuiteSource;

#[derive(Debug, Subcommand)]
#[command(before_help = "\
Examples:
  nightschool experiment list
  nightschool experiment run game --minutes 120
  nightschool experiment show game --markdown > table.md")]
pub(super) enum ExperimentCommand {
    /// List the experiments that come with the program
    List(ListArgs),
    /// Run an experiment, or go on with it
    Run(RunArgs),
    /// Show what there is of an experiment's results
    Show(ShowArgs),
}

impl ExperimentCommand {
    pub(super) fn only_looks(&self) -> bool {
        !matches!(self, Self::Run(_))
    }
}

#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  nightschool experiment list
  nightschool experiment list --json")]
pub(super) struct ListArgs {
    #[command(flatten)]
    listing: ListingArgs,
}

/// Which experiment, and where.
#[derive(Debug, Args)]
struct Which {
    /// A name from `experiment list`, or a TOML file
    name: String,
    /// Folder of its homes [default: experiments/NAME in the home]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// A built-in name, a folder, a .gguf file or a hub id in place of the default model
    #[arg(long)]
    model: Option<String>,
}

#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  nightschool experiment run game                  # on the bundled corpus
  nightschool experiment run game --minutes 120    # again: it goes on
  nightschool experiment run mine.toml --corpus docs --questions exam.jsonl")]
pub(super) struct RunArgs {
    #[command(flatten)]
    which: Which,
    /// Documents to learn from; may be given more than once [default: the bundled corpus]
    #[arg(long, value_name = "PATH", requires = "questions")]
    corpus: Vec<PathBuf>,
    /// Questions to measure on, one {"id", "question", "answers": [...]} a line
    #[arg(long, value_name = "FILE", requires = "corpus")]
    questions: Option<PathBuf>,
    /// Begin no night after so many minutes
    #[arg(long, value_name = "N")]
    minutes: Option<u64>,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  nightschool experiment show game
  nightschool experiment show game --json
  nightschool experiment show game --markdown")]
pub(super) struct ShowArgs {
    #[command(flatten)]
    which: Which,
    /// As a table for a Markdown file
    #[arg(long)]
    markdown: bool,
    #[command(flatten)]
    json: Json,
}

/// A named experiment, read.
struct Found {
    name: String,
    experiment: Experiment,
    flags: Vec<String>,
    dir: PathBuf,
}

impl Found {
    fn bench(&self) -> Bench<'_> {
        let Self { name, experiment, flags, dir } = self;
        Bench { name, experiment, flags, dir }
    }
}

pub(super) fn run(global: &Global, command: &ExperimentCommand) -> anyhow::Result<()> {
    match command {
        ExperimentCommand::List(args) => list(args),
        ExperimentCommand::Run(args) => run_one(global, args),
        ExperimentCommand::Show(args) => {
            let found = find(global, &args.which)?;
            let results = experiment::results(&found.bench())?;
            match args.markdown {
                true => output::print(markdown(&results).trim_end()),
                false => Output::new(args.json.json).show(&results, || rendered(&results)),
            }
        }
    }
}

fn list(args: &ListArgs) -> anyhow::Result<()> {
    let row = |(name, text): &(&str, &str)| -> anyhow::Result<_> {
        let experiment = Experiment::parse(name, text, &[])?;
        let arms: Vec<&String> = experiment.arms.keys().collect();
        Ok(json!({
            "name": name,
            "question": experiment.question,
            "baseline": experiment.baseline,
            "arms": arms,
            "seeds": experiment.seeds,
            "nights": experiment.nights,
        }))
    };
    args.listing.show(Listing {
        name: "experiments",
        rows: BUILT_IN.iter().map(row).collect::<Result<_, _>>()?,
        beside: Map::new(),
        columns: &["name", "question", "baseline", "arms", "seeds", "nights"],
        shown: &["name", "question", "baseline"],
        note: None,
    })
}

/// Reads the experiment that was named.
fn find(global: &Global, which: &Which) -> anyhow::Result<Found> {
    let built_in = BUILT_IN.iter().find(|(name, _)| *name == which.name);
    let (name, text) = match built_in {
        Some((name, text)) => ((*name).to_string(), (*text).to_string()),
        None => {
            let file = Path::new(&which.name);
            if !file.is_file() {
                let names: Vec<&str> = BUILT_IN.iter().map(|(name, _)| *name).collect();
                let why = format!(
                    "no experiment and no file {}; there are: {}",
                    which.name,
                    names.join(", ")
                );
                return Err(NoSuchObject(why).into());
            }
            let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            (stem, config::read_layer(file)?)
        }
    };
    let flags = [&global.set[..], places::model_flag(which.model.as_ref()).as_slice()].concat();
    let experiment = Experiment::parse(&which.name, &text, &flags)?;
    let dir = match &which.dir {
        Some(dir) => dir.clone(),
        None => places::home(global)?.dir().join("experiments").join(&name),
    };
    Ok(Found { name, experiment, flags, dir })
}

fn run_one(global: &Global, args: &RunArgs) -> anyhow::Result<()> {
    let found = find(global, &args.which)?;
    let (sources, suite) = match &args.questions {
        None => demo::bundled(None)?,
        Some(questions) => {
            let stem = questions.file_stem().unwrap_or_default().to_string_lossy();
            let suite = SuiteSource { name: stem.into_owned(), questions: questions.clone() };
            (args.corpus.clone(), suite)
        }
    };
    let context = NightContext {
        model: places::model_context(global)?,
        sources,
        suite: Some(suite),
        clock: Arc::new(SystemClock),
    };
    std::fs::create_dir_all(&found.dir)?;
    let limit = args.minutes.map(|minutes| Duration::from_secs(60 * minutes));
    let left = found.bench().run(&context, limit)?;
    if left > 0 {
        tracing::info!(left, "runs are left: the same command goes on");
    }
    let results = experiment::results(&found.bench())?;
    Output::new(args.json.json).show(&results, || rendered(&results))
}

fn percent(share: f64) -> String {
    format!("{:.1}", share * 100.0)
}

/// A difference with its interval, in points.
fn points(value: f64, ci: (f64, f64)) -> String {
    format!("{:+.1} ({:+.1} to {:+.1})", value * 100.0, ci.0 * 100.0, ci.1 * 100.0)
}

const HEADER: [&str; 9] = [
    "arm",
    "runs",
    "EM",
    "F1",
    "EM less baseline",
    "F1 less baseline",
    "written",
    "read",
    "minutes",
];

/// An arm's row; tokens and minutes are means over its runs.
fn row(arm: &ArmResult) -> Vec<String> {
    let mean = |of: &dyn Fn(&experiment::RunResult) -> f64| {
        arm.runs.iter().map(of).sum::<f64>() / arm.runs.len().max(1) as f64
    };
    let thousands = |tokens: f64| format!("{:.0} k", tokens / 1000.0);
    let difference = arm.difference.as_ref();
    vec![
        arm.arm.clone(),
        arm.runs.len().to_string(),
        percent(arm.em),
        percent(arm.f1),
        output::or_dash(difference.map(|of| points(of.em, of.em_ci))),
        output::or_dash(difference.map(|of| points(of.f1, of.f1_ci))),
        thousands(mean(&|run| run.generated_tokens as f64)),
        thousands(mean(&|run| run.trained_tokens as f64)),
        format!("{:.0}", mean(&|run| run.minutes)),
    ]
}

fn about(results: &Results) -> String {
    let suite = results.suite.as_deref().unwrap_or("nothing yet");
    let base = results.base.map_or_else(String::new, |(em, f1)| {
        format!("; the base model has EM {} and F1 {}", percent(em), percent(f1))
    });
    let left = match results.left {
        0 => String::new(),
        n => format!("\n{n} runs are left."),
    };
    format!(
        "{}\nMeasured on {suite}, {} questions{base}. Differences to {} with 95 % intervals, seeds \
         and documents drawn again; tokens that the model wrote and that training read, and \
         minutes, are means over runs.{left}",
        results.question, results.questions, results.baseline
    )
}

fn rendered(results: &Results) -> String {
    let rows = results.arms.iter().map(row);
    format!("{}\n\n{}", about(results), output::table(&HEADER, rows))
}

fn markdown(results: &Results) -> String {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut text = format!("## {}\n\n{}\n\n", results.name, about(results));
    text += &line(HEADER.map(String::from).to_vec());
    text += &line(HEADER.map(|_| "---".to_string()).to_vec());
    for arm in &results.arms {
        text += &line(row(arm));
    }
    for arm in &results.arms {
        text += &format!("\n- `{}`: {}", arm.arm, arm.about);
    }
    text
}
