//! Random tensors and models for the tests of this crate.

use std::collections::HashMap;

use half::f16;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::architecture::{Architecture, Role, expected_tensors};
use crate::tensor::{ElementType, StoredTensor, TensorSource};

/// Stored rows of any bit patterns, with scales such that values are around one tenth.
pub(crate) fn random_bytes(element_type: ElementType, elements: usize, random: &mut ChaCha8Rng) -> Vec<u8> {
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

/// A model of random weights in memory.
pub(crate) struct RandomModel {
    tensors: HashMap<String, (ElementType, usize, usize, Vec<u8>)>,
}

impl RandomModel {
    /// Weights of a shape whose matrices have this type.
    pub(crate) fn new(architecture: &Architecture, element_type: ElementType, seed: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let tensors = expected_tensors(architecture)
            .into_iter()
            .map(|tensor| {
                let columns = *tensor.shape.last().unwrap();
                let rows = tensor.shape[..tensor.shape.len() - 1].iter().product();
                let (element_type, bytes) = if tensor.role == Role::Norm {
                    let values: Vec<u8> = (0..columns)
                        .flat_map(|_| random.random_range(0.5_f32..1.5).to_le_bytes())
                        .collect();
                    (ElementType::F32, values)
                } else if tensor.role == Role::Bias {
                    (ElementType::F32, random_bytes(ElementType::F32, columns, &mut random))
                } else {
                    (element_type, random_bytes(element_type, rows * columns, &mut random))
                };
                (tensor.name, (element_type, rows, columns, bytes))
            })
            .collect();
        Self { tensors }
    }
}

impl TensorSource for RandomModel {
    fn tensor(&self, name: &str) -> Option<StoredTensor<'_>> {
        let (element_type, rows, columns, bytes) = self.tensors.get(name)?;
        Some(StoredTensor {
            element_type: *element_type,
            rows: *rows,
            columns: *columns,
            bytes,
        })
    }
}
