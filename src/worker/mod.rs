//! Where the model lives: in this process, or in a worker, a child process of the same program.
//!
//! A night asks a [`ModelHost`] for text, for scores and for training, and does not know which it
//! is. A worker has no state that matters: what it needs is sent with each request, what comes of
//! it is sent back over a pipe, and only the process that owns the home writes to it. So a worker
//! may be killed at any time; another one is started and asked the same again, to the same answer.
//!
//! - `local`: the model in this process;
//! - `wire`: what parent and worker tell each other; `serve`: the worker's side;
//! - `process`: a child, started, listened to and watched; `child`: the parent's side, which starts
//!   another one when it fails.
//! - `parcel`: adapters and optimisers on their way.

mod child;
mod local;
mod parcel;
mod process;
mod serve;
mod wire;

use std::ffi::OsString;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

pub use self::child::Child;
pub use self::local::Local;
pub use self::serve::prefer_to_be_killed;
pub use self::serve::serve;
use crate::config;
use crate::config::Inference;
use crate::inference::GenerateError;
use crate::inference::Generator;
use crate::model::fetch::ModelFiles;
use crate::model::lora::Adapter;
use crate::trainer::Limits;
use crate::trainer::StepMetrics;
use crate::trainer::TrainError;
use crate::trainer::batch::Example;
use crate::trainer::objective::Objective;
use crate::trainer::optimizer::AdamW;

/// Why a host did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The worker failed, or the user asked to stop.
    #[error(transparent)]
    Generate(#[from] GenerateError),
    /// Training failed.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// What the host says went wrong, such as a model that cannot be loaded.
    #[error("{0}")]
    Failed(String),
}

/// An optimiser step to be taken.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    /// What is learnt.
    pub examples: &'a [Example],
    /// What is minimised.
    pub objective: Objective,
    /// Learning rate.
    pub rate: f32,
}

/// Something that has the model.
pub trait ModelHost: Send + Sync {
    /// The policy called `version`: the base model (`adapter` none) or an adapter of it as it is
    /// now; training it further does not change the policy.
    ///
    /// # Errors
    /// When the adapter cannot be taken.
    fn policy(
        &self,
        version: &str,
        adapter: Option<&Adapter>,
    ) -> Result<Box<dyn Generator + '_>, HostError>;

    /// Takes `steps` on `adapter`, in order; `seen` is told of each when it is taken, and whether
    /// more are taken is what it returns. Returns the optimiser behind them.
    ///
    /// # Errors
    /// When training fails; the adapter's values are then of no use.
    fn train(
        &self,
        adapter: &Adapter,
        optimizer: AdamW,
        limits: Limits,
        steps: &[Step<'_>],
        seen: &mut dyn FnMut(usize, StepMetrics) -> bool,
    ) -> Result<AdamW, HostError>;

    /// Computes what the trainer's forward pass thinks of the examples' tokens, and keeps it in
    /// them as the log-probabilities before the update.
    ///
    /// # Errors
    /// When the tensor library fails.
    fn score_before_update(
        &self,
        adapter: &Adapter,
        limits: Limits,
        examples: &mut [&mut Example],
    ) -> Result<(), HostError>;
}

/// What a host is opened with.
#[derive(Debug, Clone)]
pub struct HostOptions {
    /// The model.
    pub files: ModelFiles,
    /// How it generates; none where it only trains.
    pub inference: Option<Inference>,
    /// How the worker is watched.
    pub watch: config::Worker,
    /// The command line that starts a worker; none to have the model in this process.
    pub command: Option<Vec<OsString>>,
    /// Set to stop at the next opportunity.
    pub interrupt: Arc<AtomicBool>,
}

/// Opens the model where the options say.
///
/// # Errors
/// When it cannot be loaded, or there is not enough memory for it.
pub fn open(options: HostOptions) -> Result<Box<dyn ModelHost>, HostError> {
    Ok(match &options.command {
        Some(command) if options.watch.process => Box::new(Child::start(command, &options)?),
        _ => Box::new(Local::open(&options.files, options.inference, options.interrupt)?),
    })
}
