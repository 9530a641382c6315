//! Each doubt is raised beyond its limit, and not just below it.

use lem_crds::{
    metrics::Unavailable,
    runner::{Domain, IdleState, RunnerError, Source},
    status::{Doubt, Verdict},
};

use super::fixtures::{Trial, baseline, counter, gpu, trial};

/// The change beyond the limit raises the doubt with this severity; the change below it does not.
#[track_caller]
fn limit(doubt: Doubt, severity: Verdict, beyond: impl Fn(&mut Trial), below: impl Fn(&mut Trial)) {
    limit_of(&trial(&[(0.0, 10.0)]), doubt, severity, beyond, below);
}

#[track_caller]
fn limit_of(base: &Trial, doubt: Doubt, severity: Verdict, beyond: impl Fn(&mut Trial), below: impl Fn(&mut Trial)) {
    let mut raised = base.clone();
    beyond(&mut raised);
    let reasons = raised.reasons(doubt);
    assert!(!reasons.is_empty(), "{doubt:?} was not raised");
    assert!(
        reasons
            .iter()
            .all(|reason| reason.severity == severity && !reason.message.is_empty()),
        "{reasons:?}"
    );
    let mut quiet = base.clone();
    below(&mut quiet);
    assert_eq!(quiet.reasons(doubt), [], "{doubt:?} was raised below its limit");
}

#[test]
fn throttling_beyond_one_percent_of_the_window_is_suspect() {
    let throttled = |seconds| {
        move |trial: &mut Trial| {
            let device = &mut trial.processes[0].window().devices[0];
            device.power_violation_seconds = Some(seconds / 2.0);
            device.thermal_violation_seconds = Some(seconds / 2.0);
            device.throttle_reasons = Some(vec!["SwPowerCap".to_owned()]); // violation time decides
        }
    };
    limit(Doubt::Throttled, Verdict::Suspect, throttled(0.11), throttled(0.099));
}

#[test]
fn throttle_bits_decide_where_no_violation_time_is_counted() {
    let bits = |names: &'static [&'static str]| {
        move |trial: &mut Trial| {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            trial.processes[0].window().devices[0].throttle_reasons = Some(names);
        }
    };
    limit(Doubt::Throttled, Verdict::Suspect, bits(&["HwSlowdown"]), bits(&[]));
}

#[test]
fn a_power_limit_below_the_default_is_suspect() {
    let limited =
        |watts| move |trial: &mut Trial| trial.processes[0].window().devices[0].power_limit_watts = Some(watts);
    limit(
        Doubt::PowerCapBelowDefault,
        Verdict::Suspect,
        limited(699.0),
        limited(700.0),
    );
}

#[test]
fn a_foreign_process_on_the_device_is_suspect() {
    let foreign =
        |count| move |trial: &mut Trial| trial.processes[0].window().devices[0].foreign_processes = Some(count);
    limit(Doubt::ForeignProcesses, Verdict::Suspect, foreign(1), foreign(0));
}

#[test]
fn a_gpu_that_others_may_have_used_unseen_is_suspect() {
    for how in ["time-slicing", "unknown"] {
        let shared = |how: Option<&str>| {
            let how = how.map(ToOwned::to_owned);
            move |trial: &mut Trial| trial.processes[0].environment.gpu_sharing.clone_from(&how)
        };
        limit(
            Doubt::ForeignProcesses,
            Verdict::Suspect,
            shared(Some(how)),
            shared(None),
        );
    }
}

#[test]
fn a_sliced_device_is_invalid_and_has_no_gpu_energy() {
    let sliced = |on| move |trial: &mut Trial| trial.processes[0].window().devices[0].mig_enabled = Some(on);
    limit(Doubt::SharedDevice, Verdict::Invalid, sliced(true), sliced(false));
    let mut trial = trial(&[(0.0, 10.0)]);
    sliced(true)(&mut trial);
    assert_eq!(
        trial.evaluate().not_available.get("gpuEnergyJ"),
        Some(&Unavailable::SharedDevice)
    );
}

#[test]
fn a_window_below_fifty_update_periods_is_suspect() {
    let period =
        |seconds| move |trial: &mut Trial| trial.processes[0].window().energy[0].update_period_seconds = Some(seconds);
    limit(Doubt::WindowTooShort, Verdict::Suspect, period(0.201), period(0.2));
}

