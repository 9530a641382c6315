//! What a meter reports: one reading per physical counter, one observation per GPU. Raw facts only, no ratios.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{clock::Mark, cumulative::CumulativeEnergy};

/// The part of a node whose energy a counter covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CounterDomain {
    /// A whole GPU board.
    Gpu,
    /// A CPU package (socket or die), cores and uncore included.
    Cpu,
    /// The memory attached to one CPU package.
    Dram,
}

/// Names one physical counter: two readings with the same identity are the same Joules, to be counted once.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CounterIdentity {
    /// What the counter covers.
    pub domain: CounterDomain,
    /// GPU UUID; `package-0`; `package-0/dram`; `machine` for an estimate.
    pub id: String,
    /// Name of the node that the counter is in.
    pub node: String,
}

/// Where the Joules come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EnergySource {
    /// Difference of `nvmlDeviceGetTotalEnergyConsumption` between the edges.
    NvmlCounter,
    /// Trapezoid over sampled power, because the energy counter could not be used.
    NvmlPowerIntegral,
    /// Difference of a powercap `energy_uj` between the edges.
    Rapl,
    /// A model of the power, not a measurement.
    Estimate,
}

/// Why a value is missing, for machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum UnavailableReason {
    /// No `libnvidia-ml.so` could be loaded or initialised.
    NoNvmlLibrary,
    /// The library works, but no (selected) device is there.
    NoDevices,
    /// The device or driver does not offer this value.
    NotSupported,
    /// The counter went backwards: driver reload or device reset inside the window.
    CounterReset,
    /// The device answered at first and then failed.
    DeviceFailed,
    /// The file or device may not be read by this user.
    PermissionDenied,
    /// The file was there at first and vanished.
    Vanished,
    /// The value could be read, but made no sense.
    Malformed,
    /// No powercap tree with a package domain.
    NoPowercap,
    /// A partition of a board, whose energy is counted for the board only.
    SharedDevice,
    /// The device lists processes of the host, and this process sees only those of its own namespace.
    ProcessNamespace,
    /// Switched off by configuration.
    Off,
    /// A window was reported that had never been started.
    NotStarted,
}

/// A missing value with its reason, never a zero.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Unavailable {
    /// Machine-readable reason.
    pub reason: UnavailableReason,
    /// What happened and what to do about it.
    pub message: String,
}

impl Unavailable {
    /// A reason with its explanation.
    pub fn new(reason: UnavailableReason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }

    /// Why a counter that gained so many joules in so many seconds has no energy, if it stood still for longer than it
    /// can: whatever runs draws power, so that is no measured zero.
    pub(super) fn standstill(joules: f64, seconds: f64, longest_seconds: f64) -> Option<Self> {
        (joules <= 0.0 && seconds > longest_seconds).then(|| {
            let message = format!("the energy counter stood still for {seconds:.1} s of a device that draws power");
            Self::new(UnavailableReason::DeviceFailed, message)
        })
    }
}

/// The cumulative value of a counter as read, unprocessed, next to a window's edge.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RawCounter {
    /// When it was read (the middle of the call).
    pub at: Mark,
    /// Cumulative energy in J since the counter's own zero; unwrapped within one window.
    pub joules: f64,
}

/// One sample of a power series.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PowerSample {
    /// Seconds since the start edge of the window.
    pub offset_seconds: f64,
    /// Power in W.
    pub watts: f64,
}

/// The energy that one counter saw in one window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EnergyReading {
    /// Which physical counter.
    pub counter: CounterIdentity,
    /// Where the Joules come from.
    pub source: EnergySource,
    /// Energy of the window in J.
    pub joules: Option<f64>,
    /// Why `joules` is missing.
    pub unavailable: Option<Unavailable>,
    /// Half-width of the error bar of `joules` in J: edge timing, power shape between updates, resolution.
    /// The sensor's own calibration error is not in it.
    pub uncertainty_joules: Option<f64>,
    /// Length of the window in s, monotonic clock.
    pub duration_seconds: f64,
    /// The edges between which `joules` was consumed.
    pub start: Mark,
    /// End edge.
    pub end: Mark,
    /// Raw counter value read at the start edge.
    pub start_raw: Option<RawCounter>,
    /// Raw counter value read at the end edge.
    pub end_raw: Option<RawCounter>,
    /// Where the cumulative counter starts again from zero, in J; `None` for a counter that never wraps.
    pub range_joules: Option<f64>,
    /// Measured time between two updates of the counter, in s. Where `joules` is the integral of sampled power: the
    /// time that the samples are averaged over, else that between two refreshes of them.
    pub update_period_seconds: Option<f64>,
    /// Cross-check: trapezoid of sampled power over the same window, in J.
    pub integral_joules: Option<f64>,
    /// `|joules − integral| / joules`; above 0.05 the reading is suspect.
    pub integral_disagreement: Option<f64>,
    /// True if the power samples are averages (over 1 s on most boards since Ampere) instead of instantaneous.
    pub power_is_averaged: bool,
    /// Power over the window, at most 60 points.
    pub power: Vec<PowerSample>,
    /// How the energy grew within the window; empty where `joules` is missing.
    #[serde(skip)]
    pub cumulative: CumulativeEnergy,
}

/// Sum and count of samples, so that means can be pooled by sample.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SampleSum {
    /// Sum of the samples.
    pub sum: f64,
    /// Number of samples.
    pub count: u64,
}

impl SampleSum {
    /// Adds one sample.
    pub fn add(&mut self, value: f64) {
        self.sum += value;
        self.count += 1;
    }

