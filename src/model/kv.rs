//! Keys and values of past tokens, preallocated and written in place.

use std::ops::Range;

/// A cache of `slots` sequences of up to `capacity` positions each.
///
/// Layout of each of the keys and the values: (layer, slot, kv head, position, head dimension).
#[derive(Debug)]
pub struct KvCache {
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
    slots: usize,
    heads: usize,
    capacity: usize,
    head_dim: usize,
}

impl KvCache {
    /// Reserves zeroed memory: 2 · layers · slots · heads · capacity · head_dim floats. The pages
    /// are touched, and so paid for, only when written.
    pub fn new(
        layers: usize,
        slots: usize,
        heads: usize,
        capacity: usize,
        head_dim: usize,
    ) -> Self {
        let size = slots * heads * capacity * head_dim;
        Self {
            keys: (0..layers).map(|_| vec![0.0; size]).collect(),
            values: (0..layers).map(|_| vec![0.0; size]).collect(),
            slots,
            heads,
            capacity,
            head_dim,
        }
    }

    /// Number of sequences it can hold.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Positions per sequence.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Copies the first `len` positions of one slot to another: a fork of the sequence.
    pub fn fork(&mut self, from: usize, to: usize, len: usize) {
        assert!(len <= self.capacity && from != to, "fork within the cache, to another slot");
        for head in 0..self.heads {
            let source = self.span(from, head, 0..len);
            let target = self.span(to, head, 0..len).start;
            for layer in self.keys.iter_mut().chain(self.values.iter_mut()) {
                layer.copy_within(source.clone(), target);
            }
        }
    }

    /// Writes keys and values of consecutive positions; `keys` and `values` are (tokens, heads,
    /// head_dim), row-major.
    pub(super) fn write(
        &mut self,
        layer: usize,
        slot: usize,
        start: usize,
        keys: &[f32],
        values: &[f32],
    ) {
        let width = self.heads * self.head_dim;
        let tokens = keys.len() / width;
        assert!(start + tokens <= self.capacity, "the engine reserves room for every token");
        for head in 0..self.heads {
            let target = self.span(slot, head, start..start + tokens);
            let columns = head * self.head_dim..(head + 1) * self.head_dim;
            for (store, source) in [(&mut self.keys, keys), (&mut self.values, values)] {
                let rows = store[layer][target.clone()].chunks_exact_mut(self.head_dim);
                for (row, token) in rows.zip(source.chunks_exact(width)) {
                    row.copy_from_slice(&token[columns.clone()]);
                }
            }
        }
    }

    /// Keys and values of one head of one slot, each (positions, head_dim), contiguous.
    pub(super) fn head(
        &self,
        layer: usize,
        slot: usize,
        head: usize,
        positions: Range<usize>,
    ) -> (&[f32], &[f32]) {
        let range = self.span(slot, head, positions);
        (&self.keys[layer][range.clone()], &self.values[layer][range])
    }

    fn span(&self, slot: usize, head: usize, positions: Range<usize>) -> Range<usize> {
        let base = (slot * self.heads + head) * self.capacity;
        (base + positions.start) * self.head_dim..(base + positions.end) * self.head_dim
    }
}
