//! `nightschool model`: fetch base models, list them and the versions that nights made.

pub(super) mod versions;

use std::path::Path;
use std::path::PathBuf;

use clap::Args;
use clap::Subcommand;
use serde::Serialize;
use serde_json::json;

use super::Global;
use super::Json;
use super::Output;
use super::adapters;
use super::adapters::RoleArg;
use super::errors::UsageError;
use super::output::or_dash;
use super::output::table;
use super::places;
use crate::archive::ArchiveError;
use crate::archive::ArchiveReader;
use crate::archive::ModelVersion;
use crate::config::Adapters;
use crate::config::Role;
use crate::model::Model;
use crate::model::export::export;
use crate::model::fetch;
use crate::model::fetch::BUILTINS;
use crate::model::fetch::Layout;
use crate::model::fetch::ModelSpec;
use crate::model::lora::Adapter;

#[derive(Debug, Subcommand)]
#[command(before_help = "\
Examples:
  nightschool model list
  nightschool model show live         # what it was trained on and how it did
  nightschool model rollback          # back to the version before
  nightschool model export live DIR   # base and adapter merged, as a Hugging Face folder")]
pub(super) enum ModelCommand {
    /// Fetch a model into the cache and check it
    Fetch(FetchArgs),
    /// List the models that can be fetched by name and the versions of this home
    List(ListArgs),
    /// Show a version: what it was trained on, how it was measured, what became of it
    Show(versions::ShowArgs),
    /// What two versions differ in
    Diff(versions::DiffArgs),
    /// Make a version live without a comparison
    Promote(versions::PromoteArgs),
    /// Make the version live again that was so before the present one
    Rollback(versions::RollbackArgs),
    /// Write a version as a model of its own, its adapter merged into the weights
    Export(ExportArgs),
}

impl ModelCommand {
    /// Whether it only looks at what there is.
    pub(super) fn only_looks(&self) -> bool {
        matches!(self, Self::List(_) | Self::Show(_) | Self::Diff(_))
    }
}

#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  nightschool model export live merged
  nightschool model export night3-round1 merged --role solver
  nightschool model export ./adapter merged --model ~/models/Qwen2.5-0.5B")]
