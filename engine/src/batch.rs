//! What one step computes: a flat, ragged batch of tokens of several sequences. The same structure feeds every device.

use std::ops::Range;

/// Positions in one block of the paged key-value cache.
pub const BLOCK_POSITIONS: usize = 32;

/// Consecutive tokens of one sequence within a step: the one token of a decode, or a chunk of a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The row's tokens, as a range of [`Batch::tokens`].
    pub tokens: Range<usize>,
    /// Position in the sequence of the first of these tokens; so many positions are in the cache before the step.
    pub start: usize,
    /// The blocks of the sequence's positions in order, as a range of [`Batch::block_table`]. Position `p` is in the
    /// block `p / BLOCK_POSITIONS` of them, at `p % BLOCK_POSITIONS`.
    pub blocks: Range<usize>,
    /// Whether the logits after the row's last token are needed.
    pub sampled: bool,
}

/// The tokens of one step. Rows that decode come before rows of prompts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// Tokens of all rows, row after row.
    pub tokens: Vec<u32>,
    /// Sequences.
    pub rows: Vec<Row>,
    /// Physical blocks of all rows, row after row.
    pub block_table: Vec<u32>,
}

impl Batch {
    /// Empties the batch and keeps its memory.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.rows.clear();
        self.block_table.clear();
    }

    /// Appends a row: `tokens` at `start`, whose sequence lies in `blocks`.
    pub fn push(&mut self, tokens: &[u32], start: usize, blocks: &[u32], sampled: bool) {
        let (first, first_block) = (self.tokens.len(), self.block_table.len());
        self.tokens.extend_from_slice(tokens);
        self.block_table.extend_from_slice(blocks);
        self.rows.push(Row {
            tokens: first..self.tokens.len(),
            start,
            blocks: first_block..self.block_table.len(),
            sampled,
        });
    }

    /// Rows whose logits are needed.
    pub fn sampled_rows(&self) -> usize {
        self.rows.iter().filter(|row| row.sampled).count()
    }

    /// Position in its sequence of a token of `row`, counted from the row's first.
    pub fn positions(row: &Row) -> Range<usize> {
        row.start..row.start + row.tokens.len()
    }
}
