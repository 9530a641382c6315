//! What goes wrong while a run is under way: nothing measured is lost, nothing waits for ever.

use std::{fs, os::unix::fs::PermissionsExt, process::Stdio};

use lem_crds::status::ExperimentPhase;

use crate::lem::{Bench, TINY, children, signal, stderr, wait_until};

/// Windows long enough to be interrupted in the middle.
const LONG: [&str; 2] = ["workload.requests=1500", "protocol.cycles=3"];

#[test]
fn a_killed_runner_costs_one_retry_and_no_result() {
    let bench = Bench::new(TINY);
    let mut lem = bench
        .command(&LONG)
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_until(&mut lem, "the first window", || bench.windows() >= 2);
    signal(children(lem.id())[0], "-KILL");
    let output = lem.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    let status = bench.status();
    assert_eq!((status.phase, status.progress.finished), (ExperimentPhase::Complete, 3));
    assert_eq!(status.progress.retried, 1);
    assert!(
        status.warnings.iter().any(|warning| warning.contains("signal: 9")),
        "{:?}",
        status.warnings
    );
    assert!(
        stderr(&output).contains("signal: 9"),
        "the loss of a process was not said"
    );
}

#[test]
fn ctrl_c_keeps_what_was_measured_and_the_same_command_goes_on() {
    let bench = Bench::new(TINY);
    let mut lem = bench
        .command(&LONG)
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_until(&mut lem, "the first window", || bench.windows() >= 2);
    signal(i32::try_from(lem.id()).unwrap(), "-INT");
    let output = lem.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("the same command goes on"),
        "{}",
        stderr(&output)
    );
    let before = bench.records();
    let output = bench.run(&LONG);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert_eq!(bench.status().progress.finished, 3);
    for record in &before {
        assert!(
            bench.records().contains(record),
            "a finished window was lost or measured again"
        );
    }
}

#[test]
fn a_runner_that_never_answers_is_ended_at_its_deadline() {
    let bench = Bench::new(TINY);
    let mute = bench.folder.path().join("mute-runner");
    fs::write(&mute, "#!/bin/sh\nexec sleep 600\n").unwrap();
    fs::set_permissions(&mute, fs::Permissions::from_mode(0o755)).unwrap();
    let output = bench
        .command(&[
            "protocol.deadlines={load: 200ms}",
            "protocol.retryBudget=1",
            "protocol.cycles=1",
        ])
        .env("LEM_RUNNER", &mute)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    let status = bench.status();
    assert_eq!(status.phase, ExperimentPhase::Failed);
    assert!(
        status.partial[0].contains("spec.protocol.deadlines.load"),
        "{:?}",
        status.partial
    );
}

#[test]
fn a_runner_that_hangs_is_ended_at_the_deadline_of_its_step_and_its_trial_repeated() {
    let bench = Bench::new(TINY);
    let settings = [
        "workload.requests=1500",
        "protocol.cycles=2",
        "protocol.deadlines={ready: 10s, window: 20s}",
    ];
    let mut lem = bench
        .command(&settings)
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_until(&mut lem, "the first window", || bench.windows() >= 2);
    signal(children(lem.id())[1], "-STOP");
    let output = lem.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert_eq!(bench.status().progress.finished, 2);
}
