//! The models of candle-transformers behind one pair of operations: forward and reset.

use std::io::{Read, Seek};

use candle_core::quantized::gguf_file;
use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{
    gemma, gemma2, gemma3, llama, mistral, phi3, quantized_gemma3, quantized_llama, quantized_phi3, quantized_qwen2,
    quantized_qwen3, qwen2, qwen3, smol::smollm3,
};

use super::configuration;
use crate::engine::architecture::{Architecture, Family};
use crate::flops::WindowUse;

/// A model with the key-value cache of one sequence.
pub(super) enum Model {
    /// A GGUF model. The cache is inside, and not all of them can clear it, nor the attention masks that they keep for
    /// every prompt length; so each sequence starts from a clone of the empty model, which shares the weights.
    Quantised {
        empty: Quantised,
        current: Quantised,
    },
    /// The one GGUF model of candle that cannot be cloned.
    QuantisedQwen2(quantized_qwen2::ModelWeights),
    Llama {
        model: llama::Llama,
        empty: llama::Cache,
        current: llama::Cache,
    },
    Mistral(mistral::Model),
    Qwen2(qwen2::ModelForCausalLM),
    Qwen3(qwen3::ModelForCausalLM),
    Gemma(gemma::Model),
    Gemma2(gemma2::Model),
    Gemma3(gemma3::Model),
    Phi3(phi3::Model),
    SmolLm3(smollm3::ModelForCausalLM),
}

#[derive(Clone)]
pub(super) enum Quantised {
    Llama(quantized_llama::ModelWeights),
    Qwen3(quantized_qwen3::ModelWeights),
    Gemma3(quantized_gemma3::ModelWeights),
    Phi3(quantized_phi3::ModelWeights),
}

impl Model {
    /// Builds a model from safetensors or generated tensors. The caller has checked that all expected tensors are
    /// there in their shapes.
    pub(super) fn from_tensors(architecture: &Architecture, weights: VarBuilder<'_>) -> Result<Self> {
        Ok(match architecture.family {
            Family::Llama => {
                let configuration = configuration::llama(architecture);
                let empty = llama::Cache::new(true, weights.dtype(), &configuration, weights.device())?;
                let model = llama::Llama::load(weights, &configuration)?;
                Self::Llama {
                    model,
                    current: empty.clone(),
                    empty,
                }
            }
            Family::Mistral => Self::Mistral(mistral::Model::new(&configuration::mistral(architecture), weights)?),
            Family::Qwen2 => Self::Qwen2(qwen2::ModelForCausalLM::new(
                &configuration::qwen2(architecture),
                weights,
            )?),
            Family::Qwen3 => Self::Qwen3(qwen3::ModelForCausalLM::new(
                &configuration::qwen3(architecture),
                weights,
            )?),
            Family::Gemma => Self::Gemma(gemma::Model::new(false, &configuration::gemma(architecture), weights)?),
            Family::Gemma2 => Self::Gemma2(gemma2::Model::new(
                false,
                &configuration::gemma2(architecture),
                weights,
            )?),
            // Its cache refuses the strided values that more heads give.
            Family::Gemma3 if architecture.key_value_heads > 1 => {
                candle_core::bail!(
                    "candle's gemma3 runs only with one key-value head, not {}",
                    architecture.key_value_heads
                )
            }
            Family::Gemma3 => Self::Gemma3(gemma3::Model::new(
                false,
                &configuration::gemma3(architecture),
                weights,
            )?),
            Family::Phi3 => Self::Phi3(phi3::Model::new(&configuration::phi3(architecture), weights)?),
            Family::SmolLm3 => Self::SmolLm3(smollm3::ModelForCausalLM::new(
                &configuration::smollm3(architecture),
                weights,
            )?),
        })
    }

