//! Which runner an engine has, and starting both as the settings say.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use candle_core::DType;

use super::Engine;
use crate::config::Inference;
use crate::model::Model;
use crate::model::device;
use crate::model::device::DeviceError;
use crate::model::runner::PortableRunner;
use crate::model::runner::Runner;

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
    // On every device the weights are those that are trained on, so that log-probabilities agree.
    let dtype = DType::F32;
    let page = PortableRunner::page_bytes(model.decoder.config(), dtype);
    let kv_mb = settings.kv_mb;
    let pages = (kv_mb << 20) / page;
    if pages == 0 {
        return Err(StartError::Memory { kv_mb, page, least: page.div_ceil(1 << 20) });
    }
    let decoder = model.decoder.to(&chosen.device, dtype)?;
    Ok(Box::new(PortableRunner::new(decoder, pages)?))
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
