//! Computes tokens with models of the llama family.
//!
//! From the files to the tokens:
//!
//! 1. [`header`] checks a weight file, [`architecture`] says what shape of model it holds.
//! 2. [`source`] finds the tensors in it, [`tensor`] says what the stored elements are worth.
//! 3. [`scheduler`] decides which sequences share a step, and [`blocks`] which part of the key-value cache is whose.
//! 4. [`batch`] is what one step computes: a flat, ragged list of tokens of several sequences.
//! 5. [`decoder`] computes it with [`kernels`] on the threads of a [`pool`], and [`counts`] the work.
//! 6. [`sampler`] chooses the tokens.

pub mod architecture;
pub mod batch;
pub mod blocks;
pub mod cache;
pub mod counts;
pub mod decoder;
pub mod header;
pub mod kernels;
mod packed;
pub mod pool;
pub mod sampler;
pub mod scheduler;
pub mod sequence;
mod shared;
mod simd;
pub mod source;
pub mod tensor;
#[doc(hidden)]
pub mod testing;
