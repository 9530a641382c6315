//! Writes GGUF files tensor by tensor; candle's own writer wants all of them in memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Result, ensure};
use candle_core::quantized::gguf_file::{Value, ValueType};
use candle_core::quantized::{GgmlDType, QTensor};

const ALIGNMENT: usize = 32;
const VERSION: u32 = 3;

/// A tensor that will be written.
#[derive(Debug, Clone)]
pub(super) struct Planned {
    /// Name in the file.
    pub(super) name: String,
    /// Extents, outermost first.
    pub(super) shape: Vec<usize>,
    /// Type in the file.
    pub(super) element_type: GgmlDType,
}

impl Planned {
    fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() / self.element_type.block_size() * self.element_type.type_size()
    }
}

/// Writes a file whose tensors `make` gives one after the other.
pub(super) fn write(
    path: &Path,
    metadata: &BTreeMap<String, Value>,
    tensors: &[Planned],
    mut make: impl FnMut(&Planned) -> Result<QTensor>,
) -> Result<()> {
    let mut header = b"GGUF".to_vec();
    header.extend(VERSION.to_le_bytes());
    header.extend((tensors.len() as u64).to_le_bytes());
    header.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        text(&mut header, key);
        header.extend(number(value.value_type()).to_le_bytes());
        encode(&mut header, value);
    }
    let mut offset = 0;
    for tensor in tensors {
        text(&mut header, &tensor.name);
        header.extend((tensor.shape.len() as u32).to_le_bytes());
        for extent in tensor.shape.iter().rev() {
            header.extend((*extent as u64).to_le_bytes());
        }
        header.extend(type_number(tensor.element_type).to_le_bytes());
        header.extend((offset as u64).to_le_bytes());
        offset += tensor.bytes().next_multiple_of(ALIGNMENT);
    }
    pad(&mut header);
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    file.write_all(&header)?;
    for tensor in tensors {
        let made = make(tensor)?;
        let bytes = made.data()?;
        ensure!(
            bytes.len() == tensor.bytes(),
            "tensor {} has {} bytes instead of {}",
            tensor.name,
            bytes.len(),
            tensor.bytes()
        );
        file.write_all(&bytes)?;
        let padding = bytes.len().next_multiple_of(ALIGNMENT) - bytes.len();
        file.write_all(&[0; ALIGNMENT][..padding])?;
    }
    Ok(file.flush()?)
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

fn encode(bytes: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(value) => bytes.push(*value),
        Value::I8(value) => bytes.extend(value.to_le_bytes()),
        Value::U16(value) => bytes.extend(value.to_le_bytes()),
        Value::I16(value) => bytes.extend(value.to_le_bytes()),
        Value::U32(value) => bytes.extend(value.to_le_bytes()),
        Value::I32(value) => bytes.extend(value.to_le_bytes()),
        Value::U64(value) => bytes.extend(value.to_le_bytes()),
        Value::I64(value) => bytes.extend(value.to_le_bytes()),
        Value::F32(value) => bytes.extend(value.to_le_bytes()),
        Value::F64(value) => bytes.extend(value.to_le_bytes()),
        Value::Bool(value) => bytes.push(u8::from(*value)),
        Value::String(value) => text(bytes, value),
        Value::Array(values) => {
            let element = values.first().map_or(ValueType::U32, Value::value_type);
            bytes.extend(number(element).to_le_bytes());
            bytes.extend((values.len() as u64).to_le_bytes());
            for value in values {
                encode(bytes, value);
            }
        }
    }
}

/// The number of a value's type in the format.
const fn number(value: ValueType) -> u32 {
    match value {
        ValueType::U8 => 0,
        ValueType::I8 => 1,
        ValueType::U16 => 2,
        ValueType::I16 => 3,
        ValueType::U32 => 4,
        ValueType::I32 => 5,
        ValueType::F32 => 6,
        ValueType::Bool => 7,
        ValueType::String => 8,
        ValueType::Array => 9,
        ValueType::U64 => 10,
        ValueType::I64 => 11,
        ValueType::F64 => 12,
    }
}

/// The number of a tensor's type in the format, of those that are written.
fn type_number(element_type: GgmlDType) -> u32 {
    match element_type {
        GgmlDType::F16 => 1,
        GgmlDType::Q4_0 => 2,
        GgmlDType::Q4_1 => 3,
        GgmlDType::Q8_0 => 8,
        GgmlDType::Q4K => 12,
        GgmlDType::BF16 => 30,
        _ => 0,
    }
}
