//! How much of the time for which a process is held it measures: a sweep on one load beside a pod for every trial.

use std::fs;

use lem_crds::{
    EfficiencyExperiment, EfficiencyExperimentStatus, Runner, RunnerStatus,
    status::{ExperimentPhase, Verdict},
};
use serde_json::{Value, json};

use crate::{
    hub, model,
    world::{World, described},
};

/// Asks for the study: it takes a quarter of an hour, on a quiet machine.
const STUDY: &str = "LEM_DUTY_STUDY";
/// What a model takes that comes over this line.
const LOAD_SECONDS: u64 = 60;
const OUTPUT_TOKENS: [u32; 4] = [8, 10, 12, 14];
const INPUT_TOKENS: [u32; 3] = [8, 12, 16];
const CYCLES: u32 = 3;
/// Of the sweep with a pod for every trial: each trial is one pod, however many there are.
const INPUT_TOKENS_OF_PODS: [u32; 1] = [12];
const CYCLES_OF_PODS: u32 = 1;
/// What one load has to save.
const GAIN: f64 = 5.0;

/// Points that share a load. Little but the load and the windows: what a trial needs beside them, both ways need.
fn sweep(name: &str, restart: &str, (input_tokens, cycles): (&[u32], u32), address: &str) -> EfficiencyExperiment {
    let source = json!({"huggingFace": {
        "revision": hub::REVISION, "file": model::FILE,
        "tokenSecretRef": {"name": "hub", "key": "token"},
    }});
    let mut experiment = model::smollm2(
        name,
        &source,
        &json!({"runner": {"env": [{"name": "HF_ENDPOINT", "value": hub::endpoint(address)}]}}),
    );
    let wanted: Value = json!({
        "engine": {"candle": {}},
        "workload": {"requests": 4, "maxInputTokens": 8, "maxOutputTokens": 8},
        "processes": {"count": 1, "gpusPerProcess": 0, "restart": restart},
        "protocol": {
            "cycles": cycles,
            "warmup": {"fixed": {"iterations": 1}},
            "baseline": {"duration": "2s"},
            "cooldown": {"duration": "1s"},
        },
        "sweep": [
            {"field": "workload.maxOutputTokens", "values": OUTPUT_TOKENS},
            {"field": "workload.maxInputTokens", "values": input_tokens},
        ],
    });
    let mut spec = json!(experiment.spec);
    for (key, value) in wanted.as_object().unwrap() {
        spec[key] = value.clone();
    }
    experiment.spec = serde_json::from_value(spec).unwrap();
    experiment
}

/// Seconds measured over seconds held.
fn duty(status: &EfficiencyExperimentStatus, runners: &[Runner]) -> f64 {
    let statuses = runners.iter().filter_map(|runner| runner.status.as_ref());
    let windows = statuses.flat_map(RunnerStatus::all_windows);
    let measured: f64 = windows.map(|window| window.duration_seconds).sum();
    measured / status.spent.as_ref().unwrap().process_seconds
}

#[tokio::test]
#[ignore = "a study, which LEM_DUTY_STUDY asks for"]
async fn a_sweep_on_one_load_measures_five_times_as_much_of_its_time_as_a_pod_per_trial() {
    if std::env::var(STUDY).is_err() {
        println!("SKIPPED: a study of a quarter of an hour, {STUDY} asks for it");
        return;
    }
    let world = World::of("duty").await;
    let rate = fs::metadata(model::file()).unwrap().len() / LOAD_SECONDS;
    let address = hub::start_with(&world, &[("HUB_BYTES_PER_SECOND", rate.to_string())]).await;
    hub::secret(&world, None).await;
    let mut found = Vec::new();
    for (name, restart, input_tokens, cycles) in [
        ("one-load", "Never", INPUT_TOKENS.as_slice(), CYCLES),
        (
            "pod-per-trial",
            "PerTrial",
            INPUT_TOKENS_OF_PODS.as_slice(),
            CYCLES_OF_PODS,
        ),
    ] {
        let trials = (OUTPUT_TOKENS.len() * input_tokens.len()) as u32 * cycles;
        world
            .apply(&sweep(name, restart, (input_tokens, cycles), &address))
            .await;
        // Each trial within the limit, not all of them together.
        for finished in 1..=trials {
            world
                .until(name, "the next trial", |status| status.progress.finished >= finished)
                .await;
        }
        let status = world.ended(name).await;
        assert_eq!(status.phase, ExperimentPhase::Complete, "{}", described(&status));
        assert!(status.points.iter().all(|point| point.verdict != Verdict::Invalid));
        let runners = world.runners(name).await;
        let load_seconds: Vec<f64> = runners
            .iter()
            .filter_map(|runner| runner.status.as_ref()?.load_seconds)
            .collect();
        let duty = duty(&status, &runners);
        println!(
            "{name}: {trials} trials, {} loads of {:.1} s in the mean, duty cycle {duty:.4}, held {:.0} s",
            runners.len(),
            load_seconds.iter().sum::<f64>() / load_seconds.len() as f64,
            status.spent.as_ref().unwrap().process_seconds
        );
        found.push(duty);
    }
    println!("one load ÷ a pod per trial: {:.2}", found[0] / found[1]);
    assert!(found[0] > GAIN * found[1], "{found:?}");
    world.delete_namespace().await;
}
