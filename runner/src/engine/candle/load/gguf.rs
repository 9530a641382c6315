//! Loads a GGUF file.

use std::io::{BufReader, Seek};
use std::path::Path;

use candle_core::quantized::gguf_file;
use candle_core::{DType, Device};

use super::{Loaded, quantisation};
use crate::engine::architecture::{Architecture, Family};
use crate::engine::candle::model::Model;
use crate::engine::candle::quantised;
use crate::engine::files;
use crate::engine::header::validate_gguf;
use crate::engine::{EngineError, TextTokenizer, WeightType};

/// Loads the file in its own element types, or dequantised if F32 is asked for.
pub(super) fn load_gguf(path: &Path, device: &Device, requested: Option<WeightType>) -> Result<Loaded, EngineError> {
    let origin = path.display().to_string();
    let (file, length) = files::open(path)?;
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let header = validate_gguf(&mut reader, length).map_err(|source| EngineError::Header {
        path: path.to_owned(),
        source,
    })?;
    let mut architecture = Architecture::from_gguf(&header).map_err(|source| EngineError::Architecture {
        origin: origin.clone(),
        source,
    })?;
    cut_context(&mut architecture);
    let tensors = files::gguf_tensors(path, &architecture, &header)?;
    // candle ignores the frequency factors of Llama 3.1 and later: rotary positions are then those of Llama 3.
    if header.tensors.iter().any(|tensor| tensor.name == "rope_freqs.weight") {
        tracing::warn!(
            file = origin,
            "the engine ignores rope_freqs.weight: same work, less exact output"
        );
    }
    let tokenizer = TextTokenizer::from_gguf(&header, &origin).map_err(|source| EngineError::Tokenizer { source })?;
    let weights_digest = files::digest(std::slice::from_ref(&path.to_owned()))?;
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

/// candle's quantised llama computes rotary positions for this many tokens, whatever the file says.
const QUANTISED_LLAMA_CONTEXT: usize = 4096;

/// Cuts the context to what candle's quantised model computes.
pub(super) fn cut_context(architecture: &mut Architecture) {
    if architecture.family == Family::Llama {
        architecture.context_length = architecture.context_length.min(QUANTISED_LLAMA_CONTEXT);
    }
}
