//! The Helm charts: what they render, what they refuse, and what they install.
//!
//! Rendering needs Helm and kubeconform, which are among the programs of the test cluster, and no cluster. The tests of
//! `install` and `privilege` install the charts on real clusters and need root. Both are ignored unless asked for:
//! `make test-cluster`. They kill and audit what they start, so `LEM_TEST_KUBECONFIG` must not be set.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the functions around the tests fail the test as the tests do"
)]

mod agent;
mod conform;
#[path = "../cluster/experiment.rs"]
mod experiment;
mod files;
mod generated;
mod helm;
mod install;
mod installation;
mod privilege;
mod rejected;
mod render;
mod rights;
mod schema;
#[path = "../cluster/world.rs"]
#[expect(dead_code, reason = "it is shared with another suite, which uses the rest")]
mod world;