#[test]
fn a_window_of_which_no_update_period_shows_that_it_is_long_enough_is_suspect() {
    let unknown = |source| {
        move |trial: &mut Trial| {
            let reading = &mut trial.processes[0].window().energy[1];
            (reading.source, reading.update_period_seconds) = (source, None);
        }
    };
    for source in [Source::NvmlCounter, Source::NvmlPowerIntegral, Source::Rapl] {
        // An estimate has no updates to count.
        limit(
            Doubt::WindowTooShort,
            Verdict::Suspect,
            unknown(source),
            unknown(Source::Estimate),
        );
    }
}

#[test]
fn a_window_below_fifty_periods_of_integrated_power_is_suspect_and_the_reason_names_the_power() {
    let period = |seconds| {
        move |trial: &mut Trial| {
            let reading = &mut trial.processes[0].window().energy[0];
            (reading.source, reading.update_period_seconds) = (Source::NvmlPowerIntegral, Some(seconds));
        }
    };
    limit(Doubt::WindowTooShort, Verdict::Suspect, period(1.0), period(0.2));
    let mut averaged = trial(&[(0.0, 10.0)]);
    period(1.0)(&mut averaged);
    assert_eq!(
        averaged.reasons(Doubt::WindowTooShort)[0].message,
        "process 0: window of 10.000 s is below 50 update periods of 1.0000 s of the sampled power of GPU-0"
    );
}

#[test]
fn counter_and_integral_five_percent_apart_are_suspect() {
    let integral =
        |joules| move |trial: &mut Trial| trial.processes[0].window().energy[0].integral_joules = Some(joules);
    limit(
        Doubt::CounterIntegralDisagree,
        Verdict::Suspect,
        integral(3151.0),
        integral(3149.0),
    );
    limit(
        Doubt::CounterIntegralDisagree,
        Verdict::Suspect,
        integral(2849.0),
        integral(2851.0),
    );
}

#[test]
fn a_counter_that_stood_still_while_its_board_drew_power_is_suspect() {
    let counted = |joules| {
        move |trial: &mut Trial| {
            let reading = &mut trial.processes[0].window().energy[0];
            (reading.joules, reading.integral_joules) = (Some(joules), Some(3000.0));
        }
    };
    limit(
        Doubt::CounterIntegralDisagree,
        Verdict::Suspect,
        counted(0.0),
        counted(3000.0),
    );
    let mut frozen = trial(&[(0.0, 10.0)]);
    counted(0.0)(&mut frozen);
    assert_eq!(
        frozen.reasons(Doubt::CounterIntegralDisagree)[0].message,
        "process 0: counter and power integral of GPU-0 differ: 0 J and 3000.0 J"
    );
    assert_eq!(
        frozen.evaluate().not_available.get("counterIntegralDisagreement"),
        Some(&Unavailable::DivisionByZero)
    );
}

/// The idle power of GPU and package after the trial; before, they draw 50 W and 20 W.
fn idle_after(gpu_watts: f64, package_watts: f64) -> impl Fn(&mut Trial) {
    move |trial: &mut Trial| {
        let counters = [
            (counter(Domain::Gpu, "node-a", &gpu(0)), gpu_watts),
            (counter(Domain::Cpu, "node-a", "package-0"), package_watts),
        ];
        trial.processes[0]
            .baselines
            .push(baseline(IdleState::ModelResidentAfter, &counters));
    }
}

#[test]
fn idle_power_that_drifts_by_a_tenth_is_suspect() {
    for (beyond, below) in [(57.1, 56.9), (42.9, 43.1)] {
        limit(
            Doubt::BaselineDrifted,
            Verdict::Suspect,
            idle_after(beyond, 20.0),
            idle_after(below, 20.0),
        );
    }
}

#[test]
fn idle_power_that_one_counter_loses_and_another_gains_is_suspect() {
    let mut trial = trial(&[(0.0, 10.0)]);
    idle_after(44.0, 25.0)(&mut trial);
    let messages: Vec<String> = trial
        .reasons(Doubt::BaselineDrifted)
        .into_iter()
        .map(|reason| reason.message)
        .collect();
    let wanted = "idle power changed by 11.00 W from 70.00 W, by more than 10 %: that of GPU-0 on node node-a went from \
                  50.00 W to 44.00 W";
    assert_eq!(messages, [wanted]);
}

