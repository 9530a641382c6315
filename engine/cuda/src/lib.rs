//! The decoder of `lem-engine` on NVIDIA GPUs.
//!
//! It takes the same batches and gives the same logits as [`lem_engine::decoder::Decoder`]. Its kernels are CUDA C++
//! that NVRTC compiles when a model is loaded, for the model's shape and the GPU at hand; products of floats are
//! cublasLt's. Nothing is linked: the crate builds and loads on machines without any CUDA, and says what is missing when
//! it is asked for a GPU.
//!
//! Candle's `cuda` feature is not used: it forces linking with CUDA and needs nvcc when it is built, so one binary for
//! nodes with and without a GPU would be impossible. Kernels compiled at run time need neither.
//!
//! Nothing here has run on a GPU yet. What is tested without one: that NVRTC compiles each kernel, and that the same
//! sources, run on the host by an emulator of blocks, warps and tensor cores, compute what they should.
//!
//! From the sources to the logits:
//!
//! 1. [`kernels`] names the kernels and their arguments, [`compile`] makes machine code of them.
//! 2. [`device`] finds a GPU, [`stream`] launches on it: one of the two [`backend`]s, the other is the tests' emulator.
//! 3. `weights` brings a model's tensors to the device.
//! 4. `step` lays out what a step reads, [`decoder`] is the list of launches, and [`graph`] decides which lists are
//!    recorded.
//! 5. [`sampler`] chooses tokens on the device.

pub mod backend;
pub mod compile;
pub mod decoder;
pub mod device;
pub mod graph;
pub mod kernels;
pub mod sampler;
mod step;
pub mod stream;
mod vectors;
mod weights;

pub use decoder::{CudaDecoder, Decoder};

#[cfg(test)]
mod emulator;
