//! Energy of GPUs over several nodes, against the truth of the boards: their power is a function of the clock.

use std::collections::BTreeMap;

use lem_crds::{
    runner::{Domain, Source},
    status::ExperimentPhase,
};
use lem_fake_nvml::Waveform;
use lem_runner::energy::Mark;
use serde_json::json;

use crate::{
    experiment::with,
    world::{World, described},
};

const PROCESSES: u32 = 3;
const GPUS: u32 = 2;
const CYCLES: u32 = 2;

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn the_energy_of_six_gpus_on_three_nodes_is_that_of_the_boards() {
    let world = World::of("energy").await;
    let other = json!({
        "processes": {"gpusPerProcess": GPUS},
        "energy": {"gpu": "Required"},
        "workload": {"requests": 1500},
    });
    world.apply(&with("energy", PROCESSES, CYCLES, &other)).await;
    let status = world.ended("energy").await;
    assert_eq!(status.phase, ExperimentPhase::Complete, "{}", described(&status));

    let nodes = world.cluster.nodes().iter();
    let boards: BTreeMap<&str, &Waveform> = nodes
        .flat_map(|node| &node.boards)
        .map(|board| (board.uuid.as_str(), &board.waveform))
        .collect();
    // All nodes are this machine, so they share its clocks.
    let now = Mark::now();
    let boot = now.wall_seconds - now.monotonic_seconds;
    let (mut truth, mut metered, mut bars, mut shortest) = (0.0, 0.0, 0.0, f64::INFINITY);
    let mut counters = BTreeMap::<String, u32>::new();
    for runner in world.runners("energy").await {
        for window in &runner.status.unwrap().windows {
            let of_gpus = window
                .energy
                .iter()
                .filter(|reading| reading.counter.domain == Domain::Gpu);
            let readings: Vec<_> = of_gpus.collect();
            assert_eq!(readings.len(), GPUS as usize, "a process reads its own boards");
            for reading in readings {
                assert_eq!(reading.source, Source::NvmlCounter);
                assert_eq!(reading.counter.node, window.node);
                *counters.entry(reading.counter.id.clone()).or_default() += 1;
                let start = reading.start.as_ref().unwrap().at.as_duration().as_secs_f64() - boot;
                let waveform = boards[reading.counter.id.as_str()];
                truth += waveform.joules_between(start, start + reading.duration_seconds);
                metered += reading.joules.unwrap();
                bars += reading.uncertainty_joules;
                shortest = reading.duration_seconds.min(shortest);
            }
        }
    }
    assert_eq!(counters.len(), (PROCESSES * GPUS) as usize, "{counters:?}");
    assert!(counters.values().all(|windows| *windows == CYCLES), "{counters:?}");
    let result = &status.points[0];
    let pooled = result.metrics.gpu_energy_j.as_ref().unwrap();
    let in_status = pooled.mean * f64::from(pooled.count);
    println!(
        "GPU energy in status {in_status:.2} J, of the processes {metered:.2} J, truth {truth:.2} J: error {:+.4} %, stated {:.2} %; \
         {CYCLES} cycles, {PROCESSES} processes, {GPUS} boards each, shortest window {shortest:.2} s",
        (in_status / truth - 1.0) * 100.0,
        bars / truth * 100.0
    );
    assert!(
        (in_status / metered - 1.0).abs() < 1e-6,
        "a counter was lost or counted twice"
    );
    assert!(
        (in_status - truth).abs() <= bars,
        "{in_status} J, truth {truth} J, stated {bars} J"
    );
    assert!(
        bars < 0.25 * truth,
        "a bar of {bars} J would hide a board counted twice"
    );
    world.delete_namespace().await;
}
