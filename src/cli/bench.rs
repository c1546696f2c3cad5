//! `nightschool bench`: how well and how fast parts of the program work.

mod archive;
mod gate;
mod generate;

use std::path::Path;
use std::path::PathBuf;

use anyhow::Context as _;
use candle_core::DType;
use candle_core::Device;
use clap::Args;
use clap::Subcommand;
use clap::ValueEnum;

use super::Global;
use super::Json;
use super::Output;
use super::output::table;
use super::places;
use crate::model::Model;
use crate::model::config::DecoderConfig;
use crate::model::decoder::Decoder;
use crate::model::device::cuda;
use crate::model::fetch;
use crate::model::fetch::ModelSpec;
use crate::retrieval::bench;
use crate::retrieval::bench::Judgements;
use crate::trainer;
use crate::trainer::bench::TrainBench;

#[derive(Debug, Subcommand)]
#[command(before_help = "\
Examples:
  nightschool bench generate --batch 8
  nightschool bench train --sequences 4")]
pub(super) enum BenchCommand {
    /// Search for judged queries in a collection
    Retrieve(RetrieveArgs),
    /// Continue random prompts
    Generate(generate::GenerateArgs),
    /// Write and read a generated archive
    Archive(archive::ArchiveArgs),
    /// Put questions of people, half of them corrupted, to the gate
    Gate(gate::GateArgs),
    /// Train an adapter on random tokens
    Train(TrainArgs),
}

/// A device to compute on.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Place {
    /// All cores of this machine.
    Cpu,
    /// The first CUDA device.
    Cuda,
}

/// A type of frozen weights.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum WeightType {
    /// 32 bits.
    F32,
    /// 16 bits, with the range of f32.
    Bf16,
}

#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  nightschool bench train
  nightschool bench train --model ~/models/Qwen2.5-0.5B --sequences 4 --tokens 512
  nightschool bench train --random config.json --device cuda --json")]
pub(super) struct TrainArgs {
    /// A built-in name, a folder, a .gguf file or a hub id
    #[arg(long, default_value = "smollm2-135m")]
    model: String,
    /// Sequences per optimiser step
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=4096))]
    sequences: u32,
    /// Tokens of each sequence
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(2..=8192))]
    tokens: u32,
    /// LoRA rank, on all linear maps
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=512))]
    rank: u32,
    /// Steps measured, after one that is not
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    steps: u32,
    /// Tokens per forward and backward pass: bounds memory
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..))]
    micro_batch_tokens: u32,
    /// Megabytes of activations kept between the two at most; the rest is computed again
    #[arg(long, default_value_t = 1024)]
    activation_mb: u32,
    /// Where to compute
    #[arg(long, value_enum, default_value_t = Place::Cpu)]
    device: Place,
    /// Type of the frozen weights [default: f32 on the CPU, bf16 elsewhere]
    #[arg(long, value_enum)]
    dtype: Option<WeightType>,
    /// Instead of a model: random weights with the dimensions in this config.json
    #[arg(long, value_name = "CONFIG", conflicts_with = "model")]
    random: Option<PathBuf>,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  nightschool bench retrieve --corpus corpus.jsonl --questions questions.jsonl
  nightschool bench retrieve --corpus corpus.jsonl --queries queries.tsv --qrels qrels.tsv")]
pub(super) struct RetrieveArgs {
    /// JSON lines {"id", "title", "text"}
    #[arg(long, value_name = "FILE.jsonl")]
    corpus: PathBuf,
    /// Query id and text, parted by a tab
    #[arg(
        long,
        value_name = "FILE.tsv",
        requires = "qrels",
        required_unless_present = "questions",
        conflicts_with = "questions"
    )]
    queries: Option<PathBuf>,
    /// Query id, 0, document id and grade, parted by tabs
    #[arg(long, value_name = "FILE.tsv", requires = "queries")]
    qrels: Option<PathBuf>,
    /// JSON lines {"question", "supporting": [document ids]} in place of the two
    #[arg(long, value_name = "FILE.jsonl")]
    questions: Option<PathBuf>,
    #[command(flatten)]
    json: Json,
}

