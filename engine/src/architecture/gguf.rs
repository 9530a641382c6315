//! Reads the architecture from GGUF metadata.

use super::{Architecture, ArchitectureError, Family, GemmaParameters, SlidingWindow};
use crate::header::GgufHeader;

/// Architectures by their name in `general.architecture`. Mistral's files say `llama`.
const SUPPORTED: [(&str, Family); 8] = [
    ("llama", Family::Llama),
    ("qwen2", Family::Qwen2),
    ("qwen3", Family::Qwen3),
    ("gemma", Family::Gemma),
    ("gemma2", Family::Gemma2),
    ("gemma3", Family::Gemma3),
    ("phi3", Family::Phi3),
    ("smollm3", Family::SmolLm3),
];

impl Architecture {
    /// Reads the metadata of a checked GGUF header.
    ///
    /// The vocabulary is taken from the shape of `token_embd.weight`.
    pub fn from_gguf(header: &GgufHeader) -> Result<Self, ArchitectureError> {
        let name = header.text("general.architecture").unwrap_or_default();
        let Some((_, family)) = SUPPORTED.into_iter().find(|(supported, _)| *supported == name) else {
            let supported = SUPPORTED.map(|(supported, _)| supported).join(", ");
            return Err(ArchitectureError::Unsupported {
                found: name.to_owned(),
                supported: supported + " (GGUF)",
            });
        };
        let missing = |field: &str| ArchitectureError::Missing {
            field: field.to_owned(),
        };
        let optional = |field: &str| header.unsigned(&format!("{name}.{field}")).map(|value| value as usize);
        let size = |field: &str| optional(field).ok_or_else(|| missing(&format!("{name}.{field}")));
        let number = |field: &str| header.float(&format!("{name}.{field}"));
        if optional("expert_count").is_some_and(|experts| experts > 1) {
            return Err(ArchitectureError::Invalid {
                what: "mixtures of experts are not supported".to_owned(),
            });
        }
        let shape_of = |tensor: &str| header.tensors.iter().find(|record| record.name == tensor);
        let embedding = shape_of("token_embd.weight").ok_or_else(|| missing("the tensor token_embd.weight"))?;
        let hidden_size = size("embedding_length")?;
        let attention_heads = size("attention.head_count")?;
        let derived = hidden_size.checked_div(attention_heads).unwrap_or_default();
        let head_dimension = match family {
            Family::Gemma3 | Family::Qwen3 => size("attention.key_length")?,
            _ => optional("attention.key_length").unwrap_or(derived),
        };
        let context_length = size("context_length")?;
        let epsilon = "attention.layer_norm_rms_epsilon";
        let architecture = Self {
            family,
            hidden_size,
            intermediate_size: size("feed_forward_length")?,
            layers: size("block_count")?,
            attention_heads,
            key_value_heads: optional("attention.head_count_kv").unwrap_or(attention_heads),
            head_dimension,
            vocabulary_size: embedding.shape[0],
            context_length,
            rope_theta: number("rope.freq_base").unwrap_or(1e4),
            tied_embeddings: shape_of("output.weight").is_none(),
            sliding_window: match (family, optional("attention.sliding_window")) {
                (Family::Gemma2 | Family::Gemma3, Some(tokens)) => Some(SlidingWindow {
                    tokens,
                    full_attention_interval: Some(if family == Family::Gemma2 { 2 } else { 6 }),
                }),
                _ => None,
            },
            norm_epsilon: number(epsilon).ok_or_else(|| missing(&format!("{name}.{epsilon}")))?,
            attention_bias: false,
            rope_scaling: None,
            gemma: family.is_gemma().then(|| GemmaParameters {
                // Only the 27B models scale by another width than the head's; their files do not say so.
                query_scale: if matches!(optional("block_count"), Some(46 | 62)) {
                    derived
                } else {
                    head_dimension
                },
                attention_cap: number("attn_logit_softcapping"),
                logit_cap: number("final_logit_softcapping"),
                local_rope_theta: 1e4,
            }),
        };
        let rotary = optional("rope.dimension_count").unwrap_or(head_dimension);
        if rotary != head_dimension {
            let what = format!("rotary embedding over {rotary} of {head_dimension} head elements is not supported");
            return Err(ArchitectureError::Invalid { what });
        }
        let scaling = header.text(&format!("{name}.rope.scaling.type")).unwrap_or("none");
        if scaling != "none" && number("rope.scaling.factor").is_none_or(|factor| (factor - 1.0).abs() > 1e-6) {
            let what = format!("rotary scaling of the type {scaling:?} is not supported in GGUF files");
            return Err(ArchitectureError::Invalid { what });
        }
        architecture.validate()?;
        Ok(architecture)
    }
}
