//! What the distinct GPUs of a trial showed: memory, utilisation and peak throughput (METHODOLOGY §8). Pure.

use std::collections::BTreeMap;

use lem_crds::{
    metrics::Unavailable,
    runner::{ComputePrecision, DeviceObservation, MeanOfSamples},
};

use super::{
    availability::{Value, ratio, sum},
    completeness::Reported,
    peak::{peak_bandwidth, peak_flops},
};

/// A GPU of the trial and one process that observed it.
#[derive(Debug, Clone, Copy)]
pub(super) struct ObservedDevice<'a> {
    pub(super) process: &'a Reported<'a>,
    pub(super) device: &'a DeviceObservation,
}

/// Every GPU once, by node and UUID; of several observers the one with the lowest index.
pub(super) fn distinct_devices<'a>(reported: &'a [Reported<'a>]) -> Vec<ObservedDevice<'a>> {
    let mut devices: BTreeMap<(&str, &str), ObservedDevice<'a>> = BTreeMap::new();
    for process in reported {
        for device in &process.window.devices {
            devices
                .entry((&process.window.node, &device.uuid))
                .or_insert(ObservedDevice { process, device });
        }
    }
    devices.into_values().collect()
}

/// The device of a process whose model is on no GPU.
pub(super) const ON_CPU: &str = "cpu";

/// Whether the model ran on these GPUs. Those that stood by while it ran on the CPU were observed too, and say nothing
/// of it.
fn computed(devices: &[ObservedDevice<'_>]) -> bool {
    let stood_by = |observed: &ObservedDevice<'_>| {
        let environment = observed.process.environment;
        environment.is_some_and(|environment| environment.device == ON_CPU)
    };
    !devices.is_empty() && !devices.iter().any(stood_by)
}

/// A figure summed over the devices; missing where one device lacks it, and where the model ran on none.
fn total(devices: &[ObservedDevice<'_>], field: &str, of: fn(&DeviceObservation) -> Option<f64>) -> Value {
    if !computed(devices) {
        return Err(Unavailable::NoDevice);
    }
    sum(devices
        .iter()
        .map(|observed| of(observed.device).ok_or_else(|| why(observed.device, field))))
}

fn why(device: &DeviceObservation, field: &str) -> Unavailable {
    device
        .not_available
        .get(field)
        .copied()
        .unwrap_or(Unavailable::NotSupported)
}

/// Peak memory in use in bytes, summed over the devices.
pub(super) fn memory_peak(devices: &[ObservedDevice<'_>]) -> Value {
    total(devices, "memoryPeakBytes", |device| {
        device.memory_peak_bytes.map(|bytes| bytes as f64)
    })
}

/// Memory in bytes, summed over the devices.
pub(super) fn memory_total(devices: &[ObservedDevice<'_>]) -> Value {
    total(devices, "memoryTotalBytes", |device| {
        device.memory_total_bytes.map(|bytes| bytes as f64)
    })
}

/// Mean of the utilisation samples of all devices, pooled by sample.
pub(super) fn sm_utilisation(devices: &[ObservedDevice<'_>]) -> Value {
    pooled(devices, "smUtilisation", |device| device.sm_utilisation)
}

/// Mean of the memory utilisation samples of all devices, pooled by sample.
pub(super) fn memory_utilisation(devices: &[ObservedDevice<'_>]) -> Value {
    pooled(devices, "memoryUtilisation", |device| device.memory_utilisation)
}

fn pooled(devices: &[ObservedDevice<'_>], field: &str, of: fn(&DeviceObservation) -> Option<MeanOfSamples>) -> Value {
    if !computed(devices) {
        return Err(Unavailable::NoDevice);
    }
    let (mut sum, mut count) = (0.0, 0);
    for observed in devices {
        let samples = of(observed.device).ok_or_else(|| why(observed.device, field))?;
        sum += samples.sum;
        count += samples.count;
    }
    ratio(Ok(sum), Ok(count as f64))
}

/// Achieved bytes/s over the summed memory bandwidth of the devices.
pub(super) fn model_bandwidth_utilisation(devices: &[ObservedDevice<'_>], bytes_per_second: Value) -> Value {
    if !computed(devices) {
        return Err(Unavailable::PeakUnknown);
    }
    let peaks = devices
        .iter()
        .map(|observed| product(observed).and_then(|product| peak_bandwidth(product).ok_or(Unavailable::PeakUnknown)));
    ratio(bytes_per_second, sum(peaks))
}

/// The device's product, as NVML names it.
fn product<'a>(observed: &ObservedDevice<'a>) -> Result<&'a str, Unavailable> {
    let environment = observed.process.environment.ok_or(Unavailable::PeakUnknown)?;
    let gpu = environment.gpus.iter().find(|gpu| gpu.uuid == observed.device.uuid);
    gpu.and_then(|gpu| gpu.product.as_deref())
        .ok_or(Unavailable::PeakUnknown)
}

/// Achieved FLOP/s over the summed peak of the devices at the precision of the products.
pub(super) fn model_flops_utilisation(devices: &[ObservedDevice<'_>], flops_per_second: Value) -> Value {
    let achieved = flops_per_second?;
    if !computed(devices) {
        return Err(Unavailable::PeakUnknown);
    }
    let peaks = devices.iter().map(|observed| {
        let precision: ComputePrecision = observed.process.window.compute_precision;
        peak_flops(product(observed)?, precision).ok_or(Unavailable::PeakUnknown)
    });
    ratio(Ok(achieved), sum(peaks))
}
