//! A model with the shape of `TinyLlama` and random weights.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use candle_core::quantized::gguf_file::Value;
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use lem_engine::architecture::{Architecture, expected_tensors, gguf_name, preset};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::gguf::{self, Planned};
use super::real::file_type;
use super::stored_type;

const SEED: u64 = 1;

/// Writes the model. It has no tokenizer: llama.cpp takes the vocabulary's size from the metadata then.
pub(super) fn write(path: &Path, wanted: GgmlDType) -> Result<()> {
    let architecture = preset("tinyllama-1.1b").context("lem-engine knows no tinyllama-1.1b")?;
    let tensors: Vec<Planned> = expected_tensors(&architecture)
        .into_iter()
        .map(|tensor| Planned {
            name: gguf_name(&architecture, &tensor.name),
            element_type: stored_type(&tensor.shape, wanted),
            shape: tensor.shape,
        })
        .collect();
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    gguf::write(path, &metadata(&architecture, wanted), &tensors, |tensor| {
        let values = values(&tensor.shape, &mut random);
        let values = Tensor::from_vec(values, tensor.shape.as_slice(), &Device::Cpu)?;
        Ok(QTensor::quantize(&values, tensor.element_type)?)
    })
}

/// Norms are ones. Matrices are uniform with the variance 1 / columns, which keeps the size of what they multiply.
fn values(shape: &[usize], random: &mut ChaCha8Rng) -> Vec<f32> {
    let [rows, columns] = *shape else {
        return vec![1.0; shape.iter().product()];
    };
    let bound = (3.0 / columns as f32).sqrt();
    (0..rows * columns)
        .map(|_| (random.random::<f32>() * 2.0 - 1.0) * bound)
        .collect()
}

fn metadata(architecture: &Architecture, wanted: GgmlDType) -> BTreeMap<String, Value> {
    let integer = |value: usize| Value::U32(value as u32);
    let text = |value: &str| Value::String(value.to_owned());
    let fields = [
        ("general.architecture", text("llama")),
        ("general.name", text("tinyllama-1.1b, random weights")),
        ("general.file_type", Value::U32(file_type(wanted))),
        ("tokenizer.ggml.model", text("none")),
        ("llama.vocab_size", integer(architecture.vocabulary_size)),
        ("llama.block_count", integer(architecture.layers)),
        ("llama.context_length", integer(architecture.context_length)),
        ("llama.embedding_length", integer(architecture.hidden_size)),
        ("llama.feed_forward_length", integer(architecture.intermediate_size)),
        ("llama.attention.head_count", integer(architecture.attention_heads)),
        ("llama.attention.head_count_kv", integer(architecture.key_value_heads)),
        (
            "llama.attention.layer_norm_rms_epsilon",
            Value::F32(architecture.norm_epsilon as f32),
        ),
        ("llama.rope.dimension_count", integer(architecture.head_dimension)),
        ("llama.rope.freq_base", Value::F32(architecture.rope_theta as f32)),
    ];
    fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}
