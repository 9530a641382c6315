//! From `kubectl apply` to a finished status.

use lem_crds::status::ExperimentPhase;

use crate::{
    experiment::tiny,
    world::{World, described},
};

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn three_processes_on_three_nodes_end_in_a_complete_status() {
    let world = World::of("three_processes").await;
    world.apply(&tiny("three", 3, 2)).await;
    let status = world.ended("three").await;
    assert_eq!(status.phase, ExperimentPhase::Complete, "{}", described(&status));
    assert_eq!(status.progress.finished, 2, "{}", described(&status));
    assert_eq!(status.points.len(), 1);
}
