//! Memory of keys and values, in pages.

use super::kernels::Element;
use super::kernels::write;
use super::lanes::VectorSet;
use super::memory::use_huge_pages;
use super::memory::zeroed;
use super::shared::Shared;
use crate::model::ops::HeadShape;
use crate::model::runner::PAGE;

/// All pages. A page holds, for each layer and kv head, its keys (dimension, position), then its
/// values (position, dimension), dimensions padded to [`LANES`].
#[derive(Debug)]
pub(super) struct Pages<E> {
    memory: Vec<E>,
    layout: Layout,
}

/// Values are read in vectors of up to as many.
pub(super) const LANES: usize = 16;

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
    pub(super) fn page_bytes<E: Element>(self) -> usize {
        self.page() * size_of::<E>()
    }

    fn keys(self, page: u32, layer: usize, head: usize) -> usize {
        page as usize * self.page() + 2 * (layer * self.heads + head) * self.side()
    }
}

impl<E: Element> Pages<E> {
    /// The memory is taken from the system when it is first written to.
    pub(super) fn new(layout: Layout, count: usize) -> Self {
        let memory = zeroed(count * layout.page());
        use_huge_pages(&memory);
        Self { memory, layout }
    }

    pub(super) fn count(&self) -> usize {
        self.memory.len() / self.layout.page()
    }

    pub(super) fn shared(&mut self) -> SharedPages<'_, E> {
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
pub(super) struct SharedPages<'a, E> {
    memory: Shared<'a, E>,
    pub(super) layout: Layout,
}

impl<E: Element> SharedPages<'_, E> {
    /// Keys and values of one head of one page.
    ///
    /// # Safety
    /// Nobody writes to them.
    pub(super) unsafe fn read(&self, page: u32, layer: usize, head: usize) -> (&[E], &[E]) {
        let (start, side) = (self.layout.keys(page, layer, head), self.layout.side());
        // SAFETY: the caller's.
        unsafe { self.memory.read(start..start + 2 * side) }.split_at(side)
    }

    /// Writes a key and a value, rounded if need be; each is padded to the width.
    ///
    /// # Safety
    /// The set is this processor's; nobody else uses this position.
    pub(super) unsafe fn write(
        &self,
        set: VectorSet,
        (page, position): (u32, usize),
        layer: usize,
        head: usize,
        [key, value]: [&[f32]; 2],
    ) {
        let (width, side) = (self.layout.width, self.layout.side());
        assert!(key.len() == width && value.len() == width, "keys and values of a head's width");
        let start = self.layout.keys(page, layer, head);
        let keys = self.memory.at(start, side).wrapping_add(position);
        let values = self.memory.at(start + side, side).wrapping_add(position * width);
        // SAFETY: positions below the page's; the caller's.
        unsafe { write(set, key, keys, value, values) };
    }
}
