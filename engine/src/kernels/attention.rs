//! Attention over the paged key-value cache.
//!
//! A tile is up to eight queries that read the same key-value head: the query heads that share it, of one or several
//! tokens. A block of 32 keys is read once for the whole tile: keys lie with the positions side by side, so that the
//! scores of 16 positions are a vector and need no sum across it. The softmax is computed online, block by block (Dao
//! et al., `FlashAttention`, 2022), afresh in each span of [`SPAN`] positions, and the spans are merged in their order.
//! So the result does not depend on who computed which span, nor on the other queries of the tile.

use std::mem::MaybeUninit;

use half::f16;

use super::{InstructionSet, kernel};
use crate::batch::BLOCK_POSITIONS;
use crate::simd::{LANES, Simd, exp, tanh};

/// Queries of a tile.
pub(crate) const TILE: usize = 8;
/// Positions that are reduced by themselves before they are merged with the others.
pub(crate) const SPAN: usize = 512;
/// Widest head.
pub(crate) const HEAD_LIMIT: usize = 256;

/// An element of the key-value cache.
pub(crate) trait CacheElement: Copy + Default + Send + Sync + 'static {
    /// Name, for example `f16`.
    const NAME: &'static str;
    /// The kernel over a cache of such elements.
    const ATTEND: Attend<Self>;
    /// Rounds a value.
    fn from_f32(value: f32) -> Self;
    /// Sixteen values.
    ///
    /// # Safety
    /// As [`Simd::load`].
    unsafe fn load<V: Simd>(from: *const Self) -> V::F32;
}

/// Computes a part of the attention of a tile: [`attend_f32`] or [`attend_f16`].
pub(crate) type Attend<E> = unsafe fn(InstructionSet, &QueryTile<'_, E>, Part);

impl CacheElement for f32 {
    const NAME: &'static str = "f32";
    const ATTEND: Attend<Self> = attend_f32;

    fn from_f32(value: f32) -> Self {
        value
    }

    #[inline(always)]
    unsafe fn load<V: Simd>(from: *const Self) -> V::F32 {
        // SAFETY: the caller's promise.
        unsafe { V::load(from) }
    }
}

impl CacheElement for f16 {
    const NAME: &'static str = "f16";
    const ATTEND: Attend<Self> = attend_f16;

    fn from_f32(value: f32) -> Self {
        Self::from_f32(value)
    }

    #[inline(always)]
    unsafe fn load<V: Simd>(from: *const Self) -> V::F32 {
        // SAFETY: the caller's promise; `f16` is its bits.
        unsafe { V::load_f16(from.cast()) }
    }
}

/// Queries that read the same key-value head of the same sequence.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QueryTile<'batch, E> {
    /// The layer's cache: for each block and key-value head the keys `[dimension][32]`, then the values
    /// `[32][dimension]`.
    pub(crate) cache: *const E,
    /// Elements from one block to the next.
    pub(crate) block_stride: usize,
    /// Elements to the head within a block.
    pub(crate) head_offset: usize,
    /// The sequence's blocks.
    pub(crate) blocks: &'batch [u32],
    /// Width of the head, a multiple of 16.
    pub(crate) dimension: usize,
    /// Queries, 1 to [`TILE`].
    pub(crate) count: usize,
    /// The queries, scaled.
    pub(crate) queries: [*const f32; TILE],
    /// First and last position that each query sees.
    pub(crate) visible: [(usize, usize); TILE],
    /// Cap of the scores: `cap * tanh(score / cap)`; none if zero.
    pub(crate) cap: f32,
}

impl<E> QueryTile<'_, E> {
    /// First and last position that any of the queries sees.
    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        let (mut first, mut last) = (usize::MAX, 0);
        for (from, to) in &self.visible[..self.count] {
            first = first.min(*from);
            last = last.max(*to);
        }
        (first, last)
    }
}

/// What a tile has found in some positions.
#[derive(Debug, Clone)]
#[repr(C)]
pub(crate) struct Partial {
    maximum: [f32; TILE],
    total: [f32; TILE],
    /// Of each query as many as the head is wide.
    values: [[f32; HEAD_LIMIT]; TILE],
}

