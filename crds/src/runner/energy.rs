//! Energy as it is read: one reading per counter and window, with its error bar.

use std::collections::BTreeMap;

use jiff::Timestamp;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::metrics::Unavailable;

/// What a counter covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Domain {
    /// A GPU board.
    Gpu,
    /// A CPU package.
    Cpu,
    /// Memory of a CPU socket.
    Dram,
}

impl Domain {
    /// The name in `energyScope`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gpu => "gpu",
            Self::Cpu => "cpu",
            Self::Dram => "dram",
        }
    }
}

/// How the energy was obtained (METHODOLOGY §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The GPU's total-energy counter.
    NvmlCounter,
    /// The integral of sampled GPU power.
    NvmlPowerIntegral,
    /// A RAPL counter of the powercap tree.
    Rapl,
    /// Thermal design power × load. Not a measurement.
    Estimate,
}

impl Source {
    /// The name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NvmlCounter => "nvml_counter",
            Self::NvmlPowerIntegral => "nvml_power_integral",
            Self::Rapl => "rapl",
            Self::Estimate => "estimate",
        }
    }
}

/// One physical counter in the fleet. Equal identities are the same counter, whoever read it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CounterIdentity {
    /// What it covers.
    pub domain: Domain,
    /// Node that it is on.
    pub node: String,
    /// GPU UUID, or package and socket.
    pub id: String,
}

/// The cumulative counter at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CounterReading {
    /// Wall clock of the read.
    pub at: Timestamp,
    /// Cumulative joules since an origin that all readers of the counter share.
    pub joules: f64,
}

/// Power at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PowerSample {
    /// Seconds since the window's start.
    pub offset_seconds: f64,
    /// Power in watts.
    pub watts: f64,
}

/// Energy of one counter over one window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnergyReading {
    /// The counter.
    pub counter: CounterIdentity,
    /// How the energy was obtained.
    pub source: Source,
    /// Energy in joules; null with the reason in `unavailable`.
    pub joules: Option<f64>,
    /// Why there is no energy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unavailable: Option<Unavailable>,
    /// What happened, in words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Bound of the error of `joules`.
    #[serde(default)]
    pub uncertainty_joules: f64,
    /// Length of the window in seconds, on the monotonic clock.
    pub duration_seconds: f64,
    /// The cumulative counter at the window's start, where there is one. Readers of the same counter share its origin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<CounterReading>,
    /// The cumulative counter at the window's end, where there is one; wraps within the window are undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<CounterReading>,
    /// Joules after which the counter starts again from zero; absent if it never does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range_joules: Option<f64>,
    /// Update period of the counter in seconds; of integrated power how old a sample may be: the time that it is averaged
    /// over, else that between two refreshes of the sensor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_period_seconds: Option<f64>,
    /// Energy from the sampled power, an independent check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub integral_joules: Option<f64>,
    /// The sampled power is a moving average, not instantaneous.
    #[serde(default)]
    pub power_is_averaged: bool,
    /// Sampled power, thinned to at most 60 samples.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 60))]
    pub power: Vec<PowerSample>,
    /// The energy of the window's steady state; absent without one, or where there is no energy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steady_state: Option<PartEnergy>,
    /// The energy of its prefill phases; absent where phases overlap, or where there is no energy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefill: Option<PartEnergy>,
    /// The same of its decode phases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decode: Option<PartEnergy>,
}

/// Energy of one counter in a part of a window.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PartEnergy {
    /// Energy in joules.
    pub joules: f64,
    /// Bound of the error that comes from reading the counter beside the beginning and the end and not at them. The error of the
    /// counter itself is that of the window.
    pub uncertainty_joules: f64,
}

/// Sum and count of samples, so that pooling stays exact.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct MeanOfSamples {
    /// Sum of the samples.
    pub sum: f64,
    /// Number of samples.
    pub count: u64,
}

/// What one GPU showed over one window. A field the device does not support is null, with its reason in `notAvailable`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeviceObservation {
    /// UUID of the GPU.
    pub uuid: String,
    /// GPU utilisation samples in percent.
    pub sm_utilisation: Option<MeanOfSamples>,
    /// Memory utilisation samples in percent.
    pub memory_utilisation: Option<MeanOfSamples>,
    /// Peak memory in use in bytes.
    pub memory_peak_bytes: Option<u64>,
    /// Memory of the device in bytes.
    pub memory_total_bytes: Option<u64>,
    /// Temperature at the window's start in degrees Celsius.
    pub temperature_start_celsius: Option<f64>,
    /// Highest temperature in the window in degrees Celsius.
    pub temperature_maximum_celsius: Option<f64>,
    /// SM clock samples in MHz.
    pub sm_clock_megahertz: Option<MeanOfSamples>,
    /// Names of the throttle reasons seen in the window that slow the device down.
    pub throttle_reasons: Option<Vec<String>>,
    /// Seconds throttled by power during the window.
    pub power_violation_seconds: Option<f64>,
    /// Seconds throttled by temperature during the window.
    pub thermal_violation_seconds: Option<f64>,
    /// Power limit in force in watts.
    pub power_limit_watts: Option<f64>,
    /// Power limit as delivered in watts.
    pub power_limit_default_watts: Option<f64>,
    /// MIG is enabled.
    pub mig_enabled: Option<bool>,
    /// Processes on the device that are none of ours.
    pub foreign_processes: Option<u32>,
    /// Field to reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub not_available: BTreeMap<String, Unavailable>,
}
