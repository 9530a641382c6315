//! Reads the architecture from a Hugging Face `config.json`.

use serde_json::Value;

use super::{Architecture, ArchitectureError, Family, GemmaParameters, RopeScaling, SlidingWindow};

impl Architecture {
    /// Reads a Hugging Face `config.json`. The family is taken from `model_type`.
    pub fn from_configuration(json: &[u8]) -> Result<Self, ArchitectureError> {
        let root: Value = serde_json::from_slice(json).map_err(|source| ArchitectureError::Json { source })?;
        let fields = Fields { root: &root };
        let found = root.get("model_type").and_then(Value::as_str).unwrap_or_default();
        let Some(family) = Family::ALL.into_iter().find(|family| family.name() == found) else {
            let supported = Family::ALL.map(Family::name).join(", ");
            return Err(ArchitectureError::Unsupported {
                found: found.to_owned(),
                supported,
            });
        };
        let hidden_size = fields.size("hidden_size")?;
        let attention_heads = fields.size("num_attention_heads")?;
        let gemma_family = family.is_gemma();
        let head_dimension = match fields.optional_size("head_dim") {
            Some(width) => width,
            None if gemma_family => 256,
            None => hidden_size.checked_div(attention_heads).unwrap_or_default(),
        };
        let tied_default = gemma_family || matches!(family, Family::SmolLm3);
        let tied_embeddings = fields.boolean("tie_word_embeddings").unwrap_or(tied_default);
        let architecture = Self {
            family,
            hidden_size,
            intermediate_size: fields.size("intermediate_size")?,
            layers: fields.size("num_hidden_layers")?,
            attention_heads,
            key_value_heads: fields.optional_size("num_key_value_heads").unwrap_or(attention_heads),
            head_dimension,
            vocabulary_size: fields.size("vocab_size")?,
            context_length: match fields.optional_size("max_position_embeddings") {
                Some(length) => length,
                None if gemma_family => 8192,
                None => fields.size("max_position_embeddings")?,
            },
            rope_theta: fields
                .number("rope_theta")
                .unwrap_or(if family == Family::Gemma3 { 1e6 } else { 1e4 }),
            tied_embeddings: tied_embeddings || gemma_family,
            sliding_window: fields.sliding_window(family),
            norm_epsilon: fields.number("rms_norm_eps").unwrap_or(1e-6),
            attention_bias: fields.boolean("attention_bias").unwrap_or(false),
            rope_scaling: fields.rope_scaling(family)?,
            gemma: gemma_family.then(|| GemmaParameters {
                query_scale: fields.optional_size("query_pre_attn_scalar").unwrap_or(head_dimension),
                attention_cap: fields.number("attn_logit_softcapping"),
                logit_cap: fields.number("final_logit_softcapping"),
                local_rope_theta: fields.number("rope_local_base_freq").unwrap_or(1e4),
            }),
        };
        if fields.optional_size("num_experts").is_some() || fields.optional_size("num_local_experts").is_some() {
            let what = "mixtures of experts are not supported".to_owned();
            return Err(ArchitectureError::Invalid { what });
        }
        architecture.validate()?;
        Ok(architecture)
    }
}

struct Fields<'json> {
    root: &'json Value,
}

impl Fields<'_> {
    fn optional_size(&self, field: &str) -> Option<usize> {
        self.root
            .get(field)?
            .as_u64()
            .and_then(|value| usize::try_from(value).ok())
    }

    fn size(&self, field: &str) -> Result<usize, ArchitectureError> {
        self.optional_size(field).ok_or_else(|| ArchitectureError::Missing {
            field: field.to_owned(),
        })
    }

    fn number(&self, field: &str) -> Option<f64> {
        self.root.get(field)?.as_f64()
    }

    fn boolean(&self, field: &str) -> Option<bool> {
        self.root.get(field)?.as_bool()
    }

    fn sliding_window(&self, family: Family) -> Option<SlidingWindow> {
        let enabled = match family {
            Family::Mistral | Family::Gemma2 | Family::Gemma3 => true,
            Family::Qwen2 | Family::Qwen3 | Family::SmolLm3 => self.boolean("use_sliding_window").unwrap_or(false),
            // candle's models of these families know no window.
            Family::Llama | Family::Gemma | Family::Phi3 => false,
        };
        let tokens = self.optional_size("sliding_window").filter(|_| enabled)?;
        let full_attention_interval = match family {
            Family::Gemma2 => Some(2),
            Family::Gemma3 => Some(self.optional_size("sliding_window_pattern").unwrap_or(6)),
            _ => None,
        };
        Some(SlidingWindow {
            tokens,
            full_attention_interval,
        })
    }

    fn rope_scaling(&self, family: Family) -> Result<Option<RopeScaling>, ArchitectureError> {
        let Some(scaling) = self.root.get("rope_scaling").filter(|scaling| !scaling.is_null()) else {
            return Ok(None);
        };
        let kind = scaling
            .get("rope_type")
            .or_else(|| scaling.get("type"))
            .and_then(Value::as_str);
        let number = |field: &str| {
            let missing = || ArchitectureError::Missing {
                field: format!("rope_scaling.{field}"),
            };
            scaling.get(field).and_then(Value::as_f64).ok_or_else(missing)
        };
        match (kind, family) {
            (Some("default"), _) => Ok(None),
            (Some("llama3"), Family::Llama) => Ok(Some(RopeScaling {
                factor: number("factor")?,
                low_frequency_factor: number("low_freq_factor")?,
                high_frequency_factor: number("high_freq_factor")?,
                original_context_length: number("original_max_position_embeddings")? as usize,
            })),
            (kind, family) => {
                let what = format!("rope scaling {kind:?} is not supported for {}", family.name());
                Err(ArchitectureError::Invalid { what })
            }
        }
    }
}
