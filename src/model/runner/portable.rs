//! A runner of candle tensors: any device, weights of any type.
//!
//! It computes with the decoder's own weights and [operations](crate::model::ops::Operations), and
//! composes attention over pages from candle operations. On the CPU it is the reference for faster
//! runners; on every other device it is the way to generate.

mod attention;
mod plan;

use std::collections::BTreeMap;
use std::time::Duration;
use std::time::Instant;

use candle_core::DType;
use candle_core::Device;
use candle_core::Result;
use candle_core::Tensor;

use self::plan::Plan;
use super::AdapterSlot;
use super::Description;
use super::PAGE;
use super::RunBatch;
use super::Runner;
use crate::model::config::DecoderConfig;
use crate::model::decoder::Decoder;
use crate::model::decoder::exactly;
use crate::model::lora::Adapter;
use crate::model::lora::Target;
use crate::model::ops::Linear;
use crate::model::ops::LoraPair;
use crate::model::ops::Rotation;

/// Keys and values of one layer, each (pages · PAGE, kv_heads · head_dim).
struct Store {
    keys: Tensor,
    values: Tensor,
}

/// The low-rank terms of an adapter, by layer.
type Pairs = Vec<[Option<LoraPair>; Target::COUNT]>;

/// A runner wherever candle computes.
pub struct PortableRunner {
    decoder: Decoder,
    pages: usize,
    stores: Vec<Store>,
    adapters: BTreeMap<AdapterSlot, Pairs>,
    next_slot: u32,
    logits: Vec<f32>,
    times: BTreeMap<&'static str, Duration>,
}

impl PortableRunner {
    /// A runner for a decoder, on its device, with memory for `pages` pages. Keys and values have
    /// the type of the weights.
    ///
    /// # Errors
    /// When there are no pages or more than an index can name, and when the memory cannot be had.
    pub fn new(decoder: Decoder, pages: usize) -> Result<Self> {
        if pages == 0 || pages > u32::MAX as usize / PAGE {
            candle_core::bail!("a runner of {pages} pages")
        }
        let config = decoder.config();
        let shape = (pages * PAGE, config.kv_heads * config.head_dim);
        let zeros = || Tensor::zeros(shape, decoder.dtype(), decoder.device());
        let stores = (0..config.layers).map(|_| Ok(Store { keys: zeros()?, values: zeros()? }));
        let stores = stores.collect::<Result<Vec<_>>>()?;
        Ok(Self {
            decoder,
            pages,
            stores,
            adapters: BTreeMap::new(),
            next_slot: 0,
            logits: Vec::new(),
            times: BTreeMap::new(),
        })
    }

    /// Bytes of a page: keys and values of [`PAGE`] positions in all layers.
    pub fn page_bytes(config: &DecoderConfig, dtype: DType) -> usize {
        2 * config.layers * PAGE * config.kv_heads * config.head_dim * dtype.size_in_bytes()
    }

    fn device(&self) -> &Device {
        self.decoder.device()
    }

    /// One layer: the residual stream behind it.
    fn layer(&mut self, index: usize, x: &Tensor, plan: &Plan) -> Result<Tensor> {
        use Target::{Down, Gate, Key, Output, Query, Up, Value};
        let start = Instant::now();
        let decoder = &self.decoder;
        let (ops, weights) = (&**decoder.operations(), &decoder.layers()[index]);
        let eps = decoder.config().norm_eps;
        let mut linear = Duration::ZERO;
        let mut maps = |x: &Tensor, targets: &[Target]| {
            let start = Instant::now();
            let mapped = linears(decoder, &self.adapters, index, x, targets, plan);
            linear += start.elapsed();
            mapped
        };
        let normed = ops.rms_norm(x, &weights.attention_norm, eps)?;
        let [q, k, v] = exactly(maps(&normed, &[Query, Key, Value])?)?;
        let rotated = |x: &Tensor, norm: Option<&Tensor>| {
            let x = decoder.norm_heads(x, norm)?;
            ops.rope(&x, decoder.rope(), &plan.positions, Rotation::Forward)
        };
        let q = rotated(&q, weights.query_norm.as_ref())?;
        let k = rotated(&k, weights.key_norm.as_ref())?;
        let attention_start = Instant::now();
        let store = &self.stores[index];
        plan.write(&store.keys, &k)?;
        plan.write(&store.values, &v)?;
        let attended = plan.attend(&q, &store.keys, &store.values)?;
        let attention = attention_start.elapsed();
        let [output] = exactly(maps(&attended, &[Output])?)?;
        let middle = (output + x)?;
        let normed = ops.rms_norm(&middle, &weights.feed_forward_norm, eps)?;
        let [gate, up] = exactly(maps(&normed, &[Gate, Up])?)?;
        let [down] = exactly(maps(&ops.swiglu(&gate, &up)?, &[Down])?)?;
        let result = (down + middle)?;
        let other = start.elapsed().saturating_sub(linear + attention);
        for (kind, time) in [("linear", linear), ("attention", attention), ("other", other)] {
            *self.times.entry(kind).or_default() += time;
        }
        Ok(result)
    }
}

