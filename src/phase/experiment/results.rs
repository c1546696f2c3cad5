//! What the runs of an experiment came to.

use std::collections::BTreeMap;

use anyhow::Context as _;
use serde::Serialize;

use super::Bench;
use super::Run;
use crate::archive::ArchiveReader;
use crate::archive::EvaluationItem;
use crate::archive::ModelKind;
use crate::archive::NightState;
use crate::evaluation::bootstrap;
use crate::evaluation::bootstrap::Interval;
use crate::phase::report::Report;

/// Resamples of an interval.
const RESAMPLES: usize = 10_000;

/// Results, of the runs that are over.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Results {
    /// The experiment.
    pub name: String,
    /// What it is to show.
    pub question: String,
    /// The suite that everything was measured on.
    pub suite: Option<String>,
    /// Its questions.
    pub questions: usize,
    /// The arm that the others are held against.
    pub baseline: String,
    /// The base model on the suite: exact match and F1.
    pub base: Option<(f64, f64)>,
    /// The arms, in order of name.
    pub arms: Vec<ArmResult>,
    /// Runs that are not over.
    pub left: usize,
}

/// What an arm came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ArmResult {
    /// The arm.
    pub arm: String,
    /// What is different about it.
    pub about: String,
    /// Its runs that are over.
    pub runs: Vec<RunResult>,
    /// Mean exact match of their last candidates.
    pub em: f64,
    /// Mean F1 of them.
    pub f1: f64,
    /// Against the baseline, over the seeds that both have; none for the baseline itself.
    pub difference: Option<Difference>,
}

/// An arm less the baseline; 95 % intervals, seeds and documents both drawn again.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// Seeds that both arms have.
    pub seeds: Vec<u64>,
    /// Exact match.
    pub em: f64,
    /// Its interval.
    pub em_ci: Interval,
    /// F1.
    pub f1: f64,
    /// Its interval.
    pub f1_ci: Interval,
}

/// What a run came to. Nights are summed up; figures are those of the last night's candidate.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunResult {
    /// Its seed.
    pub seed: u64,
    /// Mean exact match.
    pub em: f64,
    /// Mean F1.
    pub f1: f64,
    /// Tokens that the model wrote, evaluations left out.
    pub generated_tokens: u64,
    /// Tokens that training read.
    pub trained_tokens: u64,
    /// Wall-clock minutes, as the reports say: of a night that was cut off only the last stretch.
    pub minutes: f64,
    /// The model's drafts.
    pub drafts: u64,
    /// Those that became tasks.
    pub accepted: u64,
    /// Nights whose candidate went live.
    pub promoted: usize,
}

/// A run that is over, with the answers behind its figures.
struct Measured {
    result: RunResult,
    suite: String,
    base: Option<(f64, f64)>,
    items: Vec<EvaluationItem>,
    documents: BTreeMap<String, String>,
}

/// What there is of an experiment's results.
///
/// # Errors
/// When an archive cannot be read.
pub fn results(bench: &Bench<'_>) -> anyhow::Result<Results> {
    let mut by_arm: BTreeMap<String, Vec<Measured>> = BTreeMap::new();
    let mut left = 0;
    for run in bench.runs() {
        match bench.nights_done(&run)? >= bench.experiment.nights {
            true => by_arm.entry(run.arm.clone()).or_default().push(measured(bench, &run)?),
            false => left += 1,
        }
    }
    let any = by_arm.values().flatten().next();
    let (suite, base) = (any.map(|one| one.suite.clone()), any.and_then(|one| one.base));
    let questions = any.map_or(0, |one| one.items.len());
    let baseline = &bench.experiment.baseline;
    let arms = bench.experiment.arms.iter().map(|(arm, about)| {
        let runs = by_arm.get(arm).map(Vec::as_slice).unwrap_or_default();
        let of_baseline = by_arm.get(baseline).map(Vec::as_slice).unwrap_or_default();
        let figures = |of: fn(&RunResult) -> f64| {
            bootstrap::mean(&runs.iter().map(|run| of(&run.result)).collect::<Vec<_>>())
        };
        ArmResult {
            arm: arm.clone(),
            about: about.about.clone(),
            em: figures(|run| run.em),
            f1: figures(|run| run.f1),
            difference: (arm != baseline).then(|| difference(runs, of_baseline)).flatten(),
            runs: runs.iter().map(|run| run.result.clone()).collect(),
        }
    });
    Ok(Results {
        name: bench.name.to_string(),
        question: bench.experiment.question.clone(),
        suite,
        questions,
        baseline: baseline.clone(),
        base,
        arms: arms.collect(),
        left,
    })
}

