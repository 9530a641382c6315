//! Safetensors headers: <https://github.com/huggingface/safetensors#format>.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};

use serde::Deserialize;

use super::{HeaderError, TensorRecord};

/// Bytes of the JSON header; the format allows 100 MB, the largest published models need about one.
const MAXIMUM_HEADER: u64 = 1 << 25;

/// A checked safetensors header.
#[derive(Debug, Clone)]
pub struct SafetensorsHeader {
    /// Tensors, ordered by their place in the file.
    pub tensors: Vec<TensorRecord>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Entry {
    Tensor {
        dtype: String,
        shape: Vec<u64>,
        data_offsets: [u64; 2],
    },
    Metadata(#[expect(dead_code, reason = "only its form is checked")] BTreeMap<String, String>),
}

/// Reads and checks a safetensors header.
///
/// `length` is the number of bytes of the whole file. Refused are: headers longer than the file or 32 MiB, invalid
/// JSON, element types that candle cannot load, shapes that do not fit their bytes, tensors that overlap or leave gaps,
/// and files that end before or after the last tensor.
pub fn validate_safetensors<R: Read + Seek>(reader: &mut R, length: u64) -> Result<SafetensorsHeader, HeaderError> {
    let read_error = |source| HeaderError::Read {
        what: "the safetensors header".to_owned(),
        source,
    };
    reader.seek(SeekFrom::Start(0)).map_err(read_error)?;
    let mut prefix = [0; 8];
    reader.read_exact(&mut prefix).map_err(read_error)?;
    let header_length = u64::from_le_bytes(prefix);
    let limit = MAXIMUM_HEADER.min(length.saturating_sub(8));
    if header_length > limit {
        let what = "the length of the safetensors header".to_owned();
        return Err(HeaderError::TooLarge {
            what,
            found: header_length,
            limit,
        });
    }
    let mut json = vec![0; header_length as usize];
    reader.read_exact(&mut json).map_err(read_error)?;
    let entries: BTreeMap<String, Entry> =
        serde_json::from_slice(&json).map_err(|source| HeaderError::Json { source })?;
    let data_offset = 8 + header_length;
    let mut tensors = Vec::new();
    for (name, entry) in entries {
        match entry {
            Entry::Metadata(_) if name == "__metadata__" => {}
            Entry::Metadata(_) => {
                return Err(HeaderError::Invalid {
                    what: format!("{name:?} describes no tensor"),
                });
            }
            Entry::Tensor {
                dtype,
                shape,
                data_offsets,
            } => {
                tensors.push(record(name, dtype, &shape, data_offsets)?);
            }
        }
    }
    tensors.sort_by_key(|tensor| (tensor.offset, tensor.bytes));
    let mut expected = 0;
    for tensor in &mut tensors {
        let start = tensor.offset;
        if start != expected {
            let name = &tensor.name;
            let what = format!("tensor {name:?} begins at data byte {start}, the one before it ends at {expected}");
            return Err(HeaderError::Invalid { what });
        }
        expected = start + tensor.bytes;
        if data_offset.saturating_add(expected) > length {
            let (name, start, end) = (
                tensor.name.clone(),
                data_offset + start,
                data_offset.saturating_add(expected),
            );
            return Err(HeaderError::OutOfFile {
                name,
                start,
                end,
                length,
            });
        }
        // The file counts from the beginning of the data.
        tensor.offset = data_offset + start;
    }
    if data_offset + expected != length {
        let end = data_offset + expected;
        return Err(HeaderError::Invalid {
            what: format!("the file has {length} bytes, its tensors end at {end}"),
        });
    }
    Ok(SafetensorsHeader { tensors })
}

fn record(name: String, dtype: String, shape: &[u64], [start, end]: [u64; 2]) -> Result<TensorRecord, HeaderError> {
    let width: u64 = match dtype.as_str() {
        "F64" => 8,
        "F32" => 4,
        "F16" | "BF16" => 2,
        _ => {
            let what = format!("tensor {name:?} has the element type {dtype:?}: not F64, F32, F16 or BF16");
            return Err(HeaderError::Invalid { what });
        }
    };
    let bytes = shape
        .iter()
        .try_fold(width, |product, &extent| product.checked_mul(extent));
    if bytes.is_none() || bytes != end.checked_sub(start) || shape.len() > 4 {
        let what = format!("tensor {name:?} of shape {shape:?} and type {dtype} does not fit bytes {start}..{end}");
        return Err(HeaderError::Invalid { what });
    }
    let shape = shape.iter().map(|&extent| extent as usize).collect();
    Ok(TensorRecord {
        name,
        shape,
        element_type: dtype,
        bytes: end - start,
        offset: start,
    })
}

#[cfg(test)]
mod tests;
