//! Loads safetensors files in the layout of Hugging Face.

use std::collections::HashMap;
use std::io::BufReader;
use std::path::PathBuf;

use candle_core::Device;
use candle_nn::VarBuilder;
use serde_json::Value;

use super::{Loaded, check_shape, digest, element_type, open};
use crate::engine::architecture::Architecture;
use crate::engine::candle::model::Model;
use crate::engine::architecture::expected_tensors;
use crate::engine::header::{TensorRecord, validate_safetensors};
use crate::engine::source::SafetensorsFiles;
use crate::engine::{EngineError, TextTokenizer, WeightType};

/// Loads the files, converted to the element type asked for.
pub(super) fn load_safetensors(
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
    for expected in expected_tensors(&architecture) {
        let tensor = found.get(expected.name.as_str()).copied();
        tensors.push(check_shape(directory, &expected.name, &expected.shape, tensor)?.clone());
    }
    let tokenizer = TextTokenizer::from_file(&files.tokenizer).map_err(|source| EngineError::Tokenizer { source })?;
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
