//! Work of a step, as its layers do it: the first tier of FLOPs, and the bytes that must be moved.

use crate::architecture::Architecture;
use crate::batch::Batch;
use crate::decoder::{WeightMatrix, Weights};

/// Work done.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct StepCounts {
    /// Floating-point operations of the matrix products, two for each multiplication with its addition. Padding and
    /// what a kernel computes beyond it is not counted.
    pub flops: f64,
    /// Bytes of weights read, once a step, and of keys and values read and written; activations are left out, as they
    /// stay in the caches.
    pub bytes: f64,
}

impl StepCounts {
    /// Adds other work.
    pub fn add(&mut self, other: &Self) {
        self.flops += other.flops;
        self.bytes += other.bytes;
    }
}

/// What a step costs for each of its tokens, sampled rows and visible positions: the weights do not change, so it is
/// summed once.
#[derive(Debug)]
pub struct StepCost {
    /// Operations of a token in all layers, the attention left out.
    token_flops: f64,
    layer_bytes: f64,
    sampled_flops: f64,
    head_bytes: f64,
    /// Scores and weighted values: two products with each visible position for each query head.
    pair_flops: f64,
    /// Bytes of one layer's keys and values of a position.
    position_bytes: f64,
    /// Window of each layer.
    windows: Vec<Option<usize>>,
}

impl StepCost {
    /// The cost of a model whose key-value cache has elements of so many bytes.
    pub fn new<Matrix: WeightMatrix>(
        architecture: &Architecture,
        weights: &Weights<Matrix>,
        cache_bytes: usize,
    ) -> Self {
        let elements = |matrix: &Matrix| matrix.elements() as f64;
        let bytes = |matrix: &Matrix| matrix.stored_bytes() as f64;
        let head = weights.head();
        Self {
            token_flops: 2.0 * weights.layer_matrices().map(elements).sum::<f64>(),
            layer_bytes: weights.layer_matrices().map(bytes).sum(),
            sampled_flops: 2.0 * elements(head),
            head_bytes: bytes(head),
            pair_flops: 4.0 * architecture.query_width() as f64,
            position_bytes: (2 * architecture.key_value_width() * cache_bytes) as f64,
            windows: weights.layers.iter().map(|layer| layer.window).collect(),
        }
    }

    /// Work of a batch.
    pub fn of(&self, batch: &Batch) -> StepCounts {
        let (tokens, sampled) = (batch.tokens.len() as f64, batch.sampled_rows() as f64);
        let mut counts = StepCounts {
            flops: self.token_flops * tokens + self.sampled_flops * sampled,
            bytes: self.layer_bytes + if sampled > 0.0 { self.head_bytes } else { 0.0 },
        };
        for window in &self.windows {
            for row in &batch.rows {
                let pairs = attention_pairs(row.start as u64, row.tokens.len() as u64, *window);
                counts.flops += self.pair_flops * pairs as f64;
                let end = row.start + row.tokens.len();
                let first = window.map_or(0, |window| (row.start + 1).saturating_sub(window));
                counts.bytes += (end - first + row.tokens.len()) as f64 * self.position_bytes;
            }
        }
        counts
    }
}

/// (Query, key) pairs that causal attention lets see each other, for `tokens` queries after `context` cached positions.
///
/// A query at position `i` (from zero) sees `i + 1` keys, its own included, or the last `window` of them.
pub fn attention_pairs(context: u64, tokens: u64, window: Option<usize>) -> u128 {
    // Σ over i in context..context + tokens of min(i + 1, window).
    let (context, tokens) = (u128::from(context), u128::from(tokens));
    let triangle = |length: u128| length * (length + 1) / 2;
    let unbounded = |until: u128| triangle(until);
    match window {
        None => unbounded(context + tokens) - unbounded(context),
        Some(window) => {
            let window = window as u128;
            let bounded = |until: u128| match until.checked_sub(window) {
                Some(beyond) => triangle(window) + beyond * window,
                None => triangle(until),
            };
            bounded(context + tokens) - bounded(context)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunked_prompt_has_as_many_pairs_as_a_whole_one_and_a_window_bounds_them() {
        let whole = attention_pairs(0, 100, None);
        assert_eq!(whole, 5050);
        assert_eq!(attention_pairs(0, 37, None) + attention_pairs(37, 63, None), whole);
        assert_eq!(attention_pairs(50, 2, Some(10)), 20);
    }
}
