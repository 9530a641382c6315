//! Computes tokens with models of the llama family.
//!
//! From the files to the tokens:
//!
//! 1. [`header`] checks a weight file, [`architecture`] says what shape of model it holds.
//! 2. [`tensor`] says what the stored elements are worth.
//! 3. [`batch`] is what one step computes: a flat, ragged list of tokens of several sequences.

pub mod architecture;
pub mod batch;
pub mod blocks;
pub mod header;
pub mod sequence;
pub mod tensor;
