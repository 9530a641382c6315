//! What a board did besides consuming energy: utilisation, memory, temperature, clocks, throttling, neighbours.

use std::collections::BTreeSet;

use nvml_wrapper::{
    enum_wrappers::device::{Clock, PerformancePolicy, TemperatureSensor},
    error::NvmlError,
};
use rustix::process::{Pid, getpgid, getpgrp};

use super::{
    super::reading::{DeviceObservation, SampleSum, Unavailable, UnavailableReason},
    OwnProcesses,
    board::{Board, unavailable},
};

/// Collects one [`DeviceObservation`] over a window.
#[derive(Debug, Default)]
pub(super) struct Observer {
    observation: DeviceObservation,
    power_violation_start: Option<u64>,
    thermal_violation_start: Option<u64>,
}

impl Observer {
    /// The last thing before the start edge.
    pub(super) fn before_window(board: &Board) -> Self {
        let mut observer = Self::default();
        observer.observation.uuid.clone_from(&board.uuid);
        let temperature = board.device.temperature(TemperatureSensor::Gpu);
        observer.observation.temperature_start_celsius = observer.keep("temperatureStartCelsius", temperature);
        observer.observation.temperature_max_celsius = observer.observation.temperature_start_celsius;
        observer.power_violation_start = observer.violation(board, PerformancePolicy::Power);
        observer.thermal_violation_start = observer.violation(board, PerformancePolicy::Thermal);
        observer
    }

    /// One background sample inside the window.
    pub(super) fn sample(&mut self, board: &Board) {
        let device = &board.device;
        if let Some(rates) = self.keep("utilisation", device.utilization_rates()) {
            let observation = &mut self.observation;
            observation
                .sm_utilisation_percent
                .get_or_insert_default()
                .add(f64::from(rates.gpu));
            observation
                .memory_utilisation_percent
                .get_or_insert_default()
                .add(f64::from(rates.memory));
        }
        self.sample_memory(board);
        if let Some(celsius) = self.keep("temperatureMaxCelsius", device.temperature(TemperatureSensor::Gpu)) {
            raise(&mut self.observation.temperature_max_celsius, celsius);
        }
        if let Some(megahertz) = self.keep("smClockMegahertz", device.clock_info(Clock::SM)) {
            let clock: &mut SampleSum = self.observation.sm_clock_megahertz.get_or_insert_default();
            clock.add(f64::from(megahertz));
            let lowest = self.observation.sm_clock_min_megahertz.get_or_insert(megahertz);
            *lowest = megahertz.min(*lowest);
        }
        if let Some(reasons) = self.keep("throttleReasonBits", device.current_throttle_reasons()) {
            *self.observation.throttle_reason_bits.get_or_insert_default() |= reasons.bits();
        }
    }

    fn sample_memory(&mut self, board: &Board) {
        if let Some(memory) = self.keep("peakMemoryUsedBytes", board.device.memory_info()) {
            raise(&mut self.observation.peak_memory_used_bytes, memory.used);
            self.observation.total_memory_bytes = Some(memory.total);
        }
    }

    /// The first thing after the end edge.
    pub(super) fn at_end(&mut self, board: &Board) {
        let power = self.violation(board, PerformancePolicy::Power);
        let thermal = self.violation(board, PerformancePolicy::Thermal);
        let delta =
            |start: Option<u64>, end: Option<u64>| end.zip(start).and_then(|(end, start)| end.checked_sub(start));
        self.observation.power_violation_nanoseconds = delta(self.power_violation_start, power);
        self.observation.thermal_violation_nanoseconds = delta(self.thermal_violation_start, thermal);
        self.sample_memory(board);
    }

    /// Slow calls (some ms each), long after the end edge.
    pub(super) fn after_window(mut self, board: &Board, own: &OwnProcesses) -> DeviceObservation {
        let device = &board.device;
        let watts = |milliwatts: u32| f64::from(milliwatts) / 1e3;
        self.observation.power_limit_watts = self.keep("powerLimitWatts", device.power_management_limit()).map(watts);
        self.observation.power_limit_default_watts = self
            .keep("powerLimitDefaultWatts", device.power_management_limit_default())
            .map(watts);
        // Boards that cannot be partitioned answer NotSupported: that is "not partitioned", not "unknown".
        self.observation.mig_enabled = match device.mig_mode() {
            Err(NvmlError::NotSupported) => Some(false),
            mode => self.keep("migEnabled", mode).map(|mode| mode.current != 0),
        };
        self.count_processes(board, own);
        self.observation
    }

    fn count_processes(&mut self, board: &Board, own: &OwnProcesses) {
        let compute = self.keep("processCount", board.device.running_compute_processes());
        let graphics = self.keep("graphicsProcesses", board.device.running_graphics_processes());
        let Some(compute) = compute else {
            self.missing(
                "foreignProcessCount",
                Unavailable::new(
                    UnavailableReason::NotSupported,
                    "the list of compute processes is not available",
                ),
            );
            return;
        };
        let running: BTreeSet<u32> = compute
            .into_iter()
            .chain(graphics.unwrap_or_default())
            .map(|process| process.pid)
            .collect();
        self.observation.process_count = Some(running.len() as u32);
        match own {
            OwnProcesses::Known(own) => {
                let foreign = running
                    .iter()
                    .filter(|&&pid| !own.contains(&pid) && !in_own_group(pid))
                    .count();
                self.observation.foreign_process_count = Some(foreign as u32);
            }
            OwnProcesses::Hidden => self.missing(
                "foreignProcessCount",
                Unavailable::new(
                    UnavailableReason::ProcessNamespace,
                    "NVML lists host PIDs and this process has its own PID namespace",
                ),
            ),
        }
    }

    fn violation(&mut self, board: &Board, policy: PerformancePolicy) -> Option<u64> {
        let field = match policy {
            PerformancePolicy::Power => "powerViolationNanoseconds",
            _ => "thermalViolationNanoseconds",
        };
        self.keep(field, board.device.violation_status(policy))
            .map(|violation| violation.violation_time)
    }

    fn keep<T>(&mut self, field: &str, value: Result<T, NvmlError>) -> Option<T> {
        value
            .map_err(|error| self.missing(field, unavailable(field, &error)))
            .ok()
    }

    fn missing(&mut self, field: &str, why: Unavailable) {
        self.observation.not_available.entry(field.to_owned()).or_insert(why);
    }
}

/// True for the processes that this one was started with, such as the other ranks of one model.
fn in_own_group(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| getpgid(Some(pid)).is_ok_and(|group| group == getpgrp()))
}

fn raise<T: Ord + Copy>(highest: &mut Option<T>, value: T) {
    *highest = Some(highest.map_or(value, |before| before.max(value)));
}
