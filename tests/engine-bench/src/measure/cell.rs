//! What is known of a cell once it has been measured.

use serde::{Deserialize, Serialize};

use crate::contender::Engine;

/// Repetitions of the same work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Phase {
    /// Tokens of one repetition, all sequences together.
    pub(crate) tokens_each: usize,
    /// Wall time of each repetition, s.
    pub(crate) seconds: Vec<f64>,
    /// CPU time of all threads and repetitions, s.
    pub(crate) cpu_seconds: f64,
    /// Energy of all repetitions.
    pub(crate) energy: Energy,
}

/// Energy of the machine's processors while something was computed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Energy {
    /// J, if known.
    pub(crate) joules: Option<f64>,
    /// Where the figure comes from, or why there is none.
    pub(crate) source: String,
}

/// One engine with one file, one batch and one prompt, in one process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Cell {
    /// Engine.
    pub(crate) engine: Engine,
    /// Name of the weight file.
    pub(crate) file: String,
    /// Sequences.
    pub(crate) batch: usize,
    /// Tokens of each prompt.
    pub(crate) prompt: usize,
    /// Threads.
    pub(crate) threads: usize,
    /// Reading the file, making the engine's own layout of it, and taking the key-value cache, s.
    pub(crate) load_seconds: f64,
    /// Prefills; the first is cold.
    pub(crate) prefill: Phase,
    /// Decode steps.
    pub(crate) decode: Phase,
    /// Resident memory after loading, bytes; pages of mapped files included.
    pub(crate) resident_after_load_bytes: u64,
    /// Most resident memory, bytes.
    pub(crate) peak_bytes: u64,
    /// All tensors in the file, bytes.
    pub(crate) weight_bytes: u64,
    /// Weights that one decode step reads, bytes.
    pub(crate) step_weight_bytes: u64,
    /// Keys and values of all positions in half precision, bytes.
    pub(crate) cache_bytes: u64,
    /// Version of the engine.
    pub(crate) version: String,
    /// What the engine says that it computes with.
    pub(crate) details: String,
}

impl Phase {
    /// Repetitions that are not cold.
    pub(crate) fn warm(&self) -> &[f64] {
        self.seconds.get(1..).unwrap_or_default()
    }
}

impl Cell {
    /// Tokens per second of all sequences together, in the median decode step.
    pub(crate) fn decode_rate(&self) -> Option<f64> {
        Some(self.decode.tokens_each as f64 / median(&self.decode.seconds)?)
    }

    /// Tokens per second of all prompts together, in the median warm prefill.
    pub(crate) fn prefill_rate(&self) -> Option<f64> {
        Some(self.prefill.tokens_each as f64 / median(self.prefill.warm())?)
    }

    /// For a line of progress.
    pub(crate) fn summary(&self) -> String {
        let rate = |rate: Option<f64>| rate.map_or_else(|| "no".to_owned(), |rate| format!("{rate:.1}"));
        format!(
            "decode {} tok/s, prefill {} tok/s, load {:.2} s, peak {} MiB",
            rate(self.decode_rate()),
            rate(self.prefill_rate()),
            self.load_seconds,
            self.peak_bytes >> 20
        )
    }
}

/// The middle value, or the mean of the two in the middle.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length.is_multiple_of(2) => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
        _ => Some(sorted[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_of_an_even_number_is_between() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }
}
