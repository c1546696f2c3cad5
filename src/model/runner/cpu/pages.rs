//! Memory of keys and values, in pages of half-precision numbers.

use super::shared::Shared;
use crate::model::ops::HeadShape;
use crate::model::runner::PAGE;

/// All pages. A page holds, for each layer and kv head, its keys (dimension, position), then its
/// values (position, dimension), dimensions padded to [`LANES`].
#[derive(Debug)]
pub(super) struct Pages {
    memory: Vec<u16>,
    layout: Layout,
}

/// Values are read in vectors of up to as many.
const LANES: usize = 16;

/// The largest half-precision number.
const MAX: f32 = 65_504.0;

/// Where things lie in a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    layers: usize,
    heads: usize,
    /// Dimensions of a head, with padding.
    pub(super) width: usize,
}

impl Layout {
    pub(super) fn new(layers: usize, shape: HeadShape) -> Self {
        let width = shape.head_dim.next_multiple_of(LANES);
        Self { layers, heads: shape.kv_heads, width }
    }

    /// Numbers of the keys, or the values, of one head in one layer.
    fn side(self) -> usize {
        PAGE * self.width
    }

    /// Numbers of a page.
    fn page(self) -> usize {
        2 * self.layers * self.heads * self.side()
    }

    /// Bytes of a page.
    pub(super) fn page_bytes(self) -> usize {
        self.page() * size_of::<u16>()
    }

    fn keys(self, page: u32, layer: usize, head: usize) -> usize {
        page as usize * self.page() + 2 * (layer * self.heads + head) * self.side()
    }
}

impl Pages {
    /// The memory is taken from the system when it is first written to.
    pub(super) fn new(layout: Layout, count: usize) -> Self {
        Self { memory: vec![0; count * layout.page()], layout }
    }

    pub(super) fn count(&self) -> usize {
        self.memory.len() / self.layout.page()
    }

    pub(super) fn shared(&mut self) -> SharedPages<'_> {
        SharedPages { memory: Shared::new(&mut self.memory), layout: self.layout }
    }

    /// Copies the first positions of a page to another.
    pub(super) fn copy(&mut self, from: u32, to: u32, positions: usize) {
        let Layout { layers, heads, width } = self.layout;
        for (layer, head) in (0..layers).flat_map(|l| (0..heads).map(move |h| (l, h))) {
            let [from, to] = [from, to].map(|page| self.layout.keys(page, layer, head));
            for row in 0..width {
                let row = row * PAGE;
                self.memory.copy_within(from + row..from + row + positions, to + row);
            }
            let side = self.layout.side();
            let values = from + side..from + side + positions * width;
            self.memory.copy_within(values, to + side);
        }
    }
}

/// The pages as the threads of a step see them.
#[derive(Clone, Copy)]
pub(super) struct SharedPages<'a> {
    memory: Shared<'a, u16>,
    pub(super) layout: Layout,
}

impl SharedPages<'_> {
    /// Keys and values of one head of one page.
    ///
    /// # Safety
    /// Nobody writes to them.
    pub(super) unsafe fn read(&self, page: u32, layer: usize, head: usize) -> (&[u16], &[u16]) {
        let (start, side) = (self.layout.keys(page, layer, head), self.layout.side());
        // SAFETY: the caller's.
        unsafe { self.memory.read(start..start + 2 * side) }.split_at(side)
    }

    /// Writes a key and a value (head_dim each), which are rounded to half precision.
    ///
    /// # Safety
    /// Nobody else uses this position.
    pub(super) unsafe fn write(
        &self,
        (page, position): (u32, usize),
        layer: usize,
        head: usize,
        key: &[f32],
        value: &[f32],
    ) {
        let (start, side) = (self.layout.keys(page, layer, head), self.layout.side());
        let keys = self.memory.at(start, side);
        let values = self.memory.at(start + side, side);
        // Finite, so that a weight of zero silences whatever an earlier owner left behind.
        let bits = |x: f32| half::f16::from_f32(x.clamp(-MAX, MAX)).to_bits();
        for (dimension, (key, value)) in key.iter().zip(value).enumerate() {
            // SAFETY: positions below the page's, dimensions below the head's; the caller's.
            unsafe {
                *keys.add(dimension * PAGE + position) = bits(*key);
                *values.add(position * self.layout.width + dimension) = bits(*value);
            }
        }
    }
}
