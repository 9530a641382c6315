//! From what meters and engine saw to the contract's raw facts. Pure but for the kernel's word on its clock.

use std::collections::BTreeMap;

use jiff::Timestamp;
use lem_crds::{
    metrics::Unavailable,
    runner::{
        AbsentDomain, ClockQuality, CounterIdentity, CounterReading, DeviceObservation, Domain, EnergyReading,
        Environment, GpuEnvironment, MeanOfSamples, PartEnergy, PowerSample, Source,
    },
};

use crate::energy::{self, CounterDomain, DeviceProvenance, EnergySource, Mark, Meter, MeterReport, UnavailableReason};

/// A meter's report in the contract's terms.
pub(super) struct Facts {
    pub(super) energy: Vec<EnergyReading>,
    pub(super) absent: Vec<AbsentDomain>,
    pub(super) devices: Vec<DeviceObservation>,
}

/// Parts of a window whose energy is wanted: each the times that it consists of, from and to in monotonic seconds.
#[derive(Debug, Default)]
pub(super) struct Parts {
    pub(super) steady_state: Option<Vec<(f64, f64)>>,
    pub(super) prefill: Option<Vec<(f64, f64)>>,
    pub(super) decode: Option<Vec<(f64, f64)>>,
}

/// Of a report, with the energy of parts of its window.
pub(super) fn report(report: MeterReport, parts: &Parts, started: Mark) -> Facts {
    let MeterReport {
        readings,
        devices,
        absent,
    } = report;
    Facts {
        energy: readings.into_iter().map(|one| reading(one, parts, started)).collect(),
        absent: absent
            .into_iter()
            .map(|absent| AbsentDomain {
                domain: domain(absent.domain),
                reason: unavailable(absent.unavailable.reason),
                message: absent.unavailable.message,
            })
            .collect(),
        devices: devices.into_iter().map(device).collect(),
    }
}

/// Of one reading, in a window that started then.
pub(super) fn reading(reading: energy::EnergyReading, parts: &Parts, started: Mark) -> EnergyReading {
    let part = |times: &Option<Vec<(f64, f64)>>| {
        let energy = reading.cumulative.over(times.as_deref()?)?;
        Some(PartEnergy {
            joules: energy.joules,
            uncertainty_joules: energy.uncertainty_joules,
        })
    };
    let [steady_state, prefill, decode] = [&parts.steady_state, &parts.prefill, &parts.decode].map(part);
    let cumulative = |raw: energy::RawCounter| CounterReading {
        at: placed(started, raw.at),
        joules: raw.joules,
    };
    EnergyReading {
        counter: CounterIdentity {
            domain: domain(reading.counter.domain),
            node: reading.counter.node,
            id: reading.counter.id,
        },
        source: match reading.source {
            EnergySource::NvmlCounter => Source::NvmlCounter,
            EnergySource::NvmlPowerIntegral => Source::NvmlPowerIntegral,
            EnergySource::Rapl => Source::Rapl,
            EnergySource::Estimate => Source::Estimate,
        },
        joules: reading.joules,
        message: reading
            .unavailable
            .as_ref()
            .map(|why| why.message.clone())
            .unwrap_or_default(),
        unavailable: reading.unavailable.map(|why| unavailable(why.reason)),
        uncertainty_joules: reading.uncertainty_joules.unwrap_or_default(),
        duration_seconds: reading.duration_seconds,
        start: reading.start_raw.map(cumulative),
        end: reading.end_raw.map(cumulative),
        range_joules: reading.range_joules,
        update_period_seconds: reading.update_period_seconds,
        integral_joules: reading.integral_joules,
        power_is_averaged: reading.power_is_averaged,
        power: reading
            .power
            .into_iter()
            .take(60)
            .map(|sample| PowerSample {
                offset_seconds: sample.offset_seconds,
                watts: sample.watts,
            })
            .collect(),
        steady_state,
        prefill,
        decode,
    }
}

