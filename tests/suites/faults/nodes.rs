//! Nodes that go: drained by an administrator, or dead.

use k8s_openapi::api::core::v1::Node;
use kube::{Api, ResourceExt, api::ListParams};
use lem_test_cluster::Part;

use super::{
    installed::Installed,
    invariants::{self, Asked},
    moment::{in_window, unhurried},
    world::{World, described, kubectl},
};

const ASKED: Asked = Asked {
    processes: 2,
    trials: 3,
};

/// The node on which a process measures.
async fn node_of(world: &World, experiment: &str, process: u32) -> String {
    let runners = world.runners(experiment).await;
    let mut runners = runners.iter();
    let runner = runners.find(|runner| runner.spec.process == process).unwrap();
    let status = runner.status.as_ref().unwrap();
    status.environment.as_ref().unwrap().node.clone()
}

async fn until_whole(world: &World) {
    let nodes = Api::<Node>::all(world.client.clone());
    world
        .eventually("three ready nodes with their GPUs", || async {
            let found = nodes.list(&ListParams::default()).await;
            let found = found.map_err(|error| error.to_string())?;
            let whole = found.iter().filter(|node| {
                let status = node.status.iter();
                let mut conditions = status.clone().flat_map(|status| status.conditions.iter().flatten());
                let ready = conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True");
                let mut allocatable = status.flat_map(|status| status.allocatable.iter().flatten());
                ready && allocatable.any(|(resource, amount)| resource == "nvidia.com/gpu" && amount.0 == "2")
            });
            let whole: Vec<String> = whole.map(ResourceExt::name_any).collect();
            (whole.len() == 3).then_some(()).ok_or_else(|| whole.join(", "))
        })
        .await;
}

/// Gives the trials that were lost.
async fn lost_in_a_window(test: &str, part: impl Fn(String) -> Part) -> usize {
    let installed = Installed::of(test).await;
    let world = &installed.world;
    world.apply(&unhurried("bereft", ASKED)).await;
    in_window(world, "bereft", ASKED, 1).await;
    let node = node_of(world, "bereft", 1).await;
    world.cluster.kill(&part(node.clone())).unwrap();
    let status = world.ended("bereft").await;
    // What was on the lost node ends with its return.
    world.cluster.start_part(&part(node.clone())).await.unwrap();
    until_whole(world).await;
    invariants::hold_after_losses(world, "bereft", ASKED).await;
    installed.whole().await;
    world.delete_namespace().await;
    status.failures.len()
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_node_that_dies_in_a_window_is_given_up_and_the_experiment_ends_on_the_others() {
    let lost = lost_in_a_window("dead_node", Part::Node).await;
    assert_eq!(lost, 1, "the trial under way, and no other");
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_kubelet_that_stops_for_good_costs_its_node_and_not_the_experiment() {
    // The process goes on measuring until its pod is given up, and by then it may have finished.
    let lost = lost_in_a_window("dead_kubelet", Part::Kubelet).await;
    assert!(lost <= 1, "{lost} trials were lost, and one was under way");
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_drained_node_costs_at_most_the_trial_under_way() {
    let installed = Installed::of("drained").await;
    let world = &installed.world;
    world.apply(&unhurried("moved", ASKED)).await;
    in_window(world, "moved", ASKED, 1).await;
    let node = node_of(world, "moved", 1).await;
    kubectl(
        world.cluster,
        &[
            "drain",
            &node,
            "--ignore-daemonsets",
            "--delete-emptydir-data",
            "--timeout=100s",
        ],
    );
    let status = invariants::hold_after_losses(world, "moved", ASKED).await;
    kubectl(world.cluster, &["uncordon", &node]);
    assert_eq!(status.failures.len(), 1, "{}", described(&status));
    installed.whole().await;
    invariants::a_second_look_changes_nothing(world, "moved", &installed).await;
    world.delete_namespace().await;
}
