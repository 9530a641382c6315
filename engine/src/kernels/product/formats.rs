//! One panel times one tile, for each type of weights. The layouts are those of [`crate::packed`].

use crate::kernels::activations::{Activations, BLOCK, Tile};
use crate::packed::PANEL;
use crate::simd::Simd;

/// A type of weights.
pub(super) trait Format {
    /// The products of a panel's 16 rows with `M` rows of activations.
    ///
    /// # Safety
    /// `weights` is a panel of this type with the activations' columns; the tile has `M` rows, and the activations
    /// have been written in the type's kind.
    unsafe fn product<V: Simd, const M: usize>(
        weights: *const u8,
        activations: &Activations,
        tile: Tile,
    ) -> [V::F32; M];
}

/// Where a tile's integers are; the pointers move with the blocks.
#[derive(Clone, Copy)]
struct Integers {
    quants: *const i8,
    scales: *const f32,
    sums: *const i32,
}

impl Integers {
    #[inline(always)]
    unsafe fn of(activations: &Activations, tile: Tile) -> Self {
        let at = tile.first * activations.columns;
        // SAFETY: the tile is within the arrays.
        unsafe {
            Self {
                quants: activations.quants.as_ptr().add(at),
                scales: activations.scales.as_ptr().add(at / BLOCK),
                sums: activations.sums.as_ptr().add(at / BLOCK * 2),
            }
        }
    }

    #[inline(always)]
    unsafe fn next<const M: usize>(&mut self) {
        // SAFETY: at most one past the end.
        unsafe {
            self.quants = self.quants.add(M * BLOCK);
            self.scales = self.scales.add(M);
            self.sums = self.sums.add(M * 2);
        }
    }

    #[inline(always)]
    unsafe fn sum(&self, row: usize) -> i32 {
        // SAFETY: the row is in the tile.
        unsafe { *self.sums.add(2 * row) + *self.sums.add(2 * row + 1) }
    }
}

/// The eight groups of four columns of a block of nibbles.
#[inline(always)]
unsafe fn nibbles<V: Simd>(weights: *const u8) -> [V::I32; 8] {
    // SAFETY: the caller has 256 bytes there.
    unsafe {
        let mut groups = [V::splat_i32(0); 8];
        for group in 0..4 {
            let bytes = V::load_bytes(weights.add(group * 64));
            groups[group] = V::low_nibbles(bytes);
            groups[4 + group] = V::high_nibbles(bytes);
        }
        groups
    }
}

/// Adds a block of `scale * quant + minimum`.
#[inline(always)]
unsafe fn add_above_minimum<V: Simd, const M: usize>(
    mut totals: [V::F32; M],
    groups: &[V::I32; 8],
    scale: V::F32,
    minimum: V::F32,
    inputs: &Integers,
) -> [V::F32; M] {
    // SAFETY: the inputs are at a block of a tile of M rows.
    unsafe {
        let sums = V::dot_groups::<M, 8, 15>([V::splat_i32(0); M], groups, inputs.quants);
        for row in 0..M {
            let offset = V::mul(minimum, V::splat(inputs.sum(row) as f32));
            let value = V::fma(V::to_f32(sums[row]), scale, offset);
            totals[row] = V::fma(value, V::splat(*inputs.scales.add(row)), totals[row]);
        }
    }
    totals
}

/// 4-bit integers around 8.
pub(super) struct Q4_0;

impl Format for Q4_0 {
    #[inline(always)]
    unsafe fn product<V: Simd, const M: usize>(
        mut weights: *const u8,
        activations: &Activations,
        tile: Tile,
    ) -> [V::F32; M] {
        // SAFETY: the caller's promise.
        unsafe {
            let mut inputs = Integers::of(activations, tile);
            let mut totals = [V::splat(0.0); M];
            for _ in 0..activations.columns / BLOCK {
                let scale = V::load_f16(weights.cast());
                let groups = nibbles::<V>(weights.add(32));
                let mut starts = [V::splat_i32(0); M];
                for row in 0..M {
                    starts[row] = V::splat_i32(-8 * inputs.sum(row));
                }
                let sums = V::dot_groups::<M, 8, 15>(starts, &groups, inputs.quants);
                for row in 0..M {
                    let scale = V::mul(scale, V::splat(*inputs.scales.add(row)));
                    totals[row] = V::fma(V::to_f32(sums[row]), scale, totals[row]);
                }
                inputs.next::<M>();
                weights = weights.add(288);
            }
            totals
        }
    }
}

/// 4-bit integers above a minimum.
pub(super) struct Q4_1;

impl Format for Q4_1 {
    #[inline(always)]
    unsafe fn product<V: Simd, const M: usize>(
        mut weights: *const u8,
        activations: &Activations,
        tile: Tile,
    ) -> [V::F32; M] {
        // SAFETY: the caller's promise.
        unsafe {
            let mut inputs = Integers::of(activations, tile);
            let mut totals = [V::splat(0.0); M];
            for _ in 0..activations.columns / BLOCK {
                let scale = V::load_f16(weights.cast());
                let minimum = V::load_f16(weights.add(32).cast());
                let groups = nibbles::<V>(weights.add(64));
                totals = add_above_minimum::<V, M>(totals, &groups, scale, minimum, &inputs);
                inputs.next::<M>();
                weights = weights.add(320);
            }
            totals
        }
    }
}

