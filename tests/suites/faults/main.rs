//! What clusters do to the operator and to the control plane, and what must be true afterwards.
//!
//! These tests are ignored unless asked for, because they need root and the cluster's programs: `make test-cluster`.
//! Those of `requests` run operators inside the test process, each in a namespace of its own, on a cluster of many nodes;
//! the others kill parts of a cluster into which the operator is installed. All need a cluster of their own, so
//! `LEM_TEST_KUBECONFIG` must not be set.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the functions around the tests fail the test as the tests do"
)]

mod clocks;
mod control_plane;
#[path = "../cluster/experiment.rs"]
#[expect(dead_code, reason = "it is shared with another suite, which uses the rest")]
mod experiment;
mod fault;
mod fleet;
mod injection;
mod installed;
mod invariants;
mod many;
mod moment;
mod nodes;
mod operator;
mod pods;
mod replicas;
mod requests;
#[path = "../cluster/world.rs"]
#[expect(dead_code, reason = "it is shared with another suite, which uses the rest")]
mod world;
