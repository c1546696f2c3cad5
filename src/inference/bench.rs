//! How fast generation is, beside the floor that this machine's products and memory set.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use std::time::Instant;

use candle_core::DType;
use candle_core::Device;
use rand::Rng as _;
use serde::Serialize;

use super::Engine;
use super::GenerateError;
use super::Generation;
use super::Generator as _;
use super::LogitMask;
use super::Request;
use super::Sampling;
use super::SamplingError;
use super::TokenScore;
use super::engine::Policy;
use super::engine::StartError;
use crate::config::Inference;
use crate::config::KvType;
use crate::machine::peak_memory;
use crate::machine::read_bandwidth;
use crate::model::Model;
use crate::model::config::DecoderConfig;
use crate::model::lora::Adapter;
use crate::model::lora::AdapterError;
use crate::model::lora::LoraShape;
use crate::model::lora::Target;
use crate::model::lora::TargetSet;
use crate::model::ops;
use crate::model::packed::Packed;
use crate::model::packed::Past;
use crate::model::runner::PAGE;
use crate::rng;

/// What to generate for the measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GenerateBench {
    /// Continuations written at the same time.
    pub batch: usize,
    /// Tokens of each prompt.
    pub prompt_tokens: usize,
    /// Tokens of each continuation.
    pub new_tokens: usize,
    /// Tokens that all prompts begin with; when it is all of them, the continuations are samples
    /// of one prompt.
    pub shared_prefix: usize,
    /// Rank of an adapter on all linear maps; 0 for the base model.
    pub lora_rank: usize,
    /// Continuations whose log-probabilities are compared with the trainer's.
    pub checked: usize,
}

/// Why there is no measurement.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The engine does not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Generation failed.
    #[error(transparent)]
    Generate(#[from] GenerateError),
    /// The model's vocabulary has no token but its end.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
    /// The adapter could not be made.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// The tensor library failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GenerateBenchReport {
    /// Version of this shape.
    pub schema_version: u32,
    /// Continuations written at the same time.
    pub batch: usize,
    /// Tokens of each prompt.
    pub prompt_tokens: usize,
    /// Tokens of each continuation.
    pub new_tokens: usize,
    /// Tokens that all prompts begin with.
    pub shared_prefix: usize,
    /// Rank of the adapter, 0 for none.
    pub lora_rank: usize,
    /// What the engine runs on and how it keeps weights, keys and values.
    pub runner: BTreeMap<&'static str, String>,
    /// Tokens of prompts that were computed: shared ones once.
    pub computed_prompt_tokens: u64,
    /// Of those, in a second.
    pub prefill_tokens_per_s: f64,
    /// New tokens in a second, all continuations together, drawing included.
    pub decode_tokens_per_s: f64,
    /// Milliseconds of a step that adds one token to each continuation.
    pub step_ms: f64,
    /// The same by kind: `linear`, `attention`, `head`, `other`, `sampling`, `scheduling`.
    pub step_kinds_ms: BTreeMap<&'static str, f64>,
    /// Milliseconds of reading the prompts, by kind.
    pub prefill_kinds_ms: BTreeMap<&'static str, f64>,
    /// Largest resident memory of the process.
    pub peak_memory_bytes: Option<u64>,
    /// What this machine could do.
    pub floor: Floor,
    /// Sampled tokens' log-probabilities against the trainer's.
    pub logprob_error: Option<LogprobError>,
}

/// What this machine's matrix product and memory would allow.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Floor {
    /// The rate of a large f32 product, 1e9 operations a second.
    pub matmul_gflops: f64,
    /// The rate of reading memory, 1e9 bytes a second.
    pub bandwidth_gb_per_s: f64,
    /// Prompt tokens a second, were there only products.
    pub prefill_tokens_per_s: f64,
    /// New tokens a second, were there only products or only reading weights, keys and values,
    /// whichever takes longer.
    pub decode_tokens_per_s: f64,
    /// Prefill as a share of its floor.
    pub prefill_ratio: f64,
    /// Decoding as a share of its floor.
    pub decode_ratio: f64,
}

/// Differences of log-probabilities, in nats.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LogprobError {
    /// Tokens compared.
    pub tokens: usize,
    /// Mean of the absolute differences.
    pub mean: f64,
    /// Their 99th percentile.
    pub p99: f64,
}

