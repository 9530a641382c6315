//! An experiment ends when its budget has no room for what comes next, with what it has measured.

use lem_crds::{
    EfficiencyExperimentStatus,
    status::{ExperimentPhase, Verdict},
};
use serde_json::{Value, json};

use crate::{
    experiment::with,
    world::{World, described},
};

/// Enough for some trials of the many that are planned.
const GPU_SECONDS: u64 = 15;
const CYCLES: u32 = 100;

fn bounded(placement: &Value) -> Value {
    json!({
        "processes": {"gpusPerProcess": 1},
        "energy": {"gpu": "Required", "cpu": "Disabled"},
        "workload": {"requests": 200},
        "budget": {"maxGpuSeconds": GPU_SECONDS},
        "placement": placement,
    })
}

/// Ended by the budget, not beyond it, with results.
fn ended_by_the_budget(status: &EfficiencyExperimentStatus) {
    assert_eq!(status.phase, ExperimentPhase::Partial, "{}", described(status));
    assert!(
        status
            .partial
            .iter()
            .any(|words| words.contains("spec.budget.maxGpuSeconds")),
        "{:?}",
        status.partial
    );
    let progress = &status.progress;
    assert!(
        progress.finished > 0 && progress.finished < progress.planned,
        "{progress:?}"
    );
    assert_ne!(
        status.points[0].verdict,
        Verdict::Invalid,
        "{:?}",
        status.points[0].reasons
    );
    let spent = status.spent.as_ref().unwrap().gpu_seconds;
    let of_a_trial = spent / f64::from(progress.finished);
    // A window may take longer than those before it.
    assert!(
        spent < GPU_SECONDS as f64 + of_a_trial,
        "{spent} GPU seconds of {GPU_SECONDS}"
    );
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_budget_ends_an_experiment_and_a_fleet_with_what_they_have_measured() {
    let world = World::of("budget").await;
    world.apply(&with("one", 1, CYCLES, &bounded(&json!({})))).await;
    ended_by_the_budget(&world.ended("one").await);

    let each_node = json!({"strategy": "EachNode", "maxConcurrentNodes": 1});
    world.apply(&with("fleet", 1, CYCLES, &bounded(&each_node))).await;
    let status = world.ended("fleet").await;
    ended_by_the_budget(&status);
    let fleet = status.fleet.unwrap();
    let begun = fleet.nodes.measured + fleet.nodes.failed;
    assert!(begun > 0 && begun < fleet.nodes.matching, "{fleet:?}");
    let unspent = fleet
        .without_result
        .iter()
        .filter(|entry| entry.reason == "BudgetSpent");
    let nodes: usize = unspent.map(|entry| entry.nodes.len()).sum();
    assert_eq!(nodes as u32, fleet.nodes.matching - fleet.nodes.measured, "{fleet:?}");
    world.delete_namespace().await;
}
