//! Doubts about a trial and the verdict they make (METHODOLOGY §9). Pure.
//!
//! | doubt | raised when | severity |
//! |---|---|---|
//! | `MissingProcess`, `DuplicateProcess`, `SchemaVersion` | the set of processes is not whole, once each, of one schema | Invalid |
//! | `FailedProcess` | a process failed before it reported, or its record is damaged | Invalid |
//! | `FailedProcess` | a process failed after it reported | Suspect |
//! | `SharedDevice` | MIG is on: power is known for the board only | Invalid |
//! | `DuplicateGpu` | one GPU is claimed by two processes | Invalid |
//! | `FailedRequests` | some requests failed; `Invalid` if none completed | Suspect |
//! | `Throttled` | above [`THROTTLED_SHARE_LIMIT`] of the window by violation time, else by any throttle bit | Suspect |
//! | `PowerCapBelowDefault`, `ForeignProcesses`, `WarmupNotConverged`, `EstimatedEnergy` | reported so | Suspect |
//! | `EnergyMissing` | a counter of a present domain gave no energy, or no domain has any | Suspect |
//! | `MixedEnergyScope` | a domain is read for some processes only | Suspect |
//! | `WindowTooShort` | below [`MINIMUM_UPDATE_PERIODS`] update periods of a counter | Suspect |
//! | `CounterIntegralDisagree` | above [`INTEGRAL_LIMIT`] | Suspect |
//! | `BaselineDrifted` | above [`DRIFT_LIMIT`] | Suspect |
//! | `NegativeAdjustedEnergy` | below zero | Suspect |
//! | `InsufficientOverlap`, `StartSkew` | below [`OVERLAP_LIMIT`], above [`START_SKEW_LIMIT_MILLISECONDS`]; with a barrier only | Suspect |
//! | `ClockNotSynchronised` | a node says so, and the trial spans several nodes | Suspect |
//! | `MissingCycles` | a point has fewer cycles than planned | Suspect |

use std::collections::BTreeSet;

use lem_crds::{
    experiment::Barrier,
    metrics::{MetricSet, Unavailable},
    runner::{DeviceObservation, Domain, IdleState, Source},
    status::{Doubt, Verdict, VerdictReason},
};

use super::{
    availability::Value,
    completeness::Reported,
    devices::distinct_devices,
    energy::{TrialEnergy, idle_powers},
};

/// Largest |counter − integral| / counter (METHODOLOGY §4).
pub const INTEGRAL_LIMIT: f64 = 0.05;
/// Fewest update periods of a counter in a window (METHODOLOGY §4).
pub const MINIMUM_UPDATE_PERIODS: f64 = 50.0;
/// Smallest overlap of the windows, over the shortest of them (METHODOLOGY §9).
pub const OVERLAP_LIMIT: f64 = 0.5;
/// Largest difference of the actual starts after a barrier (METHODOLOGY §9 leaves the figure open).
pub const START_SKEW_LIMIT_MILLISECONDS: f64 = 100.0;
/// Largest relative change of idle power between before and after (METHODOLOGY §9).
pub const DRIFT_LIMIT: f64 = 0.1;
/// Largest share of a window that a device may be throttled; a power-capped device touches its limit now and then.
pub const THROTTLED_SHARE_LIMIT: f64 = 0.01;

/// The severity of each doubt, as in the table above.
const fn severity(doubt: Doubt) -> Verdict {
    match doubt {
        Doubt::MissingProcess
        | Doubt::DuplicateProcess
        | Doubt::SchemaVersion
        | Doubt::FailedProcess
        | Doubt::SharedDevice
        | Doubt::DuplicateGpu => Verdict::Invalid,
        Doubt::Throttled
        | Doubt::PowerCapBelowDefault
        | Doubt::ForeignProcesses
        | Doubt::WindowTooShort
        | Doubt::CounterIntegralDisagree
        | Doubt::BaselineDrifted
        | Doubt::NegativeAdjustedEnergy
        | Doubt::WarmupNotConverged
        | Doubt::InsufficientOverlap
        | Doubt::StartSkew
        | Doubt::FailedRequests
        | Doubt::ClockNotSynchronised
        | Doubt::EstimatedEnergy
        | Doubt::EnergyMissing
        | Doubt::MixedEnergyScope
        | Doubt::MissingCycles => Verdict::Suspect,
    }
}