/// Generates with `settings`, whose memory and rows are raised to what the measurement needs.
///
/// # Errors
/// When the engine cannot be started, or generation fails.
pub fn run(
    model: &Arc<Model>,
    bench: &GenerateBench,
    settings: &Inference,
) -> Result<GenerateBenchReport, BenchError> {
    let settings = fitting(model, bench, settings);
    let adapter = match bench.lora_rank {
        0 => None,
        rank => Some(random_adapter(model.decoder.config(), rank)?),
    };
    let engine = Engine::open(model.clone(), &settings, Arc::new(AtomicBool::new(false)))?;
    // Threads, memory and caches are warm for the prompts that count.
    let warm =
        GenerateBench { new_tokens: 4, prompt_tokens: bench.prompt_tokens.min(64), ..*bench };
    let policy = engine.policy("warm-up", adapter.as_ref())?;
    policy.generate(&requests(model, &warm, 4, "warm-up")?)?;
    drop(policy);
    let policy = engine.policy("bench", adapter.as_ref())?;
    let prefill = measured(&engine, &policy, &requests(model, bench, 1, "bench")?)?;
    // The same prompts: the engine finds them read, up to their last token.
    let new_tokens = bench.new_tokens;
    let decode = measured(&engine, &policy, &requests(model, bench, new_tokens, "bench")?)?;
    let weight_bytes = engine.description().weight_bytes;
    let logprob_error = logprob_error(model, adapter.as_ref(), bench, &decode.generations)?;
    let floor = floor(model, bench, &settings, weight_bytes, (&prefill, &decode))?;
    let (steps, in_ms) = (new_tokens as f64, |time: &Duration| time.as_secs_f64() * 1e3);
    let per_step = decode.kinds.iter().map(|(kind, time)| (*kind, in_ms(time) / steps));
    Ok(GenerateBenchReport {
        schema_version: 1,
        batch: bench.batch,
        prompt_tokens: bench.prompt_tokens,
        new_tokens,
        shared_prefix: bench.shared_prefix,
        lora_rank: bench.lora_rank,
        runner: engine.description().facts.clone(),
        computed_prompt_tokens: prefill.prompt_tokens,
        prefill_tokens_per_s: prefill.prompt_tokens as f64 / prefill.seconds,
        decode_tokens_per_s: decode.new_tokens as f64 / decode.seconds,
        step_ms: decode.seconds * 1e3 / steps,
        step_kinds_ms: per_step.collect(),
        prefill_kinds_ms: prefill.kinds.iter().map(|(kind, time)| (*kind, in_ms(time))).collect(),
        peak_memory_bytes: peak_memory(),
        floor,
        logprob_error,
    })
}

/// Settings with room for all continuations at once, and for the prompts to stay.
fn fitting(model: &Model, bench: &GenerateBench, settings: &Inference) -> Inference {
    let config = model.decoder.config();
    let bytes = match settings.kv {
        KvType::F16 if settings.device == crate::config::DeviceName::Cpu => 2,
        _ => 4,
    };
    let position = 2 * config.layers * config.kv_heads * config.head_dim.next_multiple_of(16);
    let positions = (bench.prompt_tokens + bench.new_tokens).next_multiple_of(PAGE) + 2 * PAGE;
    let needed = ((bench.batch + 2) * positions * position * bytes).div_ceil(1 << 20);
    Inference {
        rows: settings.rows.max(bench.batch),
        step_tokens: settings.step_tokens.max(2 * bench.batch),
        queue: settings.queue.max(bench.batch),
        kv_mb: settings.kv_mb.max(needed),
        ..*settings
    }
}

/// The prompts, each with a continuation that does not end by itself.
fn requests(
    model: &Model,
    bench: &GenerateBench,
    new: usize,
    label: &str,
) -> Result<Vec<Request>, SamplingError> {
    let vocabulary = model.decoder.config().vocabulary;
    let tokens = |n: usize, label: &str| -> Vec<u32> {
        let mut draws = rng::stream(1, &["bench generate", label]);
        (0..n).map(|_| draws.random_range(0..vocabulary as u32)).collect()
    };
    let ends: Vec<u32> = (0..vocabulary as u32).filter(|token| model.is_end(*token)).collect();
    let mask = Arc::new(LogitMask::forbid(vocabulary, &ends)?);
    let shared = tokens(bench.shared_prefix.min(bench.prompt_tokens), label);
    let one_prompt = shared.len() == bench.prompt_tokens;
    let request = |index: usize| {
        let own = tokens(bench.prompt_tokens - shared.len(), &format!("{label} {index}"));
        Request {
            samples: if one_prompt { bench.batch } else { 1 },
            sampling: Sampling::at(1.0),
            mask: Some(mask.clone()),
            seed: index as u64,
            ..Request::new([shared.as_slice(), &own].concat(), new)
        }
    };
    Ok((0..if one_prompt { 1 } else { bench.batch }).map(request).collect())
}

/// One call.
struct Measured {
    seconds: f64,
    prompt_tokens: u64,
    new_tokens: usize,
    kinds: BTreeMap<&'static str, Duration>,
    generations: Vec<Vec<Generation>>,
}

