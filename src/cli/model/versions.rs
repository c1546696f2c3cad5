//! Versions of a home: what each was made of and how it did, and which one is live.

use clap::Args;
use serde_json::json;

use super::super::Global;
use super::super::Json;
use super::super::Output;
use super::super::output::or_dash;
use super::super::output::shortened;
use super::super::output::table;
use super::super::places;
use crate::archive::ArchiveReader;
use crate::archive::ModelDetail;
use crate::archive::PlayDifference;

#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  nightschool model show live
  nightschool task list --trained-into night3-round1   # the tasks that made it")]
pub(in crate::cli) struct ShowArgs {
    /// A version, or `live`
    version: String,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  nightschool model diff base live
  nightschool model diff night2-round1 night3-round1 --json")]
pub(in crate::cli) struct DiffArgs {
    /// A version, or `live`
    before: String,
    /// Another
    after: String,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  nightschool model promote night3-round1 --note \"better on my own questions\"
  nightschool model promote base      # without an adapter again")]
pub(in crate::cli) struct PromoteArgs {
    /// The version to make live
    version: String,
    /// Why
    #[arg(long, default_value = "by hand")]
    note: String,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  nightschool model rollback
  nightschool model rollback --note \"answers grew too short\"")]
pub(in crate::cli) struct RollbackArgs {
    /// Why
    #[arg(long, default_value = "rolled back by hand")]
    note: String,
    #[command(flatten)]
    json: Json,
}

/// The id that a person means: `live` is the live version's.
fn named(archive: &ArchiveReader, version: &str) -> anyhow::Result<String> {
    let live = if version == "live" { archive.live_model()? } else { None };
    Ok(live.map_or_else(|| version.to_string(), |live| live.id))
}

pub(super) fn show(global: &Global, args: &ShowArgs) -> anyhow::Result<()> {
    let archive = ArchiveReader::open(&places::home(global)?.archive())?;
    let detail = archive.model_detail(&named(&archive, &args.version)?)?;
    Output::new(args.json.json).show(&detail, || rendered(&detail))
}

fn rendered(detail: &ModelDetail) -> String {
    let version = &detail.version;
    let [solved, attempts] = detail.plays;
    let facts = [
        ("Version", format!("{}{}", version.id, if detail.live { " (live)" } else { "" })),
        ("What", format!("{}, {}", version.kind.as_str(), version.note)),
        ("From", or_dash((!detail.ancestors.is_empty()).then(|| detail.ancestors.join(" ← ")))),
        ("Made", or_dash(version.night.map(|night| format!("in night {night}")))),
        ("Files", version.path.clone()),
        ("Trained on", format!("{} tasks, its ancestors' included", detail.trained_on)),
        ("Steps", format!("{} from its parent", detail.train_steps)),
        ("Rollouts", format!("{solved} of {attempts} solved")),
    ];
    let facts = facts.into_iter().map(|(name, value)| vec![name.to_string(), value]);
    let mut text = table(&[], facts);
    if !detail.evaluations.is_empty() {
        text += &format!("\n\n{}", table(&["suite", "figures"], figures(detail)));
    }
    for (night, promoted, reason) in &detail.promotions {
        let outcome = if *promoted { "promoted" } else { "not promoted" };
        text += &format!("\n\nNight {night}: {outcome}, {reason}");
    }
    text
}

fn figures(detail: &ModelDetail) -> Vec<Vec<String>> {
    let figure = |metrics: &serde_json::Value| {
        let numbers = metrics
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(name, value)| Some(format!("{name} {:.3}", value.as_f64()?)));
        numbers.collect::<Vec<_>>().join(", ")
    };
    let row = |(suite, metrics): &(String, Option<serde_json::Value>)| {
        vec![suite.clone(), metrics.as_ref().map_or("not ended".into(), figure)]
    };
    detail.evaluations.iter().map(row).collect()
}

pub(super) fn diff(global: &Global, args: &DiffArgs) -> anyhow::Result<()> {
    let archive = ArchiveReader::open(&places::home(global)?.archive())?;
    let (before, after) = (named(&archive, &args.before)?, named(&archive, &args.after)?);
    let difference = archive.model_difference(&before, &after)?;
    Output::new(args.json.json).show(&difference, || {
        let rows = difference.versions.iter().flat_map(|detail| {
            let version = detail.version.id.clone();
            figures(detail).into_iter().map(move |row| [vec![version.clone()], row].concat())
        });
        let figures = table(&["version", "suite", "figures"], rows);
        format!(
            "{figures}\n\n{after} was trained on {} tasks that {before} was not, and not on {} \
             that it was\n\n{}",
            difference.trained_on_more,
            difference.trained_on_less,
            plays(&difference.plays)
        )
    })
}

/// How the tasks went that both sides played.
pub(in crate::cli) fn plays(plays: &PlayDifference) -> String {
    let mut text = format!(
        "{} tasks played by both: {} solved more often, {} less; mean gain {:+.3}",
        plays.tasks, plays.better, plays.worse, plays.mean_gain
    );
    if !plays.most_changed.is_empty() {
        let rows = plays.most_changed.iter().map(|played| {
            let share = |[solved, attempts]: [u64; 2]| format!("{solved}/{attempts}");
            let question = shortened(&played.question, 90);
            vec![played.task_id.clone(), share(played.before), share(played.after), question]
        });
        text += &format!("\n\n{}", table(&["task", "before", "after", "question"], rows));
    }
    text
}

pub(super) fn promote(global: &Global, args: &PromoteArgs) -> anyhow::Result<()> {
    let (_lock, archive) = places::writable(global)?;
    let before = archive.live_model()?.map(|version| version.id);
    archive.set_live_model(&args.version, &args.note)?;
    changed(args.json, before, &args.version)
}

pub(super) fn roll_back(global: &Global, args: &RollbackArgs) -> anyhow::Result<()> {
    let (_lock, archive) = places::writable(global)?;
    let before = archive.live_model()?.map(|version| version.id);
    let live = archive.roll_back(&args.note)?;
    changed(args.json, before, &live)
}

fn changed(json: Json, before: Option<String>, live: &str) -> anyhow::Result<()> {
    let value = json!({ "live": live, "before": before });
    Output::new(json.json).show(&value, || match &before {
        Some(before) => format!("{live} is live in the place of {before}"),
        None => format!("{live} is live"),
    })
}