/// A doubt with the severity that the table gives it.
pub(super) fn reason(doubt: Doubt, message: String) -> VerdictReason {
    VerdictReason {
        doubt,
        severity: severity(doubt),
        message,
    }
}

/// What doubts are looked for in.
pub(super) struct Evidence<'a> {
    pub(super) reported: &'a [Reported<'a>],
    pub(super) energy: &'a TrialEnergy,
    pub(super) metrics: &'a MetricSet<f64>,
    pub(super) barrier: Barrier,
}

/// Every doubt about a complete trial.
pub(super) fn doubts(evidence: &Evidence<'_>) -> Vec<VerdictReason> {
    let mut found = Vec::new();
    found.extend(device_doubts(evidence.reported));
    found.extend(duplicate_gpus(evidence.reported));
    found.extend(process_doubts(evidence.reported));
    found.extend(energy_doubts(evidence));
    found.extend(counter_doubts(evidence.reported));
    found.extend(drift(evidence.reported));
    found.extend(timing_doubts(evidence));
    found
}

/// UUIDs of GPUs whose power is known for the whole board only.
pub(super) fn shared_devices(reported: &[Reported<'_>]) -> BTreeSet<String> {
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

fn device_doubts(reported: &[Reported<'_>]) -> Vec<VerdictReason> {
    let mut found: Vec<VerdictReason> = shared_devices(reported)
        .into_iter()
        .map(|uuid| {
            reason(
                Doubt::SharedDevice,
                format!("GPU {uuid} has MIG on: its power is the whole board's"),
            )
        })
        .collect();
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
fn duplicate_gpus(reported: &[Reported<'_>]) -> Vec<VerdictReason> {
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

fn process_doubts(reported: &[Reported<'_>]) -> Vec<VerdictReason> {
    let mut found = Vec::new();
    let nodes: BTreeSet<&str> = reported.iter().map(|process| process.window.node.as_str()).collect();
    for process in reported {
        let (index, window) = (process.index, process.window);
        if window.warmup.converged == Some(false) {
            let variation = window
                .warmup
                .coefficient_of_variation
                .map_or("unknown".to_owned(), |cv| format!("{cv:.3}"));
            let message = format!(
                "process {index}: warm-up did not settle in {} iterations, coefficient of variation {variation}",
                window.warmup.iterations
            );
            found.push(reason(Doubt::WarmupNotConverged, message));
        }
        if window.clock.synchronised == Some(false) && nodes.len() > 1 {
            let message = format!("process {index}: the clock of node {} is not synchronised", window.node);
            found.push(reason(Doubt::ClockNotSynchronised, message));
        }
    }
    let failed: u64 = reported.iter().map(|process| process.window.requests_failed).sum();
    let completed: u64 = reported.iter().map(|process| process.window.requests_completed).sum();
    if failed > 0 {
        let message = format!("{failed} of {} requests failed, at most 0 may", failed + completed);
        let mut doubt = reason(Doubt::FailedRequests, message);
        if completed == 0 {
            doubt.severity = Verdict::Invalid;
        }
        found.push(doubt);
    }
    found
}

fn energy_doubts(evidence: &Evidence<'_>) -> Vec<VerdictReason> {
    let energy = evidence.energy;
    let mut found = Vec::new();
    for domain in &energy.domains {
        found.extend(
            domain
                .missing
                .iter()
                .map(|words| reason(Doubt::EnergyMissing, words.clone())),
        );
        found.extend(
            domain
                .mixed
                .iter()
                .map(|words| reason(Doubt::MixedEnergyScope, words.clone())),
        );
    }
    if energy.total.is_err_and(|why| why != Unavailable::SwitchedOff) && found.is_empty() {
        found.push(reason(
            Doubt::EnergyMissing,
            "no domain of any process has an energy reading".to_owned(),
        ));
    }
    if energy.sources().contains(&Source::Estimate) {
        let estimated: f64 = energy
            .available()
            .filter(|domain| domain.sources.contains(&Source::Estimate))
            .filter_map(|domain| domain.joules.ok())
            .sum();
        let total = energy.total.unwrap_or_default();
        let message =
            format!("domains with {estimated:.3} J of the total of {total:.3} J contain estimates, not readings");
        found.push(reason(Doubt::EstimatedEnergy, message));
    }
    if let Some(adjusted) = evidence.metrics.adjusted_energy_j.filter(|adjusted| *adjusted < 0.0) {
        let message = format!("energy above idle is {adjusted:.3} J, below 0: the baseline was not idle");
        found.push(reason(Doubt::NegativeAdjustedEnergy, message));
    }
    found
}

/// Largest |counter − integral| / counter over the GPUs (METHODOLOGY §4); `gpu` gives the reason where none is read.
pub(super) fn integral_disagreement(reported: &[Reported<'_>], gpu: Value) -> Value {
    let largest = reported
        .iter()
        .flat_map(|process| &process.window.energy)
        .filter_map(|reading| disagreement(reading))
        .reduce(f64::max);
    largest.ok_or(gpu.err().unwrap_or(Unavailable::NotSupported))
}

fn disagreement(reading: &lem_crds::runner::EnergyReading) -> Option<f64> {
    if reading.source != Source::NvmlCounter {
        return None;
    }
    let (counter, integral) = (reading.joules?, reading.integral_joules?);
    (counter > 0.0).then(|| (counter - integral).abs() / counter)
}

fn counter_doubts(reported: &[Reported<'_>]) -> Vec<VerdictReason> {
    let mut found = Vec::new();
    for process in reported {
        for reading in &process.window.energy {
            let id = &reading.counter.id;
            if let Some(period) = reading.update_period_seconds
                && reading.joules.is_some()
                && reading.duration_seconds < MINIMUM_UPDATE_PERIODS * period
            {
                let message = format!(
                    "process {}: window of {:.3} s is below {MINIMUM_UPDATE_PERIODS} update periods of {period:.4} s of counter {id}",
                    process.index, reading.duration_seconds
                );
                found.push(reason(Doubt::WindowTooShort, message));
            }
            if let Some(share) = disagreement(reading).filter(|share| *share > INTEGRAL_LIMIT) {
                let message = format!(
                    "process {}: counter and power integral of {id} differ by {:.1} %, above {:.0} %",
                    process.index,
                    share * 100.0,
                    INTEGRAL_LIMIT * 100.0
                );
                found.push(reason(Doubt::CounterIntegralDisagree, message));
            }
        }
    }
    found
}

/// Idle power with the model resident, before against after, over the counters that have both.
fn drift(reported: &[Reported<'_>]) -> Option<VerdictReason> {
    let before = idle_powers(reported, IdleState::ModelResident);
    let after = idle_powers(reported, IdleState::ModelResidentAfter);
    let both = before
        .iter()
        .filter_map(|(identity, power)| Some((power.ok()?, after.get(identity)?.ok()?)));
    let (before, after) = both.fold((0.0, 0.0), |sums, powers| (sums.0 + powers.0, sums.1 + powers.1));
    let drift = if before > 0.0 {
        (after - before).abs() / before
    } else {
        0.0
    };
    (drift > DRIFT_LIMIT).then(|| {
        let message = format!(
            "idle power went from {before:.2} W to {after:.2} W, by {:.1} %, above {:.0} %",
            drift * 100.0,
            DRIFT_LIMIT * 100.0
        );
        reason(Doubt::BaselineDrifted, message)
    })
}

/// Overlap and skew; without a barrier the nodes are measured independently and neither is expected.
fn timing_doubts(evidence: &Evidence<'_>) -> Vec<VerdictReason> {
    if evidence.barrier == Barrier::None {
        return Vec::new();
    }
    let mut found = Vec::new();
    if let Some(overlap) = evidence
        .metrics
        .temporal_overlap
        .filter(|overlap| *overlap < OVERLAP_LIMIT)
    {
        let message = format!(
            "the windows overlap for {:.1} % of the shortest, below {:.0} %",
            overlap * 100.0,
            OVERLAP_LIMIT * 100.0
        );
        found.push(reason(Doubt::InsufficientOverlap, message));
    }
    if let Some(skew) = evidence
        .metrics
        .start_skew_ms
        .filter(|skew| *skew > START_SKEW_LIMIT_MILLISECONDS)
    {
        let message = format!("the processes started {skew:.1} ms apart, above {START_SKEW_LIMIT_MILLISECONDS:.0} ms");
        found.push(reason(Doubt::StartSkew, message));
    }
    found
}
