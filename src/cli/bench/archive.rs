//! `nightschool bench archive`: how fast and how large an archive is.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::super::Json;
use super::super::Output;
use super::super::output::table;
use crate::archive::bench;
use crate::archive::bench::ArchiveBench;
use crate::archive::bench::ArchiveReport;
use crate::archive::bench::ReadReport;

#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  nightschool bench archive --tasks 10000
  nightschool bench archive --dir /mnt/disk/bench
  nightschool bench archive --dir /mnt/disk/bench --read")]
pub(in crate::cli) struct ArchiveArgs {
    /// Tasks to generate
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
    tasks: u32,
    /// Rollouts of each task
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=64))]
    rollouts: u32,
    /// Threads that read while it is written
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(0..=64))]
    readers: u32,
    /// How long each of them waits after a read, in milliseconds
    #[arg(long, default_value_t = 10, value_name = "MS")]
    reader_pause: u64,
    /// An empty folder to keep the archive in [default: a temporary one]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Only read the archive that is in --dir already
    #[arg(long, requires = "dir")]
    read: bool,
    #[command(flatten)]
    json: Json,
}

pub(super) fn run(args: &ArchiveArgs) -> anyhow::Result<()> {
    let temporary = tempfile::tempdir()?;
    let dir = args.dir.as_deref().unwrap_or(temporary.path());
    std::fs::create_dir_all(dir)?;
    let ArchiveArgs { tasks, rollouts, readers, .. } = *args;
    let reader_pause = Duration::from_millis(args.reader_pause);
    let settings = ArchiveBench { tasks, rollouts, readers, reader_pause, seed: 1 };
    if args.read {
        let reading = bench::read(dir, &settings)?;
        let output = Output::new(args.json.json);
        return output.show(&serde_json::json!({ "reading": reading }), || reads(&reading));
    }
    let report = bench::run(dir, &settings)?;
    Output::new(args.json.json).show(&report, || render(&report))
}

fn render(report: &ArchiveReport) -> String {
    let writing = &report.writing;
    let facts = [
        ("rows", format!("{} ({} tasks, {} rollouts)", report.rows, report.tasks, report.rollouts)),
        ("size", format!("{} MB, {:.0} bytes a task", report.bytes >> 20, report.bytes_per_task)),
        ("write-ahead log", format!("{} MB at most", report.wal_bytes_max >> 20)),
        (
            "written",
            format!(
                "{:.0} rows/s, {:.0} in the last tenth; plain SQLite {:.0}: ratio {:.2}",
                writing.rows_per_s,
                writing.rows_per_s_last_tenth,
                writing.plain_rows_per_s,
                writing.ratio
            ),
        ),
        ("longest transaction", format!("{:.0} ms", writing.transaction_ms_max)),
        ("reads meanwhile", format!("{:.0} per second", writing.reads_per_s)),
    ];
    let facts = table(&[], facts.into_iter().map(|(name, value)| vec![name.to_string(), value]));
    format!("{facts}\n\n{}", reads(&report.reading))
}

fn reads(reading: &[ReadReport]) -> String {
    let rows = reading.iter().map(|read| {
        vec![
            read.name.clone(),
            format!("{:.2}", read.p50_ms),
            format!("{:.2}", read.max_ms),
            format!("{:.2}", read.plain_ms),
            format!("{:.2}", read.ratio),
            read.rows.to_string(),
        ]
    });
    let header = ["read", "median ms", "longest ms", "plain SQLite ms", "ratio", "rows"];
    table(&header, rows)
}
