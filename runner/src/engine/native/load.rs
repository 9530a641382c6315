//! From a resolved source to an engine.

use std::io::Cursor;
use std::path::{Path, PathBuf};

use lem_engine::{
    batch::{BLOCK_POSITIONS, Batch},
    cache::CacheType,
    decoder::{DecoderConfiguration, SourceConventions},
    scheduler::Scheduler,
    source::{FileSource, WeightFile},
    tensor::{ElementType, TensorSource},
};

use super::device::DeviceDecoder;
use super::synthetic::SyntheticSource;
use super::{MappedFile, NativeEngine, limits};
use crate::engine::architecture::Architecture;
use crate::engine::files;
use crate::engine::header::{TensorRecord, validate_gguf, validate_safetensors};
use crate::engine::source::{ResolvedModel, SafetensorsFiles};
use crate::engine::{
    Batching, ComputePrecision, DeviceChoice, EngineConfiguration, EngineDescription, EngineError, Implementation,
    LoadRequest, TextTokenizer, WeightType, threads::engine_threads,
};

/// What is known of a model beside its tensors.
struct Known {
    origin: String,
    architecture: Architecture,
    /// The tensors that the architecture needs, under the names of safetensors files.
    tensors: Vec<TensorRecord>,
    weights_digest: String,
    tokenizer: Option<TextTokenizer>,
    end_of_sequence: Vec<u32>,
    conventions: SourceConventions,
    weight_type: Option<ElementType>,
}

impl NativeEngine {
    /// Checks the files of a source and packs the weights.
    pub fn load(resolved: &ResolvedModel, request: &LoadRequest) -> Result<Self, EngineError> {
        let gpu = gpu(request)?;
        match resolved {
            ResolvedModel::Gguf(path) => gguf(path, request.dtype, gpu),
            ResolvedModel::Safetensors(files) => safetensors(files, request.dtype, gpu),
            ResolvedModel::Synthetic {
                name,
                architecture,
                seed,
            } => synthetic(name, architecture, *seed, request.dtype, gpu),
        }
    }

    fn assemble(known: Known, source: &dyn TensorSource, gpu: Option<usize>) -> Result<Self, EngineError> {
        let architecture = known.architecture;
        let float = Some(ElementType::F32);
        let type_of = |tensor: &TensorRecord| known.weight_type.or(ElementType::from_name(&tensor.element_type));
        let cache_type = if gpu.is_none() && known.tensors.iter().all(|tensor| type_of(tensor) == float) {
            CacheType::F32
        } else {
            CacheType::F16
        };
        let first = EngineConfiguration {
            batching: Batching::default(),
            sequence_positions: BLOCK_POSITIONS,
        };
        let base = DecoderConfiguration {
            blocks: 0,
            cache_type,
            token_budget: 0,
            sampled_rows: 0,
            context_length: 0,
            threads: engine_threads(),
            instruction_set: None,
            weight_type: known.weight_type,
            conventions: known.conventions,
        };
        let (configuration, scheduler) = limits(&first, architecture.context_length, base);
        tracing::info!(model = known.origin, "loading the weights");
        let decoder = match gpu {
            None => DeviceDecoder::on_the_cpu(&architecture, source, &configuration)?,
            Some(ordinal) => DeviceDecoder::on_a_gpu(ordinal, &architecture, source, &configuration)?,
        };
        let dominant = decoder.dominant_type();
        let description = EngineDescription {
            name: "lem",
            version: env!("CARGO_PKG_VERSION"),
            device: gpu.map_or_else(|| "cpu".to_owned(), |ordinal| format!("cuda:{ordinal}")),
            dtype: configuration.cache_type.name().to_owned(),
            compute_precision: match gpu {
                None => precision(dominant),
                Some(_) => gpu_precision(dominant),
            },
            quantisation: dominant.is_quantised().then(|| dominant.name().to_owned()),
            weight_bytes: decoder.memory().weights as u64,
            parameters: known.tensors.iter().map(TensorRecord::elements).sum(),
            context_length: architecture.context_length,
            vocabulary_size: architecture.vocabulary_size,
            weights_digest: known.weights_digest,
            architecture,
        };
        Ok(Self {
            decoder,
            configuration,
            scheduler: Scheduler::new(scheduler),
            batching: first.batching,
            description,
            tokenizer: known.tokenizer,
            end_of_sequence: known.end_of_sequence,
            batch: Batch::default(),
            chosen: Vec::new(),
            steps: 0,
        })
    }
}

