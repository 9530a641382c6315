//! Figures in Prometheus against those in the cluster's objects.

use kube::api::DeleteParams;
use lem_crds::{EfficiencyExperiment, runner::Domain};

use crate::{
    experiment,
    scene::{WASTEFUL, scene},
};

fn near(found: f64, expected: f64, relative: f64, what: &str) {
    assert!(
        ((found - expected) / expected).abs() <= relative,
        "{what}: {found} in Prometheus, {expected} in the cluster"
    );
}

#[tokio::test]
#[ignore = "needs root and the cluster's programs"]
async fn every_window_of_every_pod_is_in_the_live_counters_although_the_pods_are_gone() {
    let scene = scene().await;
    let (experiment, windows) = (&scene.experiment, &scene.windows);
    let energy = windows.iter().flat_map(|window| &window.energy);
    let gpu: f64 = energy
        .filter(|reading| reading.counter.domain == Domain::Gpu)
        .filter_map(|reading| reading.joules)
        .sum();
    let output: u64 = windows.iter().map(|window| window.output_tokens).sum();
    let input: u64 = windows.iter().map(|window| window.input_tokens).sum();
    let seconds: f64 = windows.iter().map(|window| window.duration_seconds).sum();
    let of = |name: &str, more: &str| {
        let expression = format!(r#"sum(max_over_time({name}{{experiment="{experiment}"{more}}}[1h]))"#);
        scene.prometheus.query(&expression)[0].value()
    };
    near(of("lem_runner_windows_total", ""), windows.len() as f64, 0.0, "windows");
    near(
        of("lem_runner_output_tokens_total", ""),
        output as f64,
        0.0,
        "output tokens",
    );
    near(
        of("lem_runner_input_tokens_total", ""),
        input as f64,
        0.0,
        "input tokens",
    );
    near(
        of("lem_runner_measured_seconds_total", ""),
        seconds,
        1e-9,
        "measured seconds",
    );
    let joules = of("lem_runner_energy_joules_total", r#",domain="gpu""#);
    near(joules, gpu, 1e-9, "joules of the GPUs");
}

#[tokio::test]
#[ignore = "needs root and the cluster's programs"]
async fn results_in_prometheus_are_those_of_the_status_and_the_energy_of_the_windows_is_their_sum() {
    let scene = scene().await;
    let experiment = &scene.experiment;
    let mut total = 0.0;
    for point in &scene.status.points {
        let label = lem_crds::plan::label(&point.values);
        let of = |name: &str, more: &str| {
            let expression = format!(r#"max by (point) ({name}{{experiment="{experiment}",point="{label}"{more}}})"#);
            scene.prometheus.query(&expression)[0].value()
        };
        let joules = point.metrics.joules_per_token.as_ref().unwrap();
        near(of("lem_point_joules_per_token", ""), joules.mean, 1e-12, &label);
        near(
            of("lem_point_joules_per_token_upper", ""),
            joules.upper.unwrap(),
            1e-12,
            &label,
        );
        let latency = point.metrics.e2e_latency_p95_ms.as_ref().unwrap();
        near(
            of("lem_point_e2e_latency_p95_seconds", ""),
            latency.mean / 1e3,
            1e-12,
            &label,
        );
        total += of("lem_point_energy_joules", r#",domain="gpu""#) * of("lem_point_cycles", "");
    }
    assert_eq!(scene.status.points.len(), 2);
    let live =
        format!(r#"sum(max_over_time(lem_runner_energy_joules_total{{experiment="{experiment}",domain="gpu"}}[1h]))"#);
    // The status keeps seven digits.
    near(
        scene.prometheus.query(&live)[0].value(),
        total,
        1e-6,
        "joules of the GPUs",
    );
}

#[tokio::test]
#[ignore = "needs root and the cluster's programs"]
async fn counters_never_go_back_and_the_operator_is_found_from_beginning_to_end() {
    let scene = scene().await;
    let counters = scene
        .prometheus
        .query(r#"count by (__name__) ({__name__=~"lem_.+_total"})"#);
    let runners = scene
        .prometheus
        .query(r#"count by (__name__) (last_over_time({__name__=~"lem_runner_.+_total"}[1h]))"#);
    let names = counters
        .iter()
        .chain(&runners)
        .map(|series| series.metric["__name__"].as_str());
    let names: std::collections::BTreeSet<&str> = names.collect();
    assert!(names.len() >= 8, "{names:?}");
    for name in names {
        let gone_back = scene.prometheus.query(&format!("resets({name}[1h]) > 0"));
        assert!(gone_back.is_empty(), "{name} went back: {gone_back:?}");
    }
    let missed = scene
        .prometheus
        .query(r#"min by (job) (avg_over_time(up{job=~".*/lem-operator"}[1h]))"#);
    assert_eq!(missed.len(), 1, "{missed:?}");
    // A machine that is busy with other tests lets a scrape time out now and then.
    assert!(missed[0].value() > 0.8, "{missed:?}");
}

#[tokio::test]
#[ignore = "needs root and the cluster's programs"]
async fn the_node_that_draws_four_times_the_power_is_named() {
    let scene = scene().await;
    let experiment = &scene.experiment;
    let expression =
        format!(r#"max by (point, node) (lem_node_outlier_joules_per_token{{experiment="{experiment}"}})"#);
    let found = scene.prometheus.query(&expression);
    let wasteful = found.iter().filter(|series| series.metric["node"] == WASTEFUL);
    assert_eq!(wasteful.count(), 2, "one for each point: {found:?}");
}

#[tokio::test]
#[ignore = "needs root and the cluster's programs"]
async fn the_series_of_a_deleted_experiment_are_gone() {
    let scene = scene().await;
    let world = crate::world::World::on(scene.cluster, "gone").await;
    world.apply(&experiment::tiny("short", 1, 1)).await;
    world.ended("short").await;
    let all = format!(
        r#"count({{__name__=~"lem_(point|experiment)_.+",namespace="{}"}})"#,
        world.namespace
    );
    scene.prometheus.until(&all, |found| !found.is_empty()).await;
    let experiments = world.api::<EfficiencyExperiment>();
    experiments.delete("short", &DeleteParams::default()).await.unwrap();
    scene.prometheus.until(&all, <[_]>::is_empty).await;
}
