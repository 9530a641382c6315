//! From a resolved source to an engine.

mod generated;
mod gguf;
mod safetensors;

use std::collections::HashMap;

use candle_core::{DType, Device};

use super::CandleEngine;
use super::model::Model;
use crate::engine::architecture::Architecture;
use crate::engine::architecture::{Role, expected_tensors};
use crate::engine::header::TensorRecord;
use crate::engine::source::ResolvedModel;
use crate::engine::{
    ComputePrecision, DeviceChoice, EngineDescription, EngineError, ExecutionCounts, LoadRequest, TextTokenizer,
    WeightType,
};
use crate::flops::CountedFlops;

/// Version of candle-core; a test compares it with the lock file.
pub(super) const CANDLE_VERSION: &str = "0.11.1";

/// Everything that is known once the weights are loaded.
struct Loaded {
    model: Model,
    architecture: Architecture,
    /// All tensors, under the names of safetensors files.
    tensors: Vec<TensorRecord>,
    dtype: DType,
    quantisation: Option<String>,
    weight_bytes: u64,
    weights_digest: String,
    tokenizer: Option<TextTokenizer>,
    end_of_sequence: Vec<u32>,
}

impl CandleEngine {
    /// Checks the files of a source and builds the model on the device.
    pub fn load(resolved: &ResolvedModel, request: &LoadRequest) -> Result<Self, EngineError> {
        let device = select_device(request.device)?;
        if device.is_cpu() && std::env::var_os("CANDLE_NUM_THREADS").is_none() {
            tracing::warn!("CANDLE_NUM_THREADS is not set: candle's own choice can be many times slower");
        }
        let loaded = match resolved {
            ResolvedModel::Gguf(path) => gguf::load_gguf(path, &device, request.dtype)?,
            ResolvedModel::Safetensors(files) => safetensors::load_safetensors(files, &device, request.dtype)?,
            ResolvedModel::Synthetic {
                name,
                architecture,
                seed,
            } => generated::load_synthetic(name, architecture.clone(), *seed, &device, request.dtype)?,
        };
        Ok(Self::assemble(loaded, device))
    }

    fn assemble(loaded: Loaded, device: Device) -> Self {
        let architecture = loaded.architecture;
        let expected = expected_tensors(&architecture);
        let shape_of = |name: &str| {
            loaded
                .tensors
                .iter()
                .find(|tensor| tensor.name == name)
                .map(matrix_shape)
        };
        let layer_matrices = expected
            .iter()
            .filter(|tensor| tensor.role == Role::Matrix)
            .filter_map(|tensor| shape_of(&tensor.name));
        let head = shape_of("lm_head.weight")
            .or_else(|| shape_of("model.embed_tokens.weight"))
            .unwrap_or_default();
        let flops = CountedFlops::new(&architecture, layer_matrices, head, loaded.model.window_use());
        let cache_bytes_per_position =
            2 * (architecture.layers * architecture.key_value_width() * loaded.dtype.size_in_bytes()) as u64;
        let description = EngineDescription {
            name: "candle",
            version: CANDLE_VERSION,
            device: match device.location() {
                candle_core::DeviceLocation::Cpu => "cpu".to_owned(),
                candle_core::DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
                candle_core::DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
            },
            dtype: loaded.dtype.as_str().to_owned(),
            compute_precision: compute_precision(loaded.quantisation.is_some(), loaded.dtype, &device),
            quantisation: loaded.quantisation,
            weight_bytes: loaded.weight_bytes,
            parameters: loaded.tensors.iter().map(TensorRecord::elements).sum(),
            context_length: architecture.context_length,
            vocabulary_size: architecture.vocabulary_size,
            weights_digest: loaded.weights_digest,
            architecture,
        };
        Self {
            model: loaded.model,
            device,
            description,
            tokenizer: loaded.tokenizer,
            end_of_sequence: loaded.end_of_sequence,
            flops,
            counts: ExecutionCounts::default(),
            cache_bytes_per_position,
            sequence: None,
        }
    }
}

fn matrix_shape(tensor: &TensorRecord) -> [u64; 2] {
    match tensor.shape.as_slice() {
        [rows, columns] => [*rows as u64, *columns as u64],
        _ => [0, 0],
    }
}

fn compute_precision(quantised: bool, dtype: DType, device: &Device) -> ComputePrecision {
    match (quantised, dtype) {
        // candle quantises the activations to 8 bits and multiplies integers, on the CPU and on CUDA.
        (true, _) => ComputePrecision::Int8,
        (false, DType::BF16) if device.is_cuda() => ComputePrecision::Bf16,
        (false, DType::F16) => ComputePrecision::Fp16,
        // On the CPU candle widens BF16 before it multiplies.
        (false, _) => ComputePrecision::Fp32,
    }
}

fn select_device(choice: DeviceChoice) -> Result<Device, EngineError> {
    let unavailable = |index| {
        move |source| EngineError::Device {
            device: format!("cuda:{index}"),
            source,
        }
    };
    match choice {
        DeviceChoice::Auto if candle_core::utils::cuda_is_available() => Device::new_cuda(0).map_err(unavailable(0)),
        DeviceChoice::Auto | DeviceChoice::Cpu => Ok(Device::Cpu),
        DeviceChoice::Cuda(index) => Device::new_cuda(index).map_err(unavailable(index)),
    }
}

/// The element type of unquantised weights.
fn element_type(requested: Option<WeightType>, device: &Device, what: &str) -> Result<DType, EngineError> {
    match requested {
        None if device.is_cuda() => Ok(DType::BF16),
        None | Some(WeightType::F32) => Ok(DType::F32),
        Some(WeightType::F16) => Ok(DType::F16),
        Some(WeightType::Bf16) => Ok(DType::BF16),
        Some(other) => Err(EngineError::WeightType {
            what: what.to_owned(),
            dtype: other.name(),
        }),
    }
}

/// The element type of most elements, if it is a block type.
fn quantisation(tensors: &[TensorRecord]) -> Option<String> {
    let mut elements: HashMap<&str, u64> = HashMap::new();
    for tensor in tensors {
        *elements.entry(&tensor.element_type).or_default() += tensor.elements();
    }
    let (name, _) = elements.into_iter().max_by_key(|(_, elements)| *elements)?;
    name.starts_with('Q').then(|| name.to_owned())
}
