//! Reconciles and aggregates; holds the `lem` command.
//!
//! [`experiment`] is the methodology, pure. [`local`] measures on this machine with child processes. [`report`] renders
//! results. [`command`] is the command line. [`controller`] does on a cluster what [`local`] does on one machine.

pub mod command;
pub mod controller;
pub mod experiment;
pub mod local;
pub mod report;
