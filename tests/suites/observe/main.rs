//! What Prometheus and Grafana see of a real experiment: a real Prometheus finds the operator and the runners by the
//! selectors of the rendered monitors, and evaluates the rules and every panel's query.
//!
//! These tests are ignored unless asked for, because they need root and the cluster's programs: `make test-cluster`.
//! They share one cluster of five nodes, one of which draws four times the power of the others.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the functions around the tests fail the test as the tests do"
)]

mod cardinality;
#[path = "../cluster/experiment.rs"]
mod experiment;
#[path = "../chart/helm.rs"]
#[expect(dead_code, reason = "it is shared with another suite, which uses the rest")]
mod helm;
mod monitor;
mod panels;
mod preview;
mod prometheus;
mod results;
mod scene;
#[path = "../cluster/world.rs"]
#[expect(dead_code, reason = "it is shared with another suite, which uses the rest")]
mod world;
