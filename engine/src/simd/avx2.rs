//! AVX2 with FMA and F16C: two halves of eight lanes.

use std::arch::x86_64::{
    __m256, __m256i, _MM_FROUND_NO_EXC, _MM_FROUND_TO_NEAREST_INT, _mm_add_ps, _mm_add_ss, _mm_cvtss_f32,
    _mm_loadl_epi64, _mm_loadu_si128, _mm_movehl_ps, _mm_packs_epi16, _mm_packs_epi32, _mm_shuffle_ps,
    _mm_storel_epi64, _mm256_abs_epi8, _mm256_add_epi16, _mm256_add_epi32, _mm256_add_ps, _mm256_and_ps,
    _mm256_and_si256, _mm256_castps256_ps128, _mm256_castsi256_ps, _mm256_castsi256_si128, _mm256_cvtepi8_epi32,
    _mm256_cvtepi32_ps, _mm256_cvtepu8_epi32, _mm256_cvtph_ps, _mm256_cvtps_epi32, _mm256_div_ps,
    _mm256_extractf128_ps, _mm256_extracti128_si256, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256,
    _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_max_ps, _mm256_min_ps, _mm256_mul_ps, _mm256_or_si256,
    _mm256_round_ps, _mm256_set1_epi8, _mm256_set1_epi16, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_si256,
    _mm256_sign_epi8, _mm256_slli_epi16, _mm256_slli_epi32, _mm256_srli_epi16, _mm256_storeu_ps, _mm256_sub_ps,
    _mm256_xor_si256,
};

use super::Simd;

const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

/// AVX2, FMA and F16C.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx2;

type Floats = (__m256, __m256);
type Integers = (__m256i, __m256i);

macro_rules! pairwise {
    ($operation:ident, $a:expr, $b:expr) => {
        // SAFETY: the trait's contract.
        unsafe { ($operation($a.0, $b.0), $operation($a.1, $b.1)) }
    };
}

/// Not a closure: one would be compiled by itself, without the instruction set.
macro_rules! each {
    ($a:expr, |$half:ident| $operation:expr) => {{
        let $half = $a.0;
        let first = $operation;
        let $half = $a.1;
        (first, $operation)
    }};
}

impl Simd for Avx2 {
    type F32 = Floats;
    type I32 = Integers;