impl Partial {
    /// Nothing yet.
    pub(crate) const EMPTY: Self = Self {
        maximum: [f32::NEG_INFINITY; TILE],
        total: [0.0; TILE],
        values: [[0.0; HEAD_LIMIT]; TILE],
    };
}

/// The whole attention of a tile, or one span of it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Part {
    /// All positions; the results go to these places.
    Whole([*mut f32; TILE]),
    /// The span of this number, into a partial result.
    Span(usize, *mut Partial),
}

macro_rules! attend {
    ($name:ident, $element:ty) => {
        kernel! {
            /// Computes a part of the attention of a tile.
            ///
            /// # Safety
            /// The pointers are valid for the dimension, nobody else writes the results, and all positions that a
            /// query sees have been written.
            unsafe fn $name(tile: &QueryTile<'_, $element>, part: Part) = attend_tile, $element
        }
    };
}
attend!(attend_f32, f32);
attend!(attend_f16, f16);

kernel! {
    /// Merges the spans of a tile in their order and writes the results.
    ///
    /// # Safety
    /// `results` has `count` places of `dimension` elements each, which nobody else writes.
    pub(crate) unsafe fn merge(
        spans: &mut [Partial],
        count: usize,
        dimension: usize,
        results: [*mut f32; TILE],
    ) = merge_spans
}

#[inline(always)]
unsafe fn attend_tile<V: Simd, E: CacheElement>(tile: &QueryTile<'_, E>, part: Part) {
    // SAFETY: the caller's promise.
    unsafe {
        match tile.count {
            1 => attend_rows::<V, E, 1>(tile, part),
            2 => attend_rows::<V, E, 2>(tile, part),
            3 => attend_rows::<V, E, 3>(tile, part),
            4 => attend_rows::<V, E, 4>(tile, part),
            _ => attend_rows::<V, E, 8>(tile, part),
        }
    }
}

#[inline(always)]
unsafe fn attend_rows<V: Simd, E: CacheElement, const R: usize>(tile: &QueryTile<'_, E>, part: Part) {
    // SAFETY: the caller's promise.
    unsafe {
        let results = match part {
            Part::Span(span, partial) => {
                attend_span::<V, E, R>(tile, span, &mut *partial);
                return;
            }
            Part::Whole(results) => results,
        };
        let (first, last) = tile.bounds();
        // Sixteen kilobytes that need no zeros: `attend_span` begins with what it needs.
        let mut memory = MaybeUninit::<[Partial; 2]>::uninit();
        let merged = memory.as_mut_ptr().cast::<Partial>();
        let partial = merged.add(1);
        attend_span::<V, E, R>(tile, first / SPAN, &mut *merged);
        for span in first / SPAN + 1..=last / SPAN {
            attend_span::<V, E, R>(tile, span, &mut *partial);
            merge_into::<V>(&mut *merged, &*partial, tile.count, tile.dimension);
        }
        finish::<V>(&*merged, tile.count, tile.dimension, results);
    }
}

#[inline(always)]
unsafe fn merge_spans<V: Simd>(spans: &mut [Partial], count: usize, dimension: usize, results: [*mut f32; TILE]) {
    // SAFETY: the caller's promise.
    unsafe {
        let [merged, others @ ..] = spans else { return };
        for span in others {
            merge_into::<V>(merged, span, count, dimension);
        }
        finish::<V>(merged, count, dimension, results);
    }
}

#[inline(always)]
unsafe fn scalar_exp<V: Simd>(x: f32) -> f32 {
    let mut lanes = [0.0; LANES];
    // SAFETY: the caller's CPU has V.
    unsafe { V::store(lanes.as_mut_ptr(), exp::<V>(V::splat(x))) };
    lanes[0]
}

#[inline(always)]
unsafe fn merge_into<V: Simd>(merged: &mut Partial, span: &Partial, count: usize, dimension: usize) {
    for row in 0..count {
        if span.maximum[row] == f32::NEG_INFINITY {
            continue;
        }
        // SAFETY: rows of at least `dimension` elements, which is a multiple of 16.
        unsafe {
            let maximum = if merged.maximum[row] > span.maximum[row] {
                merged.maximum[row]
            } else {
                span.maximum[row]
            };
            let before = if merged.maximum[row] == f32::NEG_INFINITY {
                0.0
            } else {
                scalar_exp::<V>(merged.maximum[row] - maximum)
            };
            let now = scalar_exp::<V>(span.maximum[row] - maximum);
            merged.maximum[row] = maximum;
            merged.total[row] = merged.total[row] * before + span.total[row] * now;
            let (to, from) = (merged.values[row].as_mut_ptr(), span.values[row].as_ptr());
            for at in (0..dimension).step_by(LANES) {
                let old = V::mul(V::load(to.add(at)), V::splat(before));
                V::store(to.add(at), V::fma(V::load(from.add(at)), V::splat(now), old));
            }
        }
    }
}

#[inline(always)]
unsafe fn finish<V: Simd>(merged: &Partial, count: usize, dimension: usize, results: [*mut f32; TILE]) {
    for row in 0..count {
        let inverse = 1.0 / merged.total[row];
        for at in (0..dimension).step_by(LANES) {
            // SAFETY: the caller's promise.
            unsafe {
                let value = V::mul(V::load(merged.values[row].as_ptr().add(at)), V::splat(inverse));
                V::store(results[row].add(at), value);
            }
        }
    }
}

/// Adds the positions of a span that any query sees.
#[inline(always)]
unsafe fn attend_span<V: Simd, E: CacheElement, const R: usize>(
    tile: &QueryTile<'_, E>,
    span: usize,
    partial: &mut Partial,
) {
    let (first, last) = tile.bounds();
    partial.maximum = [f32::NEG_INFINITY; TILE];
    partial.total = [0.0; TILE];
    for values in &mut partial.values[..R] {
        values[..tile.dimension].fill(0.0);
    }
    let first = first.max(span * SPAN);
    let end = (last + 1).min((span + 1) * SPAN);
    if first >= end {
        return;
    }
    // A tile of fewer queries than the kernel takes computes the last one again, and drops it.
    let mut queries = [std::ptr::null(); R];
    let mut visible = [(0, 0); R];
    for row in 0..R {
        queries[row] = tile.queries[row.min(tile.count - 1)];
        visible[row] = tile.visible[row.min(tile.count - 1)];
    }
    for block in first / BLOCK_POSITIONS..=(end - 1) / BLOCK_POSITIONS {
        let begin = block * BLOCK_POSITIONS;
        // SAFETY: the block is one of the sequence's; the caller's promise.
        unsafe {
            let keys = tile
                .cache
                .add(tile.blocks[block] as usize * tile.block_stride + tile.head_offset);
            let values = keys.add(tile.dimension * BLOCK_POSITIONS);
            let mut weights = [[0.0_f32; BLOCK_POSITIONS]; R];
            let mut factors = [1.0_f32; R];
            let scores = scores::<V, E, R>(keys, &queries, tile.dimension, tile.cap);
            for row in 0..R {
                let (from, to) = visible[row];
                let seen = (
                    from.max(first).max(begin) - begin,
                    (to + 1).min(end).saturating_sub(begin).min(BLOCK_POSITIONS),
                );
                let state = (&mut partial.maximum[row], &mut partial.total[row]);
                factors[row] = soften::<V>(scores[row], seen, &mut weights[row], state);
            }
            let seen = first.max(begin) - begin..end.min(begin + BLOCK_POSITIONS) - begin;
            let mut at = 0;
            // As many vectors of the head at once as there are registers for.
            let step = if R > 4 { 2 } else { 4 };
            while at + step * LANES <= tile.dimension {
                if R > 4 {
                    accumulate::<V, E, R, 2>(
                        values,
                        tile.dimension,
                        at,
                        &seen,
                        &weights,
                        &factors,
                        &mut partial.values,
                    );
                } else {
                    accumulate::<V, E, R, 4>(
                        values,
                        tile.dimension,
                        at,
                        &seen,
                        &weights,
                        &factors,
                        &mut partial.values,
                    );
                }
                at += step * LANES;
            }
            while at < tile.dimension {
                accumulate::<V, E, R, 1>(
                    values,
                    tile.dimension,
                    at,
                    &seen,
                    &weights,
                    &factors,
                    &mut partial.values,
                );
                at += LANES;
            }
        }
    }
}

/// The scores of a block's 32 positions for each query.
#[inline(always)]
unsafe fn scores<V: Simd, E: CacheElement, const R: usize>(
    keys: *const E,
    queries: &[*const f32; R],
    dimension: usize,
    cap: f32,
) -> [[V::F32; 2]; R] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut scores = [[V::splat(0.0); 2]; R];
        for element in 0..dimension {
            let low = E::load::<V>(keys.add(element * BLOCK_POSITIONS));
            let high = E::load::<V>(keys.add(element * BLOCK_POSITIONS + LANES));
            for row in 0..R {
                let query = V::splat(*queries[row].add(element));
                scores[row][0] = V::fma(low, query, scores[row][0]);
                scores[row][1] = V::fma(high, query, scores[row][1]);
            }
        }
        if cap > 0.0 {
            for row in &mut scores {
                for half in row {
                    *half = V::mul(tanh::<V>(V::mul(*half, V::splat(1.0 / cap))), V::splat(cap));
                }
            }
        }
        scores
    }
}

