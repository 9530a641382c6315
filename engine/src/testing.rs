//! Random tensors and models for the tests of this crate and of decoders on other devices.

use half::f16;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::architecture::{Architecture, Role, expected_tensors};
use crate::source::MemorySource;
use crate::tensor::ElementType;

/// Stored rows of any bit patterns, with scales such that values are around one tenth.
pub fn random_bytes(element_type: ElementType, elements: usize, random: &mut ChaCha8Rng) -> Vec<u8> {
    let mut bytes = vec![0; element_type.bytes(elements)];
    random.fill(bytes.as_mut_slice());
    let mut half = |limit: f32| f16::from_f32(random.random_range(-limit..limit)).to_le_bytes();
    for block in bytes.chunks_exact_mut(element_type.block_bytes()) {
        match element_type {
            ElementType::F32 => block.copy_from_slice(&f16::from_le_bytes(half(0.2)).to_f32().to_le_bytes()),
            ElementType::F16 => block.copy_from_slice(&half(0.2)),
            ElementType::Bf16 => {
                let value = f16::from_le_bytes(half(0.2)).to_f32();
                block.copy_from_slice(&half::bf16::from_f32(value).to_le_bytes());
            }
            ElementType::Q4_0 => block[..2].copy_from_slice(&half(0.02)),
            ElementType::Q8_0 => block[..2].copy_from_slice(&half(0.002)),
            ElementType::Q4_1 => {
                block[..2].copy_from_slice(&half(0.02));
                block[2..4].copy_from_slice(&half(0.1));
            }
            ElementType::Q4K => {
                block[..2].copy_from_slice(&half(0.0005));
                block[2..4].copy_from_slice(&half(0.002));
            }
            ElementType::Q6K => block[208..].copy_from_slice(&half(0.0001)),
        }
    }
    bytes
}

/// A model of random weights of a shape whose matrices have this type.
pub fn random_model(architecture: &Architecture, element_type: ElementType, seed: u64) -> MemorySource {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut model = MemorySource::default();
    for tensor in expected_tensors(architecture) {
        let elements = tensor.shape.iter().product();
        let (element_type, bytes) = match tensor.role {
            Role::Norm => {
                let mut scale = || random.random_range(0.5_f32..1.5).to_le_bytes();
                (ElementType::F32, (0..elements).flat_map(|_| scale()).collect())
            }
            Role::Bias => (ElementType::F32, random_bytes(ElementType::F32, elements, &mut random)),
            _ => (element_type, random_bytes(element_type, elements, &mut random)),
        };
        model.insert(tensor.name, element_type, &tensor.shape, bytes);
    }
    model
}
