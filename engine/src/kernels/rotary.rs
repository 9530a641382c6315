//! Rotary position embedding.

use super::kernel;
use crate::simd::{LANES, Simd};

kernel! {
    /// Rotates a head in place: element `i` of its first half with element `i` of its second half by the angle whose
    /// cosine and sine are given, then multiplies all by `scale`.
    ///
    /// # Safety
    /// `head` is valid for `2 * half` elements, `cosines` and `sines` for `half`.
    pub(crate) unsafe fn rotate(
        head: *mut f32,
        cosines: *const f32,
        sines: *const f32,
        half: usize,
        scale: f32,
    ) = rotate_head
}

#[inline(always)]
unsafe fn rotate_head<V: Simd>(head: *mut f32, cosines: *const f32, sines: *const f32, half: usize, scale: f32) {
    // SAFETY: the caller's promise.
    unsafe {
        let whole = half - half % LANES;
        let factor = V::splat(scale);
        for at in (0..whole).step_by(LANES) {
            let (first, second) = (V::load(head.add(at)), V::load(head.add(half + at)));
            let (cosine, sine) = (V::load(cosines.add(at)), V::load(sines.add(at)));
            let low = V::sub(V::mul(first, cosine), V::mul(second, sine));
            let high = V::fma(second, cosine, V::mul(first, sine));
            V::store(head.add(at), V::mul(low, factor));
            V::store(head.add(half + at), V::mul(high, factor));
        }
        for at in whole..half {
            let (first, second) = (*head.add(at), *head.add(half + at));
            let (cosine, sine) = (*cosines.add(at), *sines.add(at));
            *head.add(at) = (first * cosine - second * sine) * scale;
            *head.add(half + at) = second.mul_add(cosine, first * sine) * scale;
        }
    }
}
