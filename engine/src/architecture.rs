//! The shape of a transformer: what its weights look like and what a token costs.

mod configuration;
mod gguf;
mod presets;
mod tensors;

use serde::{Deserialize, Serialize};

pub use presets::{PRESET_NAMES, preset};
pub use tensors::{ExpectedTensor, Role, expected_tensors, gguf_name};

/// Model families that the candle engine can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Llama 1 to 3, `TinyLlama`, SmolLM2 and what else uses `LlamaForCausalLM`.
    Llama,
    /// Mistral 7B.
    Mistral,
    /// Qwen 2 and 2.5: biases on the query, key and value projections.
    Qwen2,
    /// Qwen 3: normalised queries and keys.
    Qwen3,
    /// Gemma 1.
    Gemma,
    /// Gemma 2: normalisation after each block as well, capped logits.
    Gemma2,
    /// Gemma 3 (text): five windowed layers to each full one.
    Gemma3,
    /// Phi 3: fused projections.
    Phi3,
    /// `SmolLM3`: no rotary embedding on every fourth layer.
    SmolLm3,
}

impl Family {
    /// Every family.
    pub const ALL: [Self; 9] = [
        Self::Llama,
        Self::Mistral,
        Self::Qwen2,
        Self::Qwen3,
        Self::Gemma,
        Self::Gemma2,
        Self::Gemma3,
        Self::Phi3,
        Self::SmolLm3,
    ];

    /// Whether it is one of the Gemma families, which scale their embeddings, gate with GELU and store the scales of
    /// normalisations less one.
    pub const fn is_gemma(self) -> bool {
        matches!(self, Self::Gemma | Self::Gemma2 | Self::Gemma3)
    }

    /// The family's name, as `model_type` of `config.json` spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Gemma => "gemma",
            Self::Gemma2 => "gemma2",
            Self::Gemma3 => "gemma3_text",
            Self::Phi3 => "phi3",
            Self::SmolLm3 => "smollm3",
        }
    }
}

/// Rotary position scaling of Llama 3.1 and later.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RopeScaling {
    /// Factor by which low frequencies are stretched.
    pub factor: f64,
    /// Bound of the low frequencies.
    pub low_frequency_factor: f64,
    /// Bound of the high frequencies.
    pub high_frequency_factor: f64,
    /// Context length before the scaling, in tokens.
    pub original_context_length: usize,
}

/// Alternation of windowed and full attention over the layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SlidingWindow {
    /// Positions that a windowed layer sees, its own included.
    pub tokens: usize,
    /// Every `n`-th layer has full attention; `None` if all layers are windowed.
    pub full_attention_interval: Option<usize>,
}

/// The shape of a dense decoder-only transformer with a gated feed-forward network.
///
/// Extents are in elements, lengths in tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Architecture {
    /// Model family.
    pub family: Family,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the feed-forward network.
    pub intermediate_size: usize,
    /// Number of transformer layers.
    pub layers: usize,
    /// Query heads per layer.
    pub attention_heads: usize,
    /// Key and value heads per layer.
    pub key_value_heads: usize,
    /// Width of one head; not always `hidden_size / attention_heads`.
    pub head_dimension: usize,
    /// Entries of the vocabulary, padding included.
    pub vocabulary_size: usize,
    /// Positions that the model is made for.
    pub context_length: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Whether the output head is the embedding matrix.
    pub tied_embeddings: bool,
    /// Sliding-window attention, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sliding_window: Option<SlidingWindow>,
    /// Epsilon of the root-mean-square normalisation.
    #[serde(default = "default_norm_epsilon")]
    pub norm_epsilon: f64,
    /// Whether the attention projections have biases where the family leaves it open (qwen3, smollm3).
    #[serde(default)]
    pub attention_bias: bool,
    /// Rotary scaling, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_scaling: Option<RopeScaling>,
    /// What only the Gemma families have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gemma: Option<GemmaParameters>,
}

const fn default_norm_epsilon() -> f64 {
    1e-5
}

/// Parameters that only the Gemma families have.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GemmaParameters {
    /// Queries are scaled by the inverse square root of this.
    pub query_scale: usize,
    /// Soft cap of the attention scores.
    pub attention_cap: Option<f64>,
    /// Soft cap of the output logits.
    pub logit_cap: Option<f64>,
    /// Rotary base of the windowed layers (Gemma 3).
    pub local_rope_theta: f64,
}

