//! The engine in this process: batched generation with shared prompts.
//!
//! A call's requests become rows. The prefix common to all prompts is read once and forked; a
//! prompt with several samples is read once and forked. Rows decode together, leave when they
//! end, and make room for those waiting.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use candle_core::Result as TensorResult;
use candle_core::Tensor;
use rayon::prelude::*;

use super::Continuation;
use super::GenerateError;
use super::Generation;
use super::Generator;
use super::Request;
use super::TokenScore;
use crate::model::Model;
use crate::model::kv::KvCache;
use crate::model::lora::Adapter;
use crate::model::packed::Packed;
use crate::model::packed::Past;
use crate::rng;
use crate::rng::Rng;
use crate::rollout::StopReason;

/// Rows that decode together. Wide batches pay: 32 rows have about eight times one row's rate.
const MAX_ROWS: usize = 32;
/// Positions of key/value cache at most: 46 KB each for the default model, so 1.1 GB.
const MAX_CACHED_POSITIONS: usize = 24_576;
/// Prompt tokens read in one forward pass, which bounds its memory.
const PREFILL_TOKENS: usize = 1_024;
/// Shorter common prefixes are not worth a slot of their own.
const MIN_SHARED_PREFIX: usize = 16;

/// A model, an adapter and the means to stop.
pub struct Engine {
    model: Arc<Model>,
    adapter: Option<Adapter>,
    version: String,
    interrupt: Arc<AtomicBool>,
}

/// A continuation in progress.
struct Row {
    request: usize,
    sample: usize,
    slot: usize,
    /// Positions of the slot already filled.
    filled: usize,
    /// Sampled but not yet read by the model.
    pending: u32,
    generation: Generation,
    rng: Rng,
}

impl Engine {
    /// An engine for the base model (`adapter` none) or an adapter of it.
    ///
    /// # Errors
    /// When the adapter cannot be copied.
    pub fn new(
        model: Arc<Model>,
        adapter: Option<&Adapter>,
        version: &str,
        interrupt: Arc<AtomicBool>,
    ) -> Result<Self, crate::model::lora::AdapterError> {
        let adapter = adapter.map(Adapter::frozen).transpose()?;
        Ok(Self { model, adapter, version: version.to_string(), interrupt })
    }

    /// The model behind it.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    fn check(&self, requests: &[Request]) -> Result<(), GenerateError> {
        let limit = self.model.decoder.config().max_positions;
        for request in requests {
            let prompt = request.prompt.len();
            if prompt == 0 {
                return Err(GenerateError::EmptyPrompt);
            }
            if prompt + request.max_tokens > limit.min(MAX_CACHED_POSITIONS / 2) {
                let max_tokens = request.max_tokens;
                return Err(GenerateError::TooLong { prompt, max_tokens, limit });
            }
        }
        Ok(())
    }

    fn forward(&self, batch: &Packed, cache: &mut KvCache) -> TensorResult<Tensor> {
        self.model.decoder.forward(batch, self.adapter.as_ref(), Some(cache))
    }

    /// Reads `tokens` into `slot` behind `filled` positions; returns the last token's logits.
    fn read(
        &self,
        cache: &mut KvCache,
        slot: usize,
        mut filled: usize,
        tokens: &[u32],
    ) -> TensorResult<Vec<f32>> {
        let mut logits = Vec::new();
        for chunk in tokens.chunks(PREFILL_TOKENS) {
            let mut batch = Packed::new();
            batch.push(chunk, Past::Slot { slot, len: filled });
            let hidden = self.forward(&batch, cache)?;
            filled += chunk.len();
            let last = self.model.decoder.logits(&hidden, &[chunk.len() as u32 - 1])?;
            logits = last.flatten_all()?.to_vec1()?;
        }
        Ok(logits)
    }

    /// Reads one prompt and starts its samples in `slots`.
    fn admit(
        &self,
        call: &mut Call<'_>,
        request_index: usize,
        slots: &[usize],
    ) -> Result<Vec<Row>, GenerateError> {
        let request = &call.requests[request_index];
        let shared = call.shared_prefix;
        let first = slots[0];
        if shared > 0 {
            call.cache.fork(call.prefix_slot, first, shared);
        }
        let logits = self.read(&mut call.cache, first, shared, &request.prompt[shared..])?;
        let mut rows = Vec::with_capacity(slots.len());
        for (sample, &slot) in slots.iter().enumerate() {
            if slot != first {
                call.cache.fork(first, slot, request.prompt.len());
            }
            let mut rng = rng::stream(request.seed, &["sample", &sample.to_string()]);
            let (token, logprob) = request.sampling.draw(&logits, &mut rng);
            let generation = Generation {
                tokens: vec![token],
                logprobs: vec![logprob],
                scores: Vec::new(),
                text: String::new(),
                stop: StopReason::Length,
            };
            let filled = request.prompt.len();
            rows.push(Row {
                request: request_index,
                sample,
                slot,
                filled,
                pending: token,
                generation,
                rng,
            });
        }
        Ok(rows)
    }

    /// One token for every row.
    fn step(&self, call: &mut Call<'_>, rows: &mut [Row]) -> TensorResult<()> {
        let mut batch = Packed::new();
        for row in rows.iter() {
            batch.push(&[row.pending], Past::Slot { slot: row.slot, len: row.filled });
        }
        let hidden = self.forward(&batch, &mut call.cache)?;
        let all: Vec<u32> = (0..rows.len() as u32).collect();
        let logits: Vec<f32> =
            self.model.decoder.logits(&hidden, &all)?.flatten_all()?.to_vec1()?;
        let vocabulary = self.model.decoder.config().vocabulary;
        let requests = call.requests;
        rows.par_iter_mut().zip(logits.par_chunks(vocabulary)).for_each(|(row, logits)| {
            let (token, logprob) = requests[row.request].sampling.draw(logits, &mut row.rng);
            row.filled += 1;
            row.pending = token;
            row.generation.tokens.push(token);
            row.generation.logprobs.push(logprob);
        });
        Ok(())
    }

    /// Whether the row has ended; sets its text and stop reason.
    fn ended(&self, row: &mut Row, request: &Request) -> bool {
        let generation = &mut row.generation;
        let text = self.model.tokenizer.decode(&generation.tokens);
        if self.model.is_end(row.pending) {
            let body = &generation.tokens[..generation.tokens.len() - 1];
            generation.text = self.model.tokenizer.decode(body);
            generation.stop = StopReason::EndOfText;
            return true;
        }
        let cut = request.stop.iter().filter_map(|stop| text.find(stop.as_str())).min();
        if let Some(at) = cut {
            generation.text = text[..at].to_string();
            generation.stop = StopReason::StopString;
            return true;
        }
        if generation.tokens.len() >= request.max_tokens {
            generation.text = text;
            generation.stop = StopReason::Length;
            return true;
        }
        false
    }
}

