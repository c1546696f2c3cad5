//! The morning report as a page: one file without scripts, for any browser.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use anyhow::Context as _;
use minijinja::AutoEscape;
use minijinja::Environment;
use minijinja::Value;
use minijinja::context;
use minijinja::value::Serde;
use serde::Serialize;

use super::plots;
use super::plots::Series;
use super::report::Report;
use crate::archive::ArchiveReader;
use crate::archive::Night;
use crate::archive::StoredRollout;
use crate::archive::TaskFilter;
use crate::archive::TrainPhase;
use crate::task::Origin;

const TEMPLATE: &str = include_str!("page.html");
/// Tasks of the night that the page shows.
const EXAMPLES: usize = 12;

/// A bar.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Bar {
    pub(crate) name: String,
    pub(crate) n: u64,
    /// Of the longest, in percent.
    pub(crate) width: f64,
}

/// The page of a night that is over.
///
/// # Errors
/// When the night has no report that this program can read, or the archive fails.
pub fn render(archive: &ArchiveReader, night: &Night) -> anyhow::Result<String> {
    let report = night.report.clone().context("the night has no report yet")?;
    let report: Report = serde_json::from_value(report)
        .context("the report was written by another version of this program")?;
    let rollouts = rollouts(archive, &report)?;
    let mut environment = Environment::new();
    // Questions come from documents and from the model: nothing of them may be taken for markup.
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.add_filter("percent", |share: f64| format!("{:.1}", share * 100.0));
    environment.add_filter("points", |share: f64| format!("{:+.1}", share * 100.0));
    environment.add_template("page.html", TEMPLATE)?;
    let page = environment.get_template("page.html")?.render(context! {
        report => Value::from(Serde(&report)),
        finished_at => night.finished_at.map(|at| format!("{at:.0}")),
        heldout => heldout(archive, night)?,
        training => training(archive, night)?,
        balance => balance(&report)?,
        rejections => Value::from(Serde(rejections(&report))),
        shares => Value::from(Serde(shares(&rollouts))),
        hops => Value::from(Serde(archive.rollouts_by_hops(night.number)?)),
        examples => examples(archive, night.number)?,
    })?;
    Ok(page)
}

fn rollouts(archive: &ArchiveReader, report: &Report) -> anyhow::Result<Vec<StoredRollout>> {
    let mut all = Vec::new();
    for round in 0..report.rounds.len() as u32 {
        all.extend(archive.rollouts_in(report.night, round)?);
    }
    Ok(all)
}

/// A plot as a value that is not escaped; none where there is nothing to show.
fn plot(x: &str, y: &str, series: &[Series]) -> anyhow::Result<Option<Value>> {
    Ok(plots::lines(x, y, series)?.map(Value::from_safe_string))
}

/// Held-out F1 over the nights up to this one, on this night's suite.
fn heldout(archive: &ArchiveReader, last: &Night) -> anyhow::Result<Option<Value>> {
    let suite_of = |report: &serde_json::Value| report["heldout"]["suite"].clone();
    let suite = last.report.as_ref().map(suite_of);
    let (mut before, mut after) = (Vec::new(), Vec::new());
    for night in archive.nights()?.into_iter().filter(|night| night.number <= last.number) {
        let Some(report) = night.report.filter(|report| Some(suite_of(report)) == suite) else {
            continue;
        };
        for (points, member) in [(&mut before, "before"), (&mut after, "after")] {
            if let Some(f1) = report["heldout"][member]["f1"].as_f64() {
                points.push((f64::from(night.number), f1 * 100.0));
            }
        }
    }
    plot("night", "F1", &[Series::new("live", before), Series::new("candidate", after)])
}

