//! The operator as a user meets it: `kubectl apply` on a real cluster, to a finished status.
//!
//! These tests are ignored unless asked for, because they need root and the cluster's programs: `make test-cluster`.
//! They share one cluster, into which the operator is installed from `examples/cluster/operator.yaml`.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the functions around the tests fail the test as the tests do"
)]

mod agent;
mod budget;
mod claims;
mod complete;
mod cost;
mod deletion;
mod duty;
mod energy;
mod experiment;
mod fleet;
mod hub;
mod kubectl;
mod local;
mod model;
mod neighbours;
mod pod_patch;
mod queues;
mod rejected;
mod schedule;
mod sources;
mod stalled;
mod world;
