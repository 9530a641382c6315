//! The definition: plain arrays.

use half::{bf16, f16};

use super::{LANES, Simd};

/// No vector instructions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scalar;

type Floats = [f32; LANES];
type Integers = [i32; LANES];

fn map(a: Floats, operation: impl Fn(f32) -> f32) -> Floats {
    a.map(operation)
}

fn zip(a: Floats, b: Floats, operation: impl Fn(f32, f32) -> f32) -> Floats {
    std::array::from_fn(|lane| operation(a[lane], b[lane]))
}

fn bytes(a: Integers, operation: impl Fn(u8) -> u8) -> Integers {
    a.map(|lane| i32::from_le_bytes(lane.to_le_bytes().map(&operation)))
}

/// Reads as many elements as there are lanes.
///
/// # Safety
/// `from` is valid for 16 elements.
unsafe fn read<T: Copy>(from: *const T) -> [T; LANES] {
    // SAFETY: the caller's promise.
    unsafe { from.cast::<[T; LANES]>().read_unaligned() }
}

impl Simd for Scalar {
    type F32 = Floats;
    type I32 = Integers;

    const TILE: usize = 4;
    const NATIVE_BF16: bool = false;

    unsafe fn splat(value: f32) -> Floats {
        [value; LANES]
    }

    unsafe fn load(from: *const f32) -> Floats {
        // SAFETY: the caller's promise, as in the other loads and stores.
        unsafe { read(from) }
    }

    unsafe fn load_f16(from: *const u16) -> Floats {
        // SAFETY: see `load`.
        unsafe { read(from) }.map(|bits| f16::from_bits(bits).to_f32())
    }

    unsafe fn load_u8(from: *const u8) -> Floats {
        // SAFETY: see `load`.
        unsafe { read(from) }.map(f32::from)
    }

    unsafe fn load_i8(from: *const i8) -> Floats {
        // SAFETY: see `load`.
        unsafe { read(from) }.map(f32::from)
    }

    unsafe fn store(to: *mut f32, value: Floats) {
        // SAFETY: see `load`.
        unsafe { to.cast::<Floats>().write_unaligned(value) }
    }

    unsafe fn store_i8(to: *mut i8, value: Floats) {
        // SAFETY: see `load`.
        unsafe { to.cast::<[i8; LANES]>().write_unaligned(value.map(|lane| lane as i8)) }
    }

    unsafe fn add(a: Floats, b: Floats) -> Floats {
        zip(a, b, |a, b| a + b)
    }

    unsafe fn sub(a: Floats, b: Floats) -> Floats {
        zip(a, b, |a, b| a - b)
    }

    unsafe fn mul(a: Floats, b: Floats) -> Floats {
        zip(a, b, |a, b| a * b)
    }

    unsafe fn div(a: Floats, b: Floats) -> Floats {
        zip(a, b, |a, b| a / b)
    }

    unsafe fn fma(a: Floats, b: Floats, c: Floats) -> Floats {
        std::array::from_fn(|lane| a[lane].mul_add(b[lane], c[lane]))
    }

    unsafe fn max(a: Floats, b: Floats) -> Floats {
        zip(a, b, |a, b| if a > b { a } else { b })
    }

    unsafe fn min(a: Floats, b: Floats) -> Floats {
        zip(a, b, |a, b| if a < b { a } else { b })
    }

    unsafe fn abs(a: Floats) -> Floats {
        map(a, f32::abs)
    }

    unsafe fn round(a: Floats) -> Floats {
        map(a, f32::round_ties_even)
    }

    unsafe fn power_of_two(a: Floats) -> Floats {
        map(a, |lane| f32::from_bits(((lane as i32 + 127) << 23).cast_unsigned()))
    }

    unsafe fn reduce_add(a: Floats) -> f32 {
        let mut lanes = a;
        for width in [8, 4, 2, 1] {
            for lane in 0..width {
                lanes[lane] += lanes[lane + width];
            }
        }
        lanes[0]
    }

    unsafe fn reduce_max(a: Floats) -> f32 {
        a.into_iter().fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a })
    }

    unsafe fn splat_i32(value: i32) -> Integers {
        [value; LANES]
    }

    unsafe fn load_bytes(from: *const u8) -> Integers {
        // SAFETY: see `load`.
        let bytes = unsafe { from.cast::<[[u8; 4]; LANES]>().read() };
        bytes.map(i32::from_le_bytes)
    }

    unsafe fn low_nibbles(a: Integers) -> Integers {
        bytes(a, |byte| byte & 15)
    }

    unsafe fn high_nibbles(a: Integers) -> Integers {
        bytes(a, |byte| byte >> 4)
    }

    unsafe fn two_bits_high<const FIELD: u32>(a: Integers) -> Integers {
        bytes(a, |byte| (byte >> (2 * FIELD) & 3) << 4)
    }

    unsafe fn or(a: Integers, b: Integers) -> Integers {
        std::array::from_fn(|lane| a[lane] | b[lane])
    }

    unsafe fn dot_groups<const M: usize, const N: usize, const LIMIT: i32>(
        mut sums: [Integers; M],
        groups: &[Integers; N],
        activations: *const i8,
    ) -> [Integers; M] {
        for (row, sums) in sums.iter_mut().enumerate() {
            for (group, weights) in groups.iter().enumerate() {
                // SAFETY: see `load`; four bytes.
                let activations = unsafe { activations.add(32 * row + 4 * group).cast::<[i8; 4]>().read() };
                for (sum, weights) in sums.iter_mut().zip(weights) {
                    let products = weights.to_le_bytes().into_iter().zip(activations);
                    *sum += products
                        .map(|(weight, activation)| i32::from(weight) * i32::from(activation))
                        .sum::<i32>();
                }
            }
        }
        sums
    }

    unsafe fn dot_wide_groups<const M: usize, const N: usize>(
        sums: [Integers; M],
        groups: &[Integers; N],
        activations: *const i8,
    ) -> [Integers; M] {
        // SAFETY: the same contract.
        unsafe { Self::dot_groups::<M, N, 255>(sums, groups, activations) }
    }

    unsafe fn offset_u8(sum: i32) -> Integers {
        [-128 * sum; LANES]
    }

    unsafe fn to_f32(a: Integers) -> Floats {
        a.map(|lane| lane as f32)
    }

    unsafe fn widen_bf16(weights: Integers) -> [Floats; 2] {
        [0, 16].map(|shift| weights.map(|lane| bf16::from_bits((lane.cast_unsigned() >> shift) as u16).to_f32()))
    }
}
