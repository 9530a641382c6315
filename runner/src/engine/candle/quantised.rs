//! GGUF contents made in memory: dequantised copies of a file, and synthetic quantised weights.

use std::io::{Cursor, Read, Seek};

use candle_core::quantized::gguf_file::{Content, Value, write};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Result};

use super::synthetic;
use crate::engine::WeightType;
use crate::engine::architecture::{Architecture, Family, expected_tensors, gguf_name};

/// Families for which synthetic weights can be quantised.
pub(super) const SYNTHETIC_FAMILIES: [Family; 4] = [Family::Llama, Family::Qwen2, Family::Qwen3, Family::Phi3];

/// A copy of GGUF contents with every tensor as F32.
pub(super) fn dequantise<R: Read + Seek>(contents: &Content, reader: &mut R) -> Result<(Content, Cursor<Vec<u8>>)> {
    let mut tensors = Vec::new();
    for name in contents.tensor_infos.keys() {
        let values = contents.tensor(reader, name, &Device::Cpu)?.dequantize(&Device::Cpu)?;
        tensors.push((name.as_str(), QTensor::quantize(&values, GgmlDType::F32)?));
    }
    let metadata: Vec<(&str, &Value)> = contents
        .metadata
        .iter()
        .map(|(key, value)| (key.as_str(), value))
        .collect();
    let borrowed: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (*name, tensor)).collect();
    written(&metadata, &borrowed)
}

/// GGUF contents with random matrices in blocks; normalisations and biases stay F32.
///
/// For the families of [`SYNTHETIC_FAMILIES`], whose architecture has the same name in GGUF files.
pub(super) fn synthesise(
    architecture: &Architecture,
    seed: u64,
    block: WeightType,
) -> Result<(Content, Cursor<Vec<u8>>)> {
    let block = if block == WeightType::Q4_0 {
        GgmlDType::Q4_0
    } else {
        GgmlDType::Q8_0
    };
    let integer = |value: usize| Value::U32(u32::try_from(value).unwrap_or(u32::MAX));
    let family = architecture.family.name();
    let epsilon = Value::F32(architecture.norm_epsilon as f32);
    let fields = [
        ("block_count", integer(architecture.layers)),
        ("context_length", integer(architecture.context_length)),
        ("embedding_length", integer(architecture.hidden_size)),
        ("feed_forward_length", integer(architecture.intermediate_size)),
        ("attention.head_count", integer(architecture.attention_heads)),
        ("attention.head_count_kv", integer(architecture.key_value_heads)),
        ("attention.key_length", integer(architecture.head_dimension)),
        ("attention.layer_norm_rms_epsilon", epsilon),
        ("rope.dimension_count", integer(architecture.head_dimension)),
        ("rope.freq_base", Value::F32(architecture.rope_theta as f32)),
    ];
    let mut metadata = vec![("general.architecture".to_owned(), Value::String(family.to_owned()))];
    metadata.extend(
        fields
            .into_iter()
            .map(|(field, value)| (format!("{family}.{field}"), value)),
    );
    let mut named = Vec::new();
    for expected in expected_tensors(architecture) {
        let values = synthetic::tensor(architecture, &expected, seed, DType::F32)?;
        let dtype = if expected.shape.len() == 2 {
            block
        } else {
            GgmlDType::F32
        };
        named.push((
            gguf_name(architecture, &expected.name),
            QTensor::quantize(&values, dtype)?,
        ));
    }
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let borrowed: Vec<(&str, &QTensor)> = named.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    written(&metadata, &borrowed)
}

fn written(metadata: &[(&str, &Value)], tensors: &[(&str, &QTensor)]) -> Result<(Content, Cursor<Vec<u8>>)> {
    let mut buffer = Cursor::new(Vec::new());
    write(&mut buffer, metadata, tensors)?;
    buffer.set_position(0);
    let contents = Content::read(&mut buffer)?;
    Ok((contents, buffer))
}
