//! Activations in the form that the products read: tiles of rows, in the element kinds of the weights.

use super::kernel;
use crate::shared::Shared;
use crate::simd::{LANES, Simd};
use crate::tensor::ElementType;

/// Columns that share one scale.
pub(crate) const BLOCK: usize = 32;

/// What the activations are converted to before they meet the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// 8-bit integers in blocks of 32 with a scale, for quantised weights.
    Integers,
    /// Rounded to brain floats, for BF16 weights.
    BrainFloats,
    /// As they are, for F32 and F16 weights.
    Floats,
}

impl Kind {
    /// The kind that weights of a type are multiplied with.
    pub(crate) const fn of(weights: ElementType) -> Self {
        match weights {
            ElementType::F32 | ElementType::F16 => Self::Floats,
            ElementType::Bf16 => Self::BrainFloats,
            _ => Self::Integers,
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// Some kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Kinds(u8);

impl Kinds {
    /// The kinds that the weights of these types need.
    pub(crate) fn of(weights: impl IntoIterator<Item = ElementType>) -> Self {
        Self(
            weights
                .into_iter()
                .fold(0, |bits, weights| bits | Kind::of(weights).bit()),
        )
    }

    const fn has(self, kind: Kind) -> bool {
        self.0 & kind.bit() != 0
    }

    /// The kinds of both.
    pub(crate) const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Consecutive rows that a product takes at once; `rows` is a power of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tile {
    /// First row.
    pub(crate) first: usize,
    /// Rows.
    pub(crate) rows: usize,
}

/// The tiles of so many rows: as many of the largest as fit, then halves of it.
pub(crate) fn tiles(rows: usize, largest: usize) -> impl Iterator<Item = Tile> {
    let mut first = 0;
    std::iter::from_fn(move || {
        let left = rows - first;
        let size = if left >= largest {
            largest
        } else {
            1 << left.checked_ilog2()?
        };
        let tile = Tile { first, rows: size };
        first += size;
        Some(tile)
    })
}

/// The tile of a row.
fn tile_of(row: usize, rows: usize, largest: usize) -> Tile {
    let whole = rows - rows % largest;
    if row < whole {
        return Tile {
            first: row - row % largest,
            rows: largest,
        };
    }
    let mut first = whole;
    loop {
        let size = 1 << (rows - first).ilog2();
        if row < first + size {
            return Tile { first, rows: size };
        }
        first += size;
    }
}

/// Rows of activations. A tile of `m` rows from row `f` on lies at `f * columns` of each array, as
///
/// * `quants`: `[columns / 32][m][32]`, `scales`: `[columns / 32][m]`, `sums` of 16 quants each: `[columns / 32][m][2]`
/// * `pairs`: `[columns / 2][m]` brain floats, the even column in the low half; where the CPU has no instruction for
///   these, `[columns][m]` floats with the values of brain floats
/// * `floats`: `[columns][m]`
#[derive(Debug)]
pub(crate) struct Activations {
    pub(crate) rows: usize,
    /// Columns that were written.
    pub(crate) width: usize,
    /// The same, rounded up to 2: from one row to the next.
    pub(crate) columns: usize,
    pub(crate) largest_tile: usize,
    kinds: Kinds,
    pub(crate) quants: Vec<i8>,
    pub(crate) scales: Vec<f32>,
    pub(crate) sums: Vec<i32>,
    pub(crate) pairs: Vec<u32>,
    pub(crate) floats: Vec<f32>,
}

impl Activations {
    /// Room for so many rows of at most `columns` columns.
    pub(crate) fn new(rows: usize, columns: usize, kinds: Kinds, largest_tile: usize) -> Self {
        let columns = columns.next_multiple_of(BLOCK);
        let elements = |kind, divisor: usize| {
            if kinds.has(kind) { rows * columns / divisor } else { 0 }
        };
        Self {
            rows: 0,
            width: 0,
            columns: 0,
            largest_tile,
            kinds: Kinds::default(),
            quants: vec![0; elements(Kind::Integers, 1)],
            scales: vec![0.0; elements(Kind::Integers, BLOCK)],
            sums: vec![0; elements(Kind::Integers, BLOCK / 2)],
            pairs: vec![0; elements(Kind::BrainFloats, 1)],
            floats: vec![0.0; elements(Kind::Floats, 1)],
        }
    }

    /// Bytes that it holds.
    pub(crate) fn bytes(&self) -> usize {
        self.quants.len() + 4 * (self.scales.len() + self.sums.len() + self.pairs.len() + self.floats.len())
    }

    /// Prepares for so many rows of so many columns in these kinds; all of it is to be written anew.
    pub(crate) fn writer(&mut self, rows: usize, columns: usize, kinds: Kinds) -> ActivationWriter<'_> {
        self.rows = rows;
        self.width = columns;
        self.columns = columns.next_multiple_of(2);
        self.kinds = kinds;
        ActivationWriter {
            rows,
            columns: self.columns,
            largest_tile: self.largest_tile,
            kinds,
            quants: Shared::new(&mut self.quants),
            scales: Shared::new(&mut self.scales),
            sums: Shared::new(&mut self.sums),
            pairs: Shared::new(&mut self.pairs),
            floats: Shared::new(&mut self.floats),
        }
    }
}

/// Lets several threads write different rows, or different columns.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ActivationWriter<'memory> {
    rows: usize,
    columns: usize,
    largest_tile: usize,
    kinds: Kinds,
    quants: Shared<'memory, i8>,
    scales: Shared<'memory, f32>,
    sums: Shared<'memory, i32>,
    pairs: Shared<'memory, u32>,
    floats: Shared<'memory, f32>,
}

impl ActivationWriter<'_> {
    /// Rows to be written.
    pub(crate) const fn rows(&self) -> usize {
        self.rows
    }
}

/// Writes `count` values of a row from the column `from` on, which is a multiple of 32; `count` is one as well, unless
/// the row ends there. Memory behind the values up to the next multiple of 32 is readable.
///
/// # Safety
/// Nobody else writes these columns of the row.
#[inline(always)]
pub(crate) unsafe fn write_columns<V: Simd>(
    writer: &ActivationWriter<'_>,
    row: usize,
    from: usize,
    values: *const f32,
    count: usize,
) {
    // SAFETY: the caller's promise; all places are within the row's tile.
    unsafe {
        let tile = tile_of(row, writer.rows, writer.largest_tile);
        let within = row - tile.first;
        let (m, base) = (tile.rows, tile.first * writer.columns);
        if writer.kinds.has(Kind::Integers) {
            for block in 0..count / BLOCK {
                let at = base / BLOCK + (from / BLOCK + block) * m + within;
                quantise::<V>(
                    values.add(block * BLOCK),
                    writer.quants.at(at * BLOCK),
                    writer.scales.at(at),
                    writer.sums.at(at * 2),
                );
            }
        }
        if writer.kinds.has(Kind::BrainFloats) && !V::NATIVE_BF16 {
            let to = writer.pairs.at(base + from * m + within);
            for column in 0..count.next_multiple_of(2) {
                let value = if column < count { *values.add(column) } else { 0.0 };
                *to.add(column * m) = brain_float(value) << 16;
            }
        }
        if writer.kinds.has(Kind::BrainFloats) && V::NATIVE_BF16 {
            let to = writer.pairs.at(base / 2 + from / 2 * m + within);
            for pair in 0..count.div_ceil(2) {
                let second = if 2 * pair + 1 < count {
                    *values.add(2 * pair + 1)
                } else {
                    0.0
                };
                *to.add(pair * m) = brain_float(*values.add(2 * pair)) | brain_float(second) << 16;
            }
        }
        if writer.kinds.has(Kind::Floats) {
            let to = writer.floats.at(base + from * m + within);
            for column in 0..count {
                *to.add(column * m) = *values.add(column);
            }
        }
    }
}

kernel! {
    /// Writes a whole row of `count` values.
    ///
    /// # Safety
    /// As [`write_columns`].
    pub(crate) unsafe fn write_row(
        writer: &ActivationWriter<'_>,
        row: usize,
        values: *const f32,
        count: usize,
    ) = write_whole_row
}

#[inline(always)]
unsafe fn write_whole_row<V: Simd>(writer: &ActivationWriter<'_>, row: usize, values: *const f32, count: usize) {
    // SAFETY: the caller's promise.
    unsafe { write_columns::<V>(writer, row, 0, values, count) }
}

/// Rounds a block of 32 to integers between -127 and 127. A value that is not a number makes the scale one, so that it
/// is not lost.
#[inline(always)]
unsafe fn quantise<V: Simd>(values: *const f32, quants: *mut i8, scale: *mut f32, sums: *mut i32) {
    // SAFETY: the caller's promise.
    unsafe {
        let (low, high) = (V::load(values), V::load(values.add(LANES)));
        let largest = V::reduce_max(V::max(V::abs(low), V::abs(high)));
        let inverse = V::splat(if largest > 0.0 { 127.0 / largest } else { 0.0 });
        let (low, high) = (V::round(V::mul(low, inverse)), V::round(V::mul(high, inverse)));
        V::store_i8(quants, low);
        V::store_i8(quants.add(LANES), high);
        let (low, high) = (V::reduce_add(low), V::reduce_add(high));
        *sums = low as i32;
        *sums.add(1) = high as i32;
        *scale = largest / 127.0 + 0.0 * (low + high);
    }
}

/// The nearest brain float, ties to even, in the low half.
#[inline(always)]
fn brain_float(value: f32) -> u32 {
    let bits = value.to_bits();
    if value.is_nan() {
        return bits >> 16 | 0x40;
    }
    (bits + 0x7fff + (bits >> 16 & 1)) >> 16
}

#[cfg(test)]
mod tests;
