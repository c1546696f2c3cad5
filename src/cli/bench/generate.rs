//! `nightschool bench generate`: how fast the engine reads prompts and writes.

use std::sync::Arc;

use clap::Args;

use crate::cli::Global;
use crate::cli::Json;
use crate::cli::Output;
use crate::cli::output::table;
use crate::cli::places;
use crate::config;
use crate::inference::bench;
use crate::inference::bench::GenerateBench;
use crate::inference::bench::GenerateBenchReport;
use crate::model::Model;
use crate::model::fetch;
use crate::model::fetch::ModelSpec;

#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  nightschool bench generate
  nightschool bench generate --batch 8 --prompt-tokens 512 --lora-rank 16 --json")]
pub(in crate::cli) struct GenerateArgs {
    /// A built-in name, a folder, a .gguf file or a hub id
    #[arg(long, default_value = "smollm2-135m")]
    model: String,
    /// Continuations written at the same time
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1024))]
    batch: u32,
    /// Tokens of each prompt
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65536))]
    prompt_tokens: u32,
    /// Tokens of each continuation
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=65536))]
    new_tokens: u32,
    /// Tokens that all prompts begin with; when all of them, samples of one prompt are drawn
    #[arg(long, default_value_t = 0)]
    shared_prefix: u32,
    /// Rank of an adapter on all linear maps; 0 for the base model
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=512))]
    lora_rank: u32,
    /// Continuations whose log-probabilities are compared with the trainer's
    #[arg(long, default_value_t = 2)]
    checked: u32,
    #[command(flatten)]
    json: Json,
}

pub(super) fn run(global: &Global, args: &GenerateArgs) -> anyhow::Result<()> {
    let spec: ModelSpec = args.model.parse()?;
    let settings = config::load(&[], &global.set)?;
    let model = Arc::new(Model::load(&fetch::resolve(&spec, &places::cache()?)?)?);
    let bench = GenerateBench {
        batch: args.batch as usize,
        prompt_tokens: args.prompt_tokens as usize,
        new_tokens: args.new_tokens as usize,
        shared_prefix: args.shared_prefix.min(args.prompt_tokens) as usize,
        lora_rank: args.lora_rank as usize,
        checked: args.checked as usize,
    };
    let report = bench::run(&model, &bench, &settings.inference)?;
    Output::new(args.json.json).show(&report, || render(&report))
}

fn render(report: &GenerateBenchReport) -> String {
    let facts: Vec<String> =
        report.runner.iter().map(|(what, value)| format!("{what} {value}")).collect();
    let kinds: Vec<String> =
        report.step_kinds_ms.iter().map(|(kind, ms)| format!("{kind} {ms:.2}")).collect();
    let floor = &report.floor;
    let mut rows = vec![
        ("runner", facts.join("; ")),
        (
            "prefill",
            format!(
                "{:.0} tokens a second, {:.0} % of the floor",
                report.prefill_tokens_per_s,
                floor.prefill_ratio * 100.0
            ),
        ),
        (
            "decode",
            format!(
                "{:.0} tokens a second, {:.0} % of the floor",
                report.decode_tokens_per_s,
                floor.decode_ratio * 100.0
            ),
        ),
        ("step", format!("{:.2} ms: {}", report.step_ms, kinds.join(", "))),
        (
            "floor",
            format!(
                "{:.0} GFLOP/s and {:.1} GB/s: {:.0} and {:.0} tokens a second",
                floor.matmul_gflops,
                floor.bandwidth_gb_per_s,
                floor.prefill_tokens_per_s,
                floor.decode_tokens_per_s
            ),
        ),
        (
            "peak memory",
            format!("{} MB", report.peak_memory_bytes.map_or(0, |bytes| bytes / 1_000_000)),
        ),
    ];
    if let Some(error) = &report.logprob_error {
        rows.push((
            "log-probabilities",
            format!(
                "{:.5} nats from the trainer's on average, {:.5} at the 99th percentile, {} tokens",
                error.mean, error.p99, error.tokens
            ),
        ));
    }
    table(&[], rows.into_iter().map(|(name, value)| vec![name.to_string(), value]))
}
