//! `nightschool doctor`: what the program runs on here, and why; what takes space.

mod disk;

use clap::Args;
use serde_json::json;

use super::Global;
use super::Json;
use super::Output;
use super::output::table;
use super::places;
use crate::inference::doctor;
use crate::inference::doctor::Candidate;
use crate::inference::doctor::Diagnosis;
use crate::inference::remote::EndpointStatus;
use crate::model::Model;
use crate::model::fetch;
use crate::model::fetch::ModelSpec;

#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  nightschool doctor
  nightschool doctor --disk            # only what takes space, and what of it can go
  nightschool doctor --model ~/models/Qwen2.5-0.5B --json")]
pub(super) struct DoctorArgs {
    /// A built-in name, a folder, a .gguf file or a hub id [default: the settings' model]
    #[arg(long)]
    model: Option<String>,
    /// Only what takes space in the home and the model cache, and how it is given back; no model is
    /// loaded
    #[arg(long, conflicts_with = "model")]
    disk: bool,
    #[command(flatten)]
    json: Json,
}

pub(super) fn run(global: &Global, args: &DoctorArgs) -> anyhow::Result<()> {
    let home = places::home(global)?;
    let flags: Vec<String> = places::model_flag(args.model.as_ref()).into_iter().collect();
    let settings = places::settings(global, &home, &[], &flags)?;
    let cache = places::cache()?;
    let taken = || disk::of(&home, &cache, settings.disk.floor_bytes());
    if args.disk {
        let disk = taken()?;
        let shown = json!({ "disk": disk });
        return Output::new(args.json.json).show(&shown, || disk.rendered());
    }
    let spec: ModelSpec = settings.model.parse()?;
    let model = Model::load(&fetch::resolve(&spec, &cache)?)?;
    let diagnosis = doctor::diagnose(&model, &settings.inference, &settings.remote)?;
    let disk = taken()?;
    let mut shown = serde_json::to_value(&diagnosis)?;
    shown["disk"] = serde_json::to_value(&disk)?;
    Output::new(args.json.json)
        .show(&shown, || format!("{}\n\n{}", render(&diagnosis).trim_end(), disk.rendered()))
}

fn render(diagnosis: &Diagnosis) -> String {
    let facts = [
        ("generation", diagnosis.device.clone()),
        ("units", diagnosis.units.join(", ")),
        ("threads", diagnosis.threads.to_string()),
        ("memory for keys and values", format!("{} MB", diagnosis.kv_mb)),
    ];
    let facts = table(&[], facts.into_iter().map(|(what, value)| vec![what.to_string(), value]));
    let columns = ["", "unit", "weights", "MB", "exact", "1 row: tokens/s", "32 rows: tokens/s"];
    let rows = table(&columns, diagnosis.candidates.iter().map(row));
    let servers = match diagnosis.servers.as_slice() {
        [] => String::new(),
        servers => {
            let columns = ["server", "program", "state", "training"];
            format!("\n{}\n", table(&columns, servers.iter().map(server)))
        }
    };
    format!("{facts}\n\n{rows}\n\n{}\n{servers}", diagnosis.advice)
}

fn server(status: &EndpointStatus) -> Vec<String> {
    let error = status.last_error.as_deref().unwrap_or("no answer");
    vec![
        status.endpoint.clone(),
        status.server.unwrap_or("unknown").into(),
        if status.healthy { "well".into() } else { error.into() },
        match (status.server, &status.untrainable) {
            (None, _) => String::new(),
            (Some(_), None) => "yes".into(),
            (Some(_), Some(why)) => format!("no: {why}"),
        },
    ]
}

fn row(candidate: &Candidate) -> Vec<String> {
    let [one, many] = candidate.tokens_per_s;
    vec![
        if candidate.chosen { "chosen" } else { "" }.into(),
        candidate.unit.into(),
        doctor::name(candidate.weights).into(),
        (candidate.weight_bytes / 1_000_000).to_string(),
        if candidate.exact { "yes" } else { "rounded" }.into(),
        format!("{one:.0}"),
        format!("{many:.0}"),
    ]
}