/// Why a model's architecture was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ArchitectureError {
    /// The file names an architecture that the engine does not have.
    #[error("architecture {found:?} is not supported; supported are: {supported}")]
    Unsupported {
        /// Name in the file.
        found: String,
        /// Names that are supported.
        supported: String,
    },
    /// A field that the architecture needs is not there.
    #[error("the model's configuration lacks {field}")]
    Missing {
        /// Name of the field.
        field: String,
    },
    /// A field has a value with which no model can be built.
    #[error("the model's configuration is not usable: {what}")]
    Invalid {
        /// What does not fit.
        what: String,
    },
    /// The configuration is not JSON of the expected form.
    #[error("the model's configuration cannot be parsed")]
    Json {
        /// Cause.
        #[source]
        source: serde_json::Error,
    },
}

impl Architecture {
    /// Elements of all weights, biases and normalisation vectors left out; a tied head counts once.
    pub fn matrix_parameters(&self) -> u64 {
        let heads = if self.tied_embeddings { 1 } else { 2 };
        self.layers as u64 * self.layer_matrix_parameters()
            + heads * self.vocabulary_size as u64 * self.hidden_size as u64
    }

    /// Elements of the weight matrices of one layer.
    pub fn layer_matrix_parameters(&self) -> u64 {
        let (hidden, inter) = (self.hidden_size as u64, self.intermediate_size as u64);
        let (queries, keys) = (self.query_width() as u64, self.key_value_width() as u64);
        hidden * queries + 2 * hidden * keys + queries * hidden + 3 * hidden * inter
    }

    /// Width of all query heads together.
    pub const fn query_width(&self) -> usize {
        self.attention_heads * self.head_dimension
    }

    /// Width of all key heads together; the values have the same.
    pub const fn key_value_width(&self) -> usize {
        self.key_value_heads * self.head_dimension
    }

    /// The window of a layer (counted from zero), or `None` for full attention.
    pub fn layer_window(&self, layer: usize) -> Option<usize> {
        let window = self.sliding_window?;
        match window.full_attention_interval {
            Some(interval) if (layer + 1).is_multiple_of(interval) => None,
            _ => Some(window.tokens),
        }
    }

    /// Refuses extents with which building the model would divide by zero, overflow or allocate without bound.
    pub fn validate(&self) -> Result<(), ArchitectureError> {
        let bounded = [
            ("hiddenSize", self.hidden_size, 1 << 18),
            ("intermediateSize", self.intermediate_size, 1 << 20),
            ("layers", self.layers, 1 << 12),
            ("attentionHeads", self.attention_heads, 1 << 12),
            ("keyValueHeads", self.key_value_heads, 1 << 12),
            ("headDimension", self.head_dimension, 1 << 12),
            ("vocabularySize", self.vocabulary_size, 1 << 22),
            ("contextLength", self.context_length, 1 << 24),
        ];
        let invalid = |what| Err(ArchitectureError::Invalid { what });
        for (name, value, limit) in bounded {
            if value == 0 || value > limit {
                return invalid(format!("{name} is {value}, not between 1 and {limit}"));
            }
        }
        if !self.attention_heads.is_multiple_of(self.key_value_heads) {
            let (queries, keys) = (self.attention_heads, self.key_value_heads);
            return invalid(format!(
                "{queries} query heads cannot share {keys} key-value heads evenly"
            ));
        }
        if !self.head_dimension.is_multiple_of(2) {
            return invalid(format!("headDimension {} is odd", self.head_dimension));
        }
        let derived = matches!(
            self.family,
            Family::Llama | Family::Qwen2 | Family::Phi3 | Family::SmolLm3
        );
        if derived && self.query_width() != self.hidden_size {
            let (heads, width) = (self.attention_heads, self.head_dimension);
            let (family, hidden) = (self.family.name(), self.hidden_size);
            return invalid(format!(
                "{family} needs hiddenSize {hidden} to be {heads} heads of {width}"
            ));
        }
        if let Some(window) = self.sliding_window
            && (window.tokens == 0 || window.full_attention_interval == Some(0))
        {
            return invalid("the sliding window is 0".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
