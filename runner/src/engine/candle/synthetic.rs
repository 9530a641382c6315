//! Random weights of a given shape.

use std::collections::HashMap;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Result, Tensor};
use half::{bf16, f16};
use lem_engine::tensor::ElementType;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};

use crate::engine::WeightType;
use crate::engine::architecture::{Architecture, ExpectedTensor, Role, expected_tensors};
use crate::engine::header::TensorRecord;

/// Standard deviation of the weights, as in the initialisation of most of these models.
const STANDARD_DEVIATION: f32 = 0.02;

/// All tensors of a model, by their names in safetensors files. The same seed gives the same values on every machine.
pub(super) fn tensors(
    architecture: &Architecture,
    seed: u64,
    dtype: DType,
    device: &Device,
) -> Result<HashMap<String, Tensor>> {
    expected_tensors(architecture)
        .into_iter()
        .map(|expected| {
            let values = tensor(architecture, &expected, seed, dtype)?.to_device(device)?;
            Ok((expected.name, values))
        })
        .collect()
}

/// One tensor on the CPU. Matrices and biases are uniform around 0; normalisations scale by 1.
pub(super) fn tensor(
    architecture: &Architecture,
    expected: &ExpectedTensor,
    seed: u64,
    dtype: DType,
) -> Result<Tensor> {
    if expected.role == Role::Norm {
        // The Gemma models add 1 to the scale in the file.
        let plus_one = architecture.family.is_gemma();
        let scale = if plus_one { 0_f32 } else { 1_f32 };
        return Tensor::full(scale, expected.shape.as_slice(), &Device::Cpu)?.to_dtype(dtype);
    }
    // Each tensor has its own stream, so that its values do not depend on the order of the list.
    let digest = Sha256::new()
        .chain_update(seed.to_le_bytes())
        .chain_update(&expected.name)
        .finalize();
    let mut random = ChaCha8Rng::from_seed(digest.into());
    let width = STANDARD_DEVIATION * 3_f32.sqrt();
    let mut draw = || random.random_range(-width..width);
    let count: usize = expected.shape.iter().product();
    let shape = expected.shape.as_slice();
    match dtype {
        DType::BF16 => {
            let values: Vec<bf16> = (0..count).map(|_| bf16::from_f32(draw())).collect();
            Tensor::from_vec(values, shape, &Device::Cpu)
        }
        DType::F16 => {
            let values: Vec<f16> = (0..count).map(|_| f16::from_f32(draw())).collect();
            Tensor::from_vec(values, shape, &Device::Cpu)
        }
        dtype => {
            let values: Vec<f32> = (0..count).map(|_| draw()).collect();
            Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(dtype)
        }
    }
}

/// The bytes of a generated tensor, as a file would store it. `element_type` is a float, `Q4_0` or `Q8_0`.
pub(in crate::engine) fn generate(
    architecture: &Architecture,
    expected: &ExpectedTensor,
    seed: u64,
    element_type: ElementType,
) -> Result<Vec<u8>> {
    let dtype = match element_type {
        ElementType::F16 => GgmlDType::F16,
        ElementType::Bf16 => GgmlDType::BF16,
        ElementType::Q4_0 => GgmlDType::Q4_0,
        ElementType::Q8_0 => GgmlDType::Q8_0,
        _ => GgmlDType::F32,
    };
    let values = tensor(architecture, expected, seed, DType::F32)?;
    Ok(QTensor::quantize(&values, dtype)?.data()?.into_owned())
}

/// Describes a generated tensor as the header of a file would.
pub(super) fn record(expected: ExpectedTensor, block: Option<WeightType>, element_bytes: u64) -> TensorRecord {
    let elements: u64 = expected.shape.iter().map(|&extent| extent as u64).product();
    let (element_type, bytes) = match block.filter(|_| expected.shape.len() == 2) {
        Some(WeightType::Q4_0) => ("Q4_0", elements / 32 * 18),
        Some(WeightType::Q8_0) => ("Q8_0", elements / 32 * 34),
        _ => ("float", elements * element_bytes),
    };
    TensorRecord {
        name: expected.name,
        shape: expected.shape,
        element_type: element_type.to_owned(),
        bytes,
        offset: 0,
    }
}
