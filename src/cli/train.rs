//! `nightschool train`: what training did, step by step.

use clap::Args;
use clap::Subcommand;
use serde_json::Value;
use serde_json::json;

use super::Global;
use super::Json;
use super::Output;
use super::errors::NoSuchObject;
use super::output::table;
use super::places;
use crate::archive::ArchiveReader;
use crate::archive::Night;
use crate::archive::TrainStep;
use crate::config;
use crate::config::AdapterSlot;
use crate::phase::home::Home;
use crate::trainer::tripwire::Stop;
use crate::trainer::tripwire::Watch;

/// Columns of the table: what to call a measure, and its name among a step's metrics.
const MEASURES: [(&str, &str); 14] = [
    ("loss", "loss"),
    ("grad", "grad_norm"),
    ("rate", "learning_rate"),
    ("kl", "kl"),
    ("entropy", "entropy"),
    ("clipped", "clip_fraction"),
    ("ratio", "ratio"),
    ("max", "ratio_max"),
    ("gap", "sampler_gap"),
    ("length", "response_tokens"),
    ("reward", "reward_mean"),
    ("std", "reward_std"),
    ("equal", "zero_variance"),
    ("tokens", "tokens"),
];

#[derive(Debug, Subcommand)]
#[command(before_help = "\
Examples:
  nightschool train steps             # loss, KL, entropy, rewards of the last night")]
pub(super) enum TrainCommand {
    /// List a night's optimiser steps with what was measured, and where a tripwire stopped them
    Steps(StepsArgs),
}

#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  nightschool train steps
  nightschool train steps --night 3 --json")]
pub(super) struct StepsArgs {
    /// The night (default: the last one)
    #[arg(long, value_name = "N")]
    night: Option<u32>,
    #[command(flatten)]
    json: Json,
}

pub(super) fn run(global: &Global, command: &TrainCommand) -> anyhow::Result<()> {
    let TrainCommand::Steps(args) = command;
    let home = places::home(global)?;
    let archive = ArchiveReader::open(&home.archive())?;
    let night = find_night(&archive, &home, args.night)?;
    let steps = archive.train_steps(night.number)?;
    let limits = config::stored(&night.settings)?.tripwires;
    let stop = Watch::over(&limits, &steps).stop();
    let value = as_json(night.number, &steps, stop)?;
    Output::new(args.json.json).show(&value, || rendered(night.number, &steps, stop))
}

fn find_night(archive: &ArchiveReader, home: &Home, number: Option<u32>) -> anyhow::Result<Night> {
    let mut nights = archive.nights()?;
    let found = match number {
        Some(number) => nights.iter().position(|night| night.number == number),
        None => nights.len().checked_sub(1),
    };
    let missing = || {
        let what = number.map_or("no night".to_string(), |number| format!("no night {number}"));
        NoSuchObject(format!("{} has had {what} yet", home.dir().display()))
    };
    Ok(nights.swap_remove(found.ok_or_else(missing)?))
}

fn as_json(night: u32, steps: &[TrainStep], stop: Option<Stop>) -> anyhow::Result<Value> {
    let mut listed = Vec::with_capacity(steps.len());
    for step in steps {
        let mut value = serde_json::to_value(step)?;
        value["stopped"] = json!(stop.filter(|stop| stop.is_at(step)).map(|s| s.to_string()));
        listed.push(value);
    }
    let stopped = stop.map(|stop| {
        json!({
            "phase": stop.phase, "adapter": stop.adapter, "step": stop.step,
            "measure": stop.crossed.measure, "value": stop.crossed.value,
            "limit": stop.crossed.limit, "reason": stop.to_string(),
        })
    });
    Ok(json!({ "night": night, "stopped": stopped, "steps": listed }))
}

fn rendered(night: u32, steps: &[TrainStep], stop: Option<Stop>) -> String {
    if steps.is_empty() {
        return format!("No training in night {night}.");
    }
    let mut header = vec!["phase", "objective", "step"];
    header.extend(MEASURES.map(|(name, _)| name));
    header.push("");
    let rows = steps.iter().map(|step| {
        let phase = match step.adapter {
            AdapterSlot::Shared => step.phase.as_str().to_string(),
            slot => format!("{} {}", step.phase.as_str(), slot.as_str()),
        };
        let mut row = vec![phase, step.objective.as_str().to_string(), step.step.to_string()];
        row.extend(MEASURES.map(|(_, measure)| shown(step.metrics.get(measure))));
        row.push(match stop.filter(|stop| stop.is_at(step)) {
            Some(stop) => format!("STOPPED: {}", stop.crossed),
            None if step.metrics["skipped"] == true => "skipped".to_string(),
            None => String::new(),
        });
        row
    });
    table(&header, rows)
}

/// A measure as text: with three digits, a dash where it was not taken.
fn shown(value: Option<&Value>) -> String {
    match value {
        None => "–".to_string(),
        Some(Value::Null) => "not finite".to_string(),
        Some(value) => match (value.as_u64(), value.as_f64()) {
            (Some(whole), _) => whole.to_string(),
            (None, Some(number)) if number.abs() < 0.001 && number != 0.0 => {
                format!("{number:.1e}")
            }
            (None, Some(number)) => format!("{number:.3}"),
            (None, None) => value.to_string(),
        },
    }
}
