//! The CPU's runner: a step is gone through by all threads together ([`team`]), over weights that
//! stay as small as their file has them ([`weights`]) and half-precision pages ([`pages`]).
//!
//! Products are exact to f32 ([`linear`]), and every row's result is independent of the rows
//! beside it.

mod adapters;
mod attention;
mod kernels;
mod lanes;
mod linear;
mod memory;
mod pages;
mod pointwise;
mod shared;
mod step;
mod team;
#[cfg(target_arch = "x86_64")]
mod tiles;
mod weights;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use candle_core::Result;

use self::adapters::LoraWeights;
pub use self::kernels::Element;
use self::lanes::VectorSet;
use self::linear::Unit;
use self::pages::Layout;
use self::pages::Pages;
use self::step::Buffers;
use self::team::Team;
use self::weights::Packed;
use self::weights::smallest_form;
use self::weights::values;
use super::AdapterSlot;
use super::RunBatch;
use super::Runner;
use crate::model::decoder::Decoder;
use crate::model::lora::Adapter;
use crate::model::lora::Target;
use crate::model::ops::matmul_unit;
use crate::model::stored::StoredMatrix;

/// Weights of one layer, laid out.
struct Layer {
    attention_norm: Vec<f32>,
    feed_forward_norm: Vec<f32>,
    query_norm: Option<Vec<f32>>,
    key_norm: Option<Vec<f32>>,
    linears: [Packed; Target::COUNT],
    biases: [Option<Vec<f32>>; Target::COUNT],
}

/// A model on the CPU, whose keys and values are kept as `E`: `f32`, or `f16` in half the memory.
pub struct CpuRunner<E> {
    decoder: Arc<Decoder>,
    layers: Vec<Layer>,
    final_norm: Vec<f32>,
    embedding: Vec<f32>,
    head: Packed,
    unit: Unit,
    set: VectorSet,
    team: Team,
    pages: Pages<E>,
    adapters: BTreeMap<AdapterSlot, LoraWeights>,
    next_adapter: u32,
    buffers: Buffers,
    times: BTreeMap<&'static str, Duration>,
}

/// What a runner was made of, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuDescription {
    /// What products run on: `amx`, `avx512`, `avx2` or `plain`.
    pub unit: &'static str,
    /// Bytes of weights by the form they are kept in.
    pub weights: BTreeMap<&'static str, usize>,
    /// Threads of a step.
    pub threads: usize,
    /// Type of keys and values.
    pub kv: &'static str,
    /// Bytes of a page of them.
    pub page_bytes: usize,
}

impl<E: Element> CpuRunner<E> {
    /// A runner for `decoder`'s weights, which are on the CPU in f32, with as many bytes of keys
    /// and values as given.
    ///
    /// # Errors
    /// When the threads cannot be started, and those of candle.
    pub fn new(decoder: Arc<Decoder>, kv_bytes: usize, threads: usize) -> Result<Self> {
        let set = VectorSet::detect();
        let unit = match matmul_unit() {
            #[cfg(target_arch = "x86_64")]
            "amx" => Unit::Tiles,
            _ => Unit::Vector(set),
        };
        let config = decoder.config();
        let layout = Layout::new(config.layers, decoder.head_shape());
        let layers = (0..config.layers).map(|layer| pack_layer(&decoder, layer));
        let head = pack(decoder.head(), decoder.stored().head.as_deref())?;
        Ok(Self {
            layers: layers.collect::<Result<_>>()?,
            final_norm: values(decoder.final_norm())?,
            embedding: values(decoder.embedding())?,
            head,
            unit,
            set,
            team: Team::new(threads)?,
            pages: Pages::new(layout, kv_bytes / layout.page_bytes::<E>()),
            adapters: BTreeMap::new(),
            next_adapter: 0,
            buffers: Buffers::default(),
            times: BTreeMap::new(),
            decoder,
        })
    }

    /// What it is made of.
    pub fn description(&self) -> CpuDescription {
        let linears = self.layers.iter().flat_map(|layer| &layer.linears);
        let mut weights = BTreeMap::new();
        for packed in linears.chain([&self.head]) {
            *weights.entry(packed.form().name()).or_default() += packed.bytes();
        }
        let unit = match self.unit {
            #[cfg(target_arch = "x86_64")]
            Unit::Tiles => "amx",
            Unit::Vector(set) => set.name(),
        };
        let layout = Layout::new(self.layers.len(), self.decoder.head_shape());
        let threads = self.team.threads();
        CpuDescription { unit, weights, threads, kv: E::NAME, page_bytes: layout.page_bytes::<E>() }
    }
}

fn pack_layer(decoder: &Decoder, index: usize) -> Result<Layer> {
    let layer = &decoder.layers()[index];
    let linears = Target::ALL.map(|target| {
        pack(&layer.linears[target as usize], decoder.stored().linear(index, target))
    });
    let linears = linears.into_iter().collect::<Result<Vec<_>>>()?;
    let biases = layer.biases.iter().map(|bias| bias.as_ref().map(values).transpose());
    Ok(Layer {
        attention_norm: values(&layer.attention_norm)?,
        feed_forward_norm: values(&layer.feed_forward_norm)?,
        query_norm: layer.query_norm.as_ref().map(values).transpose()?,
        key_norm: layer.key_norm.as_ref().map(values).transpose()?,
        linears: crate::model::decoder::exactly(linears)?,
        biases: crate::model::decoder::exactly(biases.collect::<Result<Vec<_>>>()?)?,
    })
}

/// Packs a weight (out, in): as its file stores it, else in the smallest form that is exact.
fn pack(weight: &candle_core::Tensor, stored: Option<&StoredMatrix>) -> Result<Packed> {
    if let Some(stored) = stored {
        return Ok(Packed::of_stored(stored));
    }
    let (out, inner) = weight.dims2()?;
    let values = values(weight)?;
    Ok(Packed::of_floats(&values, out, inner, smallest_form(&values)))
}

impl<E: Element> Runner for CpuRunner<E> {
    fn pages(&self) -> usize {
        self.pages.count()
    }

    fn run(&mut self, batch: &RunBatch) -> Result<&mut [f32]> {
        self.check(batch)?;
        self.step(batch);
        Ok(self.buffers.logits())
    }

    fn copy_page(&mut self, from: u32, to: u32, positions: usize) -> Result<()> {
        self.pages.copy(from, to, positions);
        Ok(())
    }

    fn add_adapter(&mut self, adapter: &Adapter) -> Result<AdapterSlot> {
        let slot = AdapterSlot(self.next_adapter);
        let weights = LoraWeights::pack(adapter, self.layers.len())?;
        self.next_adapter += 1;
        self.adapters.insert(slot, weights);
        Ok(slot)
    }

    fn remove_adapter(&mut self, slot: AdapterSlot) {
        self.adapters.remove(&slot);
    }

    fn take_times(&mut self) -> BTreeMap<&'static str, Duration> {
        std::mem::take(&mut self.times)
    }
}
