//! Adapters by name: a folder, a version of the home, or what is live.

use std::path::PathBuf;

use clap::ValueEnum;

use super::Global;
use super::errors::NoSuchObject;
use super::errors::UsageError;
use super::places;
use crate::archive::ArchiveReader;
use crate::archive::ModelKind;
use crate::archive::ModelVersion;
use crate::config::Adapters;
use crate::config::Role;
use crate::model::adapter_set;
use crate::phase::home::Home;

/// `--role`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum RoleArg {
    /// Searches and answers
    Solver,
    /// Writes questions
    Proposer,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Solver => Self::Solver,
            RoleArg::Proposer => Self::Proposer,
        }
    }
}

/// A version's folder.
pub(super) struct Found {
    /// A PEFT folder, or one with a PEFT folder for each role.
    path: PathBuf,
    /// Whether it was found through a home's archive.
    pub(super) of_home: bool,
}

impl Found {
    /// The PEFT folder of the adapter that plays `role`.
    pub(super) fn of(&self, role: Role) -> PathBuf {
        adapter_set::dir_of(&self.path, role)
    }

    /// The PEFT folder of the only adapter, or of the one that plays the role that was named.
    ///
    /// # Errors
    /// [`UsageError`] when there is one for each role and none was named.
    pub(super) fn only(&self, role: Option<Role>) -> Result<PathBuf, UsageError> {
        match (adapter_set::form_of(&self.path), role) {
            (Some(Adapters::PerRole), None) => Err(UsageError(format!(
                "{} has an adapter for each role; say which with --role solver or --role proposer",
                self.path.display()
            ))),
            (_, role) => Ok(self.of(role.unwrap_or(Role::Solver))),
        }
    }
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
    if let Some(night) = ArchiveReader::open(&home.archive())?.removed_versions()?.get(&version.id)
    {
        let list = places::command_for(&home, "model list");
        return Err(NoSuchObject(format!(
            "the weights of {} were removed at the end of night {night}, as `retention.adapters` \
             says; see `{list}` for versions that have theirs",
            version.id
        ))
        .into());
    }
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
