//! Translates an [`Architecture`] into the configurations of candle's models.

use candle_nn::Activation;
use candle_transformers::models::{gemma, gemma2, gemma3, llama, mistral, phi3, qwen2, qwen3, smol::smollm3};

use crate::engine::architecture::{Architecture, GemmaParameters};

pub(super) fn llama(architecture: &Architecture) -> llama::Config {
    llama::Config {
        hidden_size: architecture.hidden_size,
        intermediate_size: architecture.intermediate_size,
        vocab_size: architecture.vocabulary_size,
        num_hidden_layers: architecture.layers,
        num_attention_heads: architecture.attention_heads,
        num_key_value_heads: architecture.key_value_heads,
        use_flash_attn: false,
        rms_norm_eps: architecture.norm_epsilon,
        rope_theta: architecture.rope_theta as f32,
        bos_token_id: None,
        eos_token_id: None,
        rope_scaling: architecture
            .rope_scaling
            .as_ref()
            .map(|scaling| llama::Llama3RopeConfig {
                factor: scaling.factor as f32,
                low_freq_factor: scaling.low_frequency_factor as f32,
                high_freq_factor: scaling.high_frequency_factor as f32,
                original_max_position_embeddings: scaling.original_context_length,
                rope_type: llama::Llama3RopeType::Llama3,
            }),
        max_position_embeddings: architecture.context_length,
        tie_word_embeddings: architecture.tied_embeddings,
    }
}

pub(super) fn mistral(architecture: &Architecture) -> mistral::Config {
    mistral::Config {
        vocab_size: architecture.vocabulary_size,
        hidden_size: architecture.hidden_size,
        intermediate_size: architecture.intermediate_size,
        num_hidden_layers: architecture.layers,
        num_attention_heads: architecture.attention_heads,
        head_dim: Some(architecture.head_dimension),
        num_key_value_heads: architecture.key_value_heads,
        hidden_act: Activation::Silu,
        max_position_embeddings: architecture.context_length,
        rms_norm_eps: architecture.norm_epsilon,
        rope_theta: architecture.rope_theta,
        sliding_window: architecture.sliding_window.map(|window| window.tokens),
        use_flash_attn: false,
    }
}

pub(super) fn qwen2(architecture: &Architecture) -> qwen2::Config {
    qwen2::Config {
        vocab_size: architecture.vocabulary_size,
        hidden_size: architecture.hidden_size,
        intermediate_size: architecture.intermediate_size,
        num_hidden_layers: architecture.layers,
        num_attention_heads: architecture.attention_heads,
        num_key_value_heads: architecture.key_value_heads,
        max_position_embeddings: architecture.context_length,
        // candle applies the window to every layer, whatever `use_sliding_window` says.
        sliding_window: architecture
            .sliding_window
            .map_or(architecture.context_length, |window| window.tokens),
        max_window_layers: architecture.layers,
        tie_word_embeddings: architecture.tied_embeddings,
        rope_theta: architecture.rope_theta,
        rms_norm_eps: architecture.norm_epsilon,
        use_sliding_window: architecture.sliding_window.is_some(),
        hidden_act: Activation::Silu,
    }
}

pub(super) fn qwen3(architecture: &Architecture) -> qwen3::Config {
    qwen3::Config {
        vocab_size: architecture.vocabulary_size,
        hidden_size: architecture.hidden_size,
        intermediate_size: architecture.intermediate_size,
        num_hidden_layers: architecture.layers,
        num_attention_heads: architecture.attention_heads,
        head_dim: architecture.head_dimension,
        attention_bias: architecture.attention_bias,
        num_key_value_heads: architecture.key_value_heads,
        max_position_embeddings: architecture.context_length,
        sliding_window: architecture.sliding_window.map(|window| window.tokens),
        max_window_layers: architecture.layers,
        tie_word_embeddings: architecture.tied_embeddings,
        rope_theta: architecture.rope_theta,
        rms_norm_eps: architecture.norm_epsilon,
        use_sliding_window: architecture.sliding_window.is_some(),
        hidden_act: Activation::Silu,
    }
}

pub(super) fn gemma(architecture: &Architecture) -> gemma::Config {
    gemma::Config {
        attention_bias: architecture.attention_bias,
        head_dim: architecture.head_dimension,
        hidden_act: None,
        hidden_activation: Some(Activation::GeluPytorchTanh),
        hidden_size: architecture.hidden_size,
        intermediate_size: architecture.intermediate_size,
        num_attention_heads: architecture.attention_heads,
        num_hidden_layers: architecture.layers,
        num_key_value_heads: architecture.key_value_heads,
        rms_norm_eps: architecture.norm_epsilon,
        rope_theta: architecture.rope_theta,
        vocab_size: architecture.vocabulary_size,
        max_position_embeddings: architecture.context_length,
    }
}

