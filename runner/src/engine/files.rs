//! What the loaders of all engines do with weight files: open, check, name, hash.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::EngineError;
use super::architecture::{Architecture, expected_tensors, gguf_name};
use super::header::{GgufHeader, TensorRecord};
use super::source::SafetensorsFiles;

pub(super) fn open(path: &Path) -> Result<(File, u64), EngineError> {
    let failed = |source| EngineError::ReadFile {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    Ok((file, length))
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

/// The contents of a file.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, EngineError> {
    std::fs::read(path).map_err(|source| EngineError::ReadFile {
        path: path.to_owned(),
        source,
    })
}

/// The expected tensors of a GGUF file under the names of safetensors files, after a check of their shapes.
pub(super) fn gguf_tensors(
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

/// The expected tensors of safetensors files, after a check of their shapes.
pub(super) fn safetensors_tensors<'a>(
    files: &SafetensorsFiles,
    architecture: &Architecture,
    records: impl IntoIterator<Item = &'a TensorRecord>,
) -> Result<Vec<TensorRecord>, EngineError> {
    let found: HashMap<&str, &TensorRecord> = records
        .into_iter()
        .map(|tensor| (tensor.name.as_str(), tensor))
        .collect();
    let directory = files.configuration.parent().unwrap_or(&files.configuration);
    let mut tensors = Vec::new();
    for expected in expected_tensors(architecture) {
        let tensor = found.get(expected.name.as_str()).copied();
        tensors.push(check_shape(directory, &expected.name, &expected.shape, tensor)?.clone());
    }
    Ok(tensors)
}

/// The tokens that end a sequence, from the generation configuration or else the model's.
pub(super) fn end_of_sequence(files: &SafetensorsFiles, configuration: &[u8]) -> Result<Vec<u32>, EngineError> {
    let mut tokens = Vec::new();
    if files.generation_configuration.is_file() {
        tokens = end_tokens(&read(&files.generation_configuration)?);
    }
    if tokens.is_empty() {
        tokens = end_tokens(configuration);
    }
    Ok(tokens)
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

/// The hexadecimal SHA-256 of a file; of several files, that of the concatenation of their digests.
pub(super) fn digest(paths: &[PathBuf]) -> Result<String, EngineError> {
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
        digests => digests.iter().fold(Sha256::new(), Sha256::chain_update).finalize(),
    };
    Ok(format!("{digest:x}"))
}
