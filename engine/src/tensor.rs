//! Weights as files store them: element types, blocks, and what a block's elements are worth.
//!
//! The block formats are those of ggml (`ggml-common.h` and `ggml-quants.c` of llama.cpp 2026-10). What is here is the
//! reference for every kernel: it is exact and slow.

use std::borrow::Cow;

use half::{bf16, f16};

/// How the elements of a stored tensor are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ElementType {
    /// 32-bit floats.
    F32,
    /// IEEE half precision.
    F16,
    /// Brain floats.
    Bf16,
    /// Blocks of 32: a scale and 4-bit integers around 8.
    Q4_0,
    /// Blocks of 32: a scale, a minimum and 4-bit integers.
    Q4_1,
    /// Blocks of 32: a scale and 8-bit integers.
    Q8_0,
    /// Blocks of 256: 8 groups of 32 with 6-bit scales and minima, 4-bit integers.
    Q4K,
    /// Blocks of 256: 16 groups of 16 with 8-bit scales, 6-bit integers around 32.
    Q6K,
}

impl ElementType {
    /// Every type.
    pub const ALL: [Self; 8] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q8_0,
        Self::Q4K,
        Self::Q6K,
    ];

    /// The type that a file's header names as GGUF (`Q4_K`) or safetensors (`BF16`) spell it.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|element| element.name() == name)
    }

    /// Name as ggml spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q8_0 => "Q8_0",
            Self::Q4K => "Q4_K",
            Self::Q6K => "Q6_K",
        }
    }

    /// Elements in one block.
    pub const fn block_elements(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q8_0 => 32,
            Self::Q4K | Self::Q6K => 256,
        }
    }

    /// Bytes of one block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q8_0 => 34,
            Self::Q4K => 144,
            Self::Q6K => 210,
        }
    }

    /// Bytes of `elements` consecutive elements, which are whole blocks.
    pub const fn bytes(self, elements: usize) -> usize {
        elements / self.block_elements() * self.block_bytes()
    }

    /// Whether the elements are integers in blocks.
    pub const fn is_quantised(self) -> bool {
        self.block_elements() > 1
    }
}

/// A tensor in the memory of a file, or of a generator.
#[derive(Debug, Clone)]
pub struct StoredTensor<'bytes> {
    /// Layout of the elements.
    pub element_type: ElementType,
    /// Rows; 1 for a vector.
    pub rows: usize,
    /// Elements of a row, whole blocks.
    pub columns: usize,
    /// `rows` rows without gaps.
    pub bytes: Cow<'bytes, [u8]>,
}

impl StoredTensor<'_> {
    /// Bytes of one row.
    pub const fn row_bytes(&self) -> usize {
        self.element_type.bytes(self.columns)
    }

    /// The bytes of a row.
    pub fn row(&self, row: usize) -> &[u8] {
        let width = self.row_bytes();
        &self.bytes[row * width..(row + 1) * width]
    }

    /// Writes a row's values to `values`, which has `columns` elements.
    pub fn dequantise_row(&self, row: usize, values: &mut [f32]) {
        dequantise(self.element_type, self.row(row), values);
    }
}

/// The tensors of a model by the names that safetensors files of Hugging Face have, for example
/// `model.layers.0.self_attn.q_proj.weight`.
pub trait TensorSource: Sync {
    /// A tensor of this name, or `None` if the model has none.
    fn tensor(&self, name: &str) -> Option<StoredTensor<'_>>;

    /// Says that a tensor has been copied, so that memory behind it can be given back; it can still be asked for.
    fn release(&self, _name: &str) {}
}