pub(super) fn run(global: &Global, command: &BenchCommand) -> anyhow::Result<()> {
    match command {
        BenchCommand::Retrieve(args) => retrieve(args),
        BenchCommand::Generate(args) => generate::run(global, args),
        BenchCommand::Archive(args) => archive::run(args),
        BenchCommand::Gate(args) => gate::run(global, args),
        BenchCommand::Train(args) => train(args),
    }
}

fn train(args: &TrainArgs) -> anyhow::Result<()> {
    let spec: ModelSpec = args.model.parse()?;
    let decoder = match &args.random {
        Some(path) => random_decoder(path)?,
        None => Model::load(&fetch::resolve(&spec, &places::cache()?)?)?.decoder,
    };
    let device = match args.device {
        Place::Cpu => Device::Cpu,
        Place::Cuda => cuda()?,
    };
    let dtype = match args.dtype {
        Some(WeightType::Bf16) => DType::BF16,
        None if !device.is_cpu() => DType::BF16,
        Some(WeightType::F32) | None => DType::F32,
    };
    let decoder = decoder.to(&device, dtype)?;
    let settings = TrainBench {
        sequences: args.sequences as usize,
        tokens: args.tokens as usize,
        rank: args.rank as usize,
        steps: args.steps as usize,
        micro_batch_tokens: args.micro_batch_tokens as usize,
        activation_mb: args.activation_mb as usize,
    };
    let report = trainer::bench::run(decoder, &settings)?;
    Output::new(args.json.json).show(&report, || {
        let operations: Vec<String> = report
            .operations_s
            .iter()
            .map(|(kind, seconds)| format!("{kind} {seconds:.2} s"))
            .collect();
        let megabytes = report.peak_memory_bytes.map_or(0, |bytes| bytes / 1_000_000);
        let rows = [
            ("training", format!("{:.0} tokens a second", report.tokens_per_s)),
            (
                "step",
                format!(
                    "{:.2} s: forward {:.2}, backward {:.2}, optimiser {:.2}",
                    report.step_s, report.forward_s, report.backward_s, report.update_s
                ),
            ),
            ("operations", operations.join(", ")),
            ("peak memory", format!("{megabytes} MB")),
            (
                "floor",
                format!(
                    "{:.0} tokens a second at {:.0} GFLOP/s ({}); reached {:.0} %",
                    report.floor_tokens_per_s,
                    report.matmul_gflops,
                    report.matmul_unit,
                    report.floor_ratio * 100.0
                ),
            ),
        ];
        table(&[], rows.into_iter().map(|(name, value)| vec![name.to_string(), value]))
    })
}

/// Random weights of the dimensions that a `config.json` describes.
fn random_decoder(path: &Path) -> anyhow::Result<Decoder> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let config = DecoderConfig::from_hub_json(&text)
        .with_context(|| format!("{} describes no model that can be trained", path.display()))?;
    Ok(Decoder::random(config, 1)?)
}

fn retrieve(args: &RetrieveArgs) -> anyhow::Result<()> {
    let judgements = match (&args.queries, &args.qrels, &args.questions) {
        (Some(queries), Some(qrels), _) => {
            Judgements::Tsv { queries: queries.clone(), qrels: qrels.clone() }
        }
        (_, _, Some(questions)) => Judgements::Questions(questions.clone()),
        // The argument parser asks for one of the two.
        _ => anyhow::bail!("give --queries and --qrels, or --questions"),
    };
    let report = bench::run(&args.corpus, &judgements)?;
    Output::new(args.json.json).show(&report, || {
        let rows = [
            ("nDCG@10", format!("{:.4}", report.ndcg10)),
            ("MAP", format!("{:.4}", report.map)),
            ("recall@100", format!("{:.4}", report.recall100)),
            ("queries", format!("{} at {:.0} a second", report.queries, report.queries_per_s)),
            ("time", format!("{:.2} ms median, {:.2} ms p99", report.p50_ms, report.p99_ms)),
            (
                "collection",
                format!(
                    "{} documents, {} passages, indexed in {:.1} s",
                    report.documents, report.passages, report.index_s
                ),
            ),
        ];
        table(&[], rows.into_iter().map(|(name, value)| vec![name.to_string(), value]))
    })
}
