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

/// Adds the dot products of the groups `FROM..TO` to `sum`.
#[inline(always)]
unsafe fn dot<V: Simd, const FROM: usize, const TO: usize>(
    sum: V::I32,
    groups: &[V::I32; 8],
    quants: *const i8,
) -> V::I32 {
    let mut sum = sum;
    for group in FROM..TO {
        // SAFETY: a block of activations has 32 quants.
        sum = unsafe { V::dot_u7(sum, groups[group], quants.add(4 * group)) };
    }
    sum
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
        for row in 0..M {
            let sum = dot::<V, 0, 8>(V::splat_i32(0), groups, inputs.quants.add(row * BLOCK));
            let offset = V::mul(minimum, V::splat(inputs.sum(row) as f32));
            let value = V::fma(V::to_f32(sum), scale, offset);
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
                for row in 0..M {
                    let start = V::splat_i32(-8 * inputs.sum(row));
                    let sum = dot::<V, 0, 8>(start, &groups, inputs.quants.add(row * BLOCK));
                    let scale = V::mul(scale, V::splat(*inputs.scales.add(row)));
                    totals[row] = V::fma(V::to_f32(sum), scale, totals[row]);
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
                for row in 0..M {
                    let quants = inputs.quants.add(row * BLOCK);
                    let mut sum = V::offset_u8(inputs.sum(row));
                    for (group, bytes) in groups.iter().enumerate() {
                        sum = V::dot_u8(sum, *bytes, quants.add(4 * group));
                    }
                    let scale = V::mul(scale, V::splat(*inputs.scales.add(row)));
                    totals[row] = V::fma(V::to_f32(sum), scale, totals[row]);
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
                    let mut groups = nibbles::<V>(weights.add(32));
                    for half in 0..2 {
                        let bits = V::load_bytes(weights.add(288 + half * 64));
                        groups[4 * half] = V::or(groups[4 * half], V::two_bits_high::<0>(bits));
                        groups[4 * half + 1] = V::or(groups[4 * half + 1], V::two_bits_high::<1>(bits));
                        groups[4 * half + 2] = V::or(groups[4 * half + 2], V::two_bits_high::<2>(bits));
                        groups[4 * half + 3] = V::or(groups[4 * half + 3], V::two_bits_high::<3>(bits));
                    }
                    for row in 0..M {
                        let quants = inputs.quants.add(row * BLOCK);
                        let low = V::splat_i32(-32 * *inputs.sums.add(2 * row));
                        let low = V::to_f32(dot::<V, 0, 4>(low, &groups, quants));
                        let high = V::splat_i32(-32 * *inputs.sums.add(2 * row + 1));
                        let high = V::to_f32(dot::<V, 4, 8>(high, &groups, quants));
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
            let pairs = activations.columns / 2;
            let inputs = activations.pairs.as_ptr().add(tile.first * pairs);
            // Two sums per row: one alone would wait for itself.
            let (mut even, mut odd) = ([V::splat(0.0); M], [V::splat(0.0); M]);
            for two in 0..pairs / 2 {
                let (first, second) = (
                    V::load_bytes(weights.add(two * 128)),
                    V::load_bytes(weights.add(two * 128 + 64)),
                );
                let inputs = inputs.add(two * 2 * M);
                for row in 0..M {
                    even[row] = V::dot_bf16(even[row], first, *inputs.add(row));
                    odd[row] = V::dot_bf16(odd[row], second, *inputs.add(M + row));
                }
            }
            if pairs % 2 == 1 {
                let last = V::load_bytes(weights.add((pairs - 1) * 64));
                for row in 0..M {
                    even[row] = V::dot_bf16(even[row], last, *inputs.add((pairs - 1) * M + row));
                }
            }
            for row in 0..M {
                even[row] = V::add(even[row], odd[row]);
            }
            even
        }
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
        let (mut even, mut odd) = ([V::splat(0.0); M], [V::splat(0.0); M]);
        for two in 0..columns / 2 {
            let first = C::load::<V>(weights.add(2 * two * C::BYTES));
            let second = C::load::<V>(weights.add((2 * two + 1) * C::BYTES));
            let inputs = inputs.add(2 * two * M);
            for row in 0..M {
                even[row] = V::fma(first, V::splat(*inputs.add(row)), even[row]);
                odd[row] = V::fma(second, V::splat(*inputs.add(M + row)), odd[row]);
            }
        }
        if columns % 2 == 1 {
            let last = C::load::<V>(weights.add((columns - 1) * C::BYTES));
            for row in 0..M {
                even[row] = V::fma(last, V::splat(*inputs.add((columns - 1) * M + row)), even[row]);
            }
        }
        for row in 0..M {
            even[row] = V::add(even[row], odd[row]);
        }
        even
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