/// Writes the values of whole blocks; `values` has as many elements as `bytes` holds.
pub fn dequantise(element_type: ElementType, bytes: &[u8], values: &mut [f32]) {
    let blocks = bytes.chunks_exact(element_type.block_bytes());
    for (block, values) in blocks.zip(values.chunks_exact_mut(element_type.block_elements())) {
        match element_type {
            ElementType::F32 => values[0] = f32::from_le_bytes([block[0], block[1], block[2], block[3]]),
            ElementType::F16 => values[0] = half_at(block, 0),
            ElementType::Bf16 => values[0] = bf16::from_le_bytes([block[0], block[1]]).to_f32(),
            ElementType::Q4_0 => {
                let scale = half_at(block, 0);
                nibbles(&block[2..], values, |quant| scale * (f32::from(quant) - 8.0));
            }
            ElementType::Q4_1 => {
                let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
                nibbles(&block[4..], values, |quant| scale * f32::from(quant) + minimum);
            }
            ElementType::Q8_0 => {
                let scale = half_at(block, 0);
                for (value, quant) in values.iter_mut().zip(&block[2..]) {
                    *value = scale * f32::from(quant.cast_signed());
                }
            }
            ElementType::Q4K => {
                let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
                for group in 0..8 {
                    let (group_scale, group_minimum) = q4k_group(&block[4..16], group);
                    let (scale, minimum) = (scale * f32::from(group_scale), minimum * f32::from(group_minimum));
                    let quants = &block[16 + group / 2 * 32..][..32];
                    for (value, byte) in values[group * 32..].iter_mut().zip(quants) {
                        let quant = if group % 2 == 0 { byte & 15 } else { byte >> 4 };
                        *value = scale * f32::from(quant) - minimum;
                    }
                }
            }
            ElementType::Q6K => {
                let scale = half_at(block, 208);
                for (index, value) in values.iter_mut().enumerate() {
                    let group_scale = f32::from(block[192 + index / 16].cast_signed());
                    *value = scale * group_scale * (f32::from(q6k_quant(block, index)) - 32.0);
                }
            }
        }
    }
}

/// Whole blocks as floats of another type, rounded to nearest even. A type of blocks is left as it is: who wants
/// integers quantises with a method of their own.
pub(crate) fn convert(from: ElementType, bytes: &[u8], to: ElementType) -> Cow<'_, [u8]> {
    if from == to || to.is_quantised() {
        return Cow::Borrowed(bytes);
    }
    let mut values = vec![0.0; bytes.len() / from.block_bytes() * from.block_elements()];
    dequantise(from, bytes, &mut values);
    Cow::Owned(match to {
        ElementType::F16 => values
            .iter()
            .flat_map(|value| f16::from_f32(*value).to_le_bytes())
            .collect(),
        ElementType::Bf16 => values
            .iter()
            .flat_map(|value| bf16::from_f32(*value).to_le_bytes())
            .collect(),
        _ => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
    })
}

/// The first 16 elements are the low nibbles of a block of 32, the others the high ones.
fn nibbles(bytes: &[u8], values: &mut [f32], value: impl Fn(u8) -> f32) {
    for (index, byte) in bytes.iter().enumerate() {
        values[index] = value(byte & 15);
        values[index + 16] = value(byte >> 4);
    }
}

pub(crate) fn half_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// The 6-bit scale and minimum of a group of `Q4_K`, out of the block's 12 bytes of them.
pub(crate) fn q4k_group(packed: &[u8], group: usize) -> (u8, u8) {
    if group < 4 {
        (packed[group] & 63, packed[group + 4] & 63)
    } else {
        (
            (packed[group + 4] & 15) | (packed[group - 4] >> 6 << 4),
            (packed[group + 4] >> 4) | (packed[group] >> 6 << 4),
        )
    }
}

/// The 6-bit integer of an element of a `Q6_K` block: four low bits, then two high ones from another place.
pub(crate) fn q6k_quant(block: &[u8], index: usize) -> u8 {
    let (half, within) = (index / 128, index % 128);
    let (quarter, position) = (within / 32, within % 32);
    let low = block[half * 64 + quarter % 2 * 32 + position] >> (quarter / 2 * 4) & 15;
    let high = block[128 + half * 32 + position] >> (2 * quarter) & 3;
    low | high << 4
}

#[cfg(test)]
mod tests;
