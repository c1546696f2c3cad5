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
mod plan;
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
use candle_core::Tensor;
use serde::Deserialize;
use serde::Serialize;

use self::adapters::LoraWeights;
pub use self::kernels::Element;
use self::lanes::VectorSet;
use self::linear::Unit;
use self::pages::Layout;
use self::pages::Pages;
use self::step::Buffers;
use self::team::Team;
use self::weights::Form;
use self::weights::Packed;
use self::weights::smallest_form;
use self::weights::values;
use super::AdapterSlot;
use super::Description;
use super::PAGE;
use super::RunBatch;
use super::Runner;
use crate::model::config::DecoderConfig;
use crate::model::decoder::Decoder;
use crate::model::lora::Adapter;
use crate::model::lora::Target;
use crate::model::ops::HeadShape;
use crate::model::ops::RopeTable;
use crate::model::ops::matmul_unit;
use crate::model::ops::tiles_available;
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

/// What products run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MatmulUnit {
    /// Scalar instructions, or whatever the compiler makes of them.
    Plain,
    /// Vectors of 8, with fused multiply-add.
    Avx2,
    /// Vectors of 16.
    Avx512,
    /// Tiles of bf16 values.
    Amx,
}

impl MatmulUnit {
    /// Those of this processor, from the slowest to the fastest.
    pub fn available() -> Vec<Self> {
        let mut units = vec![Self::Plain];
        #[cfg(target_arch = "x86_64")]
        {
            let best = VectorSet::detect();
            let sets = [(VectorSet::Avx2, Self::Avx2), (VectorSet::Avx512, Self::Avx512)];
            units.extend(sets.into_iter().filter(|(set, _)| *set <= best).map(|(_, unit)| unit));
            if tiles_available() {
                units.push(Self::Amx);
            }
        }
        units
    }

    /// The fastest of this processor that the user allows.
    pub fn best() -> Self {
        let allowed = |unit: &Self| *unit != Self::Amx || matmul_unit() == "amx";
        Self::available().into_iter().rfind(allowed).unwrap_or(Self::Plain)
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Amx => "amx",
        }
    }

    fn kernels(self) -> (Unit, VectorSet) {
        let set = match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => VectorSet::Avx2,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 | Self::Amx => VectorSet::Avx512,
            _ => VectorSet::Plain,
        };
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Amx => (Unit::Tiles, set),
            _ => (Unit::Vector(set), set),
        }
    }
}

/// How weights are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightForm {
    /// As the model's file has them, or smaller where that is exact.
    AsStored,
    /// To within 2⁻¹⁷ of f32.
    F32,
    /// Rounded to bf16.
    Bf16,
    /// Rounded to f16.
    F16,
}

impl WeightForm {
    /// The form asked for; none for that of the file.
    fn asked(self) -> Option<Form> {
        match self {
            Self::AsStored => None,
            Self::F32 => Some(Form::Pairs),
            Self::Bf16 => Some(Form::Bf16),
            Self::F16 => Some(Form::F16),
        }
    }
}

/// How a runner is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuSettings {
    /// Bytes of keys and values at most.
    pub kv_bytes: usize,
    /// Threads of a step.
    pub threads: usize,
    /// One of [`MatmulUnit::available`].
    pub unit: MatmulUnit,
    /// How weights are kept.
    pub weights: WeightForm,
}

/// A model on the CPU, whose keys and values are kept as `E`: `f32`, or `f16` in half the memory.
pub struct CpuRunner<E> {
    config: DecoderConfig,
    shape: HeadShape,
    rope: Arc<RopeTable>,
    embedding: Tensor,
    layers: Vec<Layer>,
    final_norm: Vec<f32>,
    head: Packed,
    settings: CpuSettings,
    team: Team,
    pages: Pages<E>,
    adapters: BTreeMap<AdapterSlot, LoraWeights>,
    next_adapter: u32,
    buffers: Buffers,
    times: BTreeMap<&'static str, Duration>,
}

