use std::io::Cursor;

use candle_core::quantized::gguf_file::{Content, Value, write};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::architecture::Architecture;

/// A small GGUF file with every kind of metadata that the loader reads.
fn small_file() -> Vec<u8> {
    let text = |text: &str| Value::String(text.to_owned());
    let texts = |values: &[&str]| Value::Array(values.iter().map(|value| text(value)).collect());
    let metadata = [
        ("general.architecture", text("llama")),
        ("general.alignment", Value::U32(32)),
        ("llama.block_count", Value::U32(1)),
        ("llama.context_length", Value::U64(64)),
        ("llama.embedding_length", Value::U32(32)),
        ("llama.feed_forward_length", Value::U32(64)),
        ("llama.attention.head_count", Value::U32(2)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.tokens", texts(&["a", "b", "ab"])),
        ("tokenizer.ggml.merges", texts(&["a b"])),
        (
            "tokenizer.ggml.token_type",
            Value::Array(vec![Value::I32(1), Value::I32(1), Value::I32(3)]),
        ),
        ("tokenizer.ggml.add_bos_token", Value::Bool(false)),
    ];
    let tensor = |shape: (usize, usize), dtype| {
        QTensor::quantize(&Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap(), dtype).unwrap()
    };
    let tensors = [
        ("token_embd.weight", tensor((3, 32), GgmlDType::Q4_1)),
        ("blk.0.attn_q.weight", tensor((32, 32), GgmlDType::Q8_0)),
        ("blk.0.ffn_up.weight", tensor((64, 32), GgmlDType::F32)),
    ];
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(key, value)| (*key, value)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (*name, tensor)).collect();
    let mut buffer = Cursor::new(Vec::new());
    write(&mut buffer, &metadata, &tensors).unwrap();
    buffer.into_inner()
}

fn check(bytes: &[u8]) -> Result<GgufHeader, HeaderError> {
    validate_gguf(&mut Cursor::new(bytes), bytes.len() as u64)
}

#[test]
fn an_intact_file_is_described_completely() {
    let header = check(&small_file()).unwrap();
    assert_eq!(header.text("general.architecture"), Some("llama"));
    assert_eq!(header.unsigned("llama.context_length"), Some(64));
    assert_eq!(header.boolean("tokenizer.ggml.add_bos_token"), Some(false));
    assert_eq!(header.texts("tokenizer.ggml.tokens").unwrap().len(), 3);
    let query = header
        .tensors
        .iter()
        .find(|tensor| tensor.name == "blk.0.attn_q.weight")
        .unwrap();
    assert_eq!(
        (query.shape.as_slice(), query.element_type.as_str(), query.bytes),
        ([32, 32].as_slice(), "Q8_0", 1088)
    );
    let embedding = header
        .tensors
        .iter()
        .find(|tensor| tensor.name == "token_embd.weight")
        .unwrap();
    assert_eq!((embedding.shape.as_slice(), embedding.bytes), ([3, 32].as_slice(), 60));
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let file = small_file();
    let last_data = file.len() - 32;
    for length in (0..last_data).step_by(7) {
        let error = check(&file[..length]).unwrap_err();
        assert!(!error.to_string().is_empty(), "cut to {length} bytes");
    }
}

#[test]
fn a_wrong_magic_and_a_wrong_version_are_named() {
    let mut file = small_file();
    file[4] = 9;
    assert_eq!(
        check(&file).unwrap_err().to_string(),
        "GGUF version 9 is not supported (supported: 2, 3)"
    );
    file[0] = b'X';
    assert!(check(&file).unwrap_err().to_string().starts_with("not a GGUF file"));
}

#[test]
fn a_count_that_the_file_cannot_hold_is_refused_before_anything_is_allocated() {
    let mut file = small_file();
    file[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(matches!(
        check(&file).unwrap_err(),
        HeaderError::TooLarge { found: u64::MAX, .. }
    ));
    let mut file = small_file();
    // The length of the first key.
    file[24..32].copy_from_slice(&(1_u64 << 40).to_le_bytes());
    assert!(matches!(check(&file).unwrap_err(), HeaderError::TooLarge { .. }));
}

#[test]
fn mutated_headers_never_panic_and_what_passes_can_be_parsed_by_everything_after() {
    let file = small_file();
    let header_length = check(&file).unwrap().data_offset as usize;
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let extremes = [0_u8, 1, 0x7f, 0x80, 0xff];
    let mut accepted = 0;
    for _ in 0..20_000 {
        let mut mutated = file.clone();
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(0..header_length);
            match random.random_range(0..4) {
                0 => mutated[at] = random.random(),
                1 => mutated[at] = extremes[random.random_range(0..extremes.len())],
                2 => mutated[at] ^= 1 << random.random_range(0..8),
                _ => {
                    let end = (at + 8).min(header_length);
                    mutated[at..end].fill(extremes[random.random_range(0..extremes.len())]);
                }
            }
        }
        if random.random_range(0..10) == 0 {
            mutated.truncate(random.random_range(0..mutated.len()));
        }
        let Ok(header) = check(&mutated) else { continue };
        accepted += 1;
        // It may not panic; an error is fine.
        let _ = Architecture::from_gguf(&header);
        let mut reader = Cursor::new(&mutated);
        let contents = Content::read(&mut reader).unwrap();
        for name in contents.tensor_infos.keys() {
            contents.tensor(&mut reader, name, &Device::Cpu).unwrap();
        }
    }
    assert!(
        accepted > 100,
        "only {accepted} mutated files passed: the mutations do not reach the later checks"
    );
}
