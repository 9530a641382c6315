//! A process that runs and does not get on: each phase has a deadline that says which.
//!
//! A process saves writes: that it loads, or warms up, is reported 10 s later. Deadlines that tell these apart are longer.

use serde_json::{Value, json};

use super::{fails, says};
use crate::{experiment::with, world::World};

/// One experiment whose deadline cannot be kept; gives what `Failed` says.
async fn missed(test: &str, spec: &Value) -> String {
    let world = World::of(test).await;
    let mut experiment = with("late", 1, 1, spec);
    experiment.spec.protocol.retry_budget = 0;
    world.apply(&experiment).await;
    fails(&world, "late").await
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_process_that_never_reports_anything_is_given_up_with_the_way_to_look() {
    let silent = json!({
        "runner": {"image": "localhost/pause:1"},
        "protocol": {"deadlines": {"load": "6s"}},
    });
    let message = missed("silent", &silent).await;
    says(
        &message,
        &[
            "did not report at all",
            "reaches the API server",
            "spec.protocol.deadlines.load",
        ],
    );
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_model_that_is_not_loaded_in_time_is_given_up() {
    let slow = json!({"protocol": {"baseline": {"duration": "10m"}, "deadlines": {"load": "20s"}}});
    says(
        &missed("load", &slow).await,
        &["did not load the model", "spec.protocol.deadlines.load"],
    );
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_process_that_is_never_ready_is_given_up() {
    let cold = json!({"protocol": {"cooldown": {"duration": "10m"}, "deadlines": {"load": "20s", "ready": "1s"}}});
    says(
        &missed("ready", &cold).await,
        &["did not become ready", "spec.protocol.deadlines.ready"],
    );
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_window_that_is_not_reported_in_time_is_given_up() {
    let long = json!({
        "workload": {"requests": 100_000, "maxOutputTokens": 64},
        "protocol": {"deadlines": {"window": "1s"}, "warmup": {"fixed": {"iterations": 1}}},
    });
    says(
        &missed("window", &long).await,
        &["did not report its window", "spec.protocol.deadlines.window"],
    );
}
