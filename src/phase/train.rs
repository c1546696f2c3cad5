//! The policy in training: adapter, optimiser, and the checkpoints between units.

use std::path::PathBuf;

use anyhow::Context as _;
use serde_json::json;

use super::night::Night;
use crate::archive::ModelKind;
use crate::archive::ModelVersion;
use crate::archive::TrainPhase;
use crate::archive::TrainStep;
use crate::durable;
use crate::model::lora::Adapter;
use crate::model::lora::LoraShape;
use crate::model::lora::TargetSet;
use crate::rng;
use crate::trainer::Limits;
use crate::trainer::StepMetrics;
use crate::trainer::TrainError;
use crate::trainer::Trainer;
use crate::trainer::batch::Example;
use crate::trainer::checkpoint;
use crate::trainer::objective::Objective;
use crate::trainer::optimizer::AdamW;
use crate::trainer::optimizer::AdamWSettings;
use crate::trainer::tripwire;
use crate::trainer::tripwire::Crossed;

/// Steps without a finite loss or gradient before a phase gives up.
const MAX_SKIPPED: u32 = 3;

/// The weights under training and the version they were last stored as.
pub(super) struct Policy {
    /// The adapter.
    pub(super) adapter: Adapter,
    /// The last stored version; rollouts are sampled from exactly these weights.
    pub(super) version: ModelVersion,
}

/// A run of optimiser steps that is one unit of work.
pub(super) struct Stretch<'a> {
    pub(super) phase: TrainPhase,
    pub(super) key: String,
    /// Number of the first step, within night and phase.
    pub(super) first_step: usize,
    /// For each step its learning rate and examples.
    pub(super) steps: Vec<(f32, Vec<Example>)>,
    pub(super) objective: &'a Objective,
    /// What else is recorded with each step.
    pub(super) about: serde_json::Map<String, serde_json::Value>,
}

