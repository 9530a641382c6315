//! Computes tokens with models of the llama family.
//!
//! From the files to the tokens:
//!
//! 1. [`header`] checks a weight file, [`architecture`] says what shape of model it holds.
//! 2. [`tensor`] says what the stored elements are worth.
//! 3. [`batch`] is what one step computes: a flat, ragged list of tokens of several sequences.

pub mod architecture;
pub mod batch;
pub mod cache;
pub mod counts;
pub mod decoder;
pub mod header;
pub mod kernels;
mod packed;
pub mod pool;
mod shared;
mod simd;
pub mod source;
pub mod tensor;
#[cfg(test)]
mod testing;