#[test]
fn energy_below_idle_is_suspect_and_not_clamped() {
    // 4000 J in 10 s: idle power beyond 400 W leaves less than nothing.
    let idle = |watts| {
        move |trial: &mut Trial| {
            let counters = [
                (counter(Domain::Gpu, "node-a", &gpu(0)), watts - 20.0),
                (counter(Domain::Cpu, "node-a", "package-0"), 20.0),
            ];
            trial.processes[0].baselines = vec![baseline(IdleState::ModelResident, &counters)];
        }
    };
    limit(
        Doubt::NegativeAdjustedEnergy,
        Verdict::Suspect,
        idle(401.0),
        idle(399.0),
    );
    let mut trial = trial(&[(0.0, 10.0)]);
    idle(401.0)(&mut trial);
    super::fixtures::near(trial.evaluate().metrics.adjusted_energy_j, -10.0);
}

#[test]
fn a_warmup_that_did_not_settle_is_suspect() {
    let settled = |converged| move |trial: &mut Trial| trial.processes[0].window().warmup.converged = converged;
    limit(
        Doubt::WarmupNotConverged,
        Verdict::Suspect,
        settled(Some(false)),
        settled(None),
    );
}

#[test]
fn windows_that_overlap_for_less_than_half_are_suspect() {
    let base = trial(&[(0.0, 10.0), (0.0, 10.0)]);
    let second = |start| move |changed: &mut Trial| *changed = trial(&[(0.0, 10.0), (start, 20.0)]);
    limit_of(
        &base,
        Doubt::InsufficientOverlap,
        Verdict::Suspect,
        second(5.1),
        second(4.9),
    );
}

#[test]
fn starts_a_tenth_of_a_second_apart_are_suspect() {
    let base = trial(&[(0.0, 10.0), (0.0, 10.0)]);
    let second = |start| move |changed: &mut Trial| *changed = trial(&[(0.0, 10.0), (start, 10.0)]);
    limit_of(&base, Doubt::StartSkew, Verdict::Suspect, second(0.101), second(0.099));
}

#[test]
fn clocks_more_than_two_seconds_apart_are_suspect() {
    let base = trial(&[(0.0, 10.0), (0.0, 10.0)]);
    let apart = |seconds: f64| {
        move |changed: &mut Trial| {
            changed.processes[0].window().clock.api_server_offset_seconds = Some(-seconds);
            changed.processes[1].window().clock.api_server_offset_seconds = Some(0.0);
        }
    };
    limit_of(&base, Doubt::ClocksDiffer, Verdict::Suspect, apart(2.1), apart(1.9));
}

#[test]
fn a_process_that_did_not_report_makes_the_trial_invalid_and_its_sums_null() {
    let base = trial(&[(0.0, 10.0), (0.0, 10.0)]);
    let lost = |trial: &mut Trial| trial.processes[1].window = None;
    limit_of(&base, Doubt::MissingProcess, Verdict::Invalid, lost, |_| {});
    let other = |trial: &mut Trial| trial.processes[1].window().trial.cycle = 7;
    limit_of(&base, Doubt::MissingProcess, Verdict::Invalid, other, |_| {});
    let mut trial = base;
    lost(&mut trial);
    let result = trial.evaluate();
    assert_eq!((result.metrics.total_energy_j, result.processes), (None, 1));
    assert_eq!(
        result.not_available.get("totalEnergyJ"),
        Some(&Unavailable::NotReported)
    );
}

#[test]
fn a_process_that_reported_twice_makes_the_trial_invalid() {
    let base = trial(&[(0.0, 10.0), (0.0, 10.0)]);
    let twice = |trial: &mut Trial| trial.processes.push(trial.processes[1].clone());
    limit_of(&base, Doubt::DuplicateProcess, Verdict::Invalid, twice, |_| {});
}

