//! Every read that a person waits for: each filter with each order, one task, words, totals.

use std::path::Path;
use std::time::Instant;

use serde::Serialize;

use super::ArchiveBench;
use crate::archive::ArchiveError;
use crate::archive::ArchiveReader;
use crate::archive::Band;
use crate::archive::TaskFilter;
use crate::archive::TaskGrouping;
use crate::archive::TaskOrder;
use crate::archive::TaskState;
use crate::progress::Progress;
use crate::task::AnswerKind;
use crate::task::Origin;
use crate::task::Split;

/// Runs of each read, with a connection of its own, as the command line has.
const RUNS: usize = 5;

/// How long one read takes.
#[derive(Debug, Clone, Serialize)]
pub struct ReadReport {
    /// What is read.
    pub name: String,
    /// Median time, in milliseconds, the file's opening included.
    pub p50_ms: f64,
    /// Longest time, in milliseconds.
    pub max_ms: f64,
    /// Median time that plain SQLite takes to step through the same rows, in milliseconds.
    pub plain_ms: f64,
    /// The first over that.
    pub ratio: f64,
    /// Rows that it found.
    pub rows: usize,
}

type Read<'a> = Box<dyn Fn(&ArchiveReader) -> Result<usize, ArchiveError> + 'a>;

/// Measures all of them.
pub(super) fn all(path: &Path, settings: &ArchiveBench) -> Result<Vec<ReadReport>, ArchiveError> {
    let reader = ArchiveReader::open(path)?;
    let first = TaskFilter { limit: Some(1), order: TaskOrder::Oldest, ..TaskFilter::default() };
    let sample = reader.tasks(&first)?;
    let Some(sample) = sample.first() else { return Ok(Vec::new()) };
    let mut reads: Vec<(String, String, Read<'_>)> = Vec::new();
    for (name, condition, filter) in filters(settings, sample) {
        for (order, by, sort) in [
            (TaskOrder::Newest, "number DESC", "newest"),
            (TaskOrder::Oldest, "number", "oldest"),
            (TaskOrder::Hardest, "difficulty DESC, number DESC", "hardest"),
        ] {
            let filter = TaskFilter { order, limit: Some(50), ..filter.clone() };
            let plain = format!("SELECT id FROM task WHERE {condition} ORDER BY {by} LIMIT 51");
            let read: Read<'_> = Box::new(move |reader| Ok(reader.tasks(&filter)?.len()));
            reads.push((format!("list {name}, {sort}"), plain, read));
        }
    }
    let id = sample.task.id.clone();
    let plain = format!("SELECT * FROM rollout WHERE task_id = '{id}'");
    reads.push(("show".into(), plain, Box::new(move |r| Ok(r.task_detail(&id)?.rollouts.len()))));
    for (name, text) in [("rare words", &*sample.task.answer), ("common words", "what of the")] {
        let query = text.split(' ').map(|word| format!("\"{word}\"")).collect::<Vec<_>>();
        let plain = format!(
            "SELECT rowid FROM task_words WHERE task_words MATCH '{}' ORDER BY rank LIMIT 20",
            query.join(" AND ")
        );
        let read: Read<'_> = Box::new(move |reader| Ok(reader.search_tasks(text, 20)?.len()));
        reads.push((format!("search, {name}"), plain, read));
    }
    for (name, column, by) in [
        ("origin", "origin", TaskGrouping::Origin),
        ("band", "band", TaskGrouping::Band),
        ("night", "night", TaskGrouping::Night),
        ("document", "document_id", TaskGrouping::Document),
        ("topic", "document_id", TaskGrouping::Topic),
        ("played by", "played_by", TaskGrouping::PlayedBy),
    ] {
        let plain = format!("SELECT {column}, count(*), sum(solved) FROM task GROUP BY 1");
        let read: Read<'_> = Box::new(move |reader| Ok(reader.task_stats(by)?.len()));
        reads.push((format!("stats by {name}"), plain, read));
    }
    let plain = "SELECT origin, rejection, count(*) FROM draft GROUP BY 1, 2".into();
    reads.push(("stats of drafts".into(), plain, Box::new(|r| Ok(r.gate_counts(None)?.len()))));
    let progress = Progress::start("reading", reads.len() as u64);
    let mut reports = Vec::new();
    for (name, plain, read) in &reads {
        reports.push(measured(path, name, plain, read)?);
        progress.advance(1);
    }
    Ok(reports)
}

/// Each filter with the condition that says the same of the table alone.
fn filters(
    settings: &ArchiveBench,
    sample: &crate::archive::StoredTask,
) -> Vec<(&'static str, String, TaskFilter)> {
    let none = TaskFilter::default;
    let night = (settings.tasks / super::NIGHT / 2).max(1);
    let version = format!("night{night}");
    let document = &sample.document_id;
    let mut all = vec![
        ("all", "true".to_string(), none()),
        ("origin", "origin = 'code'".into(), TaskFilter { origin: Some(Origin::Code), ..none() }),
        ("split", "split = 'heldout'".into(), TaskFilter { split: Some(Split::Heldout), ..none() }),
        ("night", format!("night = {night}"), TaskFilter { night: Some(night), ..none() }),
        (
            "state",
            "state = 'retired'".into(),
            TaskFilter { state: Some(TaskState::Retired), ..none() },
        ),
        ("kind", "kind = 'date'".into(), TaskFilter { kind: Some(AnswerKind::Date), ..none() }),
        ("hops", "hops = 3".into(), TaskFilter { hops: Some(3), ..none() }),
        (
            "document",
            format!("document_id = '{document}'"),
            TaskFilter { document: Some(document.clone()), ..none() },
        ),
        (
            "topic",
            format!("document_id = '{document}'"),
            TaskFilter { topic: Some(sample.topic.clone()), ..none() },
        ),
        (
            "proposed by",
            format!("proposed_by = '{version}'"),
            TaskFilter { proposed_by: Some(version.clone()), ..none() },
        ),
        (
            "played by",
            format!("played_by = '{version}'"),
            TaskFilter { played_by: Some(version), ..none() },
        ),
    ];
    for band in Band::ALL {
        let condition = format!("band = '{}'", band.as_str());
        all.push((band.as_str(), condition, TaskFilter { band: Some(band), ..none() }));
    }
    for (name, text) in [("rare words", &*sample.task.answer), ("common words", "what of the")] {
        let query = text.split(' ').map(|word| format!("\"{word}\"")).collect::<Vec<_>>();
        let condition = format!(
            "number IN (SELECT rowid FROM task_words WHERE task_words MATCH '{}')",
            query.join(" AND ")
        );
        all.push((name, condition, TaskFilter { text: Some(text.into()), ..none() }));
    }
    all
}

fn measured(
    path: &Path,
    name: &str,
    plain: &str,
    read: &Read<'_>,
) -> Result<ReadReport, ArchiveError> {
    let (mut ours, mut plainly, mut rows) = (Vec::new(), Vec::new(), 0);
    for _ in 0..RUNS {
        let start = Instant::now();
        let reader = ArchiveReader::open(path)?;
        rows = read(&reader)?;
        ours.push(start.elapsed().as_secs_f64() * 1e3);
        let start = Instant::now();
        let reader = ArchiveReader::open(path)?;
        reader.read(|tx| {
            let mut statement = tx.prepare(plain)?;
            let mut rows = statement.query([])?;
            while rows.next()?.is_some() {}
            Ok(())
        })?;
        plainly.push(start.elapsed().as_secs_f64() * 1e3);
    }
    ours.sort_by(f64::total_cmp);
    plainly.sort_by(f64::total_cmp);
    let (p50_ms, plain_ms) = (ours[RUNS / 2], plainly[RUNS / 2]);
    let (name, max_ms) = (name.to_string(), ours[RUNS - 1]);
    Ok(ReadReport { name, p50_ms, max_ms, plain_ms, ratio: p50_ms / plain_ms, rows })
}