/// 8-bit integers.
pub(super) struct Q8_0;

impl Format for Q8_0 {
    #[inline(always)]
    unsafe fn product<V: Simd, const M: usize>(
        mut weights: *const u8,
        activations: &Activations,
        tile: Tile,
    ) -> [V::F32; M] {
        // SAFETY: the caller's promise.
        unsafe {
            let mut inputs = Integers::of(activations, tile);
            let mut totals = [V::splat(0.0); M];
            for _ in 0..activations.columns / BLOCK {
                let scale = V::load_f16(weights.cast());
                let mut groups = [V::splat_i32(0); 8];
                for (group, bytes) in groups.iter_mut().enumerate() {
                    *bytes = V::load_bytes(weights.add(32 + group * 64));
                }
                let mut starts = [V::splat_i32(0); M];
                for row in 0..M {
                    starts[row] = V::offset_u8(inputs.sum(row));
                }
                let sums = V::dot_wide_groups::<M, 8>(starts, &groups, inputs.quants);
                for row in 0..M {
                    let scale = V::mul(scale, V::splat(*inputs.scales.add(row)));
                    totals[row] = V::fma(V::to_f32(sums[row]), scale, totals[row]);
                }
                inputs.next::<M>();
                weights = weights.add(544);
            }
            totals
        }
    }
}

/// 4-bit integers in groups of 32 with scales and minima of their own.
pub(super) struct Q4K;

impl Format for Q4K {
    #[inline(always)]
    unsafe fn product<V: Simd, const M: usize>(
        mut weights: *const u8,
        activations: &Activations,
        tile: Tile,
    ) -> [V::F32; M] {
        // SAFETY: the caller's promise.
        unsafe {
            let mut inputs = Integers::of(activations, tile);
            let mut totals = [V::splat(0.0); M];
            for _ in 0..activations.columns / 256 {
                let scale = V::load_f16(weights.cast());
                let minimum = V::sub(V::splat(0.0), V::load_f16(weights.add(32).cast()));
                weights = weights.add(64);
                for _ in 0..8 {
                    let scale = V::mul(scale, V::load_u8(weights));
                    let minimum = V::mul(minimum, V::load_u8(weights.add(16)));
                    let groups = nibbles::<V>(weights.add(32));
                    totals = add_above_minimum::<V, M>(totals, &groups, scale, minimum, &inputs);
                    inputs.next::<M>();
                    weights = weights.add(288);
                }
            }
            totals
        }
    }
}

/// Four groups of nibbles from `first` on with their two upper bits.
#[inline(always)]
unsafe fn sixes<V: Simd>(nibbles: &[V::I32; 8], first: usize, upper: *const u8) -> [V::I32; 4] {
    // SAFETY: the caller has 64 bytes there.
    unsafe {
        let bits = V::load_bytes(upper);
        [
            V::or(nibbles[first], V::two_bits_high::<0>(bits)),
            V::or(nibbles[first + 1], V::two_bits_high::<1>(bits)),
            V::or(nibbles[first + 2], V::two_bits_high::<2>(bits)),
            V::or(nibbles[first + 3], V::two_bits_high::<3>(bits)),
        ]
    }
}

/// 6-bit integers around 32 in groups of 16 with scales of their own.
pub(super) struct Q6K;

impl Format for Q6K {
    #[inline(always)]
    unsafe fn product<V: Simd, const M: usize>(
        mut weights: *const u8,
        activations: &Activations,
        tile: Tile,
    ) -> [V::F32; M] {
        // SAFETY: the caller's promise.
        unsafe {
            let mut inputs = Integers::of(activations, tile);
            let mut totals = [V::splat(0.0); M];
            for _ in 0..activations.columns / 256 {
                let scale = V::load_f16(weights.cast());
                weights = weights.add(32);
                for _ in 0..8 {
                    let low_scale = V::mul(scale, V::load_i8(weights.cast()));
                    let high_scale = V::mul(scale, V::load_i8(weights.add(16).cast()));
                    let nibbles = nibbles::<V>(weights.add(32));
                    let (mut low, mut high) = ([V::splat_i32(0); M], [V::splat_i32(0); M]);
                    for row in 0..M {
                        low[row] = V::splat_i32(-32 * *inputs.sums.add(2 * row));
                        high[row] = V::splat_i32(-32 * *inputs.sums.add(2 * row + 1));
                    }
                    let groups = sixes::<V>(&nibbles, 0, weights.add(288));
                    let low = V::dot_groups::<M, 4, 63>(low, &groups, inputs.quants);
                    let groups = sixes::<V>(&nibbles, 4, weights.add(352));
                    let high = V::dot_groups::<M, 4, 63>(high, &groups, inputs.quants.add(16));
                    for row in 0..M {
                        let (low, high) = (V::to_f32(low[row]), V::to_f32(high[row]));
                        let value = V::fma(low, low_scale, V::mul(high, high_scale));
                        totals[row] = V::fma(value, V::splat(*inputs.scales.add(row)), totals[row]);
                    }
                    inputs.next::<M>();
                    weights = weights.add(416);
                }
            }
            totals
        }
    }
}