    const TILE: usize = 4;
    const NATIVE_BF16: bool = false;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Floats {
        // SAFETY: as in all functions here, the trait's contract.
        let half = unsafe { _mm256_set1_ps(value) };
        (half, half)
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Floats {
        // SAFETY: see `splat`.
        unsafe { (_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Floats {
        // SAFETY: see `splat`.
        unsafe {
            (
                _mm256_cvtph_ps(_mm_loadu_si128(from.cast())),
                _mm256_cvtph_ps(_mm_loadu_si128(from.add(8).cast())),
            )
        }
    }

    #[inline(always)]
    unsafe fn load_u8(from: *const u8) -> Floats {
        // SAFETY: see `splat`.
        unsafe {
            (
                _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast()))),
                _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(from.add(8).cast()))),
            )
        }
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Floats {
        // SAFETY: see `splat`.
        unsafe {
            (
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast()))),
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.add(8).cast()))),
            )
        }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, value: Floats) {
        // SAFETY: see `splat`.
        unsafe {
            _mm256_storeu_ps(to, value.0);
            _mm256_storeu_ps(to.add(8), value.1);
        }
    }

    #[inline(always)]
    unsafe fn store_i8(to: *mut i8, value: Floats) {
        // SAFETY: see `splat`.
        unsafe {
            for (half, to) in [(value.0, to), (value.1, to.add(8))] {
                let integers = _mm256_cvtps_epi32(half);
                let (low, high) = (
                    _mm256_castsi256_si128(integers),
                    _mm256_extracti128_si256::<1>(integers),
                );
                let words = _mm_packs_epi32(low, high);
                _mm_storel_epi64(to.cast(), _mm_packs_epi16(words, words));
            }
        }
    }

    #[inline(always)]
    unsafe fn add(a: Floats, b: Floats) -> Floats {
        pairwise!(_mm256_add_ps, a, b)
    }

    #[inline(always)]
    unsafe fn sub(a: Floats, b: Floats) -> Floats {
        pairwise!(_mm256_sub_ps, a, b)
    }

    #[inline(always)]
    unsafe fn mul(a: Floats, b: Floats) -> Floats {
        pairwise!(_mm256_mul_ps, a, b)
    }

    #[inline(always)]
    unsafe fn div(a: Floats, b: Floats) -> Floats {
        pairwise!(_mm256_div_ps, a, b)
    }

    #[inline(always)]
    unsafe fn fma(a: Floats, b: Floats, c: Floats) -> Floats {
        // SAFETY: see `splat`.
        unsafe { (_mm256_fmadd_ps(a.0, b.0, c.0), _mm256_fmadd_ps(a.1, b.1, c.1)) }
    }

    #[inline(always)]
    unsafe fn max(a: Floats, b: Floats) -> Floats {
        pairwise!(_mm256_max_ps, a, b)
    }

    #[inline(always)]
    unsafe fn min(a: Floats, b: Floats) -> Floats {
        pairwise!(_mm256_min_ps, a, b)
    }

    #[inline(always)]
    unsafe fn abs(a: Floats) -> Floats {
        // SAFETY: see `splat`.
        unsafe {
            let magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fff_ffff));
            (_mm256_and_ps(a.0, magnitude), _mm256_and_ps(a.1, magnitude))
        }
    }

    #[inline(always)]
    unsafe fn round(a: Floats) -> Floats {
        // SAFETY: see `splat`.
        unsafe { (_mm256_round_ps::<NEAREST>(a.0), _mm256_round_ps::<NEAREST>(a.1)) }
    }

    #[inline(always)]
    unsafe fn power_of_two(a: Floats) -> Floats {
        // SAFETY: see `splat`.
        each!(a, |half| unsafe {
            let biased = _mm256_add_epi32(_mm256_cvtps_epi32(half), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
        })
    }

    #[inline(always)]
    unsafe fn reduce_add(a: Floats) -> f32 {
        // SAFETY: see `splat`.
        unsafe {
            let a = _mm256_add_ps(a.0, a.1);
            let a = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let a = _mm_add_ps(a, _mm_movehl_ps(a, a));
            _mm_cvtss_f32(_mm_add_ss(a, _mm_shuffle_ps::<1>(a, a)))
        }
    }

    #[inline(always)]
    unsafe fn reduce_max(a: Floats) -> f32 {
        // SAFETY: see `splat`.
        unsafe {
            let mut lanes = [0.0; 8];
            _mm256_storeu_ps(lanes.as_mut_ptr(), _mm256_max_ps(a.0, a.1));
            lanes.into_iter().fold(f32::NEG_INFINITY, f32::max)
        }
    }

    #[inline(always)]
    unsafe fn splat_i32(value: i32) -> Integers {
        // SAFETY: see `splat`.
        let half = unsafe { _mm256_set1_epi32(value) };
        (half, half)
    }

    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> Integers {
        // SAFETY: see `splat`.
        unsafe { (_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(32).cast())) }
    }

    #[inline(always)]
    unsafe fn low_nibbles(bytes: Integers) -> Integers {
        // SAFETY: see `splat`.
        each!(bytes, |half| unsafe { _mm256_and_si256(half, _mm256_set1_epi8(15)) })
    }

    #[inline(always)]
    unsafe fn high_nibbles(bytes: Integers) -> Integers {
        // SAFETY: see `splat`.
        each!(bytes, |half| unsafe {
            _mm256_and_si256(_mm256_srli_epi16::<4>(half), _mm256_set1_epi8(15))
        })
    }

    #[inline(always)]
    unsafe fn two_bits_high<const FIELD: u32>(bytes: Integers) -> Integers {
        // SAFETY: see `splat`.
        each!(bytes, |half| unsafe {
            let moved = match FIELD {
                0 => _mm256_slli_epi16::<4>(half),
                1 => _mm256_slli_epi16::<2>(half),
                2 => half,
                _ => _mm256_srli_epi16::<2>(half),
            };
            _mm256_and_si256(moved, _mm256_set1_epi8(0x30))
        })
    }

    #[inline(always)]
    unsafe fn or(a: Integers, b: Integers) -> Integers {
        pairwise!(_mm256_or_si256, a, b)
    }

    // Two products of at most 127 * 128 each stay within 16 bits, so maddubs does not saturate.
    // Pairs of products are words, and as many of them as cannot overflow are added before they are widened.
    #[inline(always)]
    unsafe fn dot_groups<const M: usize, const N: usize, const LIMIT: i32>(
        mut sums: [Integers; M],
        groups: &[Integers; N],
        activations: *const i8,
    ) -> [Integers; M] {
        let at_once = const { (i16::MAX as i32 / (2 * 127 * LIMIT)) as usize };
        // SAFETY: see `splat`; four bytes are read for each row and group.
        unsafe {
            let zero = _mm256_setzero_si256();
            for first in (0..N).step_by(at_once) {
                let mut words = [(zero, zero); M];
                // A group's weights are in registers for all rows.
                for group in first..(first + at_once).min(N) {
                    for row in 0..M {
                        let from = activations.add(32 * row + 4 * group);
                        let activations = _mm256_set1_epi32(from.cast::<i32>().read_unaligned());
                        let pairs = each!(groups[group], |half| _mm256_maddubs_epi16(half, activations));
                        words[row] = (
                            _mm256_add_epi16(words[row].0, pairs.0),
                            _mm256_add_epi16(words[row].1, pairs.1),
                        );
                    }
                }
                for row in 0..M {
                    let wide = each!(words[row], |half| _mm256_madd_epi16(half, _mm256_set1_epi16(1)));
                    sums[row] = (
                        _mm256_add_epi32(sums[row].0, wide.0),
                        _mm256_add_epi32(sums[row].1, wide.1),
                    );
                }
            }
        }
        sums
    }

    // Words would saturate: the weights are taken as signed, and their sign goes over to the activation.
    #[inline(always)]
    unsafe fn dot_wide_groups<const M: usize, const N: usize>(
        mut sums: [Integers; M],
        groups: &[Integers; N],
        activations: *const i8,
    ) -> [Integers; M] {
        // SAFETY: see `splat`; four bytes are read for each row and group.
        unsafe {
            for group in 0..N {
                let signed = each!(groups[group], |half| _mm256_xor_si256(half, _mm256_set1_epi8(-128)));
                let magnitudes = each!(signed, |half| _mm256_abs_epi8(half));
                for row in 0..M {
                    let from = activations.add(32 * row + 4 * group);
                    let activations = _mm256_set1_epi32(from.cast::<i32>().read_unaligned());
                    let turned = each!(signed, |half| _mm256_sign_epi8(activations, half));
                    let pairs = (
                        _mm256_maddubs_epi16(magnitudes.0, turned.0),
                        _mm256_maddubs_epi16(magnitudes.1, turned.1),
                    );
                    let wide = each!(pairs, |half| _mm256_madd_epi16(half, _mm256_set1_epi16(1)));
                    sums[row] = (
                        _mm256_add_epi32(sums[row].0, wide.0),
                        _mm256_add_epi32(sums[row].1, wide.1),
                    );
                }
            }
        }
        sums
    }

    #[inline(always)]
    unsafe fn offset_u8(_sum: i32) -> Integers {
        // SAFETY: see `splat`.
        let zero = unsafe { _mm256_setzero_si256() };
        (zero, zero)
    }

    #[inline(always)]
    unsafe fn to_f32(a: Integers) -> Floats {
        // SAFETY: see `splat`.
        unsafe { (_mm256_cvtepi32_ps(a.0), _mm256_cvtepi32_ps(a.1)) }
    }

    #[inline(always)]
    unsafe fn widen_bf16(weights: Integers) -> [Floats; 2] {
        // SAFETY: see `splat`.
        unsafe {
            let upper = _mm256_set1_epi32(0xffff_0000_u32.cast_signed());
            [
                each!(weights, |half| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(half))),
                each!(weights, |half| _mm256_castsi256_ps(_mm256_and_si256(half, upper))),
            ]
        }
    }
}
