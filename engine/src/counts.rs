//! Work of a step, as its layers do it: the first tier of FLOPs, and the bytes that must be moved.

use crate::architecture::Architecture;
use crate::batch::Batch;
use crate::decoder::Weights;

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

/// Work of a batch.
pub(crate) fn of_step(architecture: &Architecture, weights: &Weights, batch: &Batch, cache_bytes: usize) -> StepCounts {
    let tokens = batch.tokens.len() as f64;
    let sampled = batch.sampled_rows() as f64;
    let mut counts = StepCounts::default();
    for matrix in weights.layer_matrices() {
        counts.flops += 2.0 * (matrix.rows * matrix.columns) as f64 * tokens;
        counts.bytes += matrix.bytes().len() as f64;
    }
    let head = weights.head();
    if sampled > 0.0 {
        counts.flops += 2.0 * (head.rows * head.columns) as f64 * sampled;
        counts.bytes += head.bytes().len() as f64;
    }
    let position_bytes = (2 * architecture.key_value_width() * cache_bytes) as f64;
    for layer in &weights.layers {
        for row in &batch.rows {
            // Scores and weighted values: two products with each visible position for each query head.
            let pairs = visible_pairs(row.start, row.tokens.len(), layer.window);
            counts.flops += 4.0 * architecture.query_width() as f64 * pairs;
            let end = row.start + row.tokens.len();
            let first = layer.window.map_or(0, |window| (row.start + 1).saturating_sub(window));
            counts.bytes += (end - first + row.tokens.len()) as f64 * position_bytes;
        }
    }
    counts
}

/// Pairs of a query and a position that it sees, for `tokens` queries from the position `start` on.
fn visible_pairs(start: usize, tokens: usize, window: Option<usize>) -> f64 {
    (start..start + tokens)
        .map(|position| (position + 1).min(window.unwrap_or(usize::MAX)) as f64)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunked_prompt_has_as_many_pairs_as_a_whole_one_and_a_window_bounds_them() {
        let whole = visible_pairs(0, 100, None);
        assert!((whole - 5050.0).abs() < 1e-9);
        assert!((visible_pairs(0, 37, None) + visible_pairs(37, 63, None) - whole).abs() < 1e-9);
        assert!((visible_pairs(50, 2, Some(10)) - 20.0).abs() < 1e-9);
    }
}