/// Brain floats, in pairs of columns.
pub(super) struct BrainFloats;

impl Format for BrainFloats {
    #[inline(always)]
    unsafe fn product<V: Simd, const M: usize>(
        weights: *const u8,
        activations: &Activations,
        tile: Tile,
    ) -> [V::F32; M] {
        // SAFETY: the caller's promise.
        unsafe {
            if V::NATIVE_BF16 {
                brain_float_product::<V, M>(weights, activations, tile)
            } else {
                widened_product::<V, M>(weights, activations, tile)
            }
        }
    }
}

/// Pairs at a time: two sums hide the instruction's latency in one row and leave registers for a tile.
#[inline(always)]
unsafe fn brain_float_product<V: Simd, const M: usize>(
    weights: *const u8,
    activations: &Activations,
    tile: Tile,
) -> [V::F32; M] {
    // SAFETY: the caller's promise.
    unsafe {
        let pairs = activations.columns / 2;
        let inputs = activations.pairs.as_ptr().add(tile.first * pairs);
        let mut sums = [[V::splat(0.0); M]; 2];
        for first in (0..pairs).step_by(2) {
            for (pair, sums) in (first..pairs.min(first + 2)).zip(&mut sums) {
                let weights = V::load_bytes(weights.add(pair * 64));
                for row in 0..M {
                    sums[row] = V::dot_bf16(sums[row], weights, *inputs.add(pair * M + row));
                }
            }
        }
        let [mut even, odd] = sums;
        for row in 0..M {
            even[row] = V::add(even[row], odd[row]);
        }
        even
    }
}

/// The weights as floats, for all rows of the tile at once.
#[inline(always)]
unsafe fn widened_product<V: Simd, const M: usize>(
    weights: *const u8,
    activations: &Activations,
    tile: Tile,
) -> [V::F32; M] {
    // SAFETY: the caller's promise.
    unsafe {
        let columns = activations.columns;
        let inputs = activations.pairs.as_ptr().cast::<f32>().add(tile.first * columns);
        let mut sums = [V::splat(0.0); M];
        for pair in 0..columns / 2 {
            let [low, high] = V::widen_bf16(V::load_bytes(weights.add(pair * 64)));
            let inputs = inputs.add(2 * pair * M);
            for row in 0..M {
                let sum = V::fma(low, V::splat(*inputs.add(row)), sums[row]);
                sums[row] = V::fma(high, V::splat(*inputs.add(M + row)), sum);
            }
        }
        sums
    }
}

/// A column of a panel as floats.
trait Column {
    const BYTES: usize;
    unsafe fn load<V: Simd>(from: *const u8) -> V::F32;
}

struct Wide;

impl Column for Wide {
    const BYTES: usize = 4 * PANEL;

    #[inline(always)]
    unsafe fn load<V: Simd>(from: *const u8) -> V::F32 {
        // SAFETY: the caller's promise.
        unsafe { V::load(from.cast()) }
    }
}

struct Narrow;

impl Column for Narrow {
    const BYTES: usize = 2 * PANEL;

    #[inline(always)]
    unsafe fn load<V: Simd>(from: *const u8) -> V::F32 {
        // SAFETY: the caller's promise.
        unsafe { V::load_f16(from.cast()) }
    }
}

#[inline(always)]
unsafe fn float_product<V: Simd, C: Column, const M: usize>(
    weights: *const u8,
    activations: &Activations,
    tile: Tile,
    columns: usize,
) -> [V::F32; M] {
    // SAFETY: the caller's promise.
    unsafe {
        let inputs = activations.floats.as_ptr().add(tile.first * activations.columns);
        let mut sums = [V::splat(0.0); M];
        for column in 0..columns {
            let weights = C::load::<V>(weights.add(column * C::BYTES));
            for row in 0..M {
                sums[row] = V::fma(weights, V::splat(*inputs.add(column * M + row)), sums[row]);
            }
        }
        sums
    }
}

/// 32-bit floats.
pub(super) struct Floats;

impl Format for Floats {
    #[inline(always)]
    unsafe fn product<V: Simd, const M: usize>(
        weights: *const u8,
        activations: &Activations,
        tile: Tile,
    ) -> [V::F32; M] {
        // SAFETY: the caller's promise.
        unsafe { float_product::<V, Wide, M>(weights, activations, tile, activations.width) }
    }
}

/// Halves, multiplied as floats.
pub(super) struct Halves;

impl Format for Halves {
    #[inline(always)]
    unsafe fn product<V: Simd, const M: usize>(
        weights: *const u8,
        activations: &Activations,
        tile: Tile,
    ) -> [V::F32; M] {
        // SAFETY: the caller's promise.
        unsafe { float_product::<V, Narrow, M>(weights, activations, tile, activations.width) }
    }
}