/// Turns the scores of the seen positions of a block into weights, relative to the largest score so far; gives the
/// factor by which what was found before is to be scaled.
#[inline(always)]
unsafe fn soften<V: Simd>(
    scores: [V::F32; 2],
    seen: (usize, usize),
    weights: &mut [f32; BLOCK_POSITIONS],
    (maximum, total): (&mut f32, &mut f32),
) -> f32 {
    if seen.0 >= seen.1 {
        return 1.0;
    }
    // SAFETY: the arrays have 32 elements.
    unsafe {
        let mut to = weights.as_mut_ptr();
        let [mut low, mut high] = scores;
        let whole = seen == (0, BLOCK_POSITIONS);
        if !whole {
            V::store(to, low);
            V::store(to.add(LANES), high);
            weights[..seen.0].fill(f32::NEG_INFINITY);
            weights[seen.1..].fill(f32::NEG_INFINITY);
            // A slice was lent in between: the pointer from before may not be read through any more.
            to = weights.as_mut_ptr();
            low = V::load(to);
            high = V::load(to.add(LANES));
        }
        let largest = V::reduce_max(V::max(low, high));
        let new = if *maximum > largest { *maximum } else { largest };
        let factor = if *maximum == f32::NEG_INFINITY {
            0.0
        } else {
            scalar_exp::<V>(*maximum - new)
        };
        let shift = V::splat(new);
        low = exp::<V>(V::sub(low, shift));
        high = exp::<V>(V::sub(high, shift));
        V::store(to, low);
        V::store(to.add(LANES), high);
        if !whole {
            weights[..seen.0].fill(0.0);
            weights[seen.1..].fill(0.0);
            to = weights.as_mut_ptr();
            low = V::load(to);
            high = V::load(to.add(LANES));
        }
        *maximum = new;
        *total = *total * factor + V::reduce_add(V::add(low, high));
        factor
    }
}

