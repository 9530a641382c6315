//! The arithmetic of a step. Every kernel is one generic body; `kernel!` compiles it for each instruction set and
//! chooses at run time.
#![expect(
    clippy::inline_always,
    reason = "a body that is not inlined is compiled without the instruction set"
)]
#![expect(
    clippy::needless_range_loop,
    reason = "loops over rows index several arrays and are unrolled whole"
)]
#![expect(
    unsafe_code,
    reason = "kernels read and write disjoint parts of shared buffers, without checks in the loops"
)]

pub(crate) mod activations;
pub(crate) mod attention;
pub(crate) mod norm;
pub(crate) mod product;
pub(crate) mod rotary;

/// Instruction sets that the kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum InstructionSet {
    /// None; the reference.
    Scalar,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, DQ, VL and VNNI.
    Avx512,
    /// The same, and BF16.
    Avx512Bf16,
}

impl InstructionSet {
    /// Name in descriptions, for example `avx512-bf16`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512-vnni",
            Self::Avx512Bf16 => "avx512-vnni-bf16",
        }
    }

    /// The best that this CPU has.
    pub fn detect() -> Self {
        *Self::available().last().unwrap_or(&Self::Scalar)
    }

    /// All that this CPU has, the best last.
    pub fn available() -> &'static [Self] {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        {
            use InstructionSet::{Avx2, Avx512, Avx512Bf16, Scalar};
            use std::arch::is_x86_feature_detected as has;
            if !(has!("avx2") && has!("fma") && has!("f16c")) {
                return &[Scalar];
            }
            if !(has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl") && has!("avx512vnni")) {
                return &[Scalar, Avx2];
            }
            if !has!("avx512bf16") {
                return &[Scalar, Avx2, Avx512];
            }
            &[Scalar, Avx2, Avx512, Avx512Bf16]
        }
        #[cfg(not(all(target_arch = "x86_64", not(miri))))]
        &[Self::Scalar]
    }

    /// Rows of activations that a product keeps in registers; they are laid out in tiles of so many.
    pub(crate) const fn tile(self) -> usize {
        use crate::simd::{Scalar, Simd};
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 | Self::Avx512Bf16 => crate::simd::Avx512::TILE,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => crate::simd::Avx2::TILE,
            _ => Scalar::TILE,
        }
    }
}

/// Compiles `body::<V>` (or `body::<V, T>`) for each instruction set under the name `name`, whose first argument chooses.
///
/// The function is unsafe as its body is; the instruction set must be one of [`InstructionSet::available`].
macro_rules! kernel {
    ($(#[$attribute:meta])* $visibility:vis unsafe fn $name:ident($($argument:ident: $type:ty),* $(,)?) = $body:ident $(, $element:ty)?) => {
        $(#[$attribute])*
        $visibility unsafe fn $name(set: crate::kernels::InstructionSet, $($argument: $type),*) {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn avx2($($argument: $type),*) {
                // SAFETY: the caller's contract.
                unsafe { $body::<crate::simd::Avx2 $(, $element)?>($($argument),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
            unsafe fn avx512($($argument: $type),*) {
                // SAFETY: the caller's contract.
                unsafe { $body::<crate::simd::Avx512 $(, $element)?>($($argument),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
            unsafe fn avx512_bf16($($argument: $type),*) {
                // SAFETY: the caller's contract.
                unsafe { $body::<crate::simd::Avx512Bf16 $(, $element)?>($($argument),*) }
            }
            // SAFETY: the caller's contract; the set is available.
            unsafe {
                match set {
                    #[cfg(target_arch = "x86_64")]
                    crate::kernels::InstructionSet::Avx2 => avx2($($argument),*),
                    #[cfg(target_arch = "x86_64")]
                    crate::kernels::InstructionSet::Avx512 => avx512($($argument),*),
                    #[cfg(target_arch = "x86_64")]
                    crate::kernels::InstructionSet::Avx512Bf16 => avx512_bf16($($argument),*),
                    _ => $body::<crate::simd::Scalar $(, $element)?>($($argument),*),
                }
            }
        }
    };
}
pub(crate) use kernel;
