//! Root-mean-square normalisation.

use super::kernel;
use crate::simd::{LANES, Simd};

kernel! {
    /// Writes `values / sqrt(mean(values²) + epsilon) * weight` to `output`, `count` elements each, which may be the
    /// same memory.
    ///
    /// # Safety
    /// All three are valid for `count` elements, rounded up to 16; elements beyond `count` are zero in `values`.
    pub(crate) unsafe fn root_mean_square(
        values: *const f32,
        weight: *const f32,
        epsilon: f32,
        count: usize,
        output: *mut f32,
    ) = normalise
}

#[inline(always)]
unsafe fn normalise<V: Simd>(values: *const f32, weight: *const f32, epsilon: f32, count: usize, output: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe {
        let vectors = count.div_ceil(LANES);
        let (mut even, mut odd) = (V::splat(0.0), V::splat(0.0));
        for pair in 0..vectors / 2 {
            let (first, second) = (
                V::load(values.add(2 * pair * LANES)),
                V::load(values.add((2 * pair + 1) * LANES)),
            );
            even = V::fma(first, first, even);
            odd = V::fma(second, second, odd);
        }
        if vectors % 2 == 1 {
            let last = V::load(values.add((vectors - 1) * LANES));
            even = V::fma(last, last, even);
        }
        let mean = V::reduce_add(V::add(even, odd)) / count as f32;
        let scale = V::splat(1.0 / (mean + epsilon).sqrt());
        for vector in 0..vectors {
            let at = vector * LANES;
            let scaled = V::mul(V::load(values.add(at)), scale);
            V::store(output.add(at), V::mul(scaled, V::load(weight.add(at))));
        }
    }
}
