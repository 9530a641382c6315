//! Reconciles and aggregates; holds the `lem` command.

pub mod experiment;
pub mod report;
