//! Whole runs that succeed.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
};

use lem_crds::{metrics::DEFINITIONS, runner::WindowRecord, status::ExperimentPhase};
use lem_fake_nvml::{Board, Waveform};

use crate::lem::{Bench, TINY, stderr};

#[test]
fn two_processes_a_sweep_and_two_cycles_end_in_every_result_and_every_report() {
    let bench = Bench::new(&format!(
        "{TINY}  sweep: [{{field: workload.maxOutputTokens, values: [4, 8]}}]\n"
    ));
    let output = bench.run(&[]);
    assert_eq!(
        output.status.code(),
        Some(3),
        "estimated energy is Suspect: {}",
        stderr(&output)
    );
    let status = bench.status();
    assert_eq!((status.phase, status.points.len()), (ExperimentPhase::Complete, 2));
    for point in &status.points {
        assert_eq!(point.cycles, 2);
        assert_eq!(point.energy_sources, ["estimate"]);
        for (definition, value) in point.metrics.iter() {
            assert_ne!(
                value.is_some(),
                point.not_available.contains_key(definition.key),
                "{} has neither a value nor a reason, or both",
                definition.name
            );
        }
    }
    assert_eq!(
        bench.windows(),
        8,
        "one load for both points: 2 points × 2 cycles × 2 processes"
    );
    assert_eq!(bench.records().len(), 2, "a swept workload field made a second load");
    for name in [
        "report.html",
        "report.md",
        "report.json",
        "trials.csv",
        "plan.json",
        "experiment.json",
    ] {
        assert!(bench.results().join(name).is_file(), "{name} is missing");
    }
    let csv = std::fs::read_to_string(bench.results().join("trials.csv")).unwrap();
    assert!(
        DEFINITIONS
            .iter()
            .all(|definition| csv.lines().next().unwrap().contains(definition.name))
    );
}

#[test]
fn the_same_command_again_measures_nothing_and_says_the_same() {
    let bench = Bench::new(TINY);
    let first = bench.run(&[]);
    let records = bench.records();
    let second = bench.run(&[]);
    assert_eq!(first.stdout, second.stdout);
    assert_eq!(bench.records(), records);
}

#[test]
fn more_cycles_keep_the_finished_ones() {
    let bench = Bench::new(TINY);
    bench.run(&[]);
    let output = bench.run(&["protocol.cycles=3"]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert_eq!(bench.windows(), 6, "finished cycles were measured again");
}

#[test]
fn poisson_arrivals_are_served_and_their_latency_counts_from_the_arrival() {
    let bench = Bench::new(TINY);
    let output = bench.run(&[
        "workload.arrival={poisson: {requestsPerSecond: \"50\"}}",
        "workload.requests=20",
    ]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    let (_, record) = &bench.records()[0];
    assert!(
        record.windows[0].duration_seconds > 0.2,
        "20 arrivals at 50 a second take about 0.4 s"
    );
}

#[test]
fn two_processes_on_two_gpus_add_up_to_the_truth_and_count_nothing_twice() {
    let bench = Bench::new(TINY);
    let watts = [300.0, 200.0];
    let board = |(index, watts): (usize, &f64)| {
        Board::new(
            &format!("GPU-{index:08}-0000-0000-0000-000000000000"),
            20.0,
            Waveform::Constant { watts: *watts },
        )
    };
    let settings = [
        "processes.gpusPerProcess=1",
        "energy={gpu: Required, cpu: Disabled}",
        "workload.requests=400",
    ];
    let output = bench
        .command_with_boards(&settings, watts.iter().enumerate().map(board).collect())
        .output()
        .unwrap();
    let status = bench.status();
    assert_eq!(status.phase, ExperimentPhase::Complete, "{}", stderr(&output));
    let mut truth = 0.0;
    let mut metered = 0.0;
    let mut bars = 0.0;
    for (_, record) in bench.records() {
        for window in &record.windows {
            assert_eq!(window.energy.len(), 1, "a process reads its own GPU only");
            let board: usize = window.energy[0].counter.id[4..12].parse().unwrap();
            truth += watts[board] * window.duration_seconds;
            metered += window.energy[0].joules.unwrap();
            bars += window.energy[0].uncertainty_joules;
            each_part_has_its_share(window, watts[board]);
        }
    }
    let pooled = status.points[0].metrics.gpu_energy_j.as_ref().unwrap();
    assert!(
        (pooled.mean * f64::from(pooled.count) - metered).abs() < 1e-6 * metered,
        "a counter was lost or doubled"
    );
    let error = metered - truth;
    println!(
        "metered {metered:.3} J, truth {truth:.3} J, error {:+.3} %, stated {:.3} %",
        error / truth * 100.0,
        bars / truth * 100.0
    );
    // How far apart two reads of a counter are is the machine's load; that the error is inside what is stated is ours.
    assert!(
        error.abs() <= bars,
        "metered {metered} J, truth {truth} J, stated {bars} J"
    );
    assert!(bars < 0.4 * truth, "a bar of {bars} J would hide a board counted twice");
}

/// At constant power a part of a window has energy by its time.
fn each_part_has_its_share(window: &WindowRecord, watts: f64) {
    let reading = &window.energy[0];
    let steady = window.steady_state.as_ref().map(|steady| steady.duration_seconds);
    let parts = [
        ("prefill", reading.prefill, window.prefill_seconds),
        ("decode", reading.decode, window.decode_seconds),
        ("steady state", reading.steady_state, steady),
    ];
    for (name, energy, seconds) in parts {
        let (energy, seconds) = energy.zip(seconds).expect("static batches have each part");
        assert!(seconds > 0.0, "{name} took no time");
        let error = (energy.joules - watts * seconds).abs();
        assert!(
            error <= energy.uncertainty_joules + reading.uncertainty_joules,
            "{name}: {energy:?} in {seconds} s at {watts} W"
        );
    }
    let phases = [reading.prefill, reading.decode].into_iter().flatten();
    let together: f64 = phases.map(|part| part.joules).sum();
    let whole = reading.joules.unwrap_or_default() + reading.uncertainty_joules;
    assert!(together <= whole, "both phases have {together} J of {whole} J");
}

/// A port that was free a moment ago, and so was the next one.
fn free_port() -> u16 {
    loop {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = first.local_addr().unwrap().port();
        if port < u16::MAX && TcpListener::bind(("127.0.0.1", port + 1)).is_ok() {
            return port;
        }
    }
}

fn scrape(port: u16) -> String {
    let mut stream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn each_process_serves_live_counters_on_its_own_port() {
    let bench = Bench::new(TINY);
    let port = free_port();
    let lem = bench.start(
        bench
            .command(&["workload.requests=1500", "protocol.cycles=3"])
            .env("LEM_METRICS_ADDRESS", format!("127.0.0.1:{port}")),
    );
    for port in [port, port + 1] {
        let answer = scrape(port);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let line = answer
            .lines()
            .find(|line| line.starts_with("lem_runner_output_tokens_total{experiment="))
            .unwrap();
        // At least the first window: 1500 requests of 8 tokens.
        assert!(
            line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() >= 12_000.0,
            "{line}"
        );
        assert!(answer.trim_end().ends_with("# EOF"), "{answer}");
    }
    assert_eq!(lem.wait_with_output().unwrap().status.code(), Some(3));
}
