//! What goes wrong while a run is under way: nothing measured is lost, nothing waits for ever.

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

use lem_crds::{
    metrics::Unavailable,
    runner::Domain,
    status::{Doubt, ExperimentPhase},
};
use lem_fake_nvml::{Board, Waveform};

use crate::lem::{Bench, TINY, binaries, children, signal, stderr};

/// Windows long enough to be interrupted in the middle.
const LONG: [&str; 2] = ["workload.requests=1500", "protocol.cycles=3"];

#[test]
fn a_killed_runner_costs_one_retry_and_no_result() {
    let bench = Bench::new(TINY);
    let lem = bench.start(&mut bench.command(&LONG));
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
    let lem = bench.start(&mut bench.command(&LONG));
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
    let lem = bench.start(&mut bench.command(&settings));
    signal(children(lem.id())[1], "-STOP");
    let output = lem.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert_eq!(bench.status().progress.finished, 2);
}

#[test]
fn a_board_that_fails_half_way_costs_its_energy_and_not_the_run() {
    let bench = Bench::new(TINY);
    let failing = Board {
        fail_after_seconds: Some(4.0),
        ..Board::new(
            "GPU-00000000-0000-0000-0000-000000000000",
            20.0,
            Waveform::Constant { watts: 300.0 },
        )
    };
    let settings = [
        "processes={count: 1, gpusPerProcess: 1}",
        "energy={gpu: Auto, cpu: Disabled}",
        "workload.requests=1500",
        "protocol.cycles=6",
    ];
    let output = bench.command_with_boards(&settings, vec![failing]).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    let (_, record) = bench.records().pop().unwrap();
    assert_eq!(record.windows.len(), 6, "the run ended with its board");
    let last = &record.windows[5].energy[0];
    assert_eq!(
        (last.joules, last.unavailable),
        (None, Some(Unavailable::CounterFailed)),
        "{last:?}"
    );
    let point = &bench.status().points[0];
    assert!(point.reasons.iter().any(|reason| reason.doubt == Doubt::EnergyMissing));
    assert!(
        point
            .metrics
            .gpu_energy_j
            .as_ref()
            .is_none_or(|energy| energy.mean > 0.0),
        "a failed board was counted as zero"
    );
}

#[test]
fn a_package_counter_that_vanishes_is_named_and_the_run_goes_on() {
    let bench = Bench::new(TINY);
    let root = bench.folder.path().join("powercap");
    let package = root.join("intel-rapl:0");
    fs::create_dir_all(&package).unwrap();
    for (file, contents) in [
        ("name", "package-0"),
        ("energy_uj", "1000000"),
        ("max_energy_range_uj", "262143328850"),
    ] {
        fs::write(package.join(file), contents).unwrap();
    }
    let settings = [&LONG[..], &["energy={gpu: Disabled, cpu: Rapl}"]].concat();
    let lem = bench.start(bench.command(&settings).env("LEM_POWERCAP_ROOT", &root));
    fs::remove_dir_all(&package).unwrap();
    let output = lem.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    for (_, record) in bench.records() {
        let last = record.windows.last().unwrap();
        assert_eq!(
            (last.energy[0].counter.domain, last.energy[0].joules),
            (Domain::Cpu, None),
            "{:?}",
            last.energy
        );
        assert!(
            last.energy[0].message.contains("energy_uj"),
            "{}",
            last.energy[0].message
        );
    }
}

#[test]
fn a_full_disk_ends_the_run_with_the_reason_and_leaves_what_was_kept_whole() {
    let bench = Bench::new(TINY);
    // A mount namespace of our own holds a disk of 64 KiB; the results are copied out before it vanishes.
    let script = format!(
        "mkdir results kept && mount -t tmpfs -o size=64k tmpfs results && \
         {} run experiment.yaml --quiet --set protocol.cycles=20; code=$?; cp -r results/. kept; exit $code",
        binaries().join("lem").display()
    );
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script])
        .current_dir(bench.folder.path())
        .output()
        .unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("failed to write results/tiny/") && text.contains("No space left on device"),
        "{text}"
    );
    assert!(!text.contains("panicked"), "{text}");
    let results = bench.folder.path().join("results");
    fs::remove_dir(&results).unwrap();
    fs::rename(bench.folder.path().join("kept"), results).unwrap();
    let before = bench.records();
    assert!(!before.is_empty(), "nothing measured was kept");
    let output = bench.run(&["protocol.cycles=20"]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    for (name, record) in &before {
        let after = bench.records();
        let (_, now) = after.iter().find(|(other, _)| other == name).unwrap();
        assert!(
            now.windows.starts_with(&record.windows),
            "{name} was lost or measured again"
        );
    }
    // The trial during which the disk was full may be half kept; it is repeated whole, and no other is.
    let again = bench.windows() - 40;
    assert!(again <= 1, "{again} kept windows were measured again");
}

#[test]
fn a_second_lem_on_the_same_folder_is_refused_and_disturbs_nothing() {
    let bench = Bench::new(TINY);
    let first = bench.start(&mut bench.command(&LONG));
    let second = bench.run(&LONG);
    let text = stderr(&second);
    assert!(
        second.status.code() == Some(1) && text.contains("another lem is measuring into results/tiny"),
        "{text}"
    );
    assert_eq!(first.wait_with_output().unwrap().status.code(), Some(3));
    assert_eq!(bench.status().progress.finished, 3);
}
