//! AdamW (Loshchilov & Hutter 2019) with moments that can be saved, and gradient clipping.

use std::collections::BTreeMap;
use std::collections::HashMap;

use candle_core::Result;
use candle_core::Tensor;
use candle_core::Var;
use serde::Deserialize;
use serde::Serialize;

pub use crate::config::Decay;
use crate::model::lora::Target;
use crate::model::lora::tensor_name;
use crate::model::ops::LoraGradient;

/// Constants of the optimiser.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdamWSettings {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Global gradient norm above which gradients are scaled down.
    pub clip_norm: f64,
}

impl Default for AdamWSettings {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0, clip_norm: 1.0 }
    }
}

/// Summed gradients by variable name.
#[derive(Debug, Default)]
pub struct Gradients(BTreeMap<String, Tensor>);

impl Gradients {
    /// Adds those of one linear map's low-rank term.
    ///
    /// # Errors
    /// Those of candle.
    pub fn add(&mut self, layer: usize, target: Target, gradient: LoraGradient) -> Result<()> {
        for (side, gradient) in [('A', gradient.a), ('B', gradient.b)] {
            let name = tensor_name(layer, target, side);
            let sum = match self.0.remove(&name) {
                Some(sum) => (sum + gradient)?,
                None => gradient,
            };
            self.0.insert(name, sum);
        }
        Ok(())
    }

    /// The gradient of one variable.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.0.get(name)
    }

    /// The Euclidean norm over all gradients together.
    ///
    /// # Errors
    /// Those of candle.
    pub fn norm(&self) -> Result<f32> {
        let mut sum = 0.0_f64;
        for gradient in self.0.values() {
            sum += f64::from(gradient.sqr()?.sum_all()?.to_scalar::<f32>()?);
        }
        Ok(sum.sqrt() as f32)
    }
}

/// The optimiser and its state.
#[derive(Debug)]
pub struct AdamW {
    settings: AdamWSettings,
    step: u64,
    /// First and second moment by variable name, f32.
    moments: BTreeMap<String, (Tensor, Tensor)>,
}

impl AdamW {
    /// A fresh optimiser.
    pub fn new(settings: AdamWSettings) -> Self {
        Self { settings, step: 0, moments: BTreeMap::new() }
    }

    /// Its constants.
    pub fn settings(&self) -> AdamWSettings {
        self.settings
    }

    /// Steps applied so far.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// Applies clipped gradients to the variables.
    ///
    /// # Errors
    /// Those of candle.
    pub fn apply(
        &mut self,
        variables: &BTreeMap<String, Var>,
        gradients: &Gradients,
        learning_rate: f32,
    ) -> Result<()> {
        let AdamWSettings { beta1, beta2, epsilon, weight_decay, clip_norm } = self.settings;
        self.step += 1;
        let norm = f64::from(gradients.norm()?);
        let clip = if norm > clip_norm { clip_norm / norm } else { 1.0 };
        let step = self.step as f64;
        let (correct1, correct2) = (1.0 - beta1.powf(step), 1.0 - beta2.powf(step));
        let rate = f64::from(learning_rate);
        for (name, variable) in variables {
            let Some(gradient) = gradients.get(name) else { continue };
            let gradient = (gradient * clip)?;
            let (first, second) = match self.moments.remove(name) {
                Some(moments) => moments,
                None => (gradient.zeros_like()?, gradient.zeros_like()?),
            };
            let first = ((first * beta1)? + (&gradient * (1.0 - beta1))?)?;
            let second = ((second * beta2)? + (gradient.sqr()? * (1.0 - beta2))?)?;
            let scaled = ((&first / correct1)? / ((&second / correct2)?.sqrt()? + epsilon)?)?;
            let kept = (variable.as_tensor() * (1.0 - rate * weight_decay))?;
            variable.set(&(kept - (scaled * rate)?)?.detach())?;
            self.moments.insert(name.clone(), (first.detach(), second.detach()));
        }
        Ok(())
    }

    /// The moments as named tensors, for a checkpoint.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        self.moments
            .iter()
            .flat_map(|(name, (first, second))| {
                [
                    (format!("first.{name}"), first.clone()),
                    (format!("second.{name}"), second.clone()),
                ]
            })
            .collect()
    }

    /// An optimiser continuing from a checkpoint's tensors.
    ///
    /// # Errors
    /// When a moment lacks its partner.
    pub fn from_state(
        settings: AdamWSettings,
        step: u64,
        tensors: &HashMap<String, Tensor>,
    ) -> Result<Self> {
        let mut moments = BTreeMap::new();
        for (name, first) in tensors {
            let Some(name) = name.strip_prefix("first.") else { continue };
            let Some(second) = tensors.get(&format!("second.{name}")) else {
                candle_core::bail!("checkpoint: `{name}` has a first moment but no second")
            };
            moments.insert(name.to_string(), (first.clone(), second.clone()));
        }
        Ok(Self { settings, step, moments })
    }
}

/// How the learning rate goes from its peak.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RateSchedule {
    /// Its course behind the warm-up.
    pub decay: Decay,
    /// The largest rate.
    pub peak: f32,
    /// Steps over which it rises from zero.
    pub warm_up: usize,
    /// Steps in all.
    pub total: usize,
}

/// Share of the peak that is left at the end of a decay.
const FLOOR: f32 = 0.1;

impl RateSchedule {
    /// The rate of a step, counted from 0. Past the last step it stays what it was there.
    pub fn at(&self, step: usize) -> f32 {
        if step < self.warm_up {
            return self.peak * (step + 1) as f32 / self.warm_up as f32;
        }
        let left = self.total.saturating_sub(self.warm_up).max(1) as f32;
        let progress = ((step - self.warm_up) as f32 / left).min(1.0);
        let share = match self.decay {
            Decay::Constant => 1.0,
            Decay::Linear => 1.0 - progress,
            Decay::Cosine => f32::midpoint(1.0, (std::f32::consts::PI * progress).cos()),
        };
        self.peak * (FLOOR + (1.0 - FLOOR) * share)
    }
}