/// Linear maps of one layer, each row with its own adapter's terms.
fn linears(
    decoder: &Decoder,
    adapters: &BTreeMap<AdapterSlot, Pairs>,
    index: usize,
    x: &Tensor,
    targets: &[Target],
    plan: &Plan,
) -> Result<Vec<Tensor>> {
    let weights = &decoder.layers()[index];
    let whole = plan.adapter_of_all().and_then(|slot| adapters.get(&slot));
    let maps: Vec<Linear<'_>> = targets
        .iter()
        .map(|target| Linear {
            weight: &weights.linears[*target as usize],
            bias: weights.biases[*target as usize].as_ref(),
            lora: whole.and_then(|pairs| pairs[index][*target as usize].as_ref()),
            dropout: None,
        })
        .collect();
    let mapped = decoder.operations().linears(x, &maps)?;
    let mut results: Vec<Tensor> = mapped.into_iter().map(|mapped| mapped.y).collect();
    for (slot, rows) in plan.adapter_rows() {
        let Some(pairs) = adapters.get(slot) else { continue };
        let part = x.index_select(rows, 0)?;
        for (target, y) in targets.iter().zip(&mut results) {
            let Some(pair) = &pairs[index][*target as usize] else { continue };
            let down = (part.matmul(&pair.a.t()?)? * f64::from(pair.scale))?;
            *y = y.index_add(rows, &down.matmul(&pair.b.t()?)?, 0)?;
        }
    }
    Ok(results)
}

impl Runner for PortableRunner {
    fn pages(&self) -> usize {
        self.pages
    }

    fn run(&mut self, batch: &RunBatch) -> Result<&mut [f32]> {
        if let Some(slot) =
            batch.spans.iter().find_map(|s| s.adapter.filter(|a| !self.adapters.contains_key(a)))
        {
            candle_core::bail!("there is no adapter in slot {}", slot.0)
        }
        let start = Instant::now();
        let plan = Plan::new(batch, &self.decoder, self.pages)?;
        let ops = self.decoder.operations().clone();
        let mut x = ops.rows(self.decoder.embedding(), &batch.tokens)?;
        *self.times.entry("other").or_default() += start.elapsed();
        for index in 0..self.stores.len() {
            x = self.layer(index, &x, &plan)?;
        }
        let start = Instant::now();
        let wanted: Vec<u32> = batch.wanted().into_iter().map(|token| token as u32).collect();
        self.logits.clear();
        if !wanted.is_empty() {
            let rows = self.decoder.normed(&ops.rows(&x, &wanted)?)?;
            let [logits] = exactly(ops.linears(&rows, &[Linear::plain(self.decoder.head())])?)?;
            self.logits = logits.y.flatten_all()?.to_vec1()?;
        }
        *self.times.entry("head").or_default() += start.elapsed();
        Ok(&mut self.logits)
    }

    fn copy_page(&mut self, from: u32, to: u32, positions: usize) -> Result<()> {
        let pages = self.pages;
        if from == to || [from, to].iter().any(|p| *p as usize >= pages) || positions > PAGE {
            candle_core::bail!("{positions} positions cannot be copied from page {from} to {to}")
        }
        if positions == 0 {
            return Ok(());
        }
        let first = from * PAGE as u32;
        let rows = Tensor::arange(first, first + positions as u32, self.device())?;
        for store in &self.stores {
            for tensor in [&store.keys, &store.values] {
                // Not `narrow` and `copy`, which would copy the whole store.
                tensor.slice_set(&tensor.index_select(&rows, 0)?, 0, to as usize * PAGE)?;
            }
        }
        Ok(())
    }

    fn add_adapter(&mut self, adapter: &Adapter) -> Result<AdapterSlot> {
        let config = self.decoder.config();
        let place = |tensor: &Tensor, dims: (usize, usize)| {
            if tensor.dims2()? != dims {
                candle_core::bail!("an adapter of {:?} where {dims:?} fits", tensor.dims())
            }
            tensor.copy()?.detach().to_device(self.device())?.to_dtype(DType::F32)
        };
        let pairs = (0..config.layers).map(|layer| {
            let pairs = Target::ALL.into_iter().map(|target| {
                let Some(pair) = adapter.pair(layer, target) else { return Ok(None) };
                let (out, inner) = target.dims(config);
                let rank = pair.a.dim(0)?;
                let (a, b) = (place(&pair.a, (rank, inner))?, place(&pair.b, (out, rank))?);
                Ok(Some(LoraPair { a, b, scale: pair.scale }))
            });
            exactly(pairs.collect::<Result<Vec<_>>>()?)
        });
        let pairs = pairs.collect::<Result<Pairs>>()?;
        let slot = AdapterSlot(self.next_slot);
        self.next_slot += 1;
        self.adapters.insert(slot, pairs);
        Ok(slot)
    }

    fn remove_adapter(&mut self, slot: AdapterSlot) {
        self.adapters.remove(&slot);
    }

    fn describe(&self) -> Description {
        let config = self.decoder.config();
        let layer: usize = Target::ALL.iter().map(|t| t.dims(config)).map(|(a, b)| a * b).sum();
        let numbers = config.layers * layer + config.vocabulary * config.hidden;
        let dtype = self.decoder.dtype();
        let facts = [
            ("device", if self.device().is_cpu() { "cpu" } else { "cuda" }.to_string()),
            ("weights", dtype.as_str().to_string()),
            ("kv", dtype.as_str().to_string()),
        ];
        Description { facts: facts.into(), weight_bytes: numbers * dtype.size_in_bytes() }
    }

    fn take_times(&mut self) -> BTreeMap<&'static str, Duration> {
        std::mem::take(&mut self.times)
    }
}
