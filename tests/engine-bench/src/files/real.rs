//! The real model in another type.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use anyhow::{Context, Result};
use candle_core::Device;
use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::quantized::{GgmlDType, QTensor};

use super::gguf::{self, Planned};
use super::stored_type;

/// Writes `model` with its matrices in `wanted` to `path`; metadata and tokenizer stay, except for the type's number.
pub(super) fn convert(model: &Path, path: &Path, wanted: GgmlDType) -> Result<()> {
    let what = || {
        format!(
            "{} cannot be read: `make model` fetches the real model",
            model.display()
        )
    };
    let mut reader = BufReader::with_capacity(1 << 20, File::open(model).with_context(what)?);
    let contents = Content::read(&mut reader).with_context(what)?;
    let mut metadata: BTreeMap<String, Value> = contents.metadata.clone().into_iter().collect();
    metadata.insert("general.file_type".to_owned(), Value::U32(file_type(wanted)));
    let mut infos: Vec<_> = contents.tensor_infos.iter().collect();
    infos.sort_by_key(|(_, info)| info.offset);
    let tensors: Vec<Planned> = infos
        .into_iter()
        .map(|(name, info)| Planned {
            name: name.clone(),
            shape: info.shape.dims().to_vec(),
            element_type: stored_type(info.shape.dims(), wanted),
        })
        .collect();
    gguf::write(path, &metadata, &tensors, |tensor| {
        let values = contents.tensor(&mut reader, &tensor.name, &Device::Cpu)?;
        Ok(QTensor::quantize(
            &values.dequantize(&Device::Cpu)?,
            tensor.element_type,
        )?)
    })
}

/// llama.cpp's number of a file's type; it is for display only.
pub(super) const fn file_type(wanted: GgmlDType) -> u32 {
    match wanted {
        GgmlDType::F16 => 1,
        GgmlDType::Q4_0 => 2,
        GgmlDType::Q4_1 => 3,
        GgmlDType::Q8_0 => 7,
        GgmlDType::Q4K => 14,
        GgmlDType::BF16 => 32,
        _ => 0,
    }
}
