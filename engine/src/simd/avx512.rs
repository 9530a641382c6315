//! AVX-512 with VNNI, with and without the products of brain floats.

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _MM_FROUND_NO_EXC, _MM_FROUND_TO_NEAREST_INT, _mm_loadu_si128, _mm_storeu_si128,
    _mm256_add_ps, _mm256_castps256_ps128, _mm256_extractf128_ps, _mm256_loadu_si256, _mm512_abs_ps, _mm512_add_epi32,
    _mm512_add_ps, _mm512_and_si512, _mm512_castps512_ps256, _mm512_castsi512_ps, _mm512_cvtepi8_epi32,
    _mm512_cvtepi32_epi8, _mm512_cvtepi32_ps, _mm512_cvtepu8_epi32, _mm512_cvtph_ps, _mm512_cvtps_epi32, _mm512_div_ps,
    _mm512_dpbf16_ps, _mm512_dpbusd_epi32, _mm512_extractf32x8_ps, _mm512_fmadd_ps, _mm512_loadu_ps,
    _mm512_loadu_si512, _mm512_max_ps, _mm512_min_ps, _mm512_mul_ps, _mm512_or_si512, _mm512_reduce_max_ps,
    _mm512_roundscale_ps, _mm512_set1_epi8, _mm512_set1_epi32, _mm512_set1_ps, _mm512_slli_epi16, _mm512_slli_epi32,
    _mm512_srli_epi16, _mm512_storeu_ps, _mm512_sub_ps,
};
use std::arch::x86_64::{_mm_add_ps, _mm_add_ss, _mm_cvtss_f32, _mm_movehl_ps, _mm_shuffle_ps};

use super::Simd;

const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

/// AVX-512 F, BW, DQ, VL and VNNI.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx512;

/// The same, and BF16.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx512Bf16;

