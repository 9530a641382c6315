//! Whole models through the emulated kernels, against the decoder of the CPU.