impl Night<'_> {
    /// The policy a night starts from: the live adapter, or a fresh one on the base.
    pub(super) fn start_policy(&self, incumbent: &ModelVersion) -> anyhow::Result<Policy> {
        let adapter = match self.load_adapter(incumbent)? {
            Some(adapter) => adapter,
            None => {
                let train = &self.settings.train;
                let targets = TargetSet::of(&train.target_modules);
                let shape =
                    LoraShape { rank: train.rank, alpha: train.alpha, dropout: 0.0, targets };
                let mut rng = rng::stream(self.seed(), &["adapter"]);
                Adapter::fresh(self.model.decoder.config(), shape, &mut rng)?
            }
        };
        Ok(Policy { adapter, version: incumbent.clone() })
    }

    pub(super) fn base_id(&self) -> anyhow::Result<String> {
        let versions = self.archive.model_versions()?;
        let base = versions.into_iter().find(|(version, _)| version.kind == ModelKind::Base);
        Ok(base.context("the archive has no base model")?.0.id)
    }

    /// Trains one stretch, or takes up its checkpoint if it is already done.
    pub(super) fn train(
        &self,
        policy: &mut Policy,
        optimizer: AdamW,
        stretch: &Stretch<'_>,
        mut shown: impl FnMut(&StepMetrics),
    ) -> anyhow::Result<AdamW> {
        let settings = self.optimizer_settings();
        let config = self.model.decoder.config();
        let phase = stretch.phase.as_str();
        let dir = self.checkpoint_dir(phase, &stretch.key);
        if self.done(phase, &stretch.key)? {
            let (adapter, optimizer) = checkpoint::load(&dir, config, settings)?;
            policy.adapter = adapter;
            return Ok(optimizer);
        }
        let decoder = &self.model.decoder;
        let mut trainer = Trainer::new(decoder, &policy.adapter, optimizer, self.limits());
        let mut rows = Vec::with_capacity(stretch.steps.len());
        let mut skipped = 0;
        for (index, (rate, examples)) in stretch.steps.iter().enumerate() {
            self.check_interrupt()?;
            let metrics = trainer.step(examples, stretch.objective, *rate)?;
            shown(&metrics);
            if metrics.skipped && metrics.target_tokens > 0 {
                skipped += 1;
                if skipped > MAX_SKIPPED {
                    return Err(TrainError::NotFinite(skipped).into());
                }
            }
            rows.push(TrainStep {
                phase: stretch.phase,
                step: (stretch.first_step + index) as u32,
                model_version: policy.version.id.clone(),
                metrics: recorded(&metrics, &stretch.about)?,
            });
        }
        checkpoint::save(&dir, &policy.adapter, trainer.optimizer(), &self.model.name)?;
        self.archive.record_train_steps(&self.unit(phase, &stretch.key), &rows)?;
        Ok(trainer.into_optimizer())
    }

    /// The first step on rollouts in this night that crossed a tripwire. Read from the archive, so
    /// that a night that is gone through again stops where it stopped.
    pub(super) fn tripped(&self) -> anyhow::Result<Option<(u32, Crossed)>> {
        let steps = self.archive.train_steps(self.number)?;
        let mut steps = steps.iter().filter(|step| step.phase == TrainPhase::Policy);
        Ok(steps.find_map(|step| {
            Some((step.step, tripwire::crossed(&self.settings.tripwires, &step.metrics)?))
        }))
    }

    pub(super) fn optimizer_settings(&self) -> AdamWSettings {
        let train = &self.settings.train;
        let (clip_norm, weight_decay) = (train.clip_norm, train.weight_decay);
        AdamWSettings { clip_norm, weight_decay, ..AdamWSettings::default() }
    }

    /// What bounds the trainer's memory, and tonight's seed.
    pub(super) fn limits(&self) -> Limits {
        let train = &self.settings.train;
        Limits {
            micro_batch_tokens: train.micro_batch_tokens,
            activation_bytes: train.activation_mb << 20,
            seed: self.seed(),
        }
    }

    /// Stores the policy's weights as a version of their own, in PEFT layout.
    pub(super) fn store_version(
        &self,
        policy: &mut Policy,
        stage: &str,
        note: &str,
    ) -> anyhow::Result<()> {
        let id = format!("night{}-{stage}", self.number);
        if let Some(known) = self.archive.model_version(&id)? {
            policy.version = known;
            return Ok(());
        }
        let path = self.home.adapters().join(&id);
        let content_hash = policy.adapter.save(&path, &self.model.name)?;
        let version = ModelVersion {
            parent: Some(policy.version.id.clone()),
            kind: ModelKind::Adapter,
            path: format!("adapters/{id}"),
            content_hash,
            night: Some(self.number),
            note: note.to_string(),
            id,
        };
        self.archive.put_model_version(&version)?;
        policy.version = version;
        Ok(())
    }

    fn checkpoint_dir(&self, phase: &str, key: &str) -> PathBuf {
        let name = format!("night{}-{phase}-{}", self.number, key.replace('/', "-"));
        self.home.checkpoints().join(name)
    }

    /// Removes the night's checkpoints: its adapters are stored.
    pub(super) fn remove_checkpoints(&self) -> anyhow::Result<()> {
        let dir = self.home.checkpoints();
        durable::remove_stale(&dir)?;
        match std::fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", dir.display()))
            }
            _ => Ok(()),
        }
    }
}

/// Metrics as JSON, with what is not finite as null: JSON has no other way to say it.
fn recorded(
    metrics: &StepMetrics,
    about: &serde_json::Map<String, serde_json::Value>,
) -> anyhow::Result<serde_json::Value> {
    let mut value = serde_json::to_value(metrics)?;
    if !metrics.loss.is_finite() || !metrics.grad_norm.is_finite() {
        value["skipped"] = json!(true);
    }
    for (name, other) in about {
        value[name] = other.clone();
    }
    Ok(value)
}
