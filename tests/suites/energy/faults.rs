//! Boards and drivers that fail, lack functions, or are not alone.

use std::{thread, time::Duration};

use lem_fake_nvml::{Board, SENSOR_NOISE, Waveform};
use lem_runner::energy::{
    CounterDomain, CpuMetering, EnergyReading, EnergySource, GpuMetering, Meter, MeterConfig, MeterError, MeterReport,
    NvmlMeter, UnavailableReason, open,
};

use crate::machine::{meter, options};

/// Calls that a driver may not support → the field of the observation that is then missing.
const OPTIONAL: [(&str, &str); 8] = [
    ("nvmlDeviceGetUtilizationRates", "utilisation"),
    ("nvmlDeviceGetMemoryInfo_v2", "peakMemoryUsedBytes"),
    ("nvmlDeviceGetTemperature", "temperatureMaxCelsius"),
    ("nvmlDeviceGetClockInfo", "smClockMegahertz"),
    ("nvmlDeviceGetCurrentClocksThrottleReasons", "throttleReasonBits"),
    ("nvmlDeviceGetViolationStatus", "powerViolationNanoseconds"),
    ("nvmlDeviceGetPowerManagementLimit", "powerLimitWatts"),
    ("nvmlDeviceGetComputeRunningProcesses_v3", "processCount"),
];

pub(crate) fn boards() -> Vec<Board> {
    let waveform = Waveform::Constant { watts: 400.0 };
    let board = |uuid: &str| Board::new(uuid, 20.0, waveform.clone());
    let without = |uuid: &str, functions: &[&str]| Board {
        not_supported: functions.iter().map(|&name| name.to_owned()).collect(),
        ..board(uuid)
    };
    let mut boards = vec![
        board("GPU-healthy"),
        Board {
            waveform: Waveform::Constant { watts: 150.0 },
            ..board("GPU-second")
        },
        Board {
            fail_after_seconds: Some(1.0),
            ..board("GPU-lost")
        },
        Board {
            reset_after_seconds: Some(0.8),
            ..board("GPU-reset")
        },
        Board {
            foreign_processes: vec![4_000_001, 4_000_002],
            mig_enabled: true,
            throttle_reason_bits: 0x4,
            power_violation_share: 0.25,
            power_limit_watts: 500.0,
            ..board("GPU-shared")
        },
        without("GPU-before-volta", &["nvmlDeviceGetTotalEnergyConsumption"]),
        without("GPU-no-instant", &["POWER_INSTANT"]),
        without(
            "GPU-no-power",
            &["nvmlDeviceGetFieldValues", "nvmlDeviceGetPowerUsage", "POWER_INSTANT"],
        ),
        without(
            "GPU-nothing",
            &[
                "nvmlDeviceGetTotalEnergyConsumption",
                "nvmlDeviceGetPowerUsage",
                "POWER_INSTANT",
            ],
        ),
    ];
    boards.extend(
        OPTIONAL
            .iter()
            .map(|(function, _)| without(&format!("GPU-without-{function}"), &[function])),
    );
    boards
}

fn window(meter: &mut impl Meter, seconds: f64) -> MeterReport {
    meter.start().expect("starts");
    thread::sleep(Duration::from_secs_f64(seconds));
    meter.stop()
}

/// The readings of boards that draw so many watts sum to the truth, inside the bars that they state. A loaded machine widens
/// the bars, but not so far that they would hide a board that is left out or counted twice.
fn assert_inside_bars<'a>(readings: impl IntoIterator<Item = (&'a EnergyReading, f64)>) {
    let [mut joules, mut bars, mut truth] = [0.0; 3];
    for (reading, watts) in readings {
        joules += reading.joules.expect("a reading");
        bars += reading.uncertainty_joules.expect("an error bar on every reading");
        truth += watts * reading.duration_seconds;
        if reading.source == EnergySource::NvmlPowerIntegral {
            // An error of the sensor itself is in no bar.
            bars += SENSOR_NOISE / 2.0 * watts * reading.duration_seconds;
        }
    }
    assert!(
        (joules - truth).abs() <= bars,
        "{joules} J instead of {truth} J, stated {bars} J"
    );
    assert!(bars < 0.25 * truth, "{bars} J of {truth} J");
}

#[test]
fn a_device_that_falls_off_the_bus_has_no_energy_but_a_reason() {
    let report = window(&mut meter(&["GPU-lost"]), 1.2);
    let reading = &report.readings[0];
    assert_eq!(reading.joules, None);
    let unavailable = reading.unavailable.as_ref().expect("a reason");
    assert_eq!(unavailable.reason, UnavailableReason::DeviceFailed, "{unavailable:?}");
}

