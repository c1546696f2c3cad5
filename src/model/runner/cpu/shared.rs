//! Memory that the threads of a team write to in disjoint parts.

use std::marker::PhantomData;
use std::ops::Range;

/// A slice that several threads may write to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shared<'a, T> {
    start: *mut T,
    len: usize,
    borrowed: PhantomData<&'a mut [T]>,
}

// SAFETY: access is through functions whose callers answer for disjointness.
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(super) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), borrowed: PhantomData }
    }

    /// Some values, to write to.
    ///
    /// # Safety
    /// No other thread uses them at the same time: until the next barrier, unless it is known that
    /// nobody else will.
    #[expect(clippy::mut_from_ref, reason = "disjointness is the caller's promise")]
    pub(super) unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "past the end");
        // SAFETY: within the slice; the caller promises disjointness.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }

    /// Some values, to read.
    ///
    /// # Safety
    /// No thread writes to them at the same time.
    pub(super) unsafe fn read(&self, range: Range<usize>) -> &[T] {
        assert!(range.start <= range.end && range.end <= self.len, "past the end");
        // SAFETY: within the slice; the caller promises that nobody writes.
        unsafe { std::slice::from_raw_parts(self.start.add(range.start), range.len()) }
    }

    /// Where value `start` lies, with at least `len` values from there on.
    pub(super) fn at(&self, start: usize, len: usize) -> *mut T {
        assert!(start + len <= self.len, "past the end");
        self.start.wrapping_add(start)
    }
}
