//! Vector registers of f32 values, by instruction set.
//!
//! Kernels are written once over [`Lanes`] and compiled for each instruction set by [`dispatch!`].

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// Rounding to the nearest half-precision number.
#[cfg(target_arch = "x86_64")]
const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT;

/// A vector register.
///
/// # Safety
/// Functions must run on a processor with the instruction set, inlined into a function that
/// enables it; pointers must be valid for N values.
pub trait Lanes: Copy {
    /// How many values it holds.
    const N: usize;

    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// a · b + self
    unsafe fn fma(self, a: Self, b: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    /// N half-precision values.
    unsafe fn load_half(from: *const u16) -> Self;
    /// The same, rounded to the nearest.
    unsafe fn store_half(self, to: *mut u16);
}

#[cfg(target_arch = "x86_64")]
impl Lanes for __m512 {
    const N: usize = 16;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the caller's.
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's.
        unsafe { _mm512_storeu_ps(to, self) }
    }

    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        // SAFETY: the caller's.
        unsafe { _mm512_fmadd_ps(a, b, self) }
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: the caller's.
        unsafe { _mm512_mul_ps(self, other) }
    }

    #[inline(always)]
    unsafe fn load_half(from: *const u16) -> Self {
        // SAFETY: the caller's.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }

    #[inline(always)]
    unsafe fn store_half(self, to: *mut u16) {
        // SAFETY: the caller's.
        unsafe { _mm256_storeu_si256(to.cast(), _mm512_cvtps_ph::<NEAREST>(self)) }
    }
}

#[cfg(target_arch = "x86_64")]
impl Lanes for __m256 {
    const N: usize = 8;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the caller's.
        unsafe { _mm256_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's.
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's.
        unsafe { _mm256_storeu_ps(to, self) }
    }

    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        // SAFETY: the caller's.
        unsafe { _mm256_fmadd_ps(a, b, self) }
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: the caller's.
        unsafe { _mm256_mul_ps(self, other) }
    }

    #[inline(always)]
    unsafe fn load_half(from: *const u16) -> Self {
        // SAFETY: the caller's.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
    }

    #[inline(always)]
    unsafe fn store_half(self, to: *mut u16) {
        // SAFETY: the caller's.
        unsafe { _mm_storeu_si128(to.cast(), _mm256_cvtps_ph::<NEAREST>(self)) }
    }
}

/// Eight values, for processors without vector instructions that this program knows.
#[derive(Clone, Copy)]
pub(super) struct Plain([f32; 8]);

impl Lanes for Plain {
    const N: usize = 8;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; 8])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's.
        Self(unsafe { from.cast::<[f32; 8]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        Self(std::array::from_fn(|i| a.0[i] * b.0[i] + self.0[i]))
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] * other.0[i]))
    }

    #[inline(always)]
    unsafe fn load_half(from: *const u16) -> Self {
        // SAFETY: the caller's.
        let bits = unsafe { from.cast::<[u16; 8]>().read_unaligned() };
        Self(bits.map(|bits| half::f16::from_bits(bits).to_f32()))
    }

    #[inline(always)]
    unsafe fn store_half(self, to: *mut u16) {
        let bits = self.0.map(|value| half::f16::from_f32(value).to_bits());
        // SAFETY: the caller's.
        unsafe { to.cast::<[u16; 8]>().write_unaligned(bits) }
    }
}

/// Instruction sets, from the oldest on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum VectorSet {
    /// What every processor has.
    Plain,
    /// AVX2 with FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512: the foundation, and words and bytes.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl VectorSet {
    /// The best of this processor.
    pub(super) fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let avx512 =
                is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
            let fma = is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
            if avx512 && fma {
                return Self::Avx512;
            }
            if fma && is_x86_feature_detected!("avx2") {
                return Self::Avx2;
            }
        }
        Self::Plain
    }
}

/// Declares `fn NAME(set: VectorSet, args)` that calls `KERNEL::<V>(args)` compiled for the set;
/// with a type parameter behind its name, `KERNEL::<V, E>(args)`.
///
/// The kernel is an `#[inline(always)] unsafe fn` generic over [`Lanes`]; whoever calls must keep
/// its contract, and may only name a set that [`VectorSet::detect`] found.
macro_rules! dispatch {
    (
        $(#[$doc:meta])*
        $visibility:vis unsafe fn $name:ident $(<$element:ident: $bound:path>)? =
            $kernel:ident($($arg:ident: $type:ty),* $(,)?) $(-> $result:ty)?
    ) => {
        $(#[$doc])*
        $visibility unsafe fn $name $(<$element: $bound>)? (
            set: $crate::model::runner::cpu::lanes::VectorSet,
            $($arg: $type),*
        ) $(-> $result)? {
            use $crate::model::runner::cpu::lanes::Plain;
            use $crate::model::runner::cpu::lanes::VectorSet;
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx2,fma,f16c")]
            unsafe fn avx512 $(<$element: $bound>)? ($($arg: $type),*) $(-> $result)? {
                // SAFETY: the caller's.
                unsafe { $kernel::<std::arch::x86_64::__m512 $(, $element)?>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn avx2 $(<$element: $bound>)? ($($arg: $type),*) $(-> $result)? {
                // SAFETY: the caller's.
                unsafe { $kernel::<std::arch::x86_64::__m256 $(, $element)?>($($arg),*) }
            }
            // SAFETY: the caller's; the set was found on this processor.
            unsafe {
                match set {
                    VectorSet::Plain => $kernel::<Plain $(, $element)?>($($arg),*),
                    #[cfg(target_arch = "x86_64")]
                    VectorSet::Avx2 => avx2 $(::<$element>)? ($($arg),*),
                    #[cfg(target_arch = "x86_64")]
                    VectorSet::Avx512 => avx512 $(::<$element>)? ($($arg),*),
                }
            }
        }
    };
}

pub(super) use dispatch;
