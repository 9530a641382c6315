//! From a resolved source to an engine.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file;
use candle_core::{DType, Device};
use candle_nn::VarBuilder;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::CandleEngine;
use super::model::Model;
use super::quantised;
use super::synthetic;
use super::tensors::{Role, expected_tensors, gguf_name};
use crate::engine::architecture::{Architecture, Family};
use crate::engine::header::{GgufHeader, TensorRecord, validate_gguf, validate_safetensors};
use crate::engine::source::{ResolvedModel, SafetensorsFiles};
use crate::engine::{
    ComputePrecision, DeviceChoice, EngineDescription, EngineError, ExecutionCounts, LoadRequest, TextTokenizer,
    TokenizerError, WeightType,
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
    /// Resolves the source, checks its files and builds the model on the device.
    pub fn load(request: &LoadRequest) -> Result<Self, EngineError> {
        let resolved = request
            .source
            .resolve()
            .map_err(|source| EngineError::Source { source })?;
        let device = select_device(request.device)?;
        let loaded = match resolved {
            ResolvedModel::Gguf(path) => load_gguf(&path, &device, request.dtype)?,
            ResolvedModel::Safetensors(files) => load_safetensors(&files, &device, request.dtype)?,
            ResolvedModel::Synthetic {
                name,
                architecture,
                seed,
            } => load_synthetic(&name, architecture, seed, &device, request.dtype)?,
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

fn open(path: &Path) -> Result<(File, u64), EngineError> {
    let failed = |source| EngineError::ReadFile {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    Ok((file, length))
}

fn load_gguf(path: &Path, device: &Device, requested: Option<WeightType>) -> Result<Loaded, EngineError> {
    let origin = path.display().to_string();
    let (file, length) = open(path)?;
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let header = validate_gguf(&mut reader, length).map_err(|source| EngineError::Header {
        path: path.to_owned(),
        source,
    })?;
    let architecture = Architecture::from_gguf(&header).map_err(|source| EngineError::Architecture {
        origin: origin.clone(),
        source,
    })?;
    let tensors = named_tensors(path, &architecture, &header)?;
    // candle ignores the frequency factors of Llama 3.1 and later: rotary positions are then those of Llama 3.
    if header.tensors.iter().any(|tensor| tensor.name == "rope_freqs.weight") {
        tracing::warn!(
            file = origin,
            "the engine ignores rope_freqs.weight: same work, less exact output"
        );
    }
    let tokenizer = TextTokenizer::from_gguf(&header, &origin).map_err(|source| EngineError::Tokenizer { source })?;
    let weights_digest = digest(std::slice::from_ref(&path.to_owned()))?;
    let failed = |source| EngineError::Load {
        origin: origin.clone(),
        source,
    };
    reader.rewind().map_err(|source| EngineError::ReadFile {
        path: path.to_owned(),
        source,
    })?;
    let contents = gguf_file::Content::read(&mut reader).map_err(failed)?;
    let dequantised = match requested {
        None => false,
        Some(WeightType::F32) => true,
        Some(other) => {
            return Err(EngineError::WeightType {
                what: origin,
                dtype: other.name(),
            });
        }
    };
    let model = if dequantised {
        let (contents, mut buffer) = quantised::dequantise(&contents, &mut reader).map_err(failed)?;
        Model::from_gguf(architecture.family, contents, &mut buffer, device)
    } else {
        Model::from_gguf(architecture.family, contents, &mut reader, device)
    }
    .map_err(failed)?;
    Ok(Loaded {
        model,
        quantisation: if dequantised { None } else { quantisation(&tensors) },
        weight_bytes: tensors
            .iter()
            .map(|tensor| {
                if dequantised {
                    4 * tensor.elements()
                } else {
                    tensor.bytes
                }
            })
            .sum(),
        architecture,
        tensors,
        dtype: DType::F32,
        weights_digest,
        tokenizer: Some(tokenizer),
        end_of_sequence: TextTokenizer::end_of_sequence_tokens(&header),
    })
}

/// The expected tensors of a GGUF file under the names of safetensors files, after a check of their shapes.
fn named_tensors(
    path: &Path,
    architecture: &Architecture,
    header: &GgufHeader,
) -> Result<Vec<TensorRecord>, EngineError> {
    let found: HashMap<&str, &TensorRecord> = header
        .tensors
        .iter()
        .map(|tensor| (tensor.name.as_str(), tensor))
        .collect();
    let mut tensors = Vec::new();
    for expected in expected_tensors(architecture) {
        let name = gguf_name(architecture, &expected.name);
        let tensor = check_shape(path, &name, &expected.shape, found.get(name.as_str()).copied())?;
        tensors.push(TensorRecord {
            name: expected.name,
            ..tensor.clone()
        });
    }
    Ok(tensors)
}

fn check_shape<'a>(
    path: &Path,
    name: &str,
    expected: &[usize],
    found: Option<&'a TensorRecord>,
) -> Result<&'a TensorRecord, EngineError> {
    let failed = |found| EngineError::Tensor {
        path: path.to_owned(),
        tensor: name.to_owned(),
        expected: expected.to_vec(),
        found,
    };
    match found {
        None => Err(failed("it is missing".to_owned())),
        Some(tensor) if tensor.shape != expected => Err(failed(format!("has {:?}", tensor.shape))),
        Some(tensor) => Ok(tensor),
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

fn load_safetensors(
    files: &SafetensorsFiles,
    device: &Device,
    requested: Option<WeightType>,
) -> Result<Loaded, EngineError> {
    let path = &files.configuration;
    let origin = path.display().to_string();
    let dtype = element_type(requested, device, &origin)?;
    let read = |path: &PathBuf| {
        std::fs::read(path).map_err(|source| EngineError::ReadFile {
            path: path.clone(),
            source,
        })
    };
    let configuration = read(path)?;
    let architecture =
        Architecture::from_configuration(&configuration).map_err(|source| EngineError::Architecture {
            origin: origin.clone(),
            source,
        })?;
    let mut records = Vec::new();
    for path in &files.weights {
        let (file, length) = open(path)?;
        let header = validate_safetensors(&mut BufReader::new(file), length).map_err(|source| EngineError::Header {
            path: path.clone(),
            source,
        })?;
        records.extend(header.tensors);
    }
    let found: HashMap<&str, &TensorRecord> = records.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
    let directory = path.parent().unwrap_or(path);
    let mut tensors = Vec::new();
    let mut expected = expected_tensors(&architecture);
    // candle's mistral reads a head of its own even if the configuration says that it is tied.
    expected.retain(|tensor| tensor.name != "lm_head.weight" || !architecture.tied_embeddings);
    for expected in expected {
        let tensor = found.get(expected.name.as_str()).copied();
        tensors.push(check_shape(directory, &expected.name, &expected.shape, tensor)?.clone());
    }
    let tokenizer = match TextTokenizer::from_file(&files.tokenizer) {
        Ok(tokenizer) => tokenizer,
        Err(source @ TokenizerError::Missing { .. }) => return Err(EngineError::Tokenizer { source }),
        Err(source) => return Err(EngineError::Tokenizer { source }),
    };
    let mut end_of_sequence = Vec::new();
    if files.generation_configuration.is_file() {
        end_of_sequence = end_tokens(&read(&files.generation_configuration)?);
    }
    if end_of_sequence.is_empty() {
        end_of_sequence = end_tokens(&configuration);
    }
    let weights_digest = digest(&files.weights)?;
    let failed = |source| EngineError::Load {
        origin: origin.clone(),
        source,
    };
    #[expect(
        unsafe_code,
        reason = "candle maps the files; nothing else writes them while the process runs"
    )]
    // SAFETY: the map is only read. Its header has been checked; a file that another process shortened meanwhile would
    // end this process with a bus error, not corrupt its memory.
    let weights = unsafe { VarBuilder::from_mmaped_safetensors(&files.weights, dtype, device) }.map_err(failed)?;
    let model = Model::from_tensors(&architecture, weights).map_err(failed)?;
    let elements: u64 = tensors.iter().map(TensorRecord::elements).sum();
    Ok(Loaded {
        model,
        architecture,
        tensors,
        dtype,
        quantisation: None,
        weight_bytes: elements * dtype.size_in_bytes() as u64,
        weights_digest,
        tokenizer: Some(tokenizer),
        end_of_sequence,
    })
}

/// `eos_token_id` of a configuration: one token or several.
fn end_tokens(json: &[u8]) -> Vec<u32> {
    let token = |value: &Value| value.as_u64().and_then(|token| u32::try_from(token).ok());
    match serde_json::from_slice::<Value>(json)
        .ok()
        .as_ref()
        .and_then(|root| root.get("eos_token_id"))
    {
        Some(Value::Array(tokens)) => tokens.iter().filter_map(token).collect(),
        Some(value) => token(value).into_iter().collect(),
        None => Vec::new(),
    }
}

fn load_synthetic(
    name: &str,
    architecture: Architecture,
    seed: u64,
    device: &Device,
    requested: Option<WeightType>,
) -> Result<Loaded, EngineError> {
    architecture.validate().map_err(|source| EngineError::Architecture {
        origin: name.to_owned(),
        source,
    })?;
    let failed = |source| EngineError::Load {
        origin: name.to_owned(),
        source,
    };
    let (model, architecture, dtype, block) = match (requested, architecture.family) {
        (Some(block @ (WeightType::Q4_0 | WeightType::Q8_0)), Family::Llama) => {
            let (contents, mut buffer) = quantised::synthesise(&architecture, seed, block).map_err(failed)?;
            // Checked like a file: the context is cut to what candle's quantised model supports.
            let length = buffer.get_ref().len() as u64;
            let path = PathBuf::from(name);
            let header = validate_gguf(&mut buffer, length).map_err(|source| EngineError::Header { path, source })?;
            let architecture = Architecture::from_gguf(&header).map_err(|source| EngineError::Architecture {
                origin: name.to_owned(),
                source,
            })?;
            let model = Model::from_gguf(Family::Llama, contents, &mut buffer, device).map_err(failed)?;
            (model, architecture, DType::F32, Some(block))
        }
        (requested, _) => {
            let dtype = element_type(requested, device, name)?;
            let tensors = synthetic::tensors(&architecture, seed, dtype, device).map_err(failed)?;
            let weights = VarBuilder::from_tensors(tensors, dtype, device);
            let model = Model::from_tensors(&architecture, weights).map_err(failed)?;
            (model, architecture, dtype, None)
        }
    };
    let tensors: Vec<TensorRecord> = expected_tensors(&architecture)
        .into_iter()
        .map(|tensor| synthetic::record(tensor, block, dtype.size_in_bytes() as u64))
        .collect();
    Ok(Loaded {
        model,
        architecture,
        dtype,
        quantisation: block.and_then(|_| quantisation(&tensors)),
        weight_bytes: tensors.iter().map(|tensor| tensor.bytes).sum(),
        tensors,
        weights_digest: format!("synthetic:{name}:{seed}"),
        tokenizer: None,
        end_of_sequence: Vec::new(),
    })
}

/// The hexadecimal SHA-256 of a file; of several files, that of the concatenation of their digests.
fn digest(paths: &[PathBuf]) -> Result<String, EngineError> {
    let mut digests = Vec::new();
    let mut buffer = vec![0; 1 << 20];
    for path in paths {
        let failed = |source| EngineError::ReadFile {
            path: path.clone(),
            source,
        };
        let (mut file, _) = open(path)?;
        let mut hash = Sha256::new();
        loop {
            match file.read(&mut buffer).map_err(failed)? {
                0 => break,
                count => hash.update(&buffer[..count]),
            }
        }
        digests.push(hash.finalize());
    }
    let digest = match digests.as_slice() {
        [digest] => *digest,
        digests => digests
            .iter()
            .fold(Sha256::new(), |hash, digest| hash.chain_update(digest))
            .finalize(),
    };
    Ok(format!("{digest:x}"))
}
