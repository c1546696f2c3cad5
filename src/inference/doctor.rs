//! What generation runs on, and why: the choice that settings make, beside what was measured of the
//! others, and the servers of the settings.

use std::time::Instant;

use half::f16;
use serde::Serialize;

use super::engine::cpu_settings;
use super::remote::EndpointStatus;
use super::remote::Options;
use super::remote::Pool;
use super::remote::RemoteError;
use super::remote::ServedModel;
use crate::config;
use crate::config::Inference;
use crate::config::KvType;
use crate::model::Model;
use crate::model::device;
use crate::model::device::DeviceError;
use crate::model::runner::PAGE;
use crate::model::runner::RunBatch;
use crate::model::runner::Runner;
use crate::model::runner::Wanted;
use crate::model::runner::cpu::CpuRunner;
use crate::model::runner::cpu::CpuSettings;
use crate::model::runner::cpu::MatmulUnit;
use crate::model::runner::cpu::WeightForm;

/// Rows of the two batches that are measured.
const BATCHES: [usize; 2] = [1, 32];
/// Positions before the measured tokens.
const PAST: usize = 2 * PAGE;
/// Steps measured of each, after one that is not.
const STEPS: usize = 4;

/// How one way of computing did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Candidate {
    /// What products run on.
    pub unit: &'static str,
    /// How weights are kept, as `inference.weights` has it.
    pub weights: WeightForm,
    /// Whether log-probabilities are those of the trainer, but for the rounding of keys and values.
    pub exact: bool,
    /// Bytes of weights.
    pub weight_bytes: usize,
    /// Tokens a second of one continuation, and of 32.
    pub tokens_per_s: [f64; 2],
    /// Whether it is what the settings choose.
    pub chosen: bool,
}

/// What generation runs on.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Diagnosis {
    /// The device, and why it.
    pub device: String,
    /// Units of this processor for matrix products, the fastest last.
    pub units: Vec<&'static str>,
    /// Threads of a step.
    pub threads: usize,
    /// How keys and values are kept.
    pub kv: KvType,
    /// Megabytes of them at most.
    pub kv_mb: usize,
    /// Ways of computing on the CPU; none on another device.
    pub candidates: Vec<Candidate>,
    /// What there is to say about the choice.
    pub advice: String,
    /// The servers that generate in the place of this machine; none where there are none.
    pub servers: Vec<EndpointStatus>,
}

/// Why there is no diagnosis.
#[derive(Debug, thiserror::Error)]
pub enum DoctorError {
    /// The device that was asked for is not there.
    #[error("`inference.device`: {0}")]
    Device(#[from] DeviceError),
    /// The tensor library failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// No server can be asked anything.
    #[error(transparent)]
    Remote(#[from] RemoteError),
}

/// Looks at what generation with `model` runs on, and measures it on the CPU. Surveys the servers
/// of the settings; that one is not well is part of the diagnosis.
///
/// # Errors
/// When the device that the settings name is not there, a step fails, or the servers' key is
/// missing.
pub fn diagnose(
    model: &Model,
    settings: &Inference,
    remote: &config::Remote,
) -> Result<Diagnosis, DoctorError> {
    let chosen = device::choose(settings.device)?;
    let own = cpu_settings(settings);
    let mut candidates = Vec::new();
    if chosen.device.is_cpu() {
        for (unit, weights) in ways(own) {
            let settings = CpuSettings { unit, weights, kv_bytes: 0, ..own };
            let chosen = (unit, weights) == (own.unit, own.weights);
            candidates.push(measured(model, settings, chosen)?);
        }
    }
    Ok(Diagnosis {
        device: chosen.why,
        units: MatmulUnit::available().into_iter().map(MatmulUnit::as_str).collect(),
        threads: own.threads,
        kv: settings.kv,
        kv_mb: settings.kv_mb,
        advice: advice(&candidates),
        candidates,
        servers: servers(model, remote)?,
    })
}

fn servers(model: &Model, remote: &config::Remote) -> Result<Vec<EndpointStatus>, RemoteError> {
    let Some(options) = Options::from_settings(remote)? else { return Ok(Vec::new()) };
    let pool = Pool::new(options, ServedModel::of(model));
    // Each server's status says what is wrong with it.
    pool.check().ok();
    Ok(pool.status())
}

/// The unit in use with every form of weights, and the next best unit.
fn ways(own: CpuSettings) -> Vec<(MatmulUnit, WeightForm)> {
    let forms = [WeightForm::AsStored, WeightForm::Bf16, WeightForm::F16, WeightForm::F32];
    let mut ways: Vec<_> = forms.into_iter().map(|form| (own.unit, form)).collect();
    let next = MatmulUnit::available().into_iter().rfind(|unit| *unit < own.unit);
    ways.extend(next.map(|unit| (unit, WeightForm::AsStored)));
    ways
}

fn measured(
    model: &Model,
    settings: CpuSettings,
    chosen: bool,
) -> Result<Candidate, candle_core::Error> {
    let pages_of_row = PAST / PAGE + 1;
    let rows = BATCHES[1];
    let kv_bytes = rows * pages_of_row * CpuRunner::<f16>::page_bytes(&model.decoder);
    let settings = CpuSettings { kv_bytes, ..settings };
    let mut runner = CpuRunner::<f16>::new(&model.decoder, settings)?;
    let mut tokens_per_s = [0.0; 2];
    for (batch, rate) in BATCHES.into_iter().zip(&mut tokens_per_s) {
        let mut step = RunBatch::default();
        for row in 0..batch {
            let first = (row * pages_of_row) as u32;
            let pages: Vec<u32> = (first..first + pages_of_row as u32).collect();
            step.push(&[row as u32], PAST, &pages, None, Wanted::Last);
        }
        runner.run(&step)?;
        let start = Instant::now();
        for _ in 0..STEPS {
            runner.run(&step)?;
        }
        *rate = (batch * STEPS) as f64 / start.elapsed().as_secs_f64();
    }
    Ok(Candidate {
        unit: settings.unit.as_str(),
        weights: settings.weights,
        exact: matches!(settings.weights, WeightForm::AsStored | WeightForm::F32),
        weight_bytes: runner.describe().weight_bytes,
        tokens_per_s,
        chosen,
    })
}

/// Says whether something exact is clearly faster than the choice at both batches.
fn advice(candidates: &[Candidate]) -> String {
    /// Smaller differences are noise.
    const CLEARLY: f64 = 1.1;
    let Some(chosen) = candidates.iter().find(|candidate| candidate.chosen) else {
        return "nothing to choose from".into();
    };
    let faster = |other: &&Candidate| {
        let pairs = other.tokens_per_s.iter().zip(chosen.tokens_per_s);
        other.exact && pairs.into_iter().all(|(theirs, ours)| *theirs > CLEARLY * ours)
    };
    match candidates.iter().find(faster) {
        Some(other) => format!(
            "weights as {} on {} are faster here: set inference.weights, or the unit by \
             NIGHTSCHOOL_MATMUL_UNIT",
            name(other.weights),
            other.unit
        ),
        None if chosen.exact => {
            "the choice is the fastest here of those that compute what the trainer computes".into()
        }
        None => {
            "weights are rounded: `bench generate` shows what that does to log-probabilities".into()
        }
    }
}

/// The setting's name.
pub fn name(weights: WeightForm) -> &'static str {
    match weights {
        WeightForm::AsStored => "as_stored",
        WeightForm::F32 => "f32",
        WeightForm::Bf16 => "bf16",
        WeightForm::F16 => "f16",
    }
}
