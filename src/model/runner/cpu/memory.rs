//! Large pieces of memory.

/// Below it, large pages are not worth asking for.
const MIN_BYTES: usize = 1 << 22;

/// Has the system back a large slice by large pages, where it can: keys and values are read all
/// over, and small pages cost a walk through the page table each.
pub(super) fn use_huge_pages<T>(slice: &[T]) {
    #[cfg(target_os = "linux")]
    {
        const PAGE: usize = 4096;
        let bytes = size_of_val(slice);
        if bytes < MIN_BYTES {
            return;
        }
        let start = slice.as_ptr().addr().next_multiple_of(PAGE);
        let end = (slice.as_ptr().addr() + bytes) / PAGE * PAGE;
        let first = slice.as_ptr().cast::<u8>().cast_mut().with_addr(start);
        // SAFETY: whole pages within the slice; the advice does not change what they hold. That it
        // is not taken is no error.
        unsafe { libc::madvise(first.cast(), end - start, libc::MADV_HUGEPAGE) };
    }
}

/// Zeros that the system provides when they are first touched.
pub(super) fn zeroed<T: Copy + Default>(len: usize) -> Vec<T> {
    let layout = std::alloc::Layout::array::<T>(len).expect("less than the address space");
    if layout.size() == 0 {
        return Vec::new();
    }
    // SAFETY: the layout is that of a vector of `len` values, for all of which zero bits are a
    // value: this is only called for plain numbers.
    unsafe {
        let start = std::alloc::alloc_zeroed(layout).cast::<T>();
        if start.is_null() {
            std::alloc::handle_alloc_error(layout);
        }
        Vec::from_raw_parts(start, len, len)
    }
}
