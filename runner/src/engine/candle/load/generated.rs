//! Loads synthetic weights.

use std::path::PathBuf;

use candle_core::{DType, Device};
use candle_nn::VarBuilder;

use super::gguf::cut_context;
use super::{Loaded, element_type, quantisation};
use crate::engine::architecture::Architecture;
use crate::engine::architecture::expected_tensors;
use crate::engine::candle::model::Model;
use crate::engine::candle::{quantised, synthetic};
use crate::engine::header::{TensorRecord, validate_gguf};
use crate::engine::{EngineError, WeightType};

/// Generates the weights of a shape; in blocks only for the families of `quantised::SYNTHETIC_FAMILIES`.
pub(super) fn load_synthetic(
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
        (Some(block @ (WeightType::Q4_0 | WeightType::Q8_0)), family)
            if quantised::SYNTHETIC_FAMILIES.contains(&family) =>
        {
            let (contents, mut buffer) = quantised::synthesise(&architecture, seed, block).map_err(failed)?;
            // Checked like a file: the context is cut to what candle's quantised model supports.
            let length = buffer.get_ref().len() as u64;
            let path = PathBuf::from(name);
            let header = validate_gguf(&mut buffer, length).map_err(|source| EngineError::Header { path, source })?;
            let mut architecture = Architecture::from_gguf(&header).map_err(|source| EngineError::Architecture {
                origin: name.to_owned(),
                source,
            })?;
            cut_context(&mut architecture);
            let model = Model::from_gguf(family, contents, &mut buffer, device).map_err(failed)?;
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
