//! The file that `LEM_FAKE_NVML` names, and what a fake board shows at an instant.

use serde::{Deserialize, Serialize};

use crate::waveform::{Waveform, fraction};

/// The whole fake machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Machine {
    /// The boards, by index.
    pub devices: Vec<Board>,
}

/// One fake board.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Board {
    /// UUID.
    pub uuid: String,
    /// Product name.
    #[serde(default = "product")]
    pub name: String,
    /// Number of its device file; without one the call is not supported.
    #[serde(default)]
    pub minor_number: Option<u32>,
    /// Time between two updates of the energy counter, ms.
    pub tick_milliseconds: f64,
    /// Offset of the updates, ms.
    #[serde(default)]
    pub tick_phase_milliseconds: f64,
    /// The truth.
    pub waveform: Waveform,
    /// Device memory, bytes.
    #[serde(default = "memory_total")]
    pub memory_total_bytes: u64,
    /// Device memory in use, bytes.
    #[serde(default = "memory_used")]
    pub memory_used_bytes: u64,
    /// Clock event reason bits, always shown.
    #[serde(default)]
    pub throttle_reason_bits: u64,
    /// Share of the time (0–1) for which the power-violation counter runs.
    #[serde(default)]
    pub power_violation_share: f64,
    /// PIDs on the board that are not the reader's; the reader's own is always added.
    #[serde(default)]
    pub foreign_processes: Vec<u32>,
    /// MIG mode.
    #[serde(default)]
    pub mig_enabled: bool,
    /// Power cap, W.
    #[serde(default = "power_limit")]
    pub power_limit_watts: f64,
    /// C functions that answer `NVML_ERROR_NOT_SUPPORTED`, plus `POWER_INSTANT` for that one field.
    #[serde(default)]
    pub not_supported: Vec<String>,
    /// Every call answers `NVML_ERROR_GPU_IS_LOST` this long after `nvmlInit_v2`, s.
    #[serde(default)]
    pub fail_after_seconds: Option<f64>,
    /// The energy counter starts from zero again this long after `nvmlInit_v2`, s.
    #[serde(default)]
    pub reset_after_seconds: Option<f64>,
    /// All power values are means of the last second, as `nvmlDeviceGetPowerUsage` is on most boards since Ampere.
    #[serde(default)]
    pub power_is_averaged: bool,
    /// Time between two refreshes of the instantaneous power, ms; it then shows the power of that moment.
    #[serde(default = "power_period")]
    pub power_period_milliseconds: f64,
    /// The sensor shows this multiple of the true power (the counter stays right).
    #[serde(default = "one")]
    pub power_gain: f64,
}

fn product() -> String {
    "Fake H100".to_owned()
}
fn memory_total() -> u64 {
    80 << 30
}
fn memory_used() -> u64 {
    20 << 30
}
fn power_limit() -> f64 {
    700.0
}
fn power_period() -> f64 {
    0.1
}
fn one() -> f64 {
    1.0
}

/// Noise of the power sensors, peak to peak and relative.
pub const SENSOR_NOISE: f64 = 0.002;

impl Board {
    /// A board with everything working.
    pub fn new(uuid: &str, tick_milliseconds: f64, waveform: Waveform) -> Self {
        Self {
            uuid: uuid.to_owned(),
            name: product(),
            minor_number: None,
            tick_milliseconds,
            tick_phase_milliseconds: 0.0,
            waveform,
            memory_total_bytes: memory_total(),
            memory_used_bytes: memory_used(),
            throttle_reason_bits: 0,
            power_violation_share: 0.0,
            foreign_processes: Vec::new(),
            mig_enabled: false,
            power_limit_watts: power_limit(),
            not_supported: Vec::new(),
            fail_after_seconds: None,
            reset_after_seconds: None,
            power_is_averaged: false,
            power_period_milliseconds: power_period(),
            power_gain: one(),
        }
    }

    /// The energy counter at an instant of `CLOCK_MONOTONIC`, mJ, for a library initialised at `initialised`.
    pub fn counter_millijoules(&self, at: f64, initialised: f64) -> u64 {
        let (tick, phase) = (self.tick_milliseconds / 1e3, self.tick_phase_milliseconds / 1e3);
        let updated = ((at - phase) / tick).floor() * tick + phase;
        let zero = self
            .reset_after_seconds
            .map(|after| initialised + after)
            .filter(|reset| *reset <= at)
            .map_or(0.0, |reset| self.waveform.joules(reset));
        ((self.waveform.joules(updated) - zero).max(0.0) * 1e3) as u64
    }

    /// `NVML_FI_DEV_POWER_INSTANT`, mW.
    pub fn instant_milliwatts(&self, at: f64) -> u32 {
        if self.power_is_averaged {
            return self.average_milliwatts(at);
        }
        let refresh = (at / (self.power_period_milliseconds / 1e3)).floor();
        let shown = self.waveform.watts(refresh * self.power_period_milliseconds / 1e3);
        // Real sensors are never still: by this a reader can tell a steady power from a value not refreshed yet.
        let noise = 1.0 + SENSOR_NOISE * (fraction(0, refresh as u64) - 0.5);
        (shown * noise * self.power_gain * 1e3).round() as u32
    }

    /// Mean of the last second, mW.
    pub fn average_milliwatts(&self, at: f64) -> u32 {
        (self.waveform.joules_between(at - 1.0, at) * self.power_gain * 1e3).round() as u32
    }
}