#[test]
fn one_lost_device_does_not_take_the_others_along() {
    let report = window(&mut meter(&["GPU-lost", "GPU-second"]), 1.2);
    assert_eq!(report.readings[0].joules, None);
    assert_inside_bars([(&report.readings[1], 150.0)]);
}

#[test]
fn a_counter_reset_is_null_and_never_a_wrap() {
    let report = window(&mut meter(&["GPU-reset"]), 1.0);
    let reading = &report.readings[0];
    assert_eq!(reading.joules, None);
    assert_eq!(
        reading.unavailable.as_ref().map(|why| why.reason),
        Some(UnavailableReason::CounterReset)
    );
}

#[test]
fn a_board_without_a_counter_falls_back_to_labelled_power() {
    let mut meter = meter(&["GPU-before-volta"]);
    assert_eq!(meter.describe()[0].source, EnergySource::NvmlPowerIntegral);
    let reading = &window(&mut meter, 0.5).readings[0];
    assert_eq!(reading.source, EnergySource::NvmlPowerIntegral);
    assert_inside_bars([(reading, 400.0)]);
    let start = reading.start.monotonic_seconds;
    let part = reading
        .cumulative
        .between(start + 0.1, start + 0.4)
        .expect("a part of the window");
    let bar = part.uncertainty_joules + SENSOR_NOISE / 2.0 * 120.0;
    assert!((part.joules - 120.0).abs() <= bar, "{part:?}, bar {bar}");
}

#[test]
fn a_board_with_averaged_power_says_so_and_still_counts() {
    let reading = &window(&mut meter(&["GPU-no-instant"]), 1.0).readings[0];
    assert!(reading.power_is_averaged);
    assert_eq!(reading.source, EnergySource::NvmlCounter);
    assert_inside_bars([(reading, 400.0)]);
}

#[test]
fn a_board_without_power_still_counts_but_has_no_cross_check() {
    let reading = &window(&mut meter(&["GPU-no-power"]), 1.0).readings[0];
    assert_inside_bars([(reading, 400.0)]);
    assert_eq!((reading.integral_joules, reading.integral_disagreement), (None, None));
}

#[test]
fn a_board_that_tells_nothing_is_null_and_not_zero() {
    let reading = &window(&mut meter(&["GPU-nothing"]), 0.2).readings[0];
    assert_eq!(reading.joules, None);
    assert_eq!(
        reading.unavailable.as_ref().map(|why| why.reason),
        Some(UnavailableReason::NotSupported)
    );
}

#[test]
fn each_missing_function_costs_only_its_own_field() {
    let uuids: Vec<String> = OPTIONAL
        .iter()
        .map(|(function, _)| format!("GPU-without-{function}"))
        .collect();
    let uuids: Vec<&str> = uuids.iter().map(String::as_str).collect();
    let report = window(&mut meter(&uuids), 0.5);
    for ((reading, device), (function, field)) in report.readings.iter().zip(&report.devices).zip(OPTIONAL) {
        assert_inside_bars([(reading, 400.0)]);
        assert!(
            device.not_available.contains_key(field),
            "{function}: {:?}",
            device.not_available
        );
        assert!(
            device.not_available.len() <= 2,
            "{function}: {:?}",
            device.not_available
        );
    }
}

#[test]
fn a_healthy_device_is_observed_completely() {
    let report = window(&mut meter(&["GPU-healthy"]), 0.6);
    let device = &report.devices[0];
    assert!(device.not_available.is_empty(), "{:?}", device.not_available);
    assert_eq!(device.sm_utilisation_percent.and_then(|sum| sum.mean()), Some(90.0));
    assert!(device.sm_utilisation_percent.is_some_and(|sum| sum.count >= 4));
    assert_eq!(device.peak_memory_used_bytes, Some(20 << 30));
    assert_eq!(
        (device.temperature_start_celsius, device.temperature_max_celsius),
        (Some(60), Some(60))
    );
    assert_eq!((device.foreign_process_count, device.process_count), (Some(0), Some(1)));
    assert_eq!(device.mig_enabled, Some(false));
    let reading = &report.readings[0];
    assert!(
        reading.integral_disagreement.is_some_and(|share| share < 0.02),
        "{reading:?}"
    );
    assert!(
        reading
            .update_period_seconds
            .is_some_and(|period| (period - 0.02).abs() < 0.003),
        "{reading:?}"
    );
    assert!(!reading.power.is_empty() && reading.power.len() <= 60);
    let (start, end) = reading
        .start_raw
        .zip(reading.end_raw)
        .expect("raw values of both edges");
    assert!(end.joules > start.joules && end.at.wall_seconds > start.at.wall_seconds);
}