fn measured(
    engine: &Engine,
    policy: &Policy,
    requests: &[Request],
) -> Result<Measured, GenerateError> {
    let before = engine.statistics();
    let start = Instant::now();
    let generations = policy.generate(requests)?;
    let seconds = start.elapsed().as_secs_f64();
    let after = engine.statistics();
    let earlier = |kind: &str| before.times.get(kind).copied().unwrap_or_default();
    let kinds = after.times.iter().map(|(kind, time)| (*kind, time.saturating_sub(earlier(kind))));
    Ok(Measured {
        seconds,
        prompt_tokens: after.prompt_tokens - before.prompt_tokens,
        new_tokens: generations.iter().flatten().map(|generation| generation.tokens.len()).sum(),
        kinds: kinds.collect(),
        generations,
    })
}

/// An adapter that changes a little.
fn random_adapter(config: &DecoderConfig, rank: usize) -> Result<Adapter, AdapterError> {
    let shape = LoraShape { rank, alpha: rank as f32, dropout: 0.0, targets: TargetSet::ALL };
    let mut draws = rng::stream(1, &["bench adapter"]);
    let adapter = Adapter::fresh(config, shape, &mut draws)?;
    for (name, variable) in adapter.variables() {
        if name.contains(".lora_B.") {
            let values = (0..variable.elem_count()).map(|_| draws.random_range(-0.01..0.01));
            let values: Vec<f32> = values.collect();
            let tensor =
                candle_core::Tensor::from_vec(values, variable.shape().clone(), &Device::Cpu)?;
            variable.set(&tensor)?;
        }
    }
    Ok(adapter)
}

/// Compares the log-probabilities of some continuations with those that the trainer computes.
fn logprob_error(
    model: &Model,
    adapter: Option<&Adapter>,
    bench: &GenerateBench,
    generations: &[Vec<Generation>],
) -> Result<Option<LogprobError>, BenchError> {
    let prompts = requests(model, bench, bench.new_tokens, "bench")?;
    let rows = prompts.iter().zip(generations);
    let rows = rows.flat_map(|(request, samples)| samples.iter().map(move |g| (request, g)));
    let mut errors = Vec::new();
    for (request, generation) in rows.take(bench.checked) {
        let mut batch = Packed::new();
        let mut tokens = [request.prompt.as_slice(), &generation.tokens].concat();
        tokens.pop();
        batch.push(&tokens, Past::None);
        let hidden = model.decoder.forward(&batch, adapter)?;
        let first = request.prompt.len() - 1;
        for (at, (token, score)) in generation.tokens.iter().zip(&generation.scores).enumerate() {
            let logits = model.decoder.logits(&hidden, &[(first + at) as u32])?;
            let logits: Vec<f32> = logits.flatten_all()?.to_vec1()?;
            errors.push(f64::from((TokenScore::of(&logits, *token).logprob - score.logprob).abs()));
        }
    }
    errors.sort_by(f64::total_cmp);
    let tokens = errors.len();
    if tokens == 0 {
        return Ok(None);
    }
    let mean = errors.iter().sum::<f64>() / tokens as f64;
    Ok(Some(LogprobError { tokens, mean, p99: errors[tokens * 99 / 100] }))
}

fn floor(
    model: &Model,
    bench: &GenerateBench,
    settings: &Inference,
    weight_bytes: usize,
    (prefill, decode): (&Measured, &Measured),
) -> Result<Floor, candle_core::Error> {
    let matmul_gflops = ops::matmul_gflops(&Device::Cpu, DType::F32)?;
    let bandwidth_gb_per_s = read_bandwidth();
    let config = model.decoder.config();
    let layers: usize = Target::ALL.iter().map(|target| target.dims(config)).map(product).sum();
    let (layers, head) = (2 * config.layers * layers, 2 * config.vocabulary * config.hidden);
    let number = if settings.kv == KvType::F16 { 2 } else { 4 };
    let position = 2 * config.layers * config.kv_heads * config.head_dim * number;
    // On average; what is shared is read once.
    let own = bench.prompt_tokens - bench.shared_prefix + bench.new_tokens / 2;
    let read = weight_bytes + position * (bench.batch * own + bench.shared_prefix);
    let computing = (bench.batch * (layers + head)) as f64 / (matmul_gflops * 1e9);
    let reading = read as f64 / (bandwidth_gb_per_s * 1e9);
    let decode_tokens_per_s = bench.batch as f64 / computing.max(reading);
    let prefill_tokens_per_s = matmul_gflops * 1e9 / layers as f64;
    Ok(Floor {
        matmul_gflops,
        bandwidth_gb_per_s,
        prefill_tokens_per_s,
        decode_tokens_per_s,
        prefill_ratio: prefill.prompt_tokens as f64 / prefill.seconds / prefill_tokens_per_s,
        decode_ratio: decode.new_tokens as f64 / decode.seconds / decode_tokens_per_s,
    })
}

fn product((a, b): (usize, usize)) -> usize {
    a * b
}
