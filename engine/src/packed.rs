//! Weight matrices as the products read them: panels of 16 rows, in the width that the file has.
//!
//! A panel holds 16 rows, padded with zeros, and all columns. Within it, along the columns:
//!
//! | type | per | bytes |
//! |---|---|---|
//! | F32, F16 | column | 16 values |
//! | BF16 | 2 columns | 16 pairs |
//! | `Q4_0` | 32 columns | 16 scales, 4 × 64 bytes: byte `4 r + b` of group `g` has column `4 g + b` of row `r` in its low nibble, column `16 + 4 g + b` in its high one |
//! | `Q4_1` | 32 columns | 16 scales, 16 minima, nibbles as above |
//! | `Q8_0` | 32 columns | 16 scales, 8 × 64 bytes, each plus 128 |
//! | `Q4_K` | 256 columns | 16 scales, 16 scales of minima, then for each 32 columns 16 scales and 16 minima of a byte, nibbles |
//! | `Q6_K` | 256 columns | 16 scales, then for each 32 columns 2 × 16 signed scales of a byte, low nibbles, 2 × 64 bytes of two high bits: bits `2 (g % 4)` of byte `4 r + b` of the half `g / 4` |

use std::borrow::Cow;

use half::{bf16, f16};

#[cfg(test)]
use crate::tensor::StoredTensor;
use crate::tensor::{ElementType, half_at, q4k_group, q6k_quant};

/// Rows of a panel.
pub(crate) const PANEL: usize = 16;

/// A weight matrix of `rows` outputs and `columns` inputs.
#[derive(Debug)]
pub(crate) struct PackedMatrix {
    /// Type of the elements.
    pub(crate) element_type: ElementType,
    /// Rows, that is outputs.
    pub(crate) rows: usize,
    /// Columns, that is inputs.
    pub(crate) columns: usize,
    /// Panels one after the other.
    data: Vec<Line>,
}

/// A cache line, for the alignment.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Line(#[expect(dead_code, reason = "read and written as bytes")] [u8; 64]);

/// Bytes of `columns` columns of a panel.
const fn panel_bytes(element_type: ElementType, columns: usize) -> usize {
    match element_type {
        ElementType::Bf16 => columns.next_multiple_of(2) * PANEL * 2,
        // Its scales take 8 bits each, not 6.
        ElementType::Q4K => columns / 256 * 2368,
        _ => element_type.bytes(columns) * PANEL,
    }
}

impl PackedMatrix {
    /// Packs rows of stored tensors: the rows `source(0)`, `source(1)`, ….
    ///
    /// `source` gives each row as a tensor and a row in it, so that a matrix can be a part of a fused one, several
    /// joined ones, or one in another order. All have `element_type` and `columns`.
    pub(crate) fn pack<'bytes>(
        element_type: ElementType,
        rows: usize,
        columns: usize,
        source: impl Fn(usize) -> Cow<'bytes, [u8]> + Sync,
        threads: usize,
    ) -> Self {
        let width = panel_bytes(element_type, columns);
        // Panels begin at cache lines: the width of a panel is a multiple of 32 bytes, of 64 for all but odd F16 rows.
        let panels = rows.div_ceil(PANEL);
        let mut data = vec![Line([0; 64]); (panels * width).div_ceil(64)];
        let bytes = flatten(&mut data);
        let per_thread = panels.div_ceil(threads.max(1)).max(1);
        let pack_part = |part: usize, bytes: &mut [u8]| {
            for (panel, bytes) in bytes.chunks_exact_mut(width).enumerate() {
                let first = (part * per_thread + panel) * PANEL;
                for row in first..(first + PANEL).min(rows) {
                    pack_row(element_type, row - first, &source(row), bytes);
                }
            }
        };
        let parts = bytes[..panels * width].chunks_mut(per_thread * width).enumerate();
        // A thread costs more than a small matrix.
        if threads > 1 && panels * width > 1 << 20 {
            std::thread::scope(|scope| {
                for (part, bytes) in parts {
                    let pack_part = &pack_part;
                    scope.spawn(move || pack_part(part, bytes));
                }
            });
        } else {
            parts.for_each(|(part, bytes)| pack_part(part, bytes));
        }
        Self {
            element_type,
            rows,
            columns,
            data,
        }
    }

    /// Packs a tensor as it is.
    #[cfg(test)]
    pub(crate) fn from_tensor(tensor: &StoredTensor<'_>, threads: usize) -> Self {
        let row = |row| Cow::Borrowed(tensor.row(row));
        Self::pack(tensor.element_type, tensor.rows, tensor.columns, row, threads)
    }

    /// Panels.
    pub(crate) const fn panels(&self) -> usize {
        self.rows.div_ceil(PANEL)
    }

    /// Bytes of one panel.
    pub(crate) const fn panel_bytes(&self) -> usize {
        panel_bytes(self.element_type, self.columns)
    }

    /// The bytes of all panels.
    pub(crate) fn bytes(&self) -> &[u8] {
        flat(&self.data)
    }

    /// Writes the values of a row.
    pub(crate) fn row(&self, row: usize, values: &mut [f32]) {
        let width = self.panel_bytes();
        let panel = &self.bytes()[row / PANEL * width..][..width];
        unpack_row(self.element_type, row % PANEL, panel, values);
    }
}

