//! `nightschool bench`: how well and how fast parts of the program work.

use std::path::PathBuf;

use clap::Args;
use clap::Subcommand;

use super::Json;
use super::Output;
use super::output::table;
use crate::retrieval::bench;
use crate::retrieval::bench::Judgements;

#[derive(Debug, Subcommand)]
pub(super) enum BenchCommand {
    /// Search for judged queries in a collection
    Retrieve(RetrieveArgs),
}

#[derive(Debug, Args)]
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

pub(super) fn run(command: &BenchCommand) -> anyhow::Result<()> {
    let BenchCommand::Retrieve(args) = command;
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
