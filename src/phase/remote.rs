//! What generates in a night: the model's host, or the servers of the settings.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use anyhow::Context as _;

use super::open_model::OpenModel;
use crate::archive::ModelKind;
use crate::config::Role;
use crate::config::Settings;
use crate::inference::Continuation;
use crate::inference::GenerateError;
use crate::inference::Generation;
use crate::inference::Generator;
use crate::inference::Remote;
use crate::inference::Request;
use crate::inference::Sampling;
use crate::inference::TokenScore;
use crate::inference::remote;
use crate::inference::remote::Pool;
use crate::inference::remote::ServedModel;
use crate::model::Outline;
use crate::model::adapter_set;
use crate::model::lora::Adapter;

/// The servers of the settings, if there are any. Fails now, not after hours of warm start, when
/// none of them could write what the night wants to train on.
pub(super) fn connect(settings: &Settings, model: &Outline) -> anyhow::Result<Option<Arc<Pool>>> {
    let Some(pool) = remote::connect(&settings.remote, || ServedModel::of_outline(model))? else {
        return Ok(None);
    };
    let (solve, balance) = (&settings.solve, &settings.balance);
    let mut temperatures = vec![solve.temperature];
    if balance.enabled {
        temperatures.extend(balance.temperatures.iter().map(|chosen| *chosen as f32));
    }
    if solve.rounds > 0 && solve.tasks > 0 {
        for temperature in temperatures {
            let sampling = Sampling::at(temperature);
            let request = Request { sampling, ..Request::new(Vec::new(), solve.max_tokens) };
            pool.check_trainable(&request)
                .context("the night cannot train on what remote servers write")?;
        }
    }
    Ok(Some(pool))
}

/// A generator whose tokens the archive counts.
struct Counted<G> {
    inner: G,
    generated: Arc<AtomicU64>,
}

impl<G: Generator> Generator for Counted<G> {
    fn generate(&self, requests: &[Request]) -> Result<Vec<Vec<Generation>>, GenerateError> {
        let generated = self.inner.generate(requests)?;
        let tokens = generated.iter().flatten().map(|one| one.tokens.len() as u64).sum();
        self.generated.fetch_add(tokens, Ordering::Relaxed);
        Ok(generated)
    }

    fn score(&self, given: &[Continuation]) -> Result<Vec<Vec<TokenScore>>, GenerateError> {
        self.inner.score(given)
    }

    fn model_version(&self) -> &str {
        self.inner.model_version()
    }
}

impl OpenModel<'_> {
    /// An engine for a stored version, with the adapter of it that plays `role` (none: the base).
    pub(super) fn generator(
        &self,
        adapter: Option<&Adapter>,
        version: &str,
        role: Role,
    ) -> anyhow::Result<Box<dyn Generator + '_>> {
        Ok(match self.on_servers(version, role)? {
            Some(remote) => self.counted(remote),
            None => self.counted(self.host.policy(version, adapter)?),
        })
    }

    /// The same, for rollouts that are trained on.
    pub(super) fn rollout_generator(
        &self,
        adapter: Option<&Adapter>,
        version: &str,
        role: Role,
    ) -> anyhow::Result<Box<dyn Generator + '_>> {
        Ok(match self.on_servers(version, role)? {
            Some(remote) => self.counted(remote.for_training()),
            None => self.counted(self.host.policy(version, adapter)?),
        })
    }

    fn counted<'g>(&self, inner: impl Generator + 'g) -> Box<dyn Generator + 'g> {
        Box::new(Counted { inner, generated: self.archive.generated() })
    }

    /// The servers' engine for a stored version, if there are servers. They read the adapter from
    /// the version's folder: rollouts are sampled from exactly the weights that are stored.
    fn on_servers(&self, version: &str, role: Role) -> anyhow::Result<Option<Remote>> {
        let Some(pool) = &self.remote else { return Ok(None) };
        let stored = self.archive.model_version(version)?;
        let stored = stored.with_context(|| format!("no model version {version}"))?;
        let adapter = match stored.kind {
            ModelKind::Base => None,
            ModelKind::Adapter => {
                let dir = adapter_set::dir_of(&self.home.dir().join(&stored.path), role);
                let label = format!("{version}-{}", role.as_str());
                Some(remote::adapter(&self.settings.remote, &dir, &label)?)
            }
        };
        let interrupt = self.interrupt.clone();
        Ok(Some(Remote::new(pool.clone(), adapter, version, interrupt)))
    }
}
