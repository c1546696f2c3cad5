//! Which runner an engine has, and starting both as the settings say.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use candle_core::DType;
use candle_core::Device;
use half::f16;

use super::Engine;
use crate::config::Inference;
use crate::config::KvType;
use crate::model::Model;
use crate::model::device;
use crate::model::device::DeviceError;
use crate::model::runner::PortableRunner;
use crate::model::runner::Runner;
use crate::model::runner::cpu::CpuRunner;
use crate::model::runner::cpu::CpuSettings;
use crate::model::runner::cpu::Element;
use crate::model::runner::cpu::MatmulUnit;
use crate::model::runner::cpu::WeightForm;

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The device that was asked for is not there.
    #[error("`inference.device`: {0}")]
    Device(#[from] DeviceError),
    /// Not one page fits.
    #[error(
        "`inference.kv_mb` is {kv_mb}; a page of this model's keys and values takes {page} bytes, \
         so it must be at least {least}"
    )]
    Memory {
        /// The setting.
        kv_mb: usize,
        /// Bytes of a page.
        page: usize,
        /// The least that it can be.
        least: usize,
    },
    /// The runner cannot be made.
    #[error("memory for generation cannot be had: {0}; lower `inference.kv_mb`")]
    Runner(#[from] candle_core::Error),
    /// The system gives no thread.
    #[error("the engine's thread cannot be started: {0}")]
    Thread(#[from] std::io::Error),
}

/// The runner for a model as the settings say.
///
/// # Errors
/// When there is no such device or not enough memory.
pub fn runner_for(model: &Model, settings: &Inference) -> Result<Box<dyn Runner>, StartError> {
    let chosen = device::choose(settings.device)?;
    tracing::info!("generation on {}", chosen.why);
    match (chosen.device.is_cpu(), settings.kv) {
        (true, KvType::F16) => on_cpu::<f16>(model, settings),
        (true, KvType::F32) => on_cpu::<f32>(model, settings),
        (false, _) => on_device(model, settings, &chosen.device),
    }
}

/// How a runner on the CPU is made.
pub(in crate::inference) fn cpu_settings(settings: &Inference) -> CpuSettings {
    let threads = match settings.threads {
        0 => rayon::current_num_threads(),
        threads => threads,
    };
    let (kv_bytes, unit) = (settings.kv_mb << 20, MatmulUnit::best());
    CpuSettings { kv_bytes, threads, unit, weights: settings.weights }
}

fn on_cpu<E: Element>(model: &Model, settings: &Inference) -> Result<Box<dyn Runner>, StartError> {
    pages(settings, CpuRunner::<E>::page_bytes(&model.decoder))?;
    let runner = CpuRunner::<E>::new(&model.decoder, cpu_settings(settings))?;
    let made_of = runner.description();
    tracing::info!(unit = made_of.unit, kv = made_of.kv, threads = made_of.threads, "runner");
    Ok(Box::new(runner))
}

fn on_device(
    model: &Model,
    settings: &Inference,
    device: &Device,
) -> Result<Box<dyn Runner>, StartError> {
    let dtype = match settings.weights {
        WeightForm::F32 => DType::F32,
        WeightForm::F16 => DType::F16,
        WeightForm::AsStored | WeightForm::Bf16 => DType::BF16,
    };
    let page = PortableRunner::page_bytes(model.decoder.config(), dtype);
    let pages = pages(settings, page)?;
    Ok(Box::new(PortableRunner::new(model.decoder.to(device, dtype)?, pages)?))
}

/// How many pages of `page` bytes there is memory for: at least one.
fn pages(settings: &Inference, page: usize) -> Result<usize, StartError> {
    let kv_mb = settings.kv_mb;
    match (kv_mb << 20) / page {
        0 => Err(StartError::Memory { kv_mb, page, least: page.div_ceil(1 << 20) }),
        pages => Ok(pages),
    }
}

impl Engine {
    /// The engine for a model as the settings say. `interrupt` fails all requests while it is set.
    ///
    /// # Errors
    /// When there is no such device, not enough memory, or no thread.
    pub fn open(
        model: Arc<Model>,
        settings: &Inference,
        interrupt: Arc<AtomicBool>,
    ) -> Result<Self, StartError> {
        let runner = runner_for(&model, settings)?;
        Ok(Self::start(model, runner, settings.into(), interrupt)?)
    }
}
