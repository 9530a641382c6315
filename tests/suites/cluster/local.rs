//! A pod measures what `lem run` measures: the same counts exactly, and figures to compare.

use std::{fs, process::Command};

use lem_crds::{
    EfficiencyExperimentStatus, RunnerStatus, metrics::Estimate, runner::WindowRecord, status::ExperimentPhase,
};
use serde_json::{Value, json};

use crate::{
    model,
    world::{World, binaries, described},
};

/// What does not depend on how fast or how busy the machine is.
fn counts(window: &WindowRecord) -> impl PartialEq + std::fmt::Debug {
    let flops = window.flops.as_ref().map(|flops| (flops.total, flops.method));
    let tokens = (window.input_tokens, window.output_tokens, window.requests_completed);
    (tokens, flops, window.weight_bytes, window.compute_precision)
}

fn shown(estimate: Option<&Estimate>) -> String {
    estimate.map_or("none".to_owned(), |estimate| {
        let half = estimate
            .upper
            .map_or("?".to_owned(), |upper| format!("{:.3}", upper - estimate.mean));
        format!("{:.3} ± {half}", estimate.mean)
    })
}

/// `lem run` of the same experiment on this machine.
fn run_here(experiment: &Value) -> (EfficiencyExperimentStatus, RunnerStatus) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("experiment.yaml"), experiment.to_string()).unwrap();
    let output = Command::new(binaries().join("lem"))
        .current_dir(folder.path())
        .args(["run", "experiment.yaml", "--quiet"])
        .output()
        .unwrap();
    let results = folder.path().join("results/same");
    let errors = String::from_utf8_lossy(&output.stderr);
    let text = fs::read(results.join("status.json")).expect(&errors);
    let status = serde_json::from_slice(&text).unwrap();
    let mut records = fs::read_dir(results.join("runners")).unwrap();
    let record = fs::read(records.next().unwrap().unwrap().path()).unwrap();
    let record: Value = serde_json::from_slice(&record).unwrap();
    (status, serde_json::from_value(record["status"].clone()).unwrap())
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_pod_counts_the_tokens_and_flops_that_lem_run_counts() {
    let world = World::of("same").await;
    model::claim(&world).await;
    let source = json!({"persistentVolumeClaim": {"claimName": "models", "path": model::FILE}});
    let workload = json!({"requests": 2, "maxInputTokens": 32, "maxOutputTokens": 16});
    let protocol = json!({
        "cycles": 3,
        "baseline": {"duration": "1s"},
        "cooldown": {"duration": "500ms"},
        "warmup": {"fixed": {"iterations": 1}},
    });
    let other = json!({"workload": workload, "protocol": protocol});
    let experiment = model::smollm2("same", &source, &other);
    world.apply(&experiment).await;
    let in_pod = world.ended("same").await;
    assert_eq!(in_pod.phase, ExperimentPhase::Complete, "{}", described(&in_pod));
    let record = world.runners("same").await.remove(0).status.unwrap();
    // After the pod and not beside it, so that neither disturbs the other.
    let mut local = json!(experiment);
    local["spec"].as_object_mut().unwrap().remove("runner");
    local["spec"]["model"]["source"] = json!({"directory": {"path": model::file()}});
    let (here, local) = run_here(&local);

    assert_eq!(record.windows.len(), 3);
    let both = record.windows.iter().zip(&local.windows);
    for (pod, process) in both {
        assert_eq!(counts(pod), counts(process));
    }
    let digest = |record: &RunnerStatus| record.environment.as_ref().unwrap().model.weights_digest.clone();
    assert_eq!(digest(&record), digest(&local));
    for (name, status) in [("pod", &in_pod), ("lem run", &here)] {
        let metrics = &status.points[0].metrics;
        println!(
            "{name}: {} tokens/s, {} J/token, {} W, {} ms to the first token",
            shown(metrics.tokens_per_second.as_ref()),
            shown(metrics.joules_per_token.as_ref()),
            shown(metrics.total_power_w.as_ref()),
            shown(metrics.ttft_ms.as_ref()),
        );
    }
    world.delete_namespace().await;
}