/// What a runner is made of, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CpuDescription {
    /// What products run on.
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
    /// A runner for `decoder`'s weights, which are on the CPU in f32.
    ///
    /// # Errors
    /// When the threads cannot be started, and those of candle.
    pub fn new(decoder: &Decoder, settings: CpuSettings) -> Result<Self> {
        let (config, shape) = (decoder.config().clone(), decoder.head_shape());
        let layout = Layout::new(config.layers, shape);
        let layers = (0..config.layers).map(|layer| pack_layer(decoder, layer, settings.weights));
        Ok(Self {
            layers: layers.collect::<Result<_>>()?,
            final_norm: values(decoder.final_norm())?,
            embedding: decoder.embedding().clone(),
            head: pack(decoder.head(), decoder.stored().head.as_deref(), settings.weights)?,
            rope: decoder.rope().clone(),
            team: Team::new(settings.threads)?,
            pages: Pages::new(layout, settings.kv_bytes / layout.page_bytes::<E>()),
            adapters: BTreeMap::new(),
            next_adapter: 0,
            buffers: Buffers::default(),
            times: BTreeMap::new(),
            settings,
            config,
            shape,
        })
    }

    /// Bytes of a page of a model's keys and values.
    pub fn page_bytes(decoder: &Decoder) -> usize {
        Layout::new(decoder.config().layers, decoder.head_shape()).page_bytes::<E>()
    }

    /// What it is made of.
    pub fn description(&self) -> CpuDescription {
        let linears = self.layers.iter().flat_map(|layer| &layer.linears);
        let mut weights = BTreeMap::new();
        for packed in linears.chain([&self.head]) {
            *weights.entry(packed.form().name()).or_default() += packed.bytes();
        }
        let layout = Layout::new(self.layers.len(), self.shape);
        CpuDescription {
            unit: self.settings.unit.as_str(),
            weights,
            threads: self.team.threads(),
            kv: E::NAME,
            page_bytes: layout.page_bytes::<E>(),
        }
    }
}

fn pack_layer(decoder: &Decoder, index: usize, form: WeightForm) -> Result<Layer> {
    let layer = &decoder.layers()[index];
    let linears = Target::ALL.map(|target| {
        pack(&layer.linears[target as usize], decoder.stored().linear(index, target), form)
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

/// Packs a weight (out, in).
fn pack(weight: &Tensor, stored: Option<&StoredMatrix>, form: WeightForm) -> Result<Packed> {
    let asked = form.asked();
    if let (Some(stored), None) = (stored, asked) {
        return Ok(Packed::of_stored(stored));
    }
    let (out, inner) = weight.dims2()?;
    let values = values(weight)?;
    let form = asked.unwrap_or_else(|| smallest_form(&values));
    Ok(Packed::of_floats(&values, out, inner, form))
}

impl<E: Element> Runner for CpuRunner<E> {
    fn pages(&self) -> usize {
        self.pages.count()
    }

    fn run(&mut self, batch: &RunBatch) -> Result<&mut [f32]> {
        self.check(batch)?;
        self.step(batch)?;
        Ok(self.buffers.logits())
    }

    fn copy_page(&mut self, from: u32, to: u32, positions: usize) -> Result<()> {
        let there = |page: u32| (page as usize) < self.pages.count();
        if !there(from) || !there(to) || positions > PAGE {
            candle_core::bail!("{positions} positions of page {from} to page {to}");
        }
        self.pages.copy(from, to, positions);
        Ok(())
    }

    fn add_adapter(&mut self, adapter: &Adapter) -> Result<AdapterSlot> {
        let slot = AdapterSlot(self.next_adapter);
        let weights = LoraWeights::pack(adapter, &self.config)?;
        self.next_adapter += 1;
        self.adapters.insert(slot, weights);
        Ok(slot)
    }

    fn remove_adapter(&mut self, slot: AdapterSlot) {
        self.adapters.remove(&slot);
    }

    fn describe(&self) -> Description {
        let CpuDescription { unit, weights, threads, kv, .. } = self.description();
        let kinds = weights.iter().map(|(form, bytes)| format!("{form} {} MB", bytes / 1_000_000));
        let facts = [
            ("device", "cpu".to_string()),
            ("matmul_unit", unit.to_string()),
            ("weights", kinds.collect::<Vec<_>>().join(", ")),
            ("kv", kv.to_string()),
            ("threads", threads.to_string()),
        ];
        Description { facts: facts.into(), weight_bytes: weights.values().sum() }
    }

    fn take_times(&mut self) -> BTreeMap<&'static str, Duration> {
        std::mem::take(&mut self.times)
    }
}
