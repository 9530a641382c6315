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
//! | `WindowTooShort` | below [`MINIMUM_UPDATE_PERIODS`] update periods of a counter or of sampled power, or of one that is not known | Suspect |
//! | `CounterIntegralDisagree` | above [`INTEGRAL_LIMIT`] | Suspect |
//! | `BaselineDrifted` | changes of all counters above [`DRIFT_LIMIT`] of their sum | Suspect |
//! | `NegativeAdjustedEnergy` | below zero | Suspect |
//! | `InsufficientOverlap`, `StartSkew` | below [`OVERLAP_LIMIT`], above [`START_SKEW_LIMIT_MILLISECONDS`]; with a barrier only | Suspect |
//! | `ClockNotSynchronised` | a node says so, and the trial spans several nodes | Suspect |
//! | `ClocksDiffer` | clocks of two processes are above [`CLOCK_DIFFERENCE_LIMIT_SECONDS`] apart; with a barrier only | Suspect |
//! | `MissingCycles` | a point has fewer cycles than planned | Suspect |

mod device;
mod energy;

use std::collections::BTreeSet;

use lem_crds::{
    experiment::Barrier,
    metrics::MetricSet,
    status::{Doubt, Verdict, VerdictReason},
};

pub(super) use self::{device::shared_devices, energy::integral_disagreement};
use self::{
    device::{device_doubts, duplicate_gpus},
    energy::{counter_doubts, drift, energy_doubts},
};
use super::{completeness::Reported, energy::TrialEnergy};

/// Largest |counter − integral| / counter (METHODOLOGY §4).
pub const INTEGRAL_LIMIT: f64 = 0.05;
/// Fewest update periods of a counter, or of sampled power, in a window (METHODOLOGY §4).
pub const MINIMUM_UPDATE_PERIODS: f64 = 50.0;
/// Smallest overlap of the windows, over the shortest of them (METHODOLOGY §9).
pub const OVERLAP_LIMIT: f64 = 0.5;
/// Largest difference of the actual starts after a barrier (METHODOLOGY §9 leaves the figure open).
pub const START_SKEW_LIMIT_MILLISECONDS: f64 = 100.0;
/// Difference of two clocks above which the barrier cannot have worked, whatever they say themselves. Each is compared
/// with the API server's, whose dates are whole seconds.
pub const CLOCK_DIFFERENCE_LIMIT_SECONDS: f64 = 2.0;
/// Largest change of idle power between before and after, of all counters together, over its sum (METHODOLOGY §9).
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
        | Doubt::ClocksDiffer
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
    found.extend(different_clocks(evidence.reported));
    found
}

/// The two clocks that are farthest apart, if they are too far. A clock that is behind starts late by as much, and its
/// own times do not show it.
fn different_clocks(reported: &[Reported<'_>]) -> Option<VerdictReason> {
    let offsets = reported.iter().filter_map(|process| {
        let window = process.window;
        Some((window.clock.api_server_offset_seconds?, process.index, &window.node))
    });
    let mut offsets: Vec<_> = offsets.collect();
    offsets.sort_by(|one, other| one.0.total_cmp(&other.0));
    let ((least, _, behind), (most, index, ahead)) = (offsets.first()?, offsets.last()?);
    let apart = most - least;
    (apart > CLOCK_DIFFERENCE_LIMIT_SECONDS).then(|| {
        let message = format!(
            "process {index}: the clock of node {ahead} is {apart:.0} s ahead of that of node {behind}, so the windows \
             were not at the same time: set the nodes' clocks"
        );
        reason(Doubt::ClocksDiffer, message)
    })
}