/// The GPU to compute on. It has to be asked for together with this engine, as long as the decoder has not been compared
/// with others on a real GPU.
fn gpu(request: &LoadRequest) -> Result<Option<usize>, EngineError> {
    match (request.device, request.implementation) {
        (DeviceChoice::Cuda(ordinal), Implementation::Lem) => Ok(Some(ordinal)),
        (DeviceChoice::Cpu, _) => Ok(None),
        (DeviceChoice::Auto, _) if !candle_core::utils::cuda_is_available() => Ok(None),
        _ => Err(EngineError::Unsupported {
            what:
                "lem's own engine computes on a GPU only where it is asked for: set engine.candle.device to Cuda and \
                   implementation to Lem"
                    .to_owned(),
        }),
    }
}

/// The precision of the products: quantised weights meet activations of 8 bits.
const fn precision(weights: ElementType) -> ComputePrecision {
    match weights {
        ElementType::F32 | ElementType::F16 => ComputePrecision::Fp32,
        ElementType::Bf16 => ComputePrecision::Bf16,
        _ => ComputePrecision::Int8,
    }
}

/// On a GPU, 16-bit floats meet inputs of their kind. Quantised weights become halves, where steps have many rows.
const fn gpu_precision(weights: ElementType) -> ComputePrecision {
    match weights {
        ElementType::F32 => ComputePrecision::Fp32,
        ElementType::Bf16 => ComputePrecision::Bf16,
        _ => ComputePrecision::Fp16,
    }
}

/// The floats that matrices are to be held in.
fn floats(requested: Option<WeightType>, origin: &str) -> Result<Option<ElementType>, EngineError> {
    match requested {
        None => Ok(None),
        Some(WeightType::F32) => Ok(Some(ElementType::F32)),
        Some(WeightType::F16) => Ok(Some(ElementType::F16)),
        Some(WeightType::Bf16) => Ok(Some(ElementType::Bf16)),
        Some(other) => Err(EngineError::WeightType {
            what: origin.to_owned(),
            dtype: other.name(),
        }),
    }
}

fn map(path: &Path) -> Result<MappedFile, EngineError> {
    MappedFile::open(path).map_err(|source| EngineError::ReadFile {
        path: path.to_path_buf(),
        source,
    })
}

fn architecture_error(origin: &str) -> impl Fn(lem_engine::architecture::ArchitectureError) -> EngineError {
    let origin = origin.to_owned();
    move |source| EngineError::Architecture {
        origin: origin.clone(),
        source,
    }
}

fn tensors_error(origin: &str) -> impl Fn(lem_engine::source::SourceError) -> EngineError {
    let origin = origin.to_owned();
    move |source| EngineError::Tensors {
        origin: origin.clone(),
        source,
    }
}

