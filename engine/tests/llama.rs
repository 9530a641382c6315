//! Whether the engine computes what llama.cpp computed from the same file, recorded by `make bench-engine`'s program: its
//! most probable tokens, and the divergence of its probabilities. Types that the model's file does not have are made of it
//! as the recorded files were: decoded to floats, and encoded by candle.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the functions around the tests fail the test as the tests do"
)]

use std::io::Cursor;
use std::path::{Path, PathBuf};

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use lem_engine::architecture::Architecture;
use lem_engine::batch::{BLOCK_POSITIONS, Batch};
use lem_engine::cache::CacheType;
use lem_engine::decoder::{Decoder, DecoderConfiguration};
use lem_engine::header::validate_gguf;
use lem_engine::source::{FileSource, WeightFile};
use lem_engine::tensor::{ElementType, StoredTensor, TensorSource};

#[path = "../../tests/engine-bench/src/golden/record.rs"]
mod record;

use record::{Difference, Golden, divergence_limit};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn recorded(name: &str) -> Golden {
    let path = repository().join(format!("tests/fixtures/llama-golden/{name}.json"));
    let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap()
}

/// The matrices of a file in another block type.
struct Requantised<'source> {
    source: &'source FileSource<'source>,
    wanted: (ElementType, GgmlDType),
}

impl TensorSource for Requantised<'_> {
    fn tensor(&self, name: &str) -> Option<StoredTensor<'_>> {
        let stored = self.source.tensor(name)?;
        if stored.rows == 1 {
            return Some(stored);
        }
        let whole = stored.columns.is_multiple_of(self.wanted.1.block_size());
        let (element_type, candle_type) = if whole {
            self.wanted
        } else {
            (ElementType::Q8_0, GgmlDType::Q8_0)
        };
        let mut values = vec![0.0; stored.rows * stored.columns];
        for (row, values) in values.chunks_exact_mut(stored.columns).enumerate() {
            stored.dequantise_row(row, values);
        }
        let tensor = Tensor::from_vec(values, (stored.rows, stored.columns), &Device::Cpu).unwrap();
        let bytes = QTensor::quantize(&tensor, candle_type)
            .unwrap()
            .data()
            .unwrap()
            .into_owned();
        Some(StoredTensor {
            element_type,
            bytes: bytes.into(),
            ..stored
        })
    }
}

/// What is made of the file's weights.
enum Weights {
    Stored,
    Floats(ElementType),
    Blocks(ElementType, GgmlDType),
}

/// Holds the decoder against a record.
fn compare(name: &str, weights: &Weights) {
    let folder = std::env::var_os("LEM_MODEL_DIRECTORY").map_or_else(|| repository().join("models"), PathBuf::from);
    let path = folder.join("SmolLM2-135M-Instruct.Q4_1.gguf");
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}: `make model`", path.display()));
    let header = validate_gguf(&mut Cursor::new(&bytes), bytes.len() as u64).unwrap();
    let architecture = Architecture::from_gguf(&header).unwrap();
    let file = WeightFile {
        tensors: &header.tensors,
        bytes: &bytes,
    };
    let source = FileSource::gguf(&architecture, file).unwrap();
    let golden = recorded(name);
    let length = |case: &record::Case| case.prompt.len() + case.forced.len();
    let positions = golden.cases.iter().map(length).max().unwrap();
    let blocks = positions.div_ceil(BLOCK_POSITIONS);
    let configuration = DecoderConfiguration {
        blocks,
        // As llama.cpp's.
        cache_type: CacheType::F16,
        token_budget: positions,
        sampled_rows: positions,
        context_length: positions,
        threads: 2,
        instruction_set: None,
        weight_type: match weights {
            Weights::Floats(element_type) => Some(*element_type),
            _ => None,
        },
        conventions: FileSource::gguf_conventions(&architecture),
    };
    let requantised = match weights {
        Weights::Blocks(element_type, candle_type) => Some(Requantised {
            source: &source,
            wanted: (*element_type, *candle_type),
        }),
        _ => None,
    };
    let source: &dyn TensorSource = requantised.as_ref().map_or(&source, |requantised| requantised);
    let mut decoder = Decoder::new(&architecture, source, &configuration).unwrap();
    let table: Vec<u32> = (0..blocks as u32).collect();
    let mut batch = Batch::default();
    let mut differences = Vec::new();
    for case in &golden.cases {
        let mut tokens = case.prompt.clone();
        for (index, position) in case.positions.iter().enumerate() {
            batch.clear();
            // The prompt at once, then a token at a time, as llama.cpp got them.
            let start = tokens.len() - if index == 0 { tokens.len() } else { 1 };
            batch.push(&tokens[start..], start, &table, true);
            let logits = decoder.forward(&batch).unwrap();
            differences.push(Difference::between(position, logits.row(0)));
            tokens.extend(case.forced.get(index));
        }
    }
    assert!(
        differences.len() >= 64,
        "{name}: {} positions are too few",
        differences.len()
    );
    let far = differences.iter().filter(|difference| !difference.near_choice).count();
    let mean = differences.iter().map(|difference| difference.divergence).sum::<f64>() / differences.len() as f64;
    let limit = divergence_limit(&golden.file);
    assert!(
        far == 0 && mean <= limit,
        "{name} with {}: at {far} of {} positions the choice is not among llama.cpp's best; divergence {mean:.2e} nats, \
         limit {limit:.2e}",
        decoder.instruction_set().name(),
        differences.len()
    );
}

#[test]
fn weights_of_q4_1_give_the_probabilities_that_llama_cpp_gives() {
    compare("q4_1", &Weights::Stored);
}

#[test]
fn weights_of_q4_0_give_the_probabilities_that_llama_cpp_gives() {
    compare("q4_0", &Weights::Blocks(ElementType::Q4_0, GgmlDType::Q4_0));
}

#[test]
fn weights_of_q8_0_give_the_probabilities_that_llama_cpp_gives() {
    compare("q8_0", &Weights::Blocks(ElementType::Q8_0, GgmlDType::Q8_0));
}

#[test]
fn weights_of_q4_k_give_the_probabilities_that_llama_cpp_gives() {
    compare("q4_k", &Weights::Blocks(ElementType::Q4K, GgmlDType::Q4K));
}

#[test]
fn weights_of_bf16_give_the_probabilities_that_llama_cpp_gives() {
    compare("bf16", &Weights::Floats(ElementType::Bf16));
}

#[test]
fn weights_of_f32_give_the_probabilities_that_llama_cpp_gives() {
    compare("f32", &Weights::Floats(ElementType::F32));
}
