//! Sixteen lanes of arithmetic, in three instruction sets.
//!
//! Every kernel is written once, generic over [`Simd`], and compiled once per instruction set by [`crate::kernels`].
//! The scalar implementation defines what the others compute: the same operations in the same order on every lane, so
//! that results are equal to the bit, but for [`Simd::dot_bf16`], which the hardware rounds in its own way.
#![expect(
    clippy::needless_range_loop,
    reason = "loops over rows index several arrays and are unrolled whole"
)]
#![expect(
    clippy::inline_always,
    reason = "a body that is not inlined is compiled without the instruction set"
)]
#![expect(
    unsafe_code,
    reason = "intrinsics of instruction sets that only the caller knows to be there"
)]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::{Avx512, Avx512Bf16};
pub(crate) use scalar::Scalar;

/// Lanes of a vector.
pub(crate) const LANES: usize = 16;

/// Sixteen lanes of 32 bits each.
///
/// # Safety
/// Every function needs a CPU that has the instruction set. The pointers of loads and stores are valid for the bytes
/// named; they need no alignment.
pub(crate) trait Simd: Copy {
    /// Sixteen floats.
    type F32: Copy;
    /// Sixteen 32-bit integers, or 64 bytes.
    type I32: Copy;

    /// Rows of activations that a product keeps in registers.
    const TILE: usize;
    /// Whether [`Simd::dot_bf16`] is an instruction. Products widen weights and multiply floats without it.
    const NATIVE_BF16: bool;

    /// All lanes `value`.
    unsafe fn splat(value: f32) -> Self::F32;
    /// Sixteen floats from memory.
    unsafe fn load(from: *const f32) -> Self::F32;
    /// Sixteen halves from memory.
    unsafe fn load_f16(from: *const u16) -> Self::F32;
    /// Sixteen unsigned bytes from memory.
    unsafe fn load_u8(from: *const u8) -> Self::F32;
    /// Sixteen signed bytes from memory.
    unsafe fn load_i8(from: *const i8) -> Self::F32;
    /// Writes sixteen floats.
    unsafe fn store(to: *mut f32, value: Self::F32);
    /// Writes sixteen signed bytes; the lanes are integers between -128 and 127.
    unsafe fn store_i8(to: *mut i8, value: Self::F32);
    /// Sum.
    unsafe fn add(a: Self::F32, b: Self::F32) -> Self::F32;
    /// Difference.
    unsafe fn sub(a: Self::F32, b: Self::F32) -> Self::F32;
    /// Product.
    unsafe fn mul(a: Self::F32, b: Self::F32) -> Self::F32;
    /// Quotient.
    unsafe fn div(a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a * b + c`, rounded once.
    unsafe fn fma(a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
    /// Larger lanes; `b` where one of them is not a number.
    unsafe fn max(a: Self::F32, b: Self::F32) -> Self::F32;
    /// Smaller lanes; `b` where one of them is not a number.
    unsafe fn min(a: Self::F32, b: Self::F32) -> Self::F32;
    /// Absolute values.
    unsafe fn abs(a: Self::F32) -> Self::F32;
    /// Nearest integers, ties to even.
    unsafe fn round(a: Self::F32) -> Self::F32;
    /// Two to the power of lanes that are integers between -126 and 127.
    unsafe fn power_of_two(a: Self::F32) -> Self::F32;
    /// Sum of the lanes, in halves: 8 and 8, 4 and 4, 2 and 2, 1 and 1.
    unsafe fn reduce_add(a: Self::F32) -> f32;
    /// Largest lane.
    unsafe fn reduce_max(a: Self::F32) -> f32;

    /// All lanes `value`.
    unsafe fn splat_i32(value: i32) -> Self::I32;
    /// 64 bytes from memory.
    unsafe fn load_bytes(from: *const u8) -> Self::I32;
    /// The lower four bits of each byte.
    unsafe fn low_nibbles(bytes: Self::I32) -> Self::I32;
    /// The upper four bits of each byte.
    unsafe fn high_nibbles(bytes: Self::I32) -> Self::I32;
    /// Two bits of each byte, from bit `2 * FIELD` on, moved to the bits 4 and 5.
    unsafe fn two_bits_high<const FIELD: u32>(bytes: Self::I32) -> Self::I32;
    /// Bitwise or.
    unsafe fn or(a: Self::I32, b: Self::I32) -> Self::I32;
    /// Adds the dot products of `N` groups of four columns to the sums of `M` rows: unsigned bytes of at most `LIMIT` with
    /// signed bytes but -128, of which those of row `r` and group `g` are at `activations + 32 * r + 4 * g`.
    unsafe fn dot_groups<const M: usize, const N: usize, const LIMIT: i32>(
        sums: [Self::I32; M],
        groups: &[Self::I32; N],
        activations: *const i8,
    ) -> [Self::I32; M];
    /// As [`Simd::dot_groups`] for bytes of any value, less 128 times the sums of the activations: the sums are to begin
    /// with what [`Simd::offset_u8`] gives.
    unsafe fn dot_wide_groups<const M: usize, const N: usize>(
        sums: [Self::I32; M],
        groups: &[Self::I32; N],
        activations: *const i8,
    ) -> [Self::I32; M];
    /// Where a sum of [`Simd::dot_wide_groups`] begins, given the sum of the activations.
    unsafe fn offset_u8(sum: i32) -> Self::I32;
    /// Integers as floats.
    unsafe fn to_f32(a: Self::I32) -> Self::F32;
    /// The two brain floats of each lane, that of the low half first.
    unsafe fn widen_bf16(weights: Self::I32) -> [Self::F32; 2];
    /// Adds to each lane the dot product of its two brain floats with the two in `pair`.
    #[inline(always)]
    unsafe fn dot_bf16(sum: Self::F32, weights: Self::I32, pair: u32) -> Self::F32 {
        // SAFETY: the same contract.
        unsafe {
            let [low, high] = Self::widen_bf16(weights);
            let sum = Self::fma(low, Self::splat(f32::from_bits(pair << 16)), sum);
            Self::fma(high, Self::splat(f32::from_bits(pair & 0xffff_0000)), sum)
        }
    }
}

/// Raises e to each lane. Relative error below 2e-7 between -87 and 88; clamped beyond.
///
/// Cody-Waite reduction to |r| ≤ ln 2 / 2, then the polynomial of degree 5 that Cephes' `expf` uses.
#[inline(always)]
pub(crate) unsafe fn exp<V: Simd>(x: V::F32) -> V::F32 {
    // SAFETY: the caller's CPU has V.
    unsafe {
        let x = V::max(V::min(x, V::splat(88.0)), V::splat(-87.0));
        let power = V::round(V::mul(x, V::splat(std::f32::consts::LOG2_E)));
        let r = V::fma(power, V::splat(-0.693_359_4), x);
        let r = V::fma(power, V::splat(2.121_944_4e-4), r);
        let mut p = V::splat(1.987_569_1e-4);
        for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
            p = V::fma(p, r, V::splat(coefficient));
        }
        let p = V::fma(p, V::mul(r, r), V::add(r, V::splat(1.0)));
        V::mul(p, V::power_of_two(power))
    }
}

/// Hyperbolic tangent of each lane.
#[inline(always)]
pub(crate) unsafe fn tanh<V: Simd>(x: V::F32) -> V::F32 {
    // SAFETY: the caller's CPU has V.
    unsafe {
        let e = exp::<V>(V::mul(x, V::splat(2.0)));
        V::sub(V::splat(1.0), V::div(V::splat(2.0), V::add(e, V::splat(1.0))))
    }
}

#[cfg(test)]
mod tests;
