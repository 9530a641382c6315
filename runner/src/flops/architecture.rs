//! Tier 2: operations from the shape of the model.

use lem_engine::counts::attention_pairs;

use crate::engine::architecture::Architecture;

/// Operations of one whole sequence of `prompt_tokens` and `output_tokens` (at least 1 each, else 0).
pub fn architecture_flops(architecture: &Architecture, prompt_tokens: u64, output_tokens: u64) -> f64 {
    if prompt_tokens == 0 || output_tokens == 0 {
        return 0.0;
    }
    prefill_flops(architecture, prompt_tokens) + decode_flops(architecture, prompt_tokens, output_tokens - 1)
}

/// Operations of a prefill of `prompt_tokens`, including the output head for its last position.
pub fn prefill_flops(architecture: &Architecture, prompt_tokens: u64) -> f64 {
    pass_flops(architecture, 0, prompt_tokens, u64::from(prompt_tokens > 0))
}

/// Operations of `steps` decode passes after `context` tokens are in the cache. The first of them sees `context + 1`
/// positions, its own included.
pub fn decode_flops(architecture: &Architecture, context: u64, steps: u64) -> f64 {
    pass_flops(architecture, context, steps, steps)
}

/// `tokens` positions after `context`, of which `sampled` go through the output head.
///
/// Per token and layer: attention projections `2(h·n_q·d + 2·h·n_kv·d + n_q·d·h)`, gated feed-forward network
/// `2·3·h·inter`; per visible (query, key) pair and layer `4·n_q·d`; per sampled position `2·h·V`.
fn pass_flops(architecture: &Architecture, context: u64, tokens: u64, sampled: u64) -> f64 {
    let projections = 2.0 * architecture.layer_matrix_parameters() as f64 * architecture.layers as f64 * tokens as f64;
    let pairs: f64 = (0..architecture.layers)
        .map(|layer| attention_pairs(context, tokens, architecture.layer_window(layer)) as f64)
        .sum();
    let attention = 4.0 * architecture.query_width() as f64 * pairs;
    let head = 2.0 * architecture.hidden_size as f64 * architecture.vocabulary_size as f64 * sampled as f64;
    projections + attention + head
}