    /// Builds a model from GGUF contents whose header has been checked.
    pub(super) fn from_gguf<R: Read + Seek>(
        family: Family,
        contents: gguf_file::Content,
        reader: &mut R,
        device: &Device,
    ) -> Result<Self> {
        let empty = match family {
            Family::Llama => Quantised::Llama(quantized_llama::ModelWeights::from_gguf(contents, reader, device)?),
            Family::Qwen2 => {
                let model = quantized_qwen2::ModelWeights::from_gguf(contents, reader, device)?;
                return Ok(Self::QuantisedQwen2(model));
            }
            Family::Qwen3 => Quantised::Qwen3(quantized_qwen3::ModelWeights::from_gguf(contents, reader, device)?),
            Family::Gemma3 => Quantised::Gemma3(quantized_gemma3::ModelWeights::from_gguf(contents, reader, device)?),
            Family::Phi3 => Quantised::Phi3(quantized_phi3::ModelWeights::from_gguf(
                false, contents, reader, device,
            )?),
            Family::Mistral | Family::Gemma | Family::Gemma2 | Family::SmolLm3 => {
                candle_core::bail!("candle has no quantised model for {}", family.name())
            }
        };
        Ok(Self::Quantised {
            current: empty.clone(),
            empty,
        })
    }

    /// Processes `tokens` (shape `[1, tokens]`) after `position` cached ones and returns the logits of the last
    /// position as F32 of shape `[vocabulary]`.
    pub(super) fn forward(&mut self, tokens: &Tensor, position: usize) -> Result<Tensor> {
        let logits = match self {
            Self::Quantised { current, .. } => match current {
                Quantised::Llama(model) => model.forward(tokens, position),
                Quantised::Qwen3(model) => model.forward(tokens, position),
                Quantised::Gemma3(model) => model.forward(tokens, position),
                Quantised::Phi3(model) => model.forward(tokens, position),
            },
            Self::QuantisedQwen2(model) => model.forward(tokens, position),
            Self::Llama { model, current, .. } => model.forward(tokens, position, current),
            Self::Mistral(model) => model.forward(tokens, position),
            Self::Qwen2(model) => model.forward(tokens, position),
            Self::Qwen3(model) => model.forward(tokens, position),
            Self::Gemma(model) => model.forward(tokens, position),
            Self::Gemma2(model) => model.forward(tokens, position),
            Self::Gemma3(model) => model.forward(tokens, position),
            Self::Phi3(model) => model.forward(tokens, position),
            Self::SmolLm3(model) => model.forward(tokens, position),
        }?;
        // The models return `[1, vocabulary]` or `[1, 1, vocabulary]`.
        let vocabulary = logits.dim(D::Minus1)?;
        logits.reshape(vocabulary)?.to_dtype(DType::F32)
    }

    /// Empties the key-value cache.
    pub(super) fn reset(&mut self) {
        match self {
            Self::Quantised { empty, current } => *current = empty.clone(),
            Self::Llama { empty, current, .. } => *current = empty.clone(),
            Self::QuantisedQwen2(model) => model.clear_kv_cache(),
            Self::Mistral(model) => model.clear_kv_cache(),
            Self::Qwen2(model) => model.clear_kv_cache(),
            Self::Qwen3(model) => model.clear_kv_cache(),
            Self::Gemma(model) => model.clear_kv_cache(),
            Self::Gemma2(model) => model.clear_kv_cache(),
            Self::Gemma3(model) => model.clear_kv_cache(),
            Self::Phi3(model) => model.clear_kv_cache(),
            Self::SmolLm3(model) => model.clear_kv_cache(),
        }
    }

    /// Where candle's model confines attention to the sliding window.
    pub(super) const fn window_use(&self) -> WindowUse {
        match self {
            // Masks in the prefill only; a decode pass attends to the whole cache.
            Self::Quantised { .. } | Self::QuantisedQwen2(_) | Self::Mistral(_) | Self::Qwen2(_) | Self::Gemma2(_) => {
                WindowUse::Prefill
            }
            // A ring buffer of the window's length.
            Self::Gemma3(_) => WindowUse::Always,
            Self::Llama { .. } | Self::Qwen3(_) | Self::Gemma(_) | Self::Phi3(_) | Self::SmolLm3(_) => WindowUse::Never,
        }
    }
}
