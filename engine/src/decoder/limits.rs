//! What a step may have at most.

use super::{DecoderConfiguration, DecoderError};
use crate::architecture::Architecture;
use crate::batch::{BLOCK_POSITIONS, Batch};

/// What a step may have at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    tokens: usize,
    sampled_rows: usize,
    context_length: usize,
    blocks: usize,
    vocabulary: usize,
}

impl BatchLimits {
    /// The limits of a decoder.
    pub fn new(architecture: &Architecture, configuration: &DecoderConfiguration) -> Self {
        Self {
            tokens: configuration.token_budget,
            sampled_rows: configuration.sampled_rows,
            context_length: configuration.context_length,
            blocks: configuration.blocks,
            vocabulary: architecture.vocabulary_size,
        }
    }

    /// Checks a batch.
    ///
    /// # Errors
    /// The batch exceeds a limit, or a token, position or block is out of range.
    pub fn check(&self, batch: &Batch) -> Result<(), DecoderError> {
        let too_many = |what, found, limit| DecoderError::Batch { what, found, limit };
        if batch.tokens.len() > self.tokens {
            return Err(too_many("tokens", batch.tokens.len(), self.tokens));
        }
        if batch.sampled_rows() > self.sampled_rows {
            return Err(too_many("sampled rows", batch.sampled_rows(), self.sampled_rows));
        }
        if let Some(token) = batch.tokens.iter().find(|token| **token as usize >= self.vocabulary) {
            return Err(too_many("token", *token as usize, self.vocabulary - 1));
        }
        if let Some(block) = batch.block_table.iter().find(|block| **block as usize >= self.blocks) {
            return Err(too_many("block", *block as usize, self.blocks - 1));
        }
        for row in &batch.rows {
            let end = row.start + row.tokens.len();
            if end > self.context_length || end > row.blocks.len() * BLOCK_POSITIONS {
                let limit = self.context_length.min(row.blocks.len() * BLOCK_POSITIONS);
                return Err(too_many("positions", end, limit));
            }
        }
        Ok(())
    }
}