/// Plots of the night's training, each with its title.
fn training(archive: &ArchiveReader, night: &Night) -> anyhow::Result<Vec<(String, Value)>> {
    let mut steps = archive.train_steps(night.number)?;
    // Those on demonstrations behind it were mixed into the game.
    let warm_start = night.settings["warm_start"]["steps"].as_u64().unwrap_or(u64::MAX);
    steps.retain(|step| step.phase != TrainPhase::WarmStart || u64::from(step.step) < warm_start);
    let mut all = Vec::new();
    for (title, unit, measure, phases) in [
        ("Loss of the warm start", "nats per token", "loss", &[TrainPhase::WarmStart][..]),
        (
            "Divergence from the base model",
            "nats per token",
            "kl",
            &[TrainPhase::Policy, TrainPhase::Proposer],
        ),
        ("Entropy", "nats per token", "entropy", &[TrainPhase::Policy, TrainPhase::Proposer]),
        ("Reward of the round's rollouts", "mean reward", "reward_mean", &[TrainPhase::Policy]),
    ] {
        let series: Vec<Series> = phases
            .iter()
            .map(|phase| {
                let of_phase = steps.iter().filter(|step| step.phase == *phase).enumerate();
                let points = of_phase.filter_map(|(place, step)| {
                    Some((place as f64 + 1.0, step.metrics[measure].as_f64()?))
                });
                let name = match phase {
                    TrainPhase::WarmStart => "warm start",
                    TrainPhase::Policy => "solver",
                    TrainPhase::Proposer => "proposer",
                };
                Series::new(name, points)
            })
            .filter(|series| !series.points.is_empty())
            .collect();
        if let Some(plot) = plot("step", unit, &series)? {
            all.push((title.to_string(), plot));
        }
    }
    Ok(all)
}

/// The temperatures that the rounds chose, and their balance scores.
fn balance(report: &Report) -> anyhow::Result<Option<Value>> {
    let chosen = || {
        let rounds = (1_u32..).zip(&report.rounds);
        rounds
            .filter_map(|(number, round)| Some((f64::from(number), round.balance.as_ref()?.chosen)))
    };
    let temperature = chosen().map(|(round, cell)| (round, cell.temperature));
    let score = chosen().map(|(round, cell)| (round, cell.score));
    let series = [Series::new("temperature", temperature), Series::new("balance score", score)];
    plot("round", "", &series)
}

fn bars(counts: impl IntoIterator<Item = (String, u64)>) -> Vec<Bar> {
    let counts: Vec<(String, u64)> = counts.into_iter().collect();
    let most = counts.iter().map(|(_, n)| *n).max().unwrap_or_default().max(1) as f64;
    let bar = |(name, n): (String, u64)| Bar { name, n, width: 100.0 * n as f64 / most };
    counts.into_iter().map(bar).collect()
}

/// What became of the drafts, by who made them.
pub(super) fn rejections(report: &Report) -> Vec<(String, Vec<Bar>)> {
    let of = |(origin, counts): (&String, &super::report::OriginReport)| {
        let mut fates = vec![("accepted".to_string(), counts.accepted)];
        let mut reasons: Vec<_> =
            counts.rejections.iter().map(|(reason, n)| (reason.replace('_', " "), *n)).collect();
        reasons.sort_by_key(|(_, n)| Reverse(*n));
        fates.extend(reasons);
        (origin.clone(), bars(fates))
    };
    report.origin.iter().map(of).collect()
}

/// How many of the night's groups were solved in which share of their rollouts.
fn shares(rollouts: &[StoredRollout]) -> Vec<Bar> {
    const NAMES: [&str; 6] =
        ["never", "up to 25 %", "up to 50 %", "up to 75 %", "below 100 %", "always"];
    let mut groups: BTreeMap<(u32, &str), (usize, usize)> = BTreeMap::new();
    for stored in rollouts {
        let group = groups.entry((stored.round, &stored.rollout.task_id)).or_default();
        group.0 += 1;
        group.1 += usize::from(stored.score.exact_match >= 0.5);
    }
    let mut counts = [0_u64; 6];
    for (n, solved) in groups.into_values() {
        let place = match (solved, 4 * solved) {
            (0, _) => 0,
            (all, _) if all == n => 5,
            (_, quarters) if quarters <= n => 1,
            (_, quarters) if quarters <= 2 * n => 2,
            (_, quarters) if quarters <= 3 * n => 3,
            _ => 4,
        };
        counts[place] += 1;
    }
    bars(NAMES.map(String::from).into_iter().zip(counts))
}

/// A few tasks that the model wrote tonight.
fn examples(archive: &ArchiveReader, night: u32) -> anyhow::Result<Vec<Value>> {
    let filter = TaskFilter {
        night: Some(night),
        origin: Some(Origin::Model),
        limit: Some(EXAMPLES as u32),
        ..TaskFilter::default()
    };
    let tasks = archive.tasks(&filter)?.into_iter().map(|stored| {
        context! {
            id => stored.task.id,
            question => stored.task.question,
            answer => stored.task.answer,
            attempts => stored.attempts,
            solved => stored.solved,
        }
    });
    Ok(tasks.collect())
}