pub(super) struct ExportArgs {
    /// A model version of the home, `live`, or a PEFT folder
    version: String,
    /// Folder to write: config.json, tokenizer.json, model.safetensors
    #[arg(value_name = "DIR")]
    to: PathBuf,
    /// Whose adapter, where the roles have one each
    #[arg(long)]
    role: Option<RoleArg>,
    /// The base of a PEFT folder (default: the home's model)
    #[arg(long)]
    model: Option<String>,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  nightschool model fetch smollm2-135m
  nightschool model fetch HuggingFaceTB/SmolLM2-360M
  nightschool model fetch ~/models/model.gguf   # only checks it")]
pub(super) struct FetchArgs {
    /// A built-in name (smollm2-135m) or a hub id OWNER/NAME[@REVISION]; a folder or a .gguf file
    /// is only checked
    model: String,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  nightschool model list
  nightschool model list --json")]
pub(super) struct ListArgs {
    #[command(flatten)]
    json: Json,
}

/// A version as listed.
#[derive(Debug, Serialize)]
struct Listed {
    live: bool,
    #[serde(flatten)]
    version: ModelVersion,
    /// The night at whose end its weights were removed.
    removed_night: Option<u32>,
    created_at: jiff::Timestamp,
}

pub(super) fn run(global: &Global, command: &ModelCommand) -> anyhow::Result<()> {
    match command {
        ModelCommand::Fetch(args) => fetch_model(args),
        ModelCommand::List(args) => list(global, args),
        ModelCommand::Show(args) => versions::show(global, args),
        ModelCommand::Diff(args) => versions::diff(global, args),
        ModelCommand::Promote(args) => versions::promote(global, args),
        ModelCommand::Rollback(args) => versions::roll_back(global, args),
        ModelCommand::Export(args) => export_version(global, args),
    }
}

fn export_version(global: &Global, args: &ExportArgs) -> anyhow::Result<()> {
    if args.to.exists() {
        return Err(UsageError(format!("{} exists; name a new folder", args.to.display())).into());
    }
    let Some(found) = adapters::find(global, &args.version)? else {
        let version = &args.version;
        return Err(UsageError(format!("{version} has no adapter: nothing to merge")).into());
    };
    let folder = found.only(args.role.map(Role::from))?;
    let flags: Vec<String> = places::model_flag(args.model.as_ref()).into_iter().collect();
    let settings = places::settings_of_named_home(global, found.of_home, &flags)?;
    let spec: ModelSpec = settings.model.parse()?;
    let model = Model::load(&fetch::resolve(&spec, &places::cache()?)?)?;
    let adapter = Adapter::load(&folder, model.decoder.config())?;
    let hash = export(&model, &adapter, &args.to)?;
    let value = json!({ "path": args.to, "base": model.name, "adapter": folder, "hash": hash });
    Output::new(args.json.json).show(&value, || {
        format!("{} with {} is in {}", model.name, folder.display(), args.to.display())
    })
}

fn fetch_model(args: &FetchArgs) -> anyhow::Result<()> {
    let spec: ModelSpec = args.model.parse()?;
    let files = fetch::resolve(&spec, &places::cache()?)?;
    fetch::verify(&files)?;
    let path = match &files.layout {
        Layout::Gguf { path } => path,
        Layout::Folder { dir } => dir,
    };
    let value = json!({ "name": files.name, "path": path, "sha256": files.sha256 });
    Output::new(args.json.json).show(&value, || {
        format!("{} is whole at {}\nsha256 {}", files.name, path.display(), files.sha256)
    })
}

fn list(global: &Global, args: &ListArgs) -> anyhow::Result<()> {
    let cache = places::cache()?;
    let home = places::home(global)?;
    let versions = match ArchiveReader::open(&home.archive()) {
        Ok(archive) => versions(&archive)?,
        // A home that has not been used has no versions; what can be fetched is still listed.
        Err(ArchiveError::Missing { .. }) => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    let builtins: Vec<(&str, u64, bool)> = BUILTINS
        .iter()
        .map(|builtin| {
            let fetched = is_fetched(&cache, builtin.name);
            (builtin.name, builtin.bytes, fetched)
        })
        .collect();
    let value = json!({
        "builtin": builtins.iter().map(|(name, bytes, fetched)| json!({
            "name": name, "bytes": bytes, "fetched": fetched,
        })).collect::<Vec<_>>(),
        "versions": versions,
    });
    Output::new(args.json.json).show(&value, || {
        let rows = builtins.iter().map(|(name, bytes, fetched)| {
            let size = format!("{} MB", bytes / 1_000_000);
            vec![(*name).to_string(), size, if *fetched { "yes" } else { "no" }.to_string()]
        });
        let mut text = table(&["model", "size", "fetched"], rows);
        if versions.is_empty() {
            return text + &format!("\n\nNo versions in {} yet.", home.dir().display());
        }
        let rows = versions.iter().map(|listed| {
            let version = &listed.version;
            vec![
                if listed.live { "live" } else { "" }.to_string(),
                version.id.clone(),
                match version.adapters {
                    Some(Adapters::PerRole) => "adapter per role".to_string(),
                    _ => version.kind.as_str().to_string(),
                },
                or_dash(version.parent.clone()),
                or_dash(version.night),
                version.note.clone(),
                match listed.removed_night {
                    Some(night) => format!("weights removed in night {night}"),
                    None => version.path.clone(),
                },
            ]
        });
        let header = ["", "version", "kind", "from", "night", "note", "files"];
        text += &format!("\n\n{}", table(&header, rows));
        text
    })
}

fn versions(archive: &ArchiveReader) -> Result<Vec<Listed>, ArchiveError> {
    let live = archive.live_model()?.map(|version| version.id);
    let removed = archive.removed_versions()?;
    let listed = archive.model_versions()?.into_iter().map(|(version, created_at)| Listed {
        live: live.as_ref() == Some(&version.id),
        removed_night: removed.get(&version.id).copied(),
        version,
        created_at,
    });
    Ok(listed.collect())
}

/// Whether the folder that a fetch renames into place last is there.
fn is_fetched(cache: &Path, name: &str) -> bool {
    cache.join("models").join(name).is_dir()
}
