//! GGUF headers: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Seek, SeekFrom};

use super::{HeaderError, TensorRecord};

const MAGIC: [u8; 4] = *b"GGUF";
/// Metadata entries; real files have fewer than a hundred.
const MAXIMUM_METADATA: u64 = 1 << 16;
/// Tensors; the largest dense models have about two thousand, mixtures of experts some ten thousand.
const MAXIMUM_TENSORS: u64 = 1 << 17;
/// Bytes of one string; chat templates reach some ten thousand.
const MAXIMUM_STRING: u64 = 1 << 24;
/// Elements of all metadata arrays together: candle keeps each in 32 bytes, so this bounds it to 256 MiB.
const MAXIMUM_ARRAY_ELEMENTS: u64 = 1 << 23;
/// Extents of one tensor (`GGML_MAX_DIMS`).
const MAXIMUM_DIMENSIONS: u32 = 4;
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
    let mut header = Cursor {
        reader,
        position: 0,
        length,
        array_elements: 0,
    };
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
    let mut places = Vec::new();
    let mut names = BTreeSet::new();
    for index in 0..tensor_count {
        let place = header.tensor(index)?;
        if !names.insert(place.0.name.clone()) {
            return Err(HeaderError::Invalid {
                what: format!("tensor {:?} occurs twice", place.0.name),
            });
        }
        places.push(place);
    }
    let data_offset = header.position.next_multiple_of(alignment);
    for (tensor, offset) in &places {
        let start = data_offset.checked_add(*offset);
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
            (Some(_), Some(end)) if end <= length => {}
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
    let tensors = places.into_iter().map(|(tensor, _)| tensor).collect();
    Ok(GgufHeader {
        version,
        metadata,
        tensors,
        data_offset,
    })
}

struct Cursor<'reader, R> {
    reader: &'reader mut R,
    position: u64,
    length: u64,
    array_elements: u64,
}

