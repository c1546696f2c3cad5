//! What the system's allocator does with large blocks.

/// Keeps freed memory in the process. Training frees and asks for blocks of a few megabytes all the
/// time; by default each would be given back to the system and come back as pages to be cleared,
/// which took a tenth of the time.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(super) fn keep_freed_memory() {
    // SAFETY: both calls only set numbers of the allocator, before there are other threads.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 30);
        libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(super) fn keep_freed_memory() {}