fn measured(bench: &Bench<'_>, run: &Run) -> anyhow::Result<Measured> {
    let archive = ArchiveReader::open(&bench.home(run).archive())?;
    let mut nights = archive.nights()?;
    nights.retain(|night| night.state == NightState::Finished);
    let reports = nights.iter().map(|night| {
        let report = night.report.clone().context("a night is over and has no report")?;
        Ok(serde_json::from_value::<Report>(report)?)
    });
    let reports: Vec<Report> = reports.collect::<anyhow::Result<_>>()?;
    let last = reports.last().context("no night is over")?;
    let suite = archive.suite(&last.heldout.suite)?.context("the suite is gone")?;
    let mut evaluations = Vec::new();
    for night in &nights {
        evaluations.extend(archive.evaluations(night.number)?);
    }
    let evaluation = |version: &str| {
        let of_version = evaluations.iter().rev();
        let mut found = of_version
            .filter(|one| one.name.suite_id == suite.id && one.name.model_version == version);
        found.next()
    };
    let of_candidate =
        evaluation(&last.candidate).context("the last candidate was not evaluated")?;
    let versions = archive.model_versions()?;
    let base = versions.iter().find(|(version, _)| version.kind == ModelKind::Base);
    let base = base.and_then(|(version, _)| evaluation(&version.id)?.metrics.clone());
    let sum = |of: &dyn Fn(&Report) -> u64| reports.iter().map(of).sum::<u64>();
    let model = |report: &Report| report.origin.get("model").cloned().unwrap_or_default();
    Ok(Measured {
        result: RunResult {
            seed: run.seed,
            em: last.heldout.after.em,
            f1: last.heldout.after.f1,
            generated_tokens: sum(&|report| report.generated_tokens),
            trained_tokens: sum(&|report| report.train.tokens),
            minutes: reports.iter().map(|report| report.seconds).sum::<f64>() / 60.0,
            drafts: sum(&|report| model(report).drafts),
            accepted: sum(&|report| model(report).accepted),
            promoted: reports.iter().filter(|report| report.promoted).count(),
        },
        base: base.and_then(|m| Some((m["em"].as_f64()?, m["f1"].as_f64()?))),
        items: archive.evaluation_items(&of_candidate.name.id)?,
        documents: suite
            .items
            .into_iter()
            .map(|item| (item.question_id, item.source_document))
            .collect(),
        suite: suite.name,
    })
}

/// `runs` less those of the baseline with the same seeds, question by question.
fn difference(runs: &[Measured], baseline: &[Measured]) -> Option<Difference> {
    let pairs: Vec<(&Measured, &Measured)> = runs
        .iter()
        .filter_map(|run| {
            let same = baseline.iter().find(|other| other.result.seed == run.result.seed)?;
            Some((run, same))
        })
        .collect();
    let (first, _) = pairs.first()?;
    let documents = first.items.iter().map(|item| {
        first.documents.get(&item.question_id).map_or(item.question_id.as_str(), String::as_str)
    });
    let documents: Vec<&str> = documents.collect();
    let differences = |of: fn(&EvaluationItem) -> f64| -> Vec<Vec<f64>> {
        let of_pair = |(run, other): &(&Measured, &Measured)| {
            run.items.iter().zip(&other.items).map(|(a, b)| of(a) - of(b)).collect()
        };
        pairs.iter().map(of_pair).collect()
    };
    let (em, f1) = (differences(|item| item.exact_match), differences(|item| item.f1));
    let mean = |all: &[Vec<f64>]| bootstrap::mean(&all.concat());
    let interval = |all: &[Vec<f64>]| bootstrap::interval_over_runs(all, &documents, RESAMPLES, 0);
    Some(Difference {
        seeds: pairs.iter().map(|(run, _)| run.result.seed).collect(),
        em: mean(&em),
        em_ci: interval(&em),
        f1: mean(&f1),
        f1_ci: interval(&f1),
    })
}
