//! Experiments that want the same nodes: one measurement has a node to itself, and nobody waits for ever.

use std::collections::BTreeMap;

use jiff::Timestamp;
use lem_crds::status::ExperimentPhase;
use lem_test_cluster::Cluster;

use crate::{
    experiment::{tiny, with},
    world::{World, condition, described, shared_name, start},
};

/// When each node was measured on, by whom.
async fn windows(world: &World, experiment: &str) -> Vec<(String, Timestamp, Timestamp, String)> {
    let runners = world.runners(experiment).await;
    let windows = runners
        .iter()
        .flat_map(|runner| runner.status.iter().flat_map(|status| &status.windows));
    windows
        .map(|window| {
            let node = window.node.clone();
            (node, window.started_at, window.ended_at, experiment.to_owned())
        })
        .collect()
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn four_experiments_that_each_need_every_node_run_one_after_the_other() {
    let world = World::of("every_node").await;
    let names = ["north", "east", "south", "west"];
    for name in names {
        world.apply(&tiny(name, 3, 2)).await;
    }
    let mut by_node: BTreeMap<String, Vec<(Timestamp, Timestamp, String)>> = BTreeMap::new();
    for name in names {
        let status = world.ended(name).await;
        assert_eq!(
            status.phase,
            ExperimentPhase::Complete,
            "{name}: {}",
            described(&status)
        );
        assert_eq!(status.progress.retried, 0, "{name}: {}", described(&status));
        for (node, begin, end, experiment) in windows(&world, name).await {
            by_node.entry(node).or_default().push((begin, end, experiment));
        }
    }
    assert_eq!(by_node.len(), 3, "{by_node:?}");
    for (node, mut windows) in by_node {
        windows.sort();
        // Processes of one experiment may share a node, and then measure at the same time.
        let others = windows.windows(2).filter(|pair| pair[0].2 != pair[1].2);
        for pair in others {
            assert!(pair[0].1 <= pair[1].0, "two measured on {node} at once: {pair:?}");
        }
    }
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn an_experiment_waits_for_the_nodes_of_another_and_says_so() {
    // Other tests' experiments, partly placed, would be another cause to wait. It ends with this process.
    let cluster: &'static Cluster = Box::leak(Box::new(start(&format!("{}-waits", shared_name())).await));
    let world = World::on(cluster, "waits").await;
    let selector = |node: &str| serde_json::json!({"placement": {"nodeSelector": {"kubernetes.io/hostname": node}}});
    world.apply(&with("first", 1, 12, &selector("node-0"))).await;
    world
        .until("first", "a placed pod", |status| {
            status.phase == ExperimentPhase::Measuring
        })
        .await;
    world.apply(&with("second", 1, 1, &selector("node-0"))).await;
    let status = world
        .until("second", "a cause for the wait", |status| {
            condition(status, "Stalled").is_some_and(|stalled| stalled.status == "True")
        })
        .await;
    let stalled = condition(&status, "Stalled").unwrap();
    assert_eq!(stalled.reason, "NodeBusy", "{}", stalled.message);
    assert!(
        stalled.message.contains("another experiment measures"),
        "{}",
        stalled.message
    );
    for name in ["first", "second"] {
        let status = world.ended(name).await;
        assert_eq!(status.phase, ExperimentPhase::Complete, "{}", described(&status));
    }
}
