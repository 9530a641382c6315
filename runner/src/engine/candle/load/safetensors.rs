//! Loads safetensors files in the layout of Hugging Face.

use std::io::BufReader;

use candle_core::Device;
use candle_nn::VarBuilder;

use super::{Loaded, element_type};
use crate::engine::architecture::Architecture;
use crate::engine::candle::model::Model;
use crate::engine::files;
use crate::engine::header::{TensorRecord, validate_safetensors};
use crate::engine::source::SafetensorsFiles;
use crate::engine::{EngineError, TextTokenizer, WeightType};

/// Loads the files, converted to the element type asked for.
pub(super) fn load_safetensors(
    model: &SafetensorsFiles,
    device: &Device,
    requested: Option<WeightType>,
) -> Result<Loaded, EngineError> {
    let path = &model.configuration;
    let origin = path.display().to_string();
    let dtype = element_type(requested, device, &origin)?;
    let configuration = files::read(path)?;
    let architecture =
        Architecture::from_configuration(&configuration).map_err(|source| EngineError::Architecture {
            origin: origin.clone(),
            source,
        })?;
    let mut records = Vec::new();
    for path in &model.weights {
        let (file, length) = files::open(path)?;
        let header = validate_safetensors(&mut BufReader::new(file), length).map_err(|source| EngineError::Header {
            path: path.clone(),
            source,
        })?;
        records.extend(header.tensors);
    }
    let tensors = files::safetensors_tensors(model, &architecture, &records)?;
    let tokenizer = TextTokenizer::from_file(&model.tokenizer).map_err(|source| EngineError::Tokenizer { source })?;
    let end_of_sequence = files::end_of_sequence(model, &configuration)?;
    let weights_digest = files::digest(&model.weights)?;
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
    let weights = unsafe { VarBuilder::from_mmaped_safetensors(&model.weights, dtype, device) }.map_err(failed)?;
    let built = Model::from_tensors(&architecture, weights).map_err(failed)?;
    let elements: u64 = tensors.iter().map(TensorRecord::elements).sum();
    Ok(Loaded {
        model: built,
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