#[test]
fn a_shared_throttled_device_shows_it() {
    let report = window(&mut meter(&["GPU-shared"]), 0.6);
    let device = &report.devices[0];
    assert_eq!(
        (device.foreign_process_count, device.mig_enabled),
        (Some(2), Some(true))
    );
    assert_eq!(device.throttle_reason_bits, Some(0x4));
    assert_eq!(
        (device.power_limit_watts, device.power_limit_default_watts),
        (Some(500.0), Some(700.0))
    );
    let share =
        device.power_violation_nanoseconds.expect("supported") as f64 / 1e9 / report.readings[0].duration_seconds;
    assert!((share - 0.25).abs() < 0.02, "{share}");
}

#[test]
fn two_processes_on_two_devices_sum_to_the_truth() {
    let reports = thread::scope(|scope| {
        ["GPU-healthy", "GPU-second"]
            .map(|uuid| scope.spawn(move || window(&mut meter(&[uuid]), 1.0)))
            .map(|thread| thread.join().expect("no panic"))
    });
    assert!(reports.iter().all(|report| report.readings.len() == 1));
    assert_inside_bars([(&reports[0].readings[0], 400.0), (&reports[1].readings[0], 150.0)]);
}

#[test]
fn one_meter_serves_many_windows_and_baselines() {
    let mut meter = meter(&["GPU-second"]);
    for seconds in [0.3, 0.5, 0.4] {
        let reading = &window(&mut meter, seconds).readings[0];
        assert_inside_bars([(reading, 150.0)]);
    }
}

#[test]
fn stopping_what_never_started_is_a_reason_and_not_a_panic() {
    let report = meter(&["GPU-second"]).stop();
    assert_eq!(report.absent[0].unavailable.reason, UnavailableReason::NotStarted);
}

fn config() -> MeterConfig {
    MeterConfig {
        cpu: CpuMetering::Off,
        ..MeterConfig::from_environment("node-a")
    }
}

#[test]
fn without_a_library_automatic_metering_reports_why_and_required_metering_fails() {
    let nvml_library = Some("/nowhere/libnvidia-ml.so".into());
    let mut opened = open(&MeterConfig {
        nvml_library: nvml_library.clone(),
        ..config()
    })
    .expect("gpu: Auto never fails");
    let report = window(&mut opened.meter, 0.01);
    let reasons: Vec<_> = report
        .absent
        .iter()
        .map(|absent| (absent.domain, absent.unavailable.reason))
        .collect();
    assert!(
        reasons.contains(&(CounterDomain::Gpu, UnavailableReason::NoNvmlLibrary)),
        "{reasons:?}"
    );
    let required = open(&MeterConfig {
        nvml_library,
        gpu: GpuMetering::Required,
        ..config()
    });
    assert!(matches!(required, Err(MeterError::NvmlLibrary { .. })));
}

#[test]
fn hidden_devices_are_not_metered() {
    let hidden = NvmlMeter::open(lem_runner::energy::NvmlOptions {
        devices: None,
        cuda_visible_devices: Some("-1".to_owned()),
        ..options(&[])
    });
    assert!(matches!(hidden, Err(MeterError::NoDevices)));
    let second = NvmlMeter::open(lem_runner::energy::NvmlOptions {
        devices: None,
        cuda_visible_devices: Some("1,GPU-second".to_owned()),
        ..options(&[])
    });
    let second = second.expect("both exist");
    let ids: Vec<_> = second
        .describe()
        .into_iter()
        .map(|counter| counter.counter.id)
        .collect();
    assert_eq!(ids, ["GPU-constant-100", "GPU-second"]);
}

#[test]
fn the_beginning_of_a_uuid_selects_a_board_only_if_it_is_unique() {
    let ids: Vec<_> = meter(&["GPU-heal"])
        .describe()
        .into_iter()
        .map(|counter| counter.counter.id)
        .collect();
    assert_eq!(ids, ["GPU-healthy"]);
    assert!(NvmlMeter::open(options(&["GPU-without"])).is_err());
}

#[test]
fn a_partition_of_a_board_is_refused_instead_of_charged_with_the_whole_board() {
    let partition = NvmlMeter::open(options(&["MIG-0a1b"]));
    let error = partition.err().expect("a partition has no energy of its own");
    assert_eq!(error.unavailable().reason, UnavailableReason::SharedDevice);
}

#[test]
fn provenance_names_the_board_and_its_settings() {
    let provenance = &meter(&["GPU-shared"]).provenance()[0];
    assert_eq!(provenance.cuda_driver.as_deref(), Some("12.8"));
    assert_eq!(provenance.driver.as_deref(), Some("570.00.fake"));
    assert_eq!(
        (provenance.ecc_enabled, provenance.mig_enabled),
        (Some(true), Some(true))
    );
    assert_eq!(provenance.power_limit_watts, Some(500.0));
}
