//! What parent and worker tell each other, as frames: a length in eight bytes, then the message as
//! postcard has it.

use std::io;
use std::io::Read;
use std::io::Write;

use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::parcel::AdapterParcel;
use super::parcel::OptimizerParcel;
use crate::config::Inference;
use crate::inference::Continuation;
use crate::inference::GenerateError;
use crate::inference::Generation;
use crate::inference::Request;
use crate::inference::TokenScore;
use crate::model::fetch::ModelFiles;
use crate::trainer::Limits;
use crate::trainer::StepMetrics;
use crate::trainer::batch::Example;
use crate::trainer::objective::Objective;

/// Longest message: adapter and optimiser of the largest models that are trained are far below it,
/// and what is above it is noise on the pipe.
const LONGEST: u64 = 16 << 30;

/// Which question an answer is to.
pub(super) type Id = u64;

/// Which loaded policy is meant.
pub(super) type PolicyId = u64;

/// From the parent.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToWorker {
    /// The first message: load this model.
    Open { files: ModelFiles, inference: Option<Inference> },
    /// What this policy is from now on; the base model without an adapter.
    Load { policy: PolicyId, version: String, adapter: Option<AdapterParcel> },
    /// The policy is not asked any more.
    Forget { policy: PolicyId },
    /// To be answered.
    Ask { id: Id, question: Question },
    /// After a step of training: take the next one, or not.
    GoOn { id: Id, go_on: bool },
}

/// Something that takes time.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Question {
    Generate { policy: PolicyId, requests: Vec<Request> },
    Score { policy: PolicyId, given: Vec<Continuation> },
    ScoreBeforeUpdate { adapter: AdapterParcel, limits: Limits, examples: Vec<Example> },
    Train(Box<Training>),
}

/// Steps of training, with all that they begin with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Training {
    pub(super) adapter: AdapterParcel,
    pub(super) optimizer: OptimizerParcel,
    pub(super) limits: Limits,
    pub(super) steps: Vec<TrainingStep>,
}

/// One of them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct TrainingStep {
    pub(super) examples: Vec<Example>,
    pub(super) objective: Objective,
    pub(super) rate: f32,
}

/// From the worker.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum FromWorker {
    /// The model is loaded, or why it cannot be.
    Opened(Result<(), String>),
    /// Every second: how far its work is, a number that grows, and how many bytes of memory it has.
    Alive { progress: u64, resident: u64 },
    /// What one step of training measured.
    Stepped { id: Id, index: usize, metrics: StepMetrics },
    /// The answer to a question.
    Answered { id: Id, answer: Answer },
}

/// The answer to a question of the same name.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Generated(Result<Vec<Vec<Generation>>, GenerateError>),
    Scored(Result<Vec<Vec<TokenScore>>, GenerateError>),
    ScoredBeforeUpdate(Result<Vec<Example>, String>),
    Trained(Result<(AdapterParcel, OptimizerParcel), String>),
}

/// Writes a message.
///
/// # Errors
/// When the other side is gone.
pub(super) fn write(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let bytes = postcard::to_stdvec(message).map_err(io::Error::other)?;
    to.write_all(&(bytes.len() as u64).to_le_bytes())?;
    to.write_all(&bytes)?;
    to.flush()
}

/// Reads a message; none where the other side has ended between two messages.
///
/// # Errors
/// When it has ended within one, or what comes is no message.
pub(super) fn read<M: DeserializeOwned>(from: &mut impl Read) -> io::Result<Option<M>> {
    let mut length = [0; 8];
    match from.read_exact(&mut length) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let length = u64::from_le_bytes(length);
    if length > LONGEST {
        return Err(io::Error::other(format!("a message of {length} bytes")));
    }
    let mut bytes = Vec::new();
    // Grown as the bytes come: a length alone does not take memory.
    from.take(length).read_to_end(&mut bytes)?;
    if bytes.len() as u64 != length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    postcard::from_bytes(&bytes).map(Some).map_err(io::Error::other)
}
