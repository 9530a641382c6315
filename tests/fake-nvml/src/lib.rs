//! A `libnvidia-ml.so` driven by a ground-truth power waveform, loaded by nvml-wrapper below our code.
//!
//! The C interface is in [`interface`]; it reads the [`board::Machine`] from the JSON file that `LEM_FAKE_NVML` names at
//! each `nvmlInit_v2`. Tests compare what a meter reports with [`waveform::Waveform::joules_between`].

pub mod board;
pub mod environment;
pub mod interface;
pub mod waveform;

pub use board::{Board, Machine, SENSOR_NOISE};
pub use waveform::Waveform;

/// Names the JSON file that describes the fake machine.
pub const MACHINE_VARIABLE: &str = "LEM_FAKE_NVML";