fn device(device: energy::DeviceObservation) -> DeviceObservation {
    let mean = |samples: energy::SampleSum| MeanOfSamples {
        sum: samples.sum,
        count: samples.count,
    };
    let seconds = |nanoseconds: u64| nanoseconds as f64 * 1e-9;
    DeviceObservation {
        uuid: device.uuid,
        sm_utilisation: device.sm_utilisation_percent.map(mean),
        memory_utilisation: device.memory_utilisation_percent.map(mean),
        memory_peak_bytes: device.peak_memory_used_bytes,
        memory_total_bytes: device.total_memory_bytes,
        temperature_start_celsius: device.temperature_start_celsius.map(f64::from),
        temperature_maximum_celsius: device.temperature_max_celsius.map(f64::from),
        sm_clock_megahertz: device.sm_clock_megahertz.map(mean),
        throttle_reasons: device.throttle_reason_bits.map(slowing_reasons),
        power_violation_seconds: device.power_violation_nanoseconds.map(seconds),
        thermal_violation_seconds: device.thermal_violation_nanoseconds.map(seconds),
        power_limit_watts: device.power_limit_watts,
        power_limit_default_watts: device.power_limit_default_watts,
        mig_enabled: device.mig_enabled,
        foreign_processes: device.foreign_process_count,
        // The meters explain in words; the contract keeps the bounded reason.
        not_available: device
            .not_available
            .into_iter()
            .map(|(field, why)| (field, unavailable(why.reason)))
            .collect(),
    }
}

/// Bits of `nvmlClocksEventReasons` that hold clocks below what the load asks for; idle, application clocks and display
/// settings are none.
const SLOWING_REASONS: [(u64, &str); 6] = [
    (0x04, "SwPowerCap"),
    (0x08, "HwSlowdown"),
    (0x10, "SyncBoost"),
    (0x20, "SwThermalSlowdown"),
    (0x40, "HwThermalSlowdown"),
    (0x80, "HwPowerBrakeSlowdown"),
];

fn slowing_reasons(bits: u64) -> Vec<String> {
    SLOWING_REASONS
        .iter()
        .filter(|(bit, _)| bits & bit != 0)
        .map(|(_, name)| (*name).to_owned())
        .collect()
}

fn domain(domain: CounterDomain) -> Domain {
    match domain {
        CounterDomain::Gpu => Domain::Gpu,
        CounterDomain::Cpu => Domain::Cpu,
        CounterDomain::Dram => Domain::Dram,
    }
}

fn unavailable(reason: UnavailableReason) -> Unavailable {
    match reason {
        UnavailableReason::NoNvmlLibrary | UnavailableReason::NoDevices => Unavailable::NoDevice,
        UnavailableReason::NotSupported => Unavailable::NotSupported,
        UnavailableReason::SharedDevice => Unavailable::SharedDevice,
        UnavailableReason::CounterReset => Unavailable::CounterReset,
        UnavailableReason::DeviceFailed
        | UnavailableReason::Vanished
        | UnavailableReason::Malformed
        | UnavailableReason::NotStarted => Unavailable::CounterFailed,
        UnavailableReason::PermissionDenied => Unavailable::PermissionDenied,
        UnavailableReason::ProcessNamespace => Unavailable::ProcessNamespace,
        UnavailableReason::NoPowercap => Unavailable::NoCounter,
        UnavailableReason::Off => Unavailable::SwitchedOff,
    }
}

/// Adds counters and GPUs to the provenance.
pub(super) fn add_devices(environment: &mut Environment, meter: &dyn Meter, devices: Vec<DeviceProvenance>) {
    environment.counters = meter
        .describe()
        .into_iter()
        .map(|counter| {
            format!(
                "{} {}: {}",
                domain(counter.counter.domain).name(),
                counter.counter.id,
                counter.detail
            )
        })
        .collect();
    environment.driver = devices.iter().find_map(|device| device.driver.clone());
    environment.cuda = devices.iter().find_map(|device| device.cuda_driver.clone());
    environment.gpus = devices.into_iter().map(gpu).collect();
}

