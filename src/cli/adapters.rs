//! Adapters by name: a folder, a version of the home, or what is live.

use std::path::PathBuf;

use super::Global;
use super::errors::NoSuchObject;
use super::errors::UsageError;
use super::places;
use crate::archive::ArchiveReader;
use crate::archive::ModelKind;
use crate::archive::ModelVersion;
use crate::phase::home::Home;

/// An adapter's folder.
pub(super) struct Found {
    /// A PEFT folder.
    pub(super) path: PathBuf,
    /// Whether it was found through a home's archive.
    pub(super) of_home: bool,
}

/// The adapter that `name` stands for; none for `none` and for a version without one.
pub(super) fn find(global: &Global, name: &str) -> anyhow::Result<Option<Found>> {
    let path = PathBuf::from(name);
    if name == "none" {
        return Ok(None);
    }
    if name != "live" && path.is_dir() {
        return Ok(Some(Found { path, of_home: false }));
    }
    let home = places::home(global)?;
    let version = version(&home, name)?;
    if version.kind == ModelKind::Base {
        tracing::warn!("{name} is the base model, without an adapter");
        return Ok(None);
    }
    Ok(Some(Found { path: home.dir().join(version.path), of_home: true }))
}

/// The model version called `live`, or whose id is or begins with `name`.
fn version(home: &Home, name: &str) -> anyhow::Result<ModelVersion> {
    let missing = |what: String| {
        let list = places::command_for(home, "model list");
        NoSuchObject(format!("{what} in {}; see `{list}`", home.dir().display()))
    };
    if !home.archive().exists() {
        return Err(missing(format!("no adapter folder {name:?}, and no model versions")).into());
    }
    let archive = ArchiveReader::open(&home.archive())?;
    if name == "live" {
        let live = archive.live_model()?;
        return Ok(live.ok_or_else(|| missing("no model is live".to_string()))?);
    }
    let versions = archive.model_versions()?.into_iter().map(|(version, _)| version);
    let mut matching: Vec<ModelVersion> =
        versions.filter(|version| version.id.starts_with(name)).collect();
    if let Some(exact) = matching.iter().position(|version| version.id == name) {
        return Ok(matching.swap_remove(exact));
    }
    match matching.len() {
        0 => Err(missing(format!("no adapter folder or model version {name:?}")).into()),
        1 => Ok(matching.swap_remove(0)),
        n => Err(UsageError(format!("{n} model versions begin with {name:?}; give more")).into()),
    }
}
