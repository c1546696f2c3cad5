//! `nightschool init`: a commented settings file.

use std::path::Path;

use clap::Args;

use super::Global;
use super::Json;
use super::Output;
use super::places;
use crate::config;
use crate::durable;
use crate::durable::HomeLock;
use crate::model::fetch::ModelSpec;

#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  nightschool init
  nightschool init --model ~/models/Qwen2.5-0.5B
  nightschool --home /srv/school init --force")]
pub(super) struct InitArgs {
    /// A built-in name, a folder, a .gguf file or a hub id
    #[arg(long)]
    model: Option<String>,
    /// Replace settings that are there
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    json: Json,
}

pub(super) fn run(global: &Global, args: &InitArgs) -> anyhow::Result<()> {
    let home = places::home(global)?;
    let path = home.config();
    let text = match &args.model {
        Some(model) => with_model(&checked(model)?),
        None => config::DEFAULTS.to_string(),
    };
    // Read back before it is written: a file that would be refused later is refused now.
    let origin = path.display().to_string();
    let settings = config::load(&[(&origin, &text)], &global.set)?;
    let _lock = HomeLock::acquire(home.dir())?;
    if path.exists() && !args.force {
        anyhow::bail!("{origin} is there already; edit it, or replace it with --force");
    }
    durable::write_file(&path, text.as_bytes())?;
    let next =
        [places::command_for(&home, "corpus add DIR"), places::command_for(&home, "night --now")];
    let value = serde_json::json!({
        "home": home.dir(), "config": path, "model": settings.model, "next": next,
    });
    Output::new(args.json.json).show(&value, || {
        format!(
            "Wrote {origin}: every setting with its default and what it means.\n\n\
             Next:\n  {}\n      .md, .txt, .rst, .html and .jsonl files\n  {}\n      \
             teach {} from them",
            next[0], next[1], settings.model
        )
    })
}

/// The model's name as the settings can keep it: paths do not depend on the current folder.
fn checked(model: &str) -> anyhow::Result<String> {
    match model.parse::<ModelSpec>()? {
        ModelSpec::Local(path) => {
            let absolute = Path::new(&path).canonicalize();
            Ok(absolute.unwrap_or(path).to_string_lossy().into_owned())
        }
        ModelSpec::Builtin(_) | ModelSpec::Hub { .. } => Ok(model.to_string()),
    }
}

/// The commented defaults with another model.
fn with_model(model: &str) -> String {
    let line = format!("model = {}", toml::Value::from(model));
    let replace =
        |old: &str| if old.starts_with("model = ") { line.clone() } else { old.to_string() };
    let lines: Vec<String> = config::DEFAULTS.lines().map(replace).collect();
    lines.join("\n") + "\n"
}