#[test]
fn a_process_that_failed_costs_the_trial_only_before_it_reported() {
    let error = RunnerError {
        category: "OutOfMemory".to_owned(),
        message: "no memory".to_owned(),
    };
    let before = |trial: &mut Trial| {
        trial.processes[0].failure = Some(error.clone());
        trial.processes[0].window = None;
    };
    limit(Doubt::FailedProcess, Verdict::Invalid, before, |_| {});
    let after = |trial: &mut Trial| trial.processes[0].failure = Some(error.clone());
    limit(Doubt::FailedProcess, Verdict::Suspect, after, |_| {});
}

#[test]
fn failed_requests_are_suspect_and_invalid_if_none_completed() {
    let failed = |count| move |trial: &mut Trial| trial.processes[0].window().requests_failed = count;
    limit(Doubt::FailedRequests, Verdict::Suspect, failed(1), failed(0));
    let all = |trial: &mut Trial| {
        trial.processes[0].window().requests_failed = 4;
        trial.processes[0].window().requests_completed = 0;
    };
    limit(Doubt::FailedRequests, Verdict::Invalid, all, failed(0));
}

#[test]
fn an_unsynchronised_clock_matters_once_there_are_two_nodes() {
    let base = trial(&[(0.0, 10.0), (0.0, 10.0)]);
    let unsynchronised = |trial: &mut Trial| trial.processes[1].window().clock.synchronised = Some(false);
    let on_two_nodes = |trial: &mut Trial| {
        unsynchronised(trial);
        trial.processes[1].window().node = "node-b".to_owned();
    };
    limit_of(
        &base,
        Doubt::ClockNotSynchronised,
        Verdict::Suspect,
        on_two_nodes,
        unsynchronised,
    );
}

#[test]
fn estimated_energy_in_the_total_is_suspect() {
    let source = |source| move |trial: &mut Trial| trial.processes[0].window().energy[1].source = source;
    limit(
        Doubt::EstimatedEnergy,
        Verdict::Suspect,
        source(Source::Estimate),
        source(Source::Rapl),
    );
}

#[test]
fn a_counter_without_energy_is_suspect_and_a_domain_that_is_absent_is_not() {
    let failed = |trial: &mut Trial| trial.processes[0].window().energy[1].joules = None;
    let absent = |trial: &mut Trial| trial.processes[0].window().energy.truncate(1);
    limit(Doubt::EnergyMissing, Verdict::Suspect, failed, absent);
    let nothing = |trial: &mut Trial| trial.processes[0].window().energy.clear();
    limit(Doubt::EnergyMissing, Verdict::Suspect, nothing, absent);
}

#[test]
fn energy_that_was_switched_off_is_no_doubt() {
    let mut trial = trial(&[(0.0, 10.0)]);
    trial.point.load.energy.gpu = lem_crds::experiment::GpuEnergy::Disabled;
    trial.point.load.energy.cpu = lem_crds::experiment::CpuEnergy::Disabled;
    trial.processes[0].window().energy.clear();
    let result = trial.evaluate();
    assert_eq!(result.verdict, Verdict::Valid);
    assert_eq!(
        result.not_available.get("totalEnergyJ"),
        Some(&Unavailable::SwitchedOff)
    );
}

#[test]
fn another_schema_version_is_invalid() {
    let version = |version| move |trial: &mut Trial| trial.processes[0].schema_version = version;
    limit(
        Doubt::SchemaVersion,
        Verdict::Invalid,
        version(lem_crds::SCHEMA_VERSION + 1),
        version(lem_crds::SCHEMA_VERSION),
    );
}

#[test]
fn one_gpu_of_two_processes_is_invalid_and_on_two_nodes_it_is_two_gpus() {
    let base = trial(&[(0.0, 10.0), (0.0, 10.0)]);
    let same = |trial: &mut Trial| {
        let window = trial.processes[1].window();
        window.devices[0].uuid = gpu(0);
        window.energy[0].counter.id = gpu(0);
    };
    let on_two_nodes = |trial: &mut Trial| {
        same(trial);
        let window = trial.processes[1].window();
        window.node = "node-b".to_owned();
        for reading in &mut window.energy {
            reading.counter.node = "node-b".to_owned();
        }
    };
    limit_of(&base, Doubt::DuplicateGpu, Verdict::Invalid, same, on_two_nodes);
}