/// Scales `W` vectors of what was found before and adds the weighted values of the positions seen.
#[inline(always)]
unsafe fn accumulate<V: Simd, E: CacheElement, const R: usize, const W: usize>(
    values: *const E,
    dimension: usize,
    at: usize,
    seen: &std::ops::Range<usize>,
    weights: &[[f32; BLOCK_POSITIONS]; R],
    factors: &[f32; R],
    found: &mut [[f32; HEAD_LIMIT]; TILE],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [[V::splat(0.0); W]; R];
        for row in 0..R {
            let factor = V::splat(factors[row]);
            for vector in 0..W {
                let from = found[row].as_ptr().add(at + vector * LANES);
                sums[row][vector] = V::mul(V::load(from), factor);
            }
        }
        for position in seen.clone() {
            let from = values.add(position * dimension + at);
            for vector in 0..W {
                let value = E::load::<V>(from.add(vector * LANES));
                for row in 0..R {
                    let weight = V::splat(*weights[row].as_ptr().add(position));
                    sums[row][vector] = V::fma(value, weight, sums[row][vector]);
                }
            }
        }
        for row in 0..R {
            for vector in 0..W {
                V::store(found[row].as_mut_ptr().add(at + vector * LANES), sums[row][vector]);
            }
        }
    }
}

#[cfg(test)]
mod tests;