#[expect(unsafe_code, reason = "a line is 64 bytes")]
fn flatten(lines: &mut [Line]) -> &mut [u8] {
    // SAFETY: `Line` is 64 bytes without padding, all values of which are valid.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), lines.len() * 64) }
}

#[expect(unsafe_code, reason = "a line is 64 bytes")]
fn flat(lines: &[Line]) -> &[u8] {
    // SAFETY: as above.
    unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len() * 64) }
}

fn copy(to: &mut [u8], at: usize, from: &[u8]) {
    to[at..at + from.len()].copy_from_slice(from);
}

/// Writes a stored row to its place in a panel.
fn pack_row(element_type: ElementType, row: usize, stored: &[u8], panel: &mut [u8]) {
    let blocks = stored.chunks_exact(element_type.block_bytes());
    match element_type {
        ElementType::F32 => blocks
            .enumerate()
            .for_each(|(k, value)| copy(panel, (k * PANEL + row) * 4, value)),
        ElementType::F16 => blocks
            .enumerate()
            .for_each(|(k, value)| copy(panel, (k * PANEL + row) * 2, value)),
        ElementType::Bf16 => blocks
            .enumerate()
            .for_each(|(k, value)| copy(panel, (k / 2 * PANEL + row) * 4 + k % 2 * 2, value)),
        ElementType::Q4_0 => blocks.zip(panel.chunks_exact_mut(288)).for_each(|(block, to)| {
            copy(to, row * 2, &block[..2]);
            pack_nibbles(row, &block[2..], &mut to[32..]);
        }),
        ElementType::Q4_1 => blocks.zip(panel.chunks_exact_mut(320)).for_each(|(block, to)| {
            copy(to, row * 2, &block[..2]);
            copy(to, 32 + row * 2, &block[2..4]);
            pack_nibbles(row, &block[4..], &mut to[64..]);
        }),
        ElementType::Q8_0 => blocks.zip(panel.chunks_exact_mut(544)).for_each(|(block, to)| {
            copy(to, row * 2, &block[..2]);
            for (group, quants) in block[2..].chunks_exact(4).enumerate() {
                let raised = [quants[0] ^ 128, quants[1] ^ 128, quants[2] ^ 128, quants[3] ^ 128];
                copy(to, 32 + group * 64 + row * 4, &raised);
            }
        }),
        ElementType::Q4K => blocks
            .zip(panel.chunks_exact_mut(2368))
            .for_each(|(block, to)| pack_q4k(row, block, to)),
        ElementType::Q6K => blocks
            .zip(panel.chunks_exact_mut(3360))
            .for_each(|(block, to)| pack_q6k(row, block, to)),
    }
}

/// Sixteen bytes of nibbles to four groups of 64 bytes.
fn pack_nibbles(row: usize, nibbles: &[u8], to: &mut [u8]) {
    for (group, bytes) in nibbles.chunks_exact(4).enumerate() {
        copy(to, group * 64 + row * 4, bytes);
    }
}

fn pack_q4k(row: usize, block: &[u8], to: &mut [u8]) {
    copy(to, row * 2, &block[..2]);
    copy(to, 32 + row * 2, &block[2..4]);
    for group in 0..8 {
        let to = &mut to[64 + group * 288..][..288];
        (to[row], to[16 + row]) = q4k_group(&block[4..16], group);
        let quants = &block[16 + group / 2 * 32..][..32];
        let quant = |k: usize| if group % 2 == 0 { quants[k] & 15 } else { quants[k] >> 4 };
        let nibbles: [u8; 16] = std::array::from_fn(|k| quant(k) | quant(16 + k) << 4);
        pack_nibbles(row, &nibbles, &mut to[32..]);
    }
}

