//! Doubts about the GPUs of a trial (METHODOLOGY §9). Pure.

use std::collections::BTreeSet;

use lem_crds::{
    runner::{DeviceObservation, Domain, UNKNOWN_GPU_SHARING},
    status::{Doubt, VerdictReason},
};

use super::{THROTTLED_SHARE_LIMIT, reason};
use crate::experiment::{completeness::Reported, devices::distinct_devices};

/// UUIDs of GPUs whose power is known for the whole board only.
pub(in crate::experiment) fn shared_devices(reported: &[Reported<'_>]) -> BTreeSet<String> {
    let observed = reported
        .iter()
        .flat_map(|process| &process.window.devices)
        .filter(|device| device.mig_enabled == Some(true))
        .map(|device| device.uuid.clone());
    let described = reported
        .iter()
        .filter_map(|process| process.environment)
        .flat_map(|environment| &environment.gpus)
        .filter(|gpu| gpu.mig == Some(true))
        .map(|gpu| gpu.uuid.clone());
    observed.chain(described).collect()
}

/// Doubts about each GPU: shared, throttled, capped or used by others.
pub(super) fn device_doubts(reported: &[Reported<'_>]) -> Vec<VerdictReason> {
    let mut found: Vec<VerdictReason> = shared_devices(reported)
        .into_iter()
        .map(|uuid| {
            reason(
                Doubt::SharedDevice,
                format!("GPU {uuid} has MIG on: its power is the whole board's"),
            )
        })
        .collect();
    found.extend(reported.iter().filter_map(possibly_shared));
    for observed in distinct_devices(reported) {
        let device = observed.device;
        found.extend(throttled(device, observed.process.window.duration_seconds));
        if let (Some(limit), Some(default)) = (device.power_limit_watts, device.power_limit_default_watts)
            && limit < default
        {
            let message = format!(
                "GPU {}: power limit {limit:.0} W is below the default of {default:.0} W",
                device.uuid
            );
            found.push(reason(Doubt::PowerCapBelowDefault, message));
        }
        if let Some(count) = device.foreign_processes.filter(|count| *count > 0) {
            let message = format!(
                "GPU {}: {count} foreign processes ran on it, at most 0 may",
                device.uuid
            );
            found.push(reason(Doubt::ForeignProcesses, message));
        }
    }
    found
}

/// Others may have run on the GPUs of a process unseen, for its node offers one GPU to several pods.
fn possibly_shared(process: &Reported<'_>) -> Option<VerdictReason> {
    let environment = process.environment.filter(|environment| !environment.gpus.is_empty())?;
    let how = environment.gpu_sharing.as_deref()?;
    let message = if how == UNKNOWN_GPU_SHARING {
        format!(
            "process {}: nodes that offer one GPU to several pods were allowed, and whether this is one is not known",
            process.index
        )
    } else {
        format!(
            "process {}: its node offers one GPU to several pods ({how}), and what else ran on it cannot be seen",
            process.index
        )
    };
    Some(reason(Doubt::ForeignProcesses, message))
}

/// By violation time where the device counts it, else by throttle bits.
fn throttled(device: &DeviceObservation, window: f64) -> Option<VerdictReason> {
    let violations = [device.power_violation_seconds, device.thermal_violation_seconds];
    let message = if violations.iter().any(Option::is_some) {
        let seconds: f64 = violations.into_iter().flatten().sum();
        (seconds > THROTTLED_SHARE_LIMIT * window).then(|| {
            format!(
                "GPU {}: throttled for {seconds:.3} s of {window:.3} s, above the limit of {} %",
                device.uuid,
                THROTTLED_SHARE_LIMIT * 100.0
            )
        })
    } else {
        let bits = device.throttle_reasons.as_ref().filter(|bits| !bits.is_empty());
        bits.map(|bits| format!("GPU {}: throttled by {}, none is allowed", device.uuid, bits.join(", ")))
    };
    message.map(|message| reason(Doubt::Throttled, message))
}

/// GPUs, by node and UUID, that more than one process claims.
pub(super) fn duplicate_gpus(reported: &[Reported<'_>]) -> Vec<VerdictReason> {
    let claims: BTreeSet<(&str, &str, u32)> = reported
        .iter()
        .flat_map(|process| {
            let node = process.window.node.as_str();
            let observed = process
                .window
                .devices
                .iter()
                .map(move |device| (node, device.uuid.as_str()));
            let read = process
                .window
                .energy
                .iter()
                .filter(|reading| reading.counter.domain == Domain::Gpu);
            let read = read.map(|reading| (reading.counter.node.as_str(), reading.counter.id.as_str()));
            observed.chain(read).map(|(node, uuid)| (node, uuid, process.index))
        })
        .collect();
    let gpus: BTreeSet<(&str, &str)> = claims.iter().map(|(node, uuid, _)| (*node, *uuid)).collect();
    gpus.into_iter()
        .filter_map(|(node, uuid)| {
            let owners: Vec<String> = claims
                .iter()
                .filter(|claim| (claim.0, claim.1) == (node, uuid))
                .map(|claim| claim.2.to_string())
                .collect();
            (owners.len() > 1).then(|| {
                let message = format!(
                    "GPU {uuid} on node {node} is claimed by processes {}",
                    owners.join(", ")
                );
                reason(Doubt::DuplicateGpu, message)
            })
        })
        .collect()
}
