//! Bounded reading of a GGUF header.

use std::io::Read;

use super::{GgufTensorType, MetadataValue};
use crate::header::{HeaderError, TensorRecord};

/// Bytes of one string; chat templates reach some ten thousand.
const MAXIMUM_STRING: u64 = 1 << 24;
/// Elements of all metadata arrays together: candle keeps each in 32 bytes, so this bounds it to 256 MiB.
const MAXIMUM_ARRAY_ELEMENTS: u64 = 1 << 23;
/// Extents of one tensor (`GGML_MAX_DIMS`).
const MAXIMUM_DIMENSIONS: u32 = 4;

/// Reads the parts of a header and bounds what they may ask for.
pub(super) struct Cursor<'reader, R> {
    reader: &'reader mut R,
    /// Bytes read so far.
    pub(super) position: u64,
    length: u64,
    array_elements: u64,
}

impl<'reader, R: Read> Cursor<'reader, R> {
    /// A cursor at the start of a file of `length` bytes.
    pub(super) fn new(reader: &'reader mut R, length: u64) -> Self {
        Self {
            reader,
            position: 0,
            length,
            array_elements: 0,
        }
    }

    pub(super) fn bytes<const N: usize>(&mut self, what: &str) -> Result<[u8; N], HeaderError> {
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

    pub(super) fn u32(&mut self, what: &str) -> Result<u32, HeaderError> {
        Ok(u32::from_le_bytes(self.bytes(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64, HeaderError> {
        Ok(u64::from_le_bytes(self.bytes(what)?))
    }

    /// A count of things of which each takes at least `smallest` bytes of the rest of the file.
    pub(super) fn count(&mut self, what: &str, maximum: u64, smallest: u64) -> Result<u64, HeaderError> {
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

    pub(super) fn string(&mut self, what: &str) -> Result<String, HeaderError> {
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

    pub(super) fn value(&mut self, key: &str) -> Result<MetadataValue, HeaderError> {
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

    pub(super) fn tensor(&mut self, index: u64) -> Result<TensorRecord, HeaderError> {
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
        Ok(TensorRecord {
            name,
            shape,
            element_type: element_type.name.to_owned(),
            bytes,
            offset,
        })
    }
}