fn pack_q6k(row: usize, block: &[u8], to: &mut [u8]) {
    copy(to, row * 2, &block[208..210]);
    for group in 0..8 {
        let to = &mut to[32 + group * 416..][..416];
        (to[row], to[16 + row]) = (block[192 + 2 * group], block[193 + 2 * group]);
        let quant = |k: usize| q6k_quant(block, 32 * group + k);
        let nibbles: [u8; 16] = std::array::from_fn(|k| quant(k) & 15 | (quant(16 + k) & 15) << 4);
        pack_nibbles(row, &nibbles, &mut to[32..]);
        for k in 0..32 {
            to[288 + k / 16 * 64 + row * 4 + k % 4] |= (quant(k) >> 4) << (2 * (k / 4 % 4));
        }
    }
}

/// The reverse of [`pack_row`], to values.
fn unpack_row(element_type: ElementType, row: usize, panel: &[u8], values: &mut [f32]) {
    let nibble = |bytes: &[u8], k: usize| {
        let byte = bytes[k % 16 / 4 * 64 + row * 4 + k % 4];
        if k < 16 { byte & 15 } else { byte >> 4 }
    };
    match element_type {
        ElementType::F32 => {
            for (k, value) in values.iter_mut().enumerate() {
                let at = (k * PANEL + row) * 4;
                *value = f32::from_le_bytes([panel[at], panel[at + 1], panel[at + 2], panel[at + 3]]);
            }
        }
        ElementType::F16 => {
            for (k, value) in values.iter_mut().enumerate() {
                let at = (k * PANEL + row) * 2;
                *value = f16::from_le_bytes([panel[at], panel[at + 1]]).to_f32();
            }
        }
        ElementType::Bf16 => {
            for (k, value) in values.iter_mut().enumerate() {
                let at = (k / 2 * PANEL + row) * 4 + k % 2 * 2;
                *value = bf16::from_le_bytes([panel[at], panel[at + 1]]).to_f32();
            }
        }
        ElementType::Q4_0 => {
            for (block, values) in panel.chunks_exact(288).zip(values.chunks_exact_mut(32)) {
                let scale = half_at(block, row * 2);
                for (k, value) in values.iter_mut().enumerate() {
                    *value = scale * (f32::from(nibble(&block[32..], k)) - 8.0);
                }
            }
        }
        ElementType::Q4_1 => {
            for (block, values) in panel.chunks_exact(320).zip(values.chunks_exact_mut(32)) {
                let (scale, minimum) = (half_at(block, row * 2), half_at(block, 32 + row * 2));
                for (k, value) in values.iter_mut().enumerate() {
                    *value = scale * f32::from(nibble(&block[64..], k)) + minimum;
                }
            }
        }
        ElementType::Q8_0 => {
            for (block, values) in panel.chunks_exact(544).zip(values.chunks_exact_mut(32)) {
                let scale = half_at(block, row * 2);
                for (k, value) in values.iter_mut().enumerate() {
                    let quant = block[32 + k / 4 * 64 + row * 4 + k % 4] ^ 128;
                    *value = scale * f32::from(quant.cast_signed());
                }
            }
        }
        ElementType::Q4K => {
            for (block, values) in panel.chunks_exact(2368).zip(values.chunks_exact_mut(256)) {
                let (scale, minimum) = (half_at(block, row * 2), half_at(block, 32 + row * 2));
                for (group, values) in values.chunks_exact_mut(32).enumerate() {
                    let group = &block[64 + group * 288..][..288];
                    let (scale, minimum) = (scale * f32::from(group[row]), minimum * f32::from(group[16 + row]));
                    for (k, value) in values.iter_mut().enumerate() {
                        *value = scale * f32::from(nibble(&group[32..], k)) - minimum;
                    }
                }
            }
        }
        ElementType::Q6K => {
            for (block, values) in panel.chunks_exact(3360).zip(values.chunks_exact_mut(256)) {
                let scale = half_at(block, row * 2);
                for (group, values) in values.chunks_exact_mut(32).enumerate() {
                    let group = &block[32 + group * 416..][..416];
                    for (k, value) in values.iter_mut().enumerate() {
                        let high = group[288 + k / 16 * 64 + row * 4 + k % 4] >> (2 * (k / 4 % 4)) & 3;
                        let quant = nibble(&group[32..], k) | high << 4;
                        let group_scale = f32::from(group[k / 16 * 16 + row].cast_signed());
                        *value = scale * group_scale * (f32::from(quant) - 32.0);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
