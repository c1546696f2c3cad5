//! LoRA adapters, laid out to be applied beside the weights, unmerged.

use candle_core::Result;

use super::weights::Form;
use super::weights::Packed;
use super::weights::values;
use crate::model::config::DecoderConfig;
use crate::model::lora::Adapter;
use crate::model::lora::Target;

/// The low-rank term of one map.
pub(super) struct LoraMap {
    /// scale · A (rank, in).
    pub(super) down: Packed,
    /// B (out, rank).
    pub(super) up: Packed,
}

/// All terms of an adapter, by layer and target.
pub(super) struct LoraWeights(Vec<[Option<LoraMap>; Target::COUNT]>);

impl LoraWeights {
    pub(super) fn pack(adapter: &Adapter, config: &DecoderConfig) -> Result<Self> {
        let map = |layer: usize, target: Target| -> Result<Option<LoraMap>> {
            let Some(pair) = adapter.pair(layer, target) else { return Ok(None) };
            let ((rank, inner), (out, columns)) = (pair.a.dims2()?, pair.b.dims2()?);
            if (out, inner) != target.dims(config) || columns != rank {
                candle_core::bail!("an adapter of another model, at {}", target.name());
            }
            let scaled: Vec<f32> = values(&pair.a)?.iter().map(|a| a * pair.scale).collect();
            Ok(Some(LoraMap {
                down: Packed::of_floats(&scaled, rank, inner, Form::Pairs),
                up: Packed::of_floats(&values(&pair.b)?, out, rank, Form::Pairs),
            }))
        };
        let layer = |layer: usize| {
            let maps = Target::ALL.map(|target| map(layer, target));
            crate::model::decoder::exactly(maps.into_iter().collect::<Result<Vec<_>>>()?)
        };
        Ok(Self((0..config.layers).map(layer).collect::<Result<_>>()?))
    }

    pub(super) fn map(&self, layer: usize, target: Target) -> Option<&LoraMap> {
        self.0[layer][target as usize].as_ref()
    }

    /// The most steps that a map's inner values take.
    pub(super) fn rank_steps(&self) -> usize {
        let maps = self.0.iter().flatten().flatten();
        maps.map(|map| map.up.steps()).max().unwrap_or(0)
    }
}
