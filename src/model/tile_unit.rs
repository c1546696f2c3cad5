//! The tile unit of recent Intel server processors (AMX): whether it is there, and its set-up.

use std::arch::asm;

/// Whether this processor has the unit and the system lets this process use it.
pub(in crate::model) fn available() -> bool {
    let vectors = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512bf16");
    vectors && has_tiles() && permitted()
}

/// Leaf 7 of the processor's description: bits 22 and 24 of EDX are AMX-BF16 and AMX-TILE.
fn has_tiles() -> bool {
    const TILES: u32 = 1 << 22 | 1 << 24;
    std::arch::x86_64::__cpuid_count(7, 0).edx & TILES == TILES
}

/// Linux saves the tiles' 8 KB of state only for processes that asked for it.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const TILE_DATA: libc::c_long = 18;
    // SAFETY: the call takes two numbers and touches no memory of ours.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// Declares eight tiles of 16 rows of 64 bytes, until dropped.
pub(in crate::model) struct Configured(());

impl Configured {
    /// # Safety
    /// The processor has the unit, and the system lets this process use it.
    pub(in crate::model) unsafe fn new() -> Self {
        #[repr(C, align(64))]
        struct TileConfig {
            palette: u8,
            start_row: u8,
            reserved: [u8; 14],
            bytes_per_row: [u16; 16],
            rows: [u8; 16],
        }
        let mut config = TileConfig {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            bytes_per_row: [0; 16],
            rows: [0; 16],
        };
        config.bytes_per_row[..8].fill(64);
        config.rows[..8].fill(16);
        // SAFETY: the structure has the layout of palette 1 and outlives the instruction.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, readonly)) };
        Self(())
    }
}

impl Drop for Configured {
    fn drop(&mut self) {
        // SAFETY: tiles were configured by this value.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}