impl<R: Read> Cursor<'_, R> {
    fn bytes<const N: usize>(&mut self, what: &str) -> Result<[u8; N], HeaderError> {
        let mut buffer = [0; N];
        self.reader
            .read_exact(&mut buffer)
            .map_err(|source| HeaderError::Read {
                what: what.to_owned(),
                source,
            })?;
        self.position += N as u64;
        Ok(buffer)
    }

    fn u32(&mut self, what: &str) -> Result<u32, HeaderError> {
        Ok(u32::from_le_bytes(self.bytes(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64, HeaderError> {
        Ok(u64::from_le_bytes(self.bytes(what)?))
    }

    /// A count of things of which each takes at least `smallest` bytes of the rest of the file.
    fn count(&mut self, what: &str, maximum: u64, smallest: u64) -> Result<u64, HeaderError> {
        let found = self.u64(what)?;
        let limit = maximum.min(self.length.saturating_sub(self.position) / smallest);
        if found > limit {
            return Err(HeaderError::TooLarge {
                what: what.to_owned(),
                found,
                limit,
            });
        }
        Ok(found)
    }

    fn string(&mut self, what: &str) -> Result<String, HeaderError> {
        let length = self.count(&format!("the length of {what}"), MAXIMUM_STRING, 1)?;
        let mut buffer = vec![0; length as usize];
        self.reader
            .read_exact(&mut buffer)
            .map_err(|source| HeaderError::Read {
                what: what.to_owned(),
                source,
            })?;
        self.position += length;
        // candle replaces invalid UTF-8 as well: some tokenizers hold lone bytes.
        Ok(String::from_utf8_lossy(&buffer).into_owned())
    }

    fn value(&mut self, key: &str) -> Result<MetadataValue, HeaderError> {
        let kind = self.u32(&format!("the type of {key:?}"))?;
        if kind != 9 {
            return self.scalar(kind, key);
        }
        let kind = self.u32(&format!("the element type of {key:?}"))?;
        let smallest = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            _ => {
                return Err(HeaderError::Invalid {
                    what: format!("{key:?} is an array of type {kind}"),
                });
            }
        };
        let count = self.count(&format!("the length of {key:?}"), MAXIMUM_ARRAY_ELEMENTS, smallest)?;
        self.array_elements += count;
        if self.array_elements > MAXIMUM_ARRAY_ELEMENTS {
            return Err(HeaderError::TooLarge {
                what: "the number of metadata array elements".to_owned(),
                found: self.array_elements,
                limit: MAXIMUM_ARRAY_ELEMENTS,
            });
        }
        let (mut texts, mut integers, mut floats) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..count {
            match self.scalar(kind, key)? {
                MetadataValue::Text(text) => texts.push(text),
                MetadataValue::Integer(value) => integers.push(value as i64),
                MetadataValue::Boolean(value) => integers.push(i64::from(value)),
                MetadataValue::Float(value) => floats.push(value as f32),
                _ => {
                    return Err(HeaderError::Invalid {
                        what: format!("{key:?} is a nested array"),
                    });
                }
            }
        }
        Ok(match kind {
            8 => MetadataValue::Texts(texts),
            6 | 12 => MetadataValue::Floats(floats),
            _ => MetadataValue::Integers(integers),
        })
    }

    fn scalar(&mut self, kind: u32, key: &str) -> Result<MetadataValue, HeaderError> {
        Ok(match kind {
            0 => MetadataValue::Integer(u8::from_le_bytes(self.bytes(key)?).into()),
            1 => MetadataValue::Integer(i8::from_le_bytes(self.bytes(key)?).into()),
            2 => MetadataValue::Integer(u16::from_le_bytes(self.bytes(key)?).into()),
            3 => MetadataValue::Integer(i16::from_le_bytes(self.bytes(key)?).into()),
            4 => MetadataValue::Integer(self.u32(key)?.into()),
            5 => MetadataValue::Integer(i32::from_le_bytes(self.bytes(key)?).into()),
            6 => MetadataValue::Float(f32::from_le_bytes(self.bytes(key)?).into()),
            7 => match self.bytes::<1>(key)?[0] {
                0 => MetadataValue::Boolean(false),
                1 => MetadataValue::Boolean(true),
                other => {
                    return Err(HeaderError::Invalid {
                        what: format!("{key:?} is a boolean of value {other}"),
                    });
                }
            },
            8 => MetadataValue::Text(self.string(key)?),
            10 => MetadataValue::Integer(self.u64(key)?.into()),
            11 => MetadataValue::Integer(i64::from_le_bytes(self.bytes(key)?).into()),
            12 => MetadataValue::Float(f64::from_le_bytes(self.bytes(key)?)),
            other => {
                return Err(HeaderError::Invalid {
                    what: format!("{key:?} has the unknown type {other}"),
                });
            }
        })
    }

    fn tensor(&mut self, index: u64) -> Result<(TensorRecord, u64), HeaderError> {
        let name = self.string(&format!("the name of tensor {index}"))?;
        let invalid = |what: &str| HeaderError::Invalid {
            what: format!("tensor {name:?} {what}"),
        };
        let dimensions = self.u32(&name)?;
        if dimensions == 0 || dimensions > MAXIMUM_DIMENSIONS {
            return Err(invalid(&format!(
                "has {dimensions} dimensions, not 1 to {MAXIMUM_DIMENSIONS}"
            )));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            let extent = self.u64(&name)?;
            if extent == 0 || extent > u64::from(u32::MAX) {
                return Err(invalid(&format!("has an extent of {extent}")));
            }
            shape.push(extent);
        }
        let number = self.u32(&name)?;
        let element_type = GgufTensorType::from_number(number)
            .ok_or_else(|| invalid(&format!("has the type {number}, which is unknown or not supported")))?;
        if !shape[0].is_multiple_of(element_type.block_elements) {
            let (name, block) = (element_type.name, element_type.block_elements);
            return Err(invalid(&format!(
                "has rows of {} elements, not blocks of {block} ({name})",
                shape[0]
            )));
        }
        let bytes = shape
            .iter()
            .try_fold(1_u64, |product, &extent| product.checked_mul(extent))
            .and_then(|elements| (elements / element_type.block_elements).checked_mul(element_type.block_bytes))
            .ok_or_else(|| invalid("has more elements than can be addressed"))?;
        let offset = self.u64(&name)?;
        // The file names the innermost extent first.
        let shape = shape.iter().rev().map(|&extent| extent as usize).collect();
        Ok((
            TensorRecord {
                name,
                shape,
                element_type: element_type.name.to_owned(),
                bytes,
            },
            offset,
        ))
    }
}

#[cfg(test)]
mod tests;