fn gpu(device: DeviceProvenance) -> GpuEnvironment {
    GpuEnvironment {
        uuid: device.uuid,
        product: device.product,
        vbios: device.vbios,
        memory_bytes: device.total_memory_bytes,
        power_limit_watts: device.power_limit_watts,
        power_limit_default_watts: device.power_limit_default_watts,
        application_clock_megahertz: device.application_sm_clock_megahertz,
        ecc: device.ecc_enabled,
        persistence: device.persistence_enabled,
        mig: device.mig_enabled,
        not_available: BTreeMap::new(),
    }
}

/// An instant of the window that started at `started`, by the wall clock as it was then. Power and throughput are taken
/// over times of several processes, which a step of the wall clock within the window must not make longer or shorter.
pub(super) fn placed(started: Mark, instant: Mark) -> Timestamp {
    timestamp(started.at(instant.monotonic_seconds).wall_seconds)
}

/// Unix seconds as a timestamp; the epoch for a value out of range.
fn timestamp(wall_seconds: f64) -> Timestamp {
    Timestamp::from_microsecond((wall_seconds * 1e6).round() as i64).unwrap_or_default()
}

/// What the kernel says of its clock, `adjtimex(2)`: a daemon (chrony, ntpd, systemd-timesyncd) clears the unsynchronised
/// flag and keeps the bound of the error; the kernel widens the bound and sets the flag again once nothing corrects it.
pub(super) fn clock_quality() -> ClockQuality {
    // SAFETY: `timex` is a plain structure of integers, for which all zeros is a value: "change nothing, report all".
    #[expect(
        unsafe_code,
        reason = "no safe wrapper of adjtimex reads the status without asking to set it"
    )]
    let (state, clock) = unsafe {
        let mut clock = std::mem::zeroed::<libc::timex>();
        (libc::adjtimex(&raw mut clock), clock)
    };
    if state < 0 {
        return ClockQuality::default();
    }
    ClockQuality {
        synchronised: Some(state != libc::TIME_ERROR && clock.status & libc::STA_UNSYNC == 0),
        maximum_error_microseconds: u64::try_from(clock.maxerror).ok(),
        api_server_offset_seconds: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::energy::{CumulativeEnergy, RawCounter};

    #[test]
    fn a_step_of_the_wall_clock_within_a_window_makes_it_neither_longer_nor_shorter() {
        // Ten seconds in which the wall clock was set back by five.
        let started = Mark {
            monotonic_seconds: 100.0,
            wall_seconds: 1000.0,
        };
        let ended = Mark {
            monotonic_seconds: 110.0,
            wall_seconds: 1005.0,
        };
        let times = [timestamp(1000.0), timestamp(1010.0)];
        assert_eq!([placed(started, started), placed(started, ended)], times);

        let raw = |at, joules| Some(RawCounter { at, joules });
        let seen = energy::EnergyReading {
            counter: energy::CounterIdentity {
                domain: CounterDomain::Cpu,
                id: "package-0".to_owned(),
                node: "node-a".to_owned(),
            },
            source: EnergySource::Rapl,
            joules: Some(1000.0),
            unavailable: None,
            uncertainty_joules: Some(1.0),
            duration_seconds: 10.0,
            start: started,
            end: ended,
            start_raw: raw(started, 5.0),
            end_raw: raw(ended, 1005.0),
            range_joules: None,
            update_period_seconds: None,
            integral_joules: None,
            integral_disagreement: None,
            power_is_averaged: false,
            power: Vec::new(),
            cumulative: CumulativeEnergy::default(),
        };
        let seen = reading(seen, &Parts::default(), started);
        assert_eq!([seen.start, seen.end].map(|edge| edge.unwrap().at), times);
    }
}