/// The state of one `generate` call.
struct Call<'a> {
    requests: &'a [Request],
    cache: KvCache,
    shared_prefix: usize,
    prefix_slot: usize,
}

/// Tokens that all prompts begin with, each prompt keeping at least one token of its own.
fn common_prefix(requests: &[Request]) -> usize {
    let Some((first, others)) = requests.split_first() else { return 0 };
    let mut common = first.prompt.len().saturating_sub(1);
    for request in others {
        let limit = common.min(request.prompt.len() - 1);
        let pairs = first.prompt.iter().zip(&request.prompt).take(limit);
        common = pairs.take_while(|(a, b)| a == b).count();
    }
    if others.is_empty() || common < MIN_SHARED_PREFIX { 0 } else { common }
}

impl Generator for Engine {
    fn generate(&self, requests: &[Request]) -> Result<Vec<Vec<Generation>>, GenerateError> {
        self.check(requests)?;
        let mut results: Vec<Vec<Option<Generation>>> =
            requests.iter().map(|request| vec![None; request.samples]).collect();
        let capacity =
            requests.iter().map(|r| r.prompt.len() + r.max_tokens).max().unwrap_or_default();
        let rows_wanted: usize = requests.iter().map(|r| r.samples).sum();
        let widest = requests.iter().map(|r| r.samples).max().unwrap_or_default();
        if rows_wanted == 0 {
            return Ok(vec![Vec::new(); requests.len()]);
        }
        let fits = (MAX_CACHED_POSITIONS / capacity).saturating_sub(1);
        let slots = rows_wanted.min(MAX_ROWS.max(widest)).min(fits.max(widest));
        let mut call = Call {
            requests,
            cache: self.model.decoder.new_cache(slots + 1, capacity),
            shared_prefix: common_prefix(requests),
            prefix_slot: slots,
        };
        if call.shared_prefix > 0 {
            let prefix = &requests[0].prompt[..call.shared_prefix];
            self.read(&mut call.cache, slots, 0, prefix)?;
        }
        let mut waiting: VecDeque<usize> =
            (0..requests.len()).filter(|i| requests[*i].samples > 0).collect();
        let mut free: Vec<usize> = (0..slots).rev().collect();
        let mut rows: Vec<Row> = Vec::new();
        while !(waiting.is_empty() && rows.is_empty()) {
            if self.interrupt.load(Ordering::Relaxed) {
                return Err(GenerateError::Interrupted);
            }
            while let Some(&next) = waiting.front() {
                let Some(left) = free.len().checked_sub(requests[next].samples) else { break };
                let taken = free.split_off(left);
                rows.extend(self.admit(&mut call, next, &taken)?);
                waiting.pop_front();
            }
            rows.retain_mut(|row| {
                if !self.ended(row, &requests[row.request]) {
                    return true;
                }
                free.push(row.slot);
                results[row.request][row.sample] = Some(row.generation.clone());
                false
            });
            if !rows.is_empty() {
                self.step(&mut call, &mut rows)?;
            }
        }
        Ok(results.into_iter().map(|samples| samples.into_iter().flatten().collect()).collect())
    }

    fn score(&self, _: &[Continuation]) -> Result<Vec<Vec<TokenScore>>, GenerateError> {
        Err(GenerateError::Unsupported("not yet".into()))
    }

    fn model_version(&self) -> &str {
        &self.version
    }
}
