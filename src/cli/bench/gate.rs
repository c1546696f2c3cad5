//! `nightschool bench gate`: how well the gate tells good drafts from bad ones.

use std::path::PathBuf;

use clap::Args;
use clap::ValueEnum;

use crate::cli::Global;
use crate::cli::Json;
use crate::cli::Output;
use crate::cli::adapters;
use crate::cli::interrupt;
use crate::cli::output::table;
use crate::cli::places;
use crate::config::Role;
use crate::evaluation::bootstrap::Interval;
use crate::phase::gate_bench;
use crate::phase::gate_bench::GateBench;
use crate::phase::gate_bench::GateReport;
use crate::phase::gate_bench::Half;

/// `--half`.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum HalfArg {
    /// The one.
    First,
    /// The other.
    Second,
}

#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  nightschool bench gate --corpus corpus.jsonl --questions questions.jsonl
  nightschool bench gate --corpus corpus.jsonl --questions questions.jsonl --half second --json
  nightschool bench gate --corpus corpus.jsonl --questions questions.jsonl --set verify.samples=5")]
pub(in crate::cli) struct GateArgs {
    /// JSON lines {"id", "title", "text"}
    #[arg(long, value_name = "FILE.jsonl")]
    corpus: PathBuf,
    /// JSON lines {"id", "question", "answers", "supporting": [record ids]}
    #[arg(long, value_name = "FILE.jsonl")]
    questions: PathBuf,
    /// Drafts put to the gate; half of them are corrupted, in five ways
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(10..))]
    drafts: u32,
    /// Only questions of this half, by a hash of their ids
    #[arg(long, value_enum)]
    half: Option<HalfArg>,
    /// Seed of all draws
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A built-in name, a folder, a .gguf file or a hub id
    #[arg(long)]
    model: Option<String>,
    /// Who reads passages: a PEFT folder, a model version of the home, `live`, or `none`
    #[arg(long, default_value = "none", value_name = "ADAPTER")]
    adapter: String,
    /// Put drafts to every check of the model, also those that one has turned away
    #[arg(long)]
    every_check: bool,
    /// Write every draft with its verdicts there, as JSON lines
    #[arg(long, value_name = "FILE.jsonl")]
    details: Option<PathBuf>,
    #[command(flatten)]
    json: Json,
}

pub(super) fn run(global: &Global, args: &GateArgs) -> anyhow::Result<()> {
    let adapter = adapters::find(global, &args.adapter)?;
    let model = places::model_flag(args.model.as_ref());
    let flags: Vec<String> = model.into_iter().collect();
    let of_home = adapter.as_ref().is_some_and(|found| found.of_home);
    let named = of_home || global.home.is_some();
    let prompts = named.then(|| places::home(global)).transpose()?.map(|home| home.prompts());
    let bench = GateBench {
        corpus: args.corpus.clone(),
        questions: args.questions.clone(),
        drafts: args.drafts as usize,
        half: args.half.map(|half| match half {
            HalfArg::First => Half::First,
            HalfArg::Second => Half::Second,
        }),
        seed: args.seed,
        adapter: adapter.map(|found| found.of(Role::Solver)),
        every_check: args.every_check,
        details: args.details.clone(),
        settings: places::settings_of_named_home(global, of_home, &flags)?,
        prompts,
        cache: places::cache()?,
        interrupt: interrupt::install()?,
    };
    let report = gate_bench::run(&bench)?;
    Output::new(args.json.json).show(&report, || render(&report))
}

fn render(report: &GateReport) -> String {
    let percent = |share: f64, (low, high): Interval| {
        format!("{:.1} % ({:.1}–{:.1})", share * 100.0, low * 100.0, high * 100.0)
    };
    let facts = [
        ("precision", percent(report.precision, report.precision_ci)),
        ("recall", percent(report.recall, report.recall_ci)),
        (
            "drafts",
            format!(
                "{} good, {} corrupted, {} accepted, {:.0} s",
                report.clean, report.corrupted, report.accepted, report.seconds
            ),
        ),
    ];
    let facts = table(&[], facts.map(|(name, value)| vec![name.to_string(), value]));
    let kinds = report.corruptions.iter().map(|kind| {
        let share = percent(kind.share, kind.share_ci);
        vec![kind.corruption.as_str().to_string(), kind.drafts.to_string(), share]
    });
    let kinds = table(&["corrupted by", "drafts", "accepted"], kinds);
    let checks = report.checks.iter().map(|check| {
        let drafts = (check.clean + check.corrupted).max(1) as f64;
        vec![
            check.check.to_string(),
            format!("{} of {}", check.clean_rejected, check.clean),
            format!("{} of {}", check.corrupted_rejected, check.corrupted),
            format!("{:.0}", check.prompt_tokens as f64 / drafts),
            format!("{:.1}", check.tokens as f64 / drafts),
            format!("{:.2}", check.seconds / drafts),
        ]
    });
    let header = ["check", "good away", "bad away", "prompt tokens", "tokens", "seconds a draft"];
    format!("{facts}\n\n{kinds}\n\n{}", table(&header, checks))
}
