//! Measures one process: loads a model, runs windows, meters energy, reports raw facts.

pub mod energy;
pub mod engine;
pub mod flops;
