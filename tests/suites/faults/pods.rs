//! Measuring pods that die: their Job replaces them, and what they had finished stays.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    ResourceExt,
    api::{DeleteParams, EvictParams, ListParams},
};
use lem_crds::{
    Runner,
    runner::RunnerPhase,
    status::{EfficiencyExperimentStatus, ExperimentPhase},
};
use serde_json::json;

use super::{
    experiment,
    installed::{Installed, kill, process},
    invariants::{self, Asked},
    moment::{self, in_window, unhurried},
    world::{World, described},
};

const ASKED: Asked = Asked {
    processes: 2,
    trials: 3,
};
/// The process that dies.
const VICTIM: u32 = 1;

/// The running pod of the process that dies, by the name of its mailbox.
async fn victim(world: &World, experiment: &str) -> Result<Pod, String> {
    let of_process = format!("lem.dev/experiment={experiment},batch.kubernetes.io/job-completion-index={VICTIM}");
    let pods = world
        .api::<Pod>()
        .list(&ListParams::default().labels(&of_process))
        .await;
    let mut pods = pods.map_err(|error| error.to_string())?.into_iter();
    let runs = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
    pods.find(runs).ok_or_else(|| "no running pod".to_owned())
}

/// SIGKILL to the process in the victim's pod.
async fn kill_victim(world: &World, experiment: &str) {
    let id = world
        .eventually("the process that is to die", || async {
            process(&victim(world, experiment).await?, "lem-runner")
        })
        .await;
    kill(world, id).await;
}

fn of_victim(runners: &[Runner]) -> Option<&Runner> {
    runners.iter().find(|runner| runner.spec.process == VICTIM)
}

/// Common starts lie ahead by some seconds.
fn start_is_ahead(runners: &[Runner]) -> Option<()> {
    let assignment = of_victim(runners)?.spec.assignment.as_ref()?;
    (assignment.start_at? > Timestamp::now()).then_some(())
}

fn has_reported(runners: &[Runner]) -> Option<()> {
    let status = of_victim(runners)?.status.as_ref()?;
    (!status.windows.is_empty()).then_some(())
}

fn is_told_to_finish(runners: &[Runner]) -> Option<()> {
    of_victim(runners)?.spec.finish.then_some(())
}

async fn end_of(installed: &Installed, name: &str) -> EfficiencyExperimentStatus {
    let world = &installed.world;
    let status = invariants::hold_after_losses(world, name, ASKED).await;
    invariants::a_second_look_changes_nothing(world, name, installed).await;
    installed.has_not_restarted().await;
    world.delete_namespace().await;
    status
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_process_killed_while_it_loads_costs_no_trial() {
    let installed = Installed::of("killed_in_load").await;
    let world = &installed.world;
    let slow_start = json!({"protocol": {"baseline": {"duration": "5s"}}});
    world
        .apply(&experiment::with("loads", ASKED.processes, ASKED.trials, &slow_start))
        .await;
    kill_victim(world, "loads").await;
    let status = end_of(&installed, "loads").await;
    assert!(status.failures.is_empty(), "{}", described(&status));
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_process_killed_at_the_barrier_costs_one_attempt() {
    let installed = Installed::of("killed_at_barrier").await;
    let world = &installed.world;
    world.apply(&unhurried("waits", ASKED)).await;
    moment::until(world, "waits", "a start that lies ahead", start_is_ahead).await;
    kill_victim(world, "waits").await;
    let status = end_of(&installed, "waits").await;
    assert_eq!(status.failures.len(), 1, "{}", described(&status));
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_process_killed_in_its_window_costs_one_attempt_and_is_named() {
    let installed = Installed::of("killed_in_window").await;
    let world = &installed.world;
    world.apply(&unhurried("measures", ASKED)).await;
    in_window(world, "measures", ASKED, 1).await;
    kill_victim(world, "measures").await;
    let status = end_of(&installed, "measures").await;
    assert_eq!(status.failures.len(), 1, "{}", described(&status));
    let failure = &status.failures[0];
    assert_eq!((failure.trial.cycle, failure.processes[0].process), (1, VICTIM));
    assert!(
        failure.processes[0].message.contains("137"),
        "SIGKILL shows as this exit code: {}",
        failure.processes[0].message
    );
    let runners = world.runners("measures").await;
    let earlier = &of_victim(&runners).unwrap().status.as_ref().unwrap().earlier;
    assert_eq!(earlier[0].windows.len(), 1, "what the dead pod had finished is kept");
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_pod_evicted_after_its_report_loses_no_window() {
    let installed = Installed::of("evicted").await;
    let world = &installed.world;
    world.apply(&unhurried("evicted", ASKED)).await;
    moment::until(world, "evicted", "a reported window", has_reported).await;
    let pod = victim(world, "evicted").await.unwrap();
    let evicted = world.api::<Pod>().evict(&pod.name_any(), &EvictParams::default()).await;
    evicted.unwrap();
    let status = end_of(&installed, "evicted").await;
    assert!(status.failures.len() <= 1, "{}", described(&status));
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_pod_removed_at_once_in_its_window_costs_one_attempt() {
    let installed = Installed::of("removed").await;
    let world = &installed.world;
    world.apply(&unhurried("removed", ASKED)).await;
    in_window(world, "removed", ASKED, 0).await;
    let pod = victim(world, "removed").await.unwrap();
    let at_once = DeleteParams::default().grace_period(0);
    world.api::<Pod>().delete(&pod.name_any(), &at_once).await.unwrap();
    let status = end_of(&installed, "removed").await;
    assert_eq!(status.failures.len(), 1, "{}", described(&status));
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_process_killed_in_its_last_baseline_changes_no_result() {
    let installed = Installed::of("killed_at_end").await;
    let world = &installed.world;
    let long_end = json!({"protocol": {"baseline": {"duration": "4s"}}});
    world
        .apply(&experiment::with("ends", ASKED.processes, ASKED.trials, &long_end))
        .await;
    moment::until(world, "ends", "a last letter", is_told_to_finish).await;
    kill_victim(world, "ends").await;
    let status = end_of(&installed, "ends").await;
    assert!(status.failures.is_empty(), "{}", described(&status));
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_limit_of_memory_below_the_models_need_ends_the_experiment_and_says_so() {
    let installed = Installed::of("out_of_memory").await;
    let world = &installed.world;
    // 135 million parameters in four bytes each.
    let too_little = json!({
        "model": {"source": {"synthetic": {"preset": "smollm2-135m"}}},
        "runner": {"resources": {"limits": {"memory": "128Mi"}}},
        "protocol": {"retryBudget": 1},
    });
    world.apply(&experiment::with("greedy", 1, 1, &too_little)).await;
    let status = world.ended("greedy").await;
    let seen = described(&status);
    assert_eq!(status.phase, ExperimentPhase::Failed, "{seen}");
    assert!(seen.contains("OOMKilled"), "{seen}");
    let phases = world.runners("greedy").await;
    let finished = phases.iter().filter_map(|runner| runner.status.as_ref());
    assert!(finished.into_iter().all(|status| status.phase != RunnerPhase::Finished));
    installed.has_not_restarted().await;
    world.delete_namespace().await;
}
