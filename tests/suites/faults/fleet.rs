//! A fleet whose operator and processes die: every node is measured, and no window twice.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{ResourceExt, api::ListParams};
use lem_crds::{EfficiencyExperiment, Runner};
use serde_json::json;

use super::{
    installed::{Installed, kill, process},
    invariants::{self, Asked},
    moment::{self, unhurried},
    world::{World, described},
};

const NODES: u32 = 3;
const CYCLES: u32 = 3;
/// Of the fleet: one process on each node.
const ASKED: Asked = Asked {
    processes: 1,
    trials: NODES * CYCLES,
};
/// Where a process dies.
const NODE: &str = "node-1";

/// All nodes at the same time.
fn fleet(name: &str) -> EfficiencyExperiment {
    let of_a_node = Asked {
        processes: 1,
        trials: CYCLES,
    };
    let mut experiment = unhurried(name, of_a_node);
    let placement = json!({"strategy": "EachNode", "maxConcurrentNodes": "100%"});
    experiment.spec.placement = serde_json::from_value(placement).unwrap();
    experiment
}

fn reported(runners: &[Runner], windows: usize) -> Option<()> {
    let statuses = runners.iter().filter_map(|runner| runner.status.as_ref());
    let found: usize = statuses.map(|status| status.windows.len()).sum();
    (found >= windows).then_some(())
}

/// SIGKILL to the process that measures a node.
async fn kill_process_of_node(world: &World, experiment: &str) {
    let of_experiment = ListParams::default().labels(&format!("lem.dev/experiment={experiment}"));
    let id = world
        .eventually("the process that is to die", || async {
            let pods = world.api::<Pod>().list(&of_experiment).await;
            let mut pods = pods.map_err(|error| error.to_string())?.into_iter();
            let of_node = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(NODE);
            let pod = pods.find(of_node).ok_or("no pod on the node")?;
            process(&pod, "lem-runner")
        })
        .await;
    kill(world, id).await;
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_fleet_whose_leader_is_killed_again_and_again_measures_every_node_once() {
    let installed = Installed::of("fleet_leaders").await;
    let world = &installed.world;
    world.apply(&fleet("led")).await;
    for windows in [0, 1, 4, 7] {
        let leader = installed.next_leader(Timestamp::UNIX_EPOCH).await;
        let running = || async { process(&leader, "lem-operator") };
        let id = world.eventually("the leader's process", running).await;
        moment::until(world, "led", "so many windows in the records", |runners| {
            reported(runners, windows)
        })
        .await;
        let killed = kill(world, id).await;
        let next = installed.next_leader(killed).await;
        eprintln!("killed at {windows} windows: {} writes", next.name_any());
    }
    invariants::hold(world, "led", ASKED).await;
    invariants::a_second_look_changes_nothing(world, "led", &installed).await;
    let fleet = world.status("led").await.unwrap().fleet.unwrap();
    assert_eq!((fleet.nodes.measured, fleet.nodes.failed), (NODES, 0), "{fleet:?}");
    world.delete_namespace().await;
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_process_of_a_fleet_that_dies_costs_its_node_one_window_and_the_others_none() {
    let installed = Installed::of("fleet_process").await;
    let world = &installed.world;
    world.apply(&fleet("dies")).await;
    moment::until(world, "dies", "a window of the node", |runners| {
        let mut of_node = runners
            .iter()
            .filter(|runner| runner.spec.node.as_deref() == Some(NODE));
        of_node
            .any(|runner| runner.status.as_ref().is_some_and(|status| status.windows.len() == 1))
            .then_some(())
    })
    .await;
    kill_process_of_node(world, "dies").await;
    let status = invariants::hold_after_losses(world, "dies", ASKED).await;
    let fleet = status.fleet.as_ref().unwrap();
    assert_eq!(
        (fleet.nodes.measured, fleet.nodes.failed),
        (NODES, 0),
        "{}",
        described(&status)
    );
    assert!(status.progress.retried <= 1, "{}", described(&status));
    invariants::a_second_look_changes_nothing(world, "dies", &installed).await;
    installed.has_not_restarted().await;
    world.delete_namespace().await;
}