pub(super) fn gemma2(architecture: &Architecture) -> gemma2::Config {
    let parameters = gemma_parameters(architecture);
    gemma2::Config {
        attention_bias: architecture.attention_bias,
        head_dim: architecture.head_dimension,
        hidden_activation: Activation::GeluPytorchTanh,
        hidden_size: architecture.hidden_size,
        intermediate_size: architecture.intermediate_size,
        num_attention_heads: architecture.attention_heads,
        num_hidden_layers: architecture.layers,
        num_key_value_heads: architecture.key_value_heads,
        rms_norm_eps: architecture.norm_epsilon,
        rope_theta: architecture.rope_theta,
        vocab_size: architecture.vocabulary_size,
        final_logit_softcapping: parameters.logit_cap,
        attn_logit_softcapping: parameters.attention_cap,
        query_pre_attn_scalar: parameters.query_scale,
        sliding_window: architecture.sliding_window.map(|window| window.tokens),
        max_position_embeddings: architecture.context_length,
    }
}

pub(super) fn gemma3(architecture: &Architecture) -> gemma3::Config {
    let parameters = gemma_parameters(architecture);
    let window = architecture.sliding_window;
    gemma3::Config {
        attention_bias: architecture.attention_bias,
        head_dim: architecture.head_dimension,
        hidden_activation: Activation::GeluPytorchTanh,
        hidden_size: architecture.hidden_size,
        intermediate_size: architecture.intermediate_size,
        num_attention_heads: architecture.attention_heads,
        num_hidden_layers: architecture.layers,
        num_key_value_heads: architecture.key_value_heads,
        rms_norm_eps: architecture.norm_epsilon,
        rope_theta: architecture.rope_theta,
        rope_local_base_freq: parameters.local_rope_theta,
        vocab_size: architecture.vocabulary_size,
        final_logit_softcapping: parameters.logit_cap,
        attn_logit_softcapping: parameters.attention_cap,
        query_pre_attn_scalar: parameters.query_scale,
        sliding_window: window.map_or(architecture.context_length, |window| window.tokens),
        sliding_window_pattern: window.and_then(|window| window.full_attention_interval).unwrap_or(1),
        max_position_embeddings: architecture.context_length,
    }
}

pub(super) fn phi3(architecture: &Architecture) -> phi3::Config {
    phi3::Config {
        vocab_size: architecture.vocabulary_size,
        hidden_act: Activation::Silu,
        hidden_size: architecture.hidden_size,
        intermediate_size: architecture.intermediate_size,
        num_hidden_layers: architecture.layers,
        num_attention_heads: architecture.attention_heads,
        num_key_value_heads: architecture.key_value_heads,
        rms_norm_eps: architecture.norm_epsilon,
        rope_theta: architecture.rope_theta,
        bos_token_id: None,
        eos_token_id: None,
        rope_scaling: None,
        max_position_embeddings: architecture.context_length,
        original_max_position_embeddings: None,
        partial_rotary_factor: None,
        tie_word_embeddings: architecture.tied_embeddings,
    }
}

pub(super) fn smollm3(architecture: &Architecture) -> smollm3::Config {
    smollm3::Config {
        vocab_size: architecture.vocabulary_size,
        hidden_size: architecture.hidden_size,
        intermediate_size: architecture.intermediate_size,
        num_hidden_layers: architecture.layers,
        num_attention_heads: architecture.attention_heads,
        num_key_value_heads: architecture.key_value_heads,
        max_position_embeddings: architecture.context_length,
        tie_word_embeddings: architecture.tied_embeddings,
        rope_theta: architecture.rope_theta,
        rms_norm_eps: architecture.norm_epsilon,
        hidden_act: Activation::Silu,
        attention_bias: Some(architecture.attention_bias),
        attention_dropout: None,
        mlp_bias: None,
        sliding_window: None,
        use_sliding_window: Some(false),
        rope_scaling: None,
        bos_token_id: None,
        eos_token_id: None,
        pad_token_id: None,
        max_window_layers: None,
        no_rope_layers: None,
        no_rope_layer_interval: Some(4),
    }
}

fn gemma_parameters(architecture: &Architecture) -> GemmaParameters {
    architecture.gemma.clone().unwrap_or(GemmaParameters {
        query_scale: architecture.head_dimension,
        attention_cap: None,
        logit_cap: None,
        local_rope_theta: architecture.rope_theta,
    })
}
