//! A home's model, open: it generates as any version of the home, by the engine of this process or
//! by the servers of the settings.

use std::ffi::OsString;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use anyhow::Context as _;

use super::home::Home;
use super::policy;
use crate::archive::Archive;
use crate::archive::ArchiveReader;
use crate::archive::ModelKind;
use crate::archive::ModelVersion;
use crate::config::Role;
use crate::config::Settings;
use crate::inference::GenerateError;
use crate::inference::Generator;
use crate::inference::remote::Pool;
use crate::model::Model;
use crate::model::Outline;
use crate::model::fetch;
use crate::model::fetch::ModelFiles;
use crate::model::fetch::ModelSpec;
use crate::model::tokenizer::Tokenizer;
use crate::protocol::Prompts;
use crate::protocol::Reader;
use crate::worker;
use crate::worker::HostOptions;
use crate::worker::ModelHost;

/// What opening a model needs from outside its home.
#[derive(Debug, Clone)]
pub struct ModelContext {
    /// Where models are kept.
    pub cache: PathBuf,
    /// Set to stop at the next opportunity.
    pub interrupt: Arc<AtomicBool>,
    /// The command line that starts a worker; none to have the model in this process.
    pub worker: Option<Vec<OsString>>,
}

/// The open model of a home.
pub struct OpenModel<'a> {
    pub(super) home: &'a Home,
    pub(super) settings: Settings,
    pub(super) archive: &'a Archive,
    /// The model, without its weights.
    pub(super) outline: Outline,
    /// What has its weights: it trains, and generates unless servers do.
    pub(super) host: Box<dyn ModelHost>,
    /// Servers that generate in the place of this process.
    pub(super) remote: Option<Arc<Pool>>,
    pub(super) prompts: Prompts,
    pub(super) interrupt: Arc<AtomicBool>,
}

/// A model on the disk, and what is known of it.
pub(super) struct Found {
    pub(super) files: ModelFiles,
    pub(super) outline: Outline,
}

/// Finds the base model, fetching it if need be, and sees to it that the archive knows it.
pub(super) fn find(
    archive: &Archive,
    settings: &Settings,
    context: &ModelContext,
) -> anyhow::Result<(Found, ModelVersion)> {
    let spec: ModelSpec = settings.model.parse()?;
    let files = fetch::resolve(&spec, &context.cache)?;
    let outline = Outline::read(&files)?;
    let base = ModelVersion {
        id: format!("base-{}", &files.sha256[..8]),
        parent: None,
        kind: ModelKind::Base,
        adapters: None,
        path: files.name.clone(),
        content_hash: files.sha256.clone(),
        night: None,
        note: "as fetched".into(),
    };
    match archive.live_model()? {
        None => {
            archive.put_model_version(&base)?;
            archive.set_live_model(&base.id, "the first")?;
        }
        Some(live) => check_base(archive, &live, &base)?,
    }
    policy::check_form(archive, settings)?;
    Ok((Found { files, outline }, base))
}

/// The tokenizer of the model that a home's rollouts were written with.
///
/// # Errors
/// When the model is not that of the settings, or not to be had.
pub fn tokenizer(
    archive: &ArchiveReader,
    settings: &Settings,
    cache: &Path,
) -> anyhow::Result<Tokenizer> {
    let spec: ModelSpec = settings.model.parse()?;
    let files = fetch::resolve(&spec, cache)?;
    let versions = archive.model_versions()?.into_iter().map(|(version, _)| version);
    let base = versions.into_iter().find(|version| version.kind == ModelKind::Base);
    if let Some(base) = base.filter(|base| base.content_hash != files.sha256) {
        anyhow::bail!("this home learns on {}, and `model` names {}", base.path, files.name);
    }
    Ok(Model::load_tokenizer(&files)?)
}

impl<'a> OpenModel<'a> {
    /// Opens a model that was found; `remote` are the servers that generate, if any.
    pub(super) fn new(
        home: &'a Home,
        archive: &'a Archive,
        settings: Settings,
        found: Found,
        remote: Option<Arc<Pool>>,
        context: &ModelContext,
    ) -> anyhow::Result<Self> {
        let interrupt = context.interrupt.clone();
        let host = worker::open(HostOptions {
            files: found.files,
            inference: remote.is_none().then_some(settings.inference),
            watch: settings.worker,
            command: context.worker.clone(),
            interrupt: interrupt.clone(),
        })?;
        let prompts = Prompts::with_folder(&home.prompts())?;
        let outline = found.outline;
        Ok(Self { home, settings, archive, outline, host, remote, prompts, interrupt })
    }

    /// The base model, which also answers from memory in the closed-book check.
    pub(super) fn base(&self) -> anyhow::Result<Box<dyn Generator + '_>> {
        self.generator(None, &self.base_id()?, Role::Solver)
    }

    /// A stored version as the solver.
    pub(super) fn solver(&self, version: &ModelVersion) -> anyhow::Result<Box<dyn Generator + '_>> {
        let adapters = self.load_adapters(version)?;
        let solver = adapters.as_ref().map(|adapters| adapters.of(Role::Solver));
        self.generator(solver, &version.id, Role::Solver)
    }

    /// A reader with one of the prompts.
    pub(super) fn reader<'r>(&'r self, prompt: &'r str, max_tokens: usize) -> Reader<'r> {
        let (prompts, tokenizer) = (&self.prompts, &self.outline.tokenizer);
        Reader { prompts, prompt, tokenizer, max_tokens }
    }

    /// The prompt a version is read with: the base its best one, an adapter the one it learnt.
    pub(super) fn prompt_of(&self, version: &ModelVersion) -> &str {
        match version.kind {
            ModelKind::Base => &self.settings.evaluate.base_prompt,
            ModelKind::Adapter => &self.settings.evaluate.adapter_prompt,
        }
    }

    /// Fails when the user asked to stop; called between pieces of work.
    pub(super) fn check_interrupt(&self) -> anyhow::Result<()> {
        match self.is_interrupted() {
            true => Err(GenerateError::Interrupted.into()),
            false => Ok(()),
        }
    }

    /// Whether the user asked to stop.
    pub(super) fn is_interrupted(&self) -> bool {
        self.interrupt.load(Ordering::Relaxed)
    }

    pub(super) fn base_id(&self) -> anyhow::Result<String> {
        let versions = self.archive.model_versions()?;
        let base = versions.into_iter().find(|(version, _)| version.kind == ModelKind::Base);
        Ok(base.context("the archive has no base model")?.0.id)
    }
}

/// A home learns on one base model; another base needs another home.
fn check_base(archive: &Archive, live: &ModelVersion, base: &ModelVersion) -> anyhow::Result<()> {
    let mut root = live.clone();
    while let Some(parent) = &root.parent {
        root = archive
            .model_version(parent)?
            .with_context(|| format!("model version {parent} is missing from the archive"))?;
    }
    if root.id != base.id {
        anyhow::bail!(
            "this home learns on {} ({}), not on {} ({}): use another --home for another model",
            root.path,
            root.id,
            base.path,
            base.id
        );
    }
    Ok(())
}
