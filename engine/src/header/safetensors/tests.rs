use std::io::Cursor;

use candle_core::{DType, Device, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

fn small_file() -> Vec<u8> {
    let tensor = |shape: (usize, usize), dtype| Tensor::ones(shape, dtype, &Device::Cpu).unwrap();
    let tensors = [
        ("first", tensor((4, 8), DType::F32)),
        ("second", tensor((2, 3), DType::BF16)),
    ];
    ::safetensors::serialize(tensors, None).unwrap()
}

fn check(bytes: &[u8]) -> Result<SafetensorsHeader, HeaderError> {
    validate_safetensors(&mut Cursor::new(bytes), bytes.len() as u64)
}

#[test]
fn an_intact_file_is_described_completely() {
    let header = check(&small_file()).unwrap();
    let mut tensors: Vec<_> = header
        .tensors
        .iter()
        .map(|tensor| (tensor.name.as_str(), tensor.shape.clone(), tensor.bytes))
        .collect();
    tensors.sort();
    assert_eq!(tensors, [("first", vec![4, 8], 128), ("second", vec![2, 3], 12)]);
}

#[test]
fn a_file_cut_or_extended_anywhere_is_refused() {
    let file = small_file();
    for length in 0..file.len() {
        assert!(check(&file[..length]).is_err(), "cut to {length} bytes");
    }
    let mut extended = file;
    extended.push(0);
    assert!(check(&extended).unwrap_err().to_string().contains("its tensors end at"));
}

#[test]
fn a_header_length_beyond_the_file_is_refused_before_it_is_allocated() {
    let mut file = small_file();
    file[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(matches!(
        check(&file).unwrap_err(),
        HeaderError::TooLarge { found: u64::MAX, .. }
    ));
}

#[test]
fn mutated_headers_never_panic_and_what_passes_can_be_loaded() {
    let file = small_file();
    let header_length = 8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let mut random = ChaCha8Rng::seed_from_u64(2);
    let alphabet = b"0123456789{}[],:\"\\ BF";
    let mut accepted = 0;
    for _ in 0..20_000 {
        let mut mutated = file.clone();
        for _ in 0..random.random_range(1..3) {
            let at = random.random_range(0..header_length);
            mutated[at] = if random.random() {
                alphabet[random.random_range(0..alphabet.len())]
            } else {
                random.random()
            };
        }
        if check(&mutated).is_ok() {
            accepted += 1;
            candle_core::safetensors::load_buffer(&mutated, &Device::Cpu).unwrap();
        }
    }
    assert!(accepted > 100, "only {accepted} mutated files passed");
}