    /// Mean of the samples, none without samples.
    pub fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }
}

/// What one GPU did during a window, besides consuming energy.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceObservation {
    /// GPU UUID.
    pub uuid: String,
    /// Percent of time with a kernel running, NVML's own definition, 0–100.
    pub sm_utilisation_percent: Option<SampleSum>,
    /// Percent of time with device memory being read or written, 0–100.
    pub memory_utilisation_percent: Option<SampleSum>,
    /// Highest device memory in use that was sampled, in bytes.
    pub peak_memory_used_bytes: Option<u64>,
    /// Device memory in all, in bytes.
    pub total_memory_bytes: Option<u64>,
    /// Temperature before the window, °C.
    pub temperature_start_celsius: Option<u32>,
    /// Highest temperature sampled, °C.
    pub temperature_max_celsius: Option<u32>,
    /// SM clock samples, MHz.
    pub sm_clock_megahertz: Option<SampleSum>,
    /// Lowest SM clock sampled, MHz.
    pub sm_clock_min_megahertz: Option<u32>,
    /// Union of the `nvmlClocksEventReasons` bits over all samples.
    pub throttle_reason_bits: Option<u64>,
    /// Nanoseconds of the window in which clocks were held down by the power cap.
    pub power_violation_nanoseconds: Option<u64>,
    /// Nanoseconds of the window in which clocks were held down by temperature.
    pub thermal_violation_nanoseconds: Option<u64>,
    /// Power cap now, W.
    pub power_limit_watts: Option<f64>,
    /// Power cap that the board boots with, W.
    pub power_limit_default_watts: Option<f64>,
    /// Whether the board is partitioned; its energy then belongs to several users.
    pub mig_enabled: Option<bool>,
    /// Compute and graphics processes on the device, this one included.
    pub process_count: Option<u32>,
    /// Processes on the device that are not ours.
    pub foreign_process_count: Option<u32>,
    /// Field name → why it is missing.
    pub not_available: BTreeMap<String, Unavailable>,
}

/// Describes a counter before anything is measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CounterDescription {
    /// Which physical counter.
    pub counter: CounterIdentity,
    /// Where its Joules would come from.
    pub source: EnergySource,
    /// What stands behind it: product, file, or the model with its parameters.
    pub detail: String,
}

/// A domain that nobody meters, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Absent {
    /// The domain without a reading.
    pub domain: CounterDomain,
    /// Why.
    pub unavailable: Unavailable,
}

/// Everything that a meter saw in one window.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MeterReport {
    /// One per physical counter.
    pub readings: Vec<EnergyReading>,
    /// One per GPU.
    pub devices: Vec<DeviceObservation>,
    /// Domains without any counter.
    pub absent: Vec<Absent>,
}

impl MeterReport {
    /// Sum of the readings of one domain in J; none if there is no reading or one of them is unavailable.
    pub fn joules(&self, domain: CounterDomain) -> Option<f64> {
        let mut readings = self
            .readings
            .iter()
            .filter(|reading| reading.counter.domain == domain)
            .peekable();
        readings.peek()?;
        readings.map(|reading| reading.joules).sum()
    }

    /// The report of a window that was never started.
    pub(super) fn not_started(domain: CounterDomain) -> Self {
        let unavailable = Unavailable::new(UnavailableReason::NotStarted, "stopped without a start");
        Self {
            absent: vec![Absent { domain, unavailable }],
            ..Self::default()
        }
    }

    /// Adds what another meter saw in the same window.
    pub fn merge(&mut self, other: Self) {
        let Self {
            readings,
            devices,
            absent,
        } = other;
        self.readings.extend(readings);
        self.devices.extend(devices);
        self.absent.extend(absent);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn reading(domain: CounterDomain, joules: Option<f64>) -> EnergyReading {
        EnergyReading {
            counter: CounterIdentity {
                domain,
                id: "package-0".to_owned(),
                node: "node-a".to_owned(),
            },
            source: EnergySource::NvmlPowerIntegral,
            joules,
            unavailable: None,
            uncertainty_joules: None,
            duration_seconds: 1.0,
            start: Mark::default(),
            end: Mark::default(),
            start_raw: None,
            end_raw: None,
            range_joules: None,
            update_period_seconds: None,
            integral_joules: None,
            integral_disagreement: None,
            power_is_averaged: false,
            power: Vec::new(),
            cumulative: CumulativeEnergy::default(),
        }
    }

    #[test]
    fn every_field_is_written_and_read_back_even_if_it_is_missing() {
        let value = serde_json::to_value(reading(CounterDomain::Cpu, None)).unwrap();
        assert_eq!(value["source"], json!("nvml_power_integral"));
        assert_eq!(value["counter"]["domain"], json!("cpu"));
        assert_eq!(value.get("uncertaintyJoules"), Some(&json!(null)));
        assert_eq!(
            serde_json::from_value::<EnergyReading>(value).unwrap(),
            reading(CounterDomain::Cpu, None)
        );
    }

    #[test]
    fn a_sum_with_a_missing_part_or_without_parts_is_missing() {
        let report = MeterReport {
            readings: vec![
                reading(CounterDomain::Cpu, Some(2.0)),
                reading(CounterDomain::Cpu, None),
                reading(CounterDomain::Gpu, Some(3.0)),
                reading(CounterDomain::Gpu, Some(4.0)),
            ],
            ..MeterReport::default()
        };
        let sums = [CounterDomain::Cpu, CounterDomain::Gpu, CounterDomain::Dram].map(|domain| report.joules(domain));
        assert_eq!(sums, [None, Some(7.0), None]);
    }
}
