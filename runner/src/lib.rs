//! Measures one process: loads a model, runs windows, meters energy, reports raw facts.
//!
//! [`protocol`] is the measurement, readable top to bottom. It is handed an [`engine`] (what computes tokens), a meter of
//! [`energy`], requests from [`workload`], and a [`mailbox`] where assignments come from and reports go.
//!
//! [`agent`] is a process of its own: one per node of a cluster, for runners that may not read the CPUs' counters.

pub mod agent;
pub mod energy;
pub mod engine;
pub mod environment;
pub mod flops;
pub mod mailbox;
pub mod metrics;
pub mod protocol;
pub mod workload;
