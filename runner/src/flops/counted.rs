//! Tier 1: operations added up as the engine executes them.

use super::attention_pairs;
use crate::engine::architecture::Architecture;

/// Where an engine really confines attention to the sliding window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WindowUse {
    /// Nowhere: every query sees everything before it.
    Never,
    /// In passes over several tokens; a decode pass sees the whole cache.
    Prefill,
    /// Everywhere.
    Always,
}

/// Adds up the operations of executed forward passes.
///
/// A pass over `m` tokens adds `2·m·n·k` for each weight matrix of the layers that has been loaded, with `n` and `k`
/// from its own shape in the weight file, `2·n·k` for the output head (computed for one position per pass), and
/// `4·n_q·d` per visible (query, key) pair and layer. Pairs that the causal mask hides are not counted, although a
/// dense implementation such as candle's multiplies them as well before it masks them: they are no useful work, and
/// their number depends on the kernel.
#[derive(Debug, Clone)]
pub struct CountedFlops {
    /// Elements of all matrices that every token is multiplied with.
    layer_elements: u64,
    /// Elements of the output head.
    head_elements: u64,
    /// `4·n_q·d`.
    pair_flops: f64,
    /// Window of each layer.
    windows: Vec<Option<usize>>,
    window_use: WindowUse,
    total: f64,
}

impl CountedFlops {
    /// Starts at zero. `layer_matrices` and `head` are the shapes `[n, k]` of the loaded weight matrices.
    pub fn new(
        architecture: &Architecture,
        layer_matrices: impl IntoIterator<Item = [u64; 2]>,
        head: [u64; 2],
        window_use: WindowUse,
    ) -> Self {
        Self {
            layer_elements: layer_matrices.into_iter().map(|[rows, columns]| rows * columns).sum(),
            head_elements: head[0] * head[1],
            pair_flops: 4.0 * architecture.query_width() as f64,
            windows: (0..architecture.layers)
                .map(|layer| architecture.layer_window(layer))
                .collect(),
            window_use,
            total: 0.0,
        }
    }

    /// Adds one pass of `tokens` after `context` cached positions that samples one position.
    pub fn add_pass(&mut self, context: u64, tokens: u64) {
        let windowed = match self.window_use {
            WindowUse::Never => false,
            WindowUse::Prefill => tokens > 1,
            WindowUse::Always => true,
        };
        let pairs: f64 = self
            .windows
            .iter()
            .map(|window| attention_pairs(context, tokens, window.filter(|_| windowed)) as f64)
            .sum();
        self.total += 2.0 * self.layer_elements as f64 * tokens as f64
            + 2.0 * self.head_elements as f64
            + self.pair_flops * pairs;
    }

    /// Operations so far.
    pub const fn total(&self) -> f64 {
        self.total
    }
}
