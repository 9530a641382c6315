//! No node, no GPU, no image.

use serde_json::json;

use super::{fails, goes_on, says, stalled};
use crate::{
    experiment::with,
    world::{World, image_called, kubectl},
};

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_selector_that_no_node_has_is_said_in_the_schedulers_words_and_cured_by_a_label() {
    let world = World::of("selector").await;
    let label = format!("lem.test/{}", world.namespace);
    let selector = json!({"placement": {"nodeSelector": {&label: "yes"}}});
    world.apply(&with("nowhere", 1, 1, &selector)).await;
    let message = stalled(&world, "nowhere", "Unschedulable").await;
    says(
        &message,
        &[
            "0/3 nodes are available",
            "didn't match Pod's node affinity/selector",
            "spec.placement",
        ],
    );
    kubectl(world.cluster, &["label", "node", "node-1", &format!("{label}=yes")]);
    goes_on(&world, "nowhere").await;
    kubectl(world.cluster, &["label", "node", "node-1", &format!("{label}-")]);
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn more_gpus_than_any_node_has_are_named_and_the_deadline_ends_the_wait() {
    let world = World::of("gpus").await;
    let three = json!({
        "processes": {"gpusPerProcess": 3},
        "protocol": {"retryBudget": 0},
        "placement": {"scheduleDeadline": "15s"},
    });
    world.apply(&with("greedy", 1, 1, &three)).await;
    let message = stalled(&world, "greedy", "GpuMissing").await;
    says(&message, &["Insufficient nvidia.com/gpu", "processes.gpusPerProcess"]);
    let message = fails(&world, "greedy").await;
    says(
        &message,
        &["Insufficient nvidia.com/gpu", "within spec.placement.scheduleDeadline"],
    );
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn an_image_that_is_nowhere_is_named_and_pulled_once_it_is_there() {
    let world = World::of("image").await;
    let late = format!("{}:late", world.namespace);
    let image = json!({"runner": {"image": format!("localhost/{late}"), "imagePullPolicy": "IfNotPresent"}});
    world.apply(&with("imageless", 1, 1, &image)).await;
    let message = stalled(&world, "imageless", "ImagePull").await;
    says(
        &message,
        &[
            &format!("localhost/{late}"),
            "spec.runner.image",
            "spec.runner.imagePullSecrets",
        ],
    );
    let archive = image_called(&late, "lem-runner");
    world.cluster.load_image(&archive).unwrap();
    std::fs::remove_file(archive).unwrap();
    goes_on(&world, "imageless").await;
}