fn gguf(path: &PathBuf, requested: Option<WeightType>, gpu: Option<usize>) -> Result<NativeEngine, EngineError> {
    let origin = path.display().to_string();
    let bytes = map(path)?;
    let header = validate_gguf(&mut Cursor::new(&bytes), bytes.len() as u64).map_err(|source| EngineError::Header {
        path: path.clone(),
        source,
    })?;
    let architecture = Architecture::from_gguf(&header).map_err(architecture_error(&origin))?;
    let tensors = files::gguf_tensors(path, &architecture, &header)?;
    let file = WeightFile {
        tensors: &header.tensors,
        bytes: &bytes,
    };
    let source = FileSource::gguf(&architecture, file)
        .map_err(tensors_error(&origin))?
        .on_release(|_, range| bytes.give_back(range));
    let known = Known {
        tokenizer: Some(
            TextTokenizer::from_gguf(&header, &origin).map_err(|source| EngineError::Tokenizer { source })?,
        ),
        end_of_sequence: TextTokenizer::end_of_sequence_tokens(&header),
        conventions: FileSource::gguf_conventions(&architecture),
        weight_type: floats(requested, &origin)?,
        weights_digest: files::digest(std::slice::from_ref(path))?,
        origin,
        architecture,
        tensors,
    };
    NativeEngine::assemble(known, &source, gpu)
}

fn safetensors(
    model: &SafetensorsFiles,
    requested: Option<WeightType>,
    gpu: Option<usize>,
) -> Result<NativeEngine, EngineError> {
    let path = &model.configuration;
    let origin = path.display().to_string();
    let configuration = files::read(path)?;
    let architecture = Architecture::from_configuration(&configuration).map_err(architecture_error(&origin))?;
    let maps: Vec<MappedFile> = model.weights.iter().map(|path| map(path)).collect::<Result<_, _>>()?;
    let mut headers = Vec::new();
    for (path, bytes) in model.weights.iter().zip(&maps) {
        let header = validate_safetensors(&mut Cursor::new(bytes), bytes.len() as u64);
        headers.push(header.map_err(|source| EngineError::Header {
            path: path.clone(),
            source,
        })?);
    }
    let tensors = files::safetensors_tensors(model, &architecture, headers.iter().flat_map(|header| &header.tensors))?;
    let weights = headers.iter().zip(&maps).map(|(header, bytes)| WeightFile {
        tensors: &header.tensors,
        bytes,
    });
    let source = FileSource::safetensors(&architecture, weights.collect())
        .map_err(tensors_error(&origin))?
        .on_release(|file, range| maps[file].give_back(range));
    let known = Known {
        tokenizer: Some(
            TextTokenizer::from_file(&model.tokenizer).map_err(|source| EngineError::Tokenizer { source })?,
        ),
        end_of_sequence: files::end_of_sequence(model, &configuration)?,
        conventions: SourceConventions::default(),
        weight_type: floats(requested, &origin)?,
        weights_digest: files::digest(&model.weights)?,
        origin,
        architecture,
        tensors,
    };
    NativeEngine::assemble(known, &source, gpu)
}

fn synthetic(
    name: &str,
    architecture: &Architecture,
    seed: u64,
    requested: Option<WeightType>,
    gpu: Option<usize>,
) -> Result<NativeEngine, EngineError> {
    architecture.validate().map_err(architecture_error(name))?;
    let element_type = match requested {
        None | Some(WeightType::F32) => ElementType::F32,
        Some(WeightType::F16) => ElementType::F16,
        Some(WeightType::Bf16) => ElementType::Bf16,
        Some(WeightType::Q4_0) => ElementType::Q4_0,
        Some(WeightType::Q8_0) => ElementType::Q8_0,
    };
    let source = SyntheticSource::new(architecture, seed, element_type);
    if let Some(odd) = source.odd_rows() {
        return Err(EngineError::WeightType {
            what: format!("{name}, whose {} has rows of {} elements,", odd.name, odd.shape[1]),
            dtype: element_type.name(),
        });
    }
    let records = source
        .tensors
        .values()
        .map(|expected| source.record(expected))
        .collect();
    let known = Known {
        origin: name.to_owned(),
        architecture: architecture.clone(),
        tensors: records,
        weights_digest: format!("synthetic:{name}:{seed}"),
        tokenizer: None,
        end_of_sequence: Vec::new(),
        conventions: SourceConventions::default(),
        weight_type: None,
    };
    NativeEngine::assemble(known, &source, gpu)
}
