//! The model in this process.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use super::HostError;
use super::ModelHost;
use super::Step;
use crate::config::Inference;
use crate::inference::Engine;
use crate::inference::GenerateError;
use crate::inference::Generator;
use crate::inference::Policy;
use crate::model::Model;
use crate::model::config::DecoderConfig;
use crate::model::fetch::ModelFiles;
use crate::model::lora::Adapter;
use crate::trainer::Limits;
use crate::trainer::StepMetrics;
use crate::trainer::Trainer;
use crate::trainer::batch::Example;
use crate::trainer::optimizer::AdamW;
use crate::trainer::optimizer::AdamWSettings;

/// A loaded model, with an engine where it is to generate.
pub struct Local {
    model: Arc<Model>,
    engine: Option<Engine>,
    /// Examples and steps that training has been through.
    trained: AtomicU64,
}

impl Local {
    /// Loads a model.
    ///
    /// # Errors
    /// When its files are damaged, or there is no memory or device for it.
    pub fn open(
        files: &ModelFiles,
        inference: Option<Inference>,
        interrupt: Arc<AtomicBool>,
    ) -> Result<Self, HostError> {
        let model = Model::load(files).map_err(|error| HostError::Failed(error.to_string()))?;
        let model = Arc::new(model);
        let engine = inference
            .map(|settings| Engine::open(model.clone(), &settings, interrupt))
            .transpose()
            .map_err(|error| HostError::Failed(error.to_string()))?;
        Ok(Self { model, engine, trained: AtomicU64::new(0) })
    }

    /// Its decoder's dimensions.
    pub(super) fn config(&self) -> &DecoderConfig {
        self.model.decoder.config()
    }

    /// A number that grows as long as work is done.
    pub(super) fn progress(&self) -> u64 {
        let steps = self.engine.as_ref().map_or(0, |engine| engine.statistics().steps);
        steps + self.trained.load(Ordering::Relaxed)
    }

    /// The engine's policy called `version`.
    pub(super) fn engine_policy(
        &self,
        version: &str,
        adapter: Option<&Adapter>,
    ) -> Result<Policy, GenerateError> {
        match &self.engine {
            Some(engine) => engine.policy(version, adapter),
            None => Err(GenerateError::Unsupported("this process has no engine".to_string())),
        }
    }
}

impl ModelHost for Local {
    fn policy(
        &self,
        version: &str,
        adapter: Option<&Adapter>,
    ) -> Result<Box<dyn Generator + '_>, HostError> {
        Ok(Box::new(self.engine_policy(version, adapter)?))
    }

    fn train(
        &self,
        adapter: &Adapter,
        optimizer: AdamW,
        limits: Limits,
        steps: &[Step<'_>],
        seen: &mut dyn FnMut(usize, StepMetrics) -> bool,
    ) -> Result<AdamW, HostError> {
        let mut trainer = Trainer::new(&self.model.decoder, adapter, optimizer, limits);
        for (index, step) in steps.iter().enumerate() {
            let metrics = trainer.step(step.examples, &step.objective, step.rate)?;
            self.trained.fetch_add(1, Ordering::Relaxed);
            if !seen(index, metrics) {
                break;
            }
        }
        Ok(trainer.into_optimizer())
    }

    fn score_before_update(
        &self,
        adapter: &Adapter,
        limits: Limits,
        examples: &mut [&mut Example],
    ) -> Result<(), HostError> {
        // Frozen: nothing is learnt here, so nothing is kept for a gradient.
        let adapter = adapter.frozen().map_err(|error| HostError::Failed(error.to_string()))?;
        let optimizer = AdamW::new(AdamWSettings::default());
        let trainer = Trainer::new(&self.model.decoder, &adapter, optimizer, limits);
        for example in examples {
            trainer.score_before_update(std::iter::once(&mut **example))?;
            self.trained.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}
