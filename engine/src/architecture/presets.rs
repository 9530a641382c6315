//! Shapes of well-known models for synthetic weights. Sources: the `config.json` of each model's repository.

use super::{Architecture, Family, RopeScaling, SlidingWindow};

/// Names that [`preset`] knows.
pub const PRESET_NAMES: [&str; 8] = [
    "tiny-test",
    "smollm2-135m",
    "tinyllama-1.1b",
    "llama-3.2-1b",
    "llama-3.1-8b",
    "llama-3.1-70b",
    "qwen3-8b",
    "mistral-7b",
];

/// The architecture of a well-known model, or `None` if the name is not one of [`PRESET_NAMES`].
pub fn preset(name: &str) -> Option<Architecture> {
    // Family; hidden, intermediate; layers, heads, key-value heads, head width; vocabulary, context; theta; tied.
    let shape = match name {
        "tiny-test" => llama([64, 160, 2, 4, 2, 16, 256, 512], 1e4, false),
        "smollm2-135m" => llama([576, 1536, 30, 9, 3, 64, 49_152, 8192], 1e5, true),
        "tinyllama-1.1b" => llama([2048, 5632, 22, 32, 4, 64, 32_000, 2048], 1e4, false),
        "llama-3.2-1b" => scaled(llama([2048, 8192, 16, 32, 8, 64, 128_256, 131_072], 5e5, true), 32.0),
        "llama-3.1-8b" => scaled(llama([4096, 14_336, 32, 32, 8, 128, 128_256, 131_072], 5e5, false), 8.0),
        "llama-3.1-70b" => scaled(llama([8192, 28_672, 80, 64, 8, 128, 128_256, 131_072], 5e5, false), 8.0),
        "qwen3-8b" => Architecture {
            family: Family::Qwen3,
            norm_epsilon: 1e-6,
            ..llama([4096, 12_288, 36, 32, 8, 128, 151_936, 40_960], 1e6, false)
        },
        "mistral-7b" => Architecture {
            family: Family::Mistral,
            sliding_window: Some(SlidingWindow {
                tokens: 4096,
                full_attention_interval: None,
            }),
            ..llama([4096, 14_336, 32, 32, 8, 128, 32_000, 32_768], 1e4, false)
        },
        _ => return None,
    };
    Some(shape)
}

fn llama(extents: [usize; 8], rope_theta: f64, tied_embeddings: bool) -> Architecture {
    let [
        hidden_size,
        intermediate_size,
        layers,
        attention_heads,
        key_value_heads,
        head_dimension,
        vocabulary_size,
        context_length,
    ] = extents;
    Architecture {
        family: Family::Llama,
        hidden_size,
        intermediate_size,
        layers,
        attention_heads,
        key_value_heads,
        head_dimension,
        vocabulary_size,
        context_length,
        rope_theta,
        tied_embeddings,
        sliding_window: None,
        norm_epsilon: 1e-5,
        attention_bias: false,
        rope_scaling: None,
        gemma: None,
    }
}

fn scaled(architecture: Architecture, factor: f64) -> Architecture {
    let rope_scaling = Some(RopeScaling {
        factor,
        low_frequency_factor: 1.0,
        high_frequency_factor: 4.0,
        original_context_length: 8192,
    });
    Architecture {
        rope_scaling,
        ..architecture
    }
}
