//! Parts of the control plane that die and come back. The nodes go on measuring; what they have to say waits.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use kube::api::ListParams;
use lem_test_cluster::{Cluster, Part};

use super::{
    installed::Installed,
    invariants::{self, Asked},
    moment::{after_window, in_window, unhurried},
};

const ASKED: Asked = Asked {
    processes: 3,
    trials: 2,
};

/// A part is away from the middle of the first window until after its end.
async fn away_at_the_end_of_a_window(test: &str, part: &Part) {
    let installed = Installed::of(test).await;
    let world = &installed.world;
    world.apply(&unhurried("away", ASKED)).await;
    let start = in_window(world, "away", ASKED, 0).await;
    let killed = Timestamp::now();
    world.cluster.kill(part).unwrap();
    after_window(world, start).await;
    let restarted = Timestamp::now();
    world.cluster.start_part(part).await.unwrap();

    invariants::hold(world, "away", ASKED).await;
    for runner in world.runners("away").await {
        let windows = runner.status.unwrap().windows;
        let ended = windows[0].ended_at;
        assert!(
            killed < ended && ended < restarted,
            "the window has to end while {part} is away: {killed} < {ended} < {restarted}"
        );
    }
    invariants::a_second_look_changes_nothing(world, "away", &installed).await;
    installed.has_not_restarted().await;
    world.delete_namespace().await;
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn windows_that_end_while_the_api_server_is_away_are_reported_later() {
    away_at_the_end_of_a_window("api_server", &Part::ApiServer).await;
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn windows_that_end_while_etcd_is_away_are_reported_later() {
    away_at_the_end_of_a_window("etcd", &Part::Etcd).await;
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn an_experiment_waits_for_controllers_and_scheduler_and_goes_on_without_them() {
    let installed = Installed::of("controllers").await;
    let world = &installed.world;
    kill_controllers(world.cluster);
    world.apply(&unhurried("orphan", ASKED)).await;
    world
        .eventually("a Job that nobody looks at", || async {
            let jobs = world.api::<Job>().list(&ListParams::default()).await;
            let jobs = jobs.map_err(|error| error.to_string())?.items;
            (jobs.len() == 1).then_some(()).ok_or_else(|| format!("{jobs:?}"))
        })
        .await;
    start_controllers(world.cluster).await;
    let start = in_window(world, "orphan", ASKED, 0).await;
    kill_controllers(world.cluster);
    after_window(world, start).await;
    start_controllers(world.cluster).await;
    invariants::hold(world, "orphan", ASKED).await;
    invariants::a_second_look_changes_nothing(world, "orphan", &installed).await;
    installed.has_not_restarted().await;
    world.delete_namespace().await;
}

fn kill_controllers(cluster: &Cluster) {
    cluster.kill(&Part::ControllerManager).unwrap();
    cluster.kill(&Part::Scheduler).unwrap();
}

/// Each counts as started only once both are healthy.
async fn start_controllers(cluster: &Cluster) {
    let started = tokio::join!(
        cluster.start_part(&Part::ControllerManager),
        cluster.start_part(&Part::Scheduler)
    );
    started.0.unwrap();
    started.1.unwrap();
}
