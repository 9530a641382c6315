//! GGUF headers: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

mod cursor;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Seek, SeekFrom};

use super::{HeaderError, TensorRecord};
use cursor::Cursor;

const MAGIC: [u8; 4] = *b"GGUF";
/// Metadata entries; real files have fewer than a hundred.
const MAXIMUM_METADATA: u64 = 1 << 16;
/// Tensors; the largest dense models have about two thousand, mixtures of experts some ten thousand.
const MAXIMUM_TENSORS: u64 = 1 << 17;
const DEFAULT_ALIGNMENT: u64 = 32;

/// A metadata value, with the integer and float widths of the file folded together.
#[derive(Debug, Clone, PartialEq)]
pub enum MetadataValue {
    /// Any integer.
    Integer(i128),
    /// A 32-bit or 64-bit float.
    Float(f64),
    /// A boolean.
    Boolean(bool),
    /// A string.
    Text(String),
    /// An array of strings.
    Texts(Vec<String>),
    /// An array of integers or booleans.
    Integers(Vec<i64>),
    /// An array of floats.
    Floats(Vec<f32>),
}

/// Element types that candle can load, by their number in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GgufTensorType {
    /// Name as ggml spells it.
    pub name: &'static str,
    /// Elements in one block.
    pub block_elements: u64,
    /// Bytes of one block.
    pub block_bytes: u64,
}

impl GgufTensorType {
    /// The type of a number, or `None` if candle has no such type.
    pub fn from_number(number: u32) -> Option<Self> {
        let (name, block_elements, block_bytes) = match number {
            0 => ("F32", 1, 4),
            1 => ("F16", 1, 2),
            2 => ("Q4_0", 32, 18),
            3 => ("Q4_1", 32, 20),
            6 => ("Q5_0", 32, 22),
            7 => ("Q5_1", 32, 24),
            8 => ("Q8_0", 32, 34),
            10 => ("Q2_K", 256, 84),
            11 => ("Q3_K", 256, 110),
            12 => ("Q4_K", 256, 144),
            13 => ("Q5_K", 256, 176),
            14 => ("Q6_K", 256, 210),
            30 => ("BF16", 1, 2),
            _ => return None,
        };
        Some(Self {
            name,
            block_elements,
            block_bytes,
        })
    }
}

/// A checked GGUF header.
#[derive(Debug, Clone)]
pub struct GgufHeader {
    /// Version of the format, 2 or 3.
    pub version: u32,
    /// Metadata by key.
    pub metadata: BTreeMap<String, MetadataValue>,
    /// Tensors in the order of the file.
    pub tensors: Vec<TensorRecord>,
    /// Byte at which the tensor data begin.
    pub data_offset: u64,
}

impl GgufHeader {
    /// A text value.
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.metadata.get(key)? {
            MetadataValue::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A non-negative integer value.
    pub fn unsigned(&self, key: &str) -> Option<u64> {
        match self.metadata.get(key)? {
            MetadataValue::Integer(value) => u64::try_from(*value).ok(),
            _ => None,
        }
    }

    /// A float value.
    pub fn float(&self, key: &str) -> Option<f64> {
        match self.metadata.get(key)? {
            MetadataValue::Float(value) => Some(*value),
            _ => None,
        }
    }

    /// A boolean value.
    pub fn boolean(&self, key: &str) -> Option<bool> {
        match self.metadata.get(key)? {
            MetadataValue::Boolean(value) => Some(*value),
            _ => None,
        }
    }

    /// An array of strings.
    pub fn texts(&self, key: &str) -> Option<&[String]> {
        match self.metadata.get(key)? {
            MetadataValue::Texts(values) => Some(values),
            _ => None,
        }
    }
}

/// Reads and checks a GGUF header.
///
/// `length` is the number of bytes of the whole file. Refused are: a wrong magic, versions other than 2 and 3, counts
/// and lengths that the file cannot hold, nested arrays, unknown or overflowing tensor shapes and types, misaligned
/// tensors and tensors beyond the end of the file. Memory stays within a small multiple of the header's length.
pub fn validate_gguf<R: Read + Seek>(reader: &mut R, length: u64) -> Result<GgufHeader, HeaderError> {
    reader.seek(SeekFrom::Start(0)).map_err(|source| HeaderError::Read {
        what: "the start".to_owned(),
        source,
    })?;
    let mut header = Cursor::new(reader, length);
    let magic: [u8; 4] = header.bytes("the magic number")?;
    if magic != MAGIC {
        return Err(HeaderError::Magic {
            format: "GGUF",
            found: magic.to_vec(),
        });
    }
    let version = header.u32("the version")?;
    if !(2..=3).contains(&version) {
        return Err(HeaderError::Version {
            format: "GGUF",
            version,
            supported: "2, 3",
        });
    }
    let tensor_count = header.count("the number of tensors", MAXIMUM_TENSORS, 24)?;
    let metadata_count = header.count("the number of metadata entries", MAXIMUM_METADATA, 13)?;
    let mut metadata = BTreeMap::new();
    for index in 0..metadata_count {
        let key = header.string(&format!("metadata key {index}"))?;
        let value = header.value(&key)?;
        if metadata.insert(key.clone(), value).is_some() {
            return Err(HeaderError::Invalid {
                what: format!("metadata key {key:?} occurs twice"),
            });
        }
    }
    let alignment = match metadata.get("general.alignment") {
        None => DEFAULT_ALIGNMENT,
        Some(MetadataValue::Integer(value @ 1..=65_536)) if value.count_ones() == 1 => *value as u64,
        Some(other) => {
            return Err(HeaderError::Invalid {
                what: format!("general.alignment is {other:?}, not a power of two"),
            });
        }
    };
    let mut tensors = Vec::new();
    let mut names = BTreeSet::new();
    for index in 0..tensor_count {
        let tensor = header.tensor(index)?;
        if !names.insert(tensor.name.clone()) {
            return Err(HeaderError::Invalid {
                what: format!("tensor {:?} occurs twice", tensor.name),
            });
        }
        tensors.push(tensor);
    }
    let data_offset = header.position.next_multiple_of(alignment);
    for tensor in &mut tensors {
        // The file counts from the beginning of the data.
        let start = data_offset.checked_add(tensor.offset);
        let end = start.and_then(|start| start.checked_add(tensor.bytes));
        match (start, end) {
            (Some(start), Some(_)) if !start.is_multiple_of(alignment) => {
                return Err(HeaderError::Invalid {
                    what: format!(
                        "tensor {:?} begins at byte {start}, not a multiple of {alignment}",
                        tensor.name
                    ),
                });
            }
            (Some(start), Some(end)) if end <= length => tensor.offset = start,
            _ => {
                return Err(HeaderError::OutOfFile {
                    name: tensor.name.clone(),
                    start: start.unwrap_or(u64::MAX),
                    end: end.unwrap_or(u64::MAX),
                    length,
                });
            }
        }
    }
    Ok(GgufHeader {
        version,
        metadata,
        tensors,
        data_offset,
    })
}

#[cfg(test)]
mod tests;
