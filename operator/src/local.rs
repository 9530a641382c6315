//! The whole pipeline on one machine: manifest → plan → child processes with a barrier → trials → status.

pub mod child;
pub mod cohort;
pub mod manifest;
pub mod progress;
pub mod results;
pub mod run;

pub use crate::experiment::summary;