macro_rules! implement {
    ($name:ident, $native_bf16:literal $(, $dot_bf16:item)?) => {
        impl Simd for $name {
            type F32 = __m512;
            type I32 = __m512i;

            const TILE: usize = 8;
            const NATIVE_BF16: bool = $native_bf16;

            #[inline(always)]
            unsafe fn splat(value: f32) -> __m512 {
                // SAFETY: as in all functions here, the trait's contract.
                unsafe { _mm512_set1_ps(value) }
            }

            #[inline(always)]
            unsafe fn load(from: *const f32) -> __m512 {
                // SAFETY: see `splat`.
                unsafe { _mm512_loadu_ps(from) }
            }

            #[inline(always)]
            unsafe fn load_f16(from: *const u16) -> __m512 {
                // SAFETY: see `splat`.
                unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
            }

            #[inline(always)]
            unsafe fn load_u8(from: *const u8) -> __m512 {
                // SAFETY: see `splat`.
                unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast()))) }
            }

            #[inline(always)]
            unsafe fn load_i8(from: *const i8) -> __m512 {
                // SAFETY: see `splat`.
                unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()))) }
            }

            #[inline(always)]
            unsafe fn store(to: *mut f32, value: __m512) {
                // SAFETY: see `splat`.
                unsafe { _mm512_storeu_ps(to, value) }
            }

            #[inline(always)]
            unsafe fn store_i8(to: *mut i8, value: __m512) {
                // SAFETY: see `splat`.
                unsafe { _mm_storeu_si128(to.cast(), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(value))) }
            }

            #[inline(always)]
            unsafe fn add(a: __m512, b: __m512) -> __m512 {
                // SAFETY: see `splat`.
                unsafe { _mm512_add_ps(a, b) }
            }

            #[inline(always)]
            unsafe fn sub(a: __m512, b: __m512) -> __m512 {
                // SAFETY: see `splat`.
                unsafe { _mm512_sub_ps(a, b) }
            }

            #[inline(always)]
            unsafe fn mul(a: __m512, b: __m512) -> __m512 {
                // SAFETY: see `splat`.
                unsafe { _mm512_mul_ps(a, b) }
            }

            #[inline(always)]
            unsafe fn div(a: __m512, b: __m512) -> __m512 {
                // SAFETY: see `splat`.
                unsafe { _mm512_div_ps(a, b) }
            }

            #[inline(always)]
            unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
                // SAFETY: see `splat`.
                unsafe { _mm512_fmadd_ps(a, b, c) }
            }

            #[inline(always)]
            unsafe fn max(a: __m512, b: __m512) -> __m512 {
                // SAFETY: see `splat`.
                unsafe { _mm512_max_ps(a, b) }
            }

            #[inline(always)]
            unsafe fn min(a: __m512, b: __m512) -> __m512 {
                // SAFETY: see `splat`.
                unsafe { _mm512_min_ps(a, b) }
            }

            #[inline(always)]
            unsafe fn abs(a: __m512) -> __m512 {
                // SAFETY: see `splat`.
                unsafe { _mm512_abs_ps(a) }
            }

            #[inline(always)]
            unsafe fn round(a: __m512) -> __m512 {
                // SAFETY: see `splat`.
                unsafe { _mm512_roundscale_ps::<NEAREST>(a) }
            }

            #[inline(always)]
            unsafe fn power_of_two(a: __m512) -> __m512 {
                // SAFETY: see `splat`.
                unsafe {
                    let biased = _mm512_add_epi32(_mm512_cvtps_epi32(a), _mm512_set1_epi32(127));
                    _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
                }
            }

            #[inline(always)]
            unsafe fn reduce_add(a: __m512) -> f32 {
                // SAFETY: see `splat`.
                unsafe {
                    let a = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a));
                    let a = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
                    let a = _mm_add_ps(a, _mm_movehl_ps(a, a));
                    _mm_cvtss_f32(_mm_add_ss(a, _mm_shuffle_ps::<1>(a, a)))
                }
            }

            #[inline(always)]
            unsafe fn reduce_max(a: __m512) -> f32 {
                // SAFETY: see `splat`.
                unsafe { _mm512_reduce_max_ps(a) }
            }

            #[inline(always)]
            unsafe fn splat_i32(value: i32) -> __m512i {
                // SAFETY: see `splat`.
                unsafe { _mm512_set1_epi32(value) }
            }

            #[inline(always)]
            unsafe fn load_bytes(from: *const u8) -> __m512i {
                // SAFETY: see `splat`.
                unsafe { _mm512_loadu_si512(from.cast()) }
            }

            #[inline(always)]
            unsafe fn low_nibbles(bytes: __m512i) -> __m512i {
                // SAFETY: see `splat`.
                unsafe { _mm512_and_si512(bytes, _mm512_set1_epi8(15)) }
            }

            #[inline(always)]
            unsafe fn high_nibbles(bytes: __m512i) -> __m512i {
                // SAFETY: see `splat`.
                unsafe { _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), _mm512_set1_epi8(15)) }
            }

            #[inline(always)]
            unsafe fn two_bits_high<const FIELD: u32>(bytes: __m512i) -> __m512i {
                // SAFETY: see `splat`.
                unsafe {
                    let moved = match FIELD {
                        0 => _mm512_slli_epi16::<4>(bytes),
                        1 => _mm512_slli_epi16::<2>(bytes),
                        2 => bytes,
                        _ => _mm512_srli_epi16::<2>(bytes),
                    };
                    _mm512_and_si512(moved, _mm512_set1_epi8(0x30))
                }
            }

            #[inline(always)]
            unsafe fn or(a: __m512i, b: __m512i) -> __m512i {
                // SAFETY: see `splat`.
                unsafe { _mm512_or_si512(a, b) }
            }

            #[inline(always)]
            unsafe fn dot_groups<const M: usize, const N: usize, const LIMIT: i32>(
                mut sums: [__m512i; M],
                groups: &[__m512i; N],
                activations: *const i8,
            ) -> [__m512i; M] {
                for row in 0..M {
                    for group in 0..N {
                        // SAFETY: see `splat`; four bytes are read.
                        sums[row] = unsafe {
                            let from = activations.add(32 * row + 4 * group);
                            let activations = _mm512_set1_epi32(from.cast::<i32>().read_unaligned());
                            _mm512_dpbusd_epi32(sums[row], groups[group], activations)
                        };
                    }
                }
                sums
            }

            #[inline(always)]
            unsafe fn dot_wide_groups<const M: usize, const N: usize>(
                sums: [__m512i; M],
                groups: &[__m512i; N],
                activations: *const i8,
            ) -> [__m512i; M] {
                // SAFETY: the same contract.
                unsafe { Self::dot_groups::<M, N, 255>(sums, groups, activations) }
            }

            #[inline(always)]
            unsafe fn offset_u8(sum: i32) -> __m512i {
                // SAFETY: see `splat`.
                unsafe { _mm512_set1_epi32(-128 * sum) }
            }

            #[inline(always)]
            unsafe fn to_f32(a: __m512i) -> __m512 {
                // SAFETY: see `splat`.
                unsafe { _mm512_cvtepi32_ps(a) }
            }

            #[inline(always)]
            unsafe fn widen_bf16(weights: __m512i) -> [__m512; 2] {
                // SAFETY: see `splat`.
                unsafe {
                    let upper = _mm512_set1_epi32(0xffff_0000_u32.cast_signed());
                    [
                        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(weights)),
                        _mm512_castsi512_ps(_mm512_and_si512(weights, upper)),
                    ]
                }
            }

            $(
                #[inline(always)]
                $dot_bf16
            )?
        }
    };
}

implement!(Avx512, false);
implement!(
    Avx512Bf16,
    true,
    unsafe fn dot_bf16(sum: __m512, weights: __m512i, pair: u32) -> __m512 {
        // SAFETY: the caller's CPU has AVX-512 BF16; the types differ only in name.
        unsafe {
            let pair: __m512bh = std::mem::transmute(_mm512_set1_epi32(pair.cast_signed()));
            let weights: __m512bh = std::mem::transmute(weights);
            _mm512_dpbf16_ps(sum, weights, pair)
        }
    }
);
