//! Doubts about energy, its counters and its baselines (METHODOLOGY §4, §9). Pure.

use lem_crds::{
    metrics::Unavailable,
    runner::{EnergyReading, IdleState, Source},
    status::{Doubt, VerdictReason},
};

use super::{DRIFT_LIMIT, Evidence, INTEGRAL_LIMIT, MINIMUM_UPDATE_PERIODS, reason};
use crate::experiment::{availability::Value, completeness::Reported, energy::idle_powers};

/// Doubts about the energy of the whole trial.
pub(super) fn energy_doubts(evidence: &Evidence<'_>) -> Vec<VerdictReason> {
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
        let names: Vec<&str> = energy
            .available()
            .filter(|domain| domain.sources.contains(&Source::Estimate))
            .map(|domain| domain.domain.name())
            .collect();
        let bound = evidence
            .metrics
            .energy_uncertainty_j
            .map(|joules| format!(", right within ± {joules:.0} J"))
            .unwrap_or_default();
        let message = format!(
            "{estimated:.0} J of {total:.0} J ({}) are estimated from load and design power, not read from a counter{bound}; intervals show how the estimate repeats, not how far it is from the truth",
            names.join(", ")
        );
        found.push(reason(Doubt::EstimatedEnergy, message));
    }
    // Idle power times duration rounds in the last digits: equal energies are no finding.
    let rounding = 1e-9 * energy.total.unwrap_or_default().abs();
    if let Some(adjusted) = evidence
        .metrics
        .adjusted_energy_j
        .filter(|adjusted| *adjusted < -rounding)
    {
        let message = format!("energy above idle is {adjusted:.3} J, below 0: the baseline was not idle");
        found.push(reason(Doubt::NegativeAdjustedEnergy, message));
    }
    found
}

/// Largest |counter − integral| / counter over the GPUs (METHODOLOGY §4); `gpu` gives the reason where none is read.
pub(in crate::experiment) fn integral_disagreement(reported: &[Reported<'_>], gpu: Value) -> Value {
    let largest = reported
        .iter()
        .flat_map(|process| &process.window.energy)
        .filter_map(disagreement)
        .reduce(f64::max);
    largest.ok_or(gpu.err().unwrap_or(Unavailable::NotSupported))
}

fn disagreement(reading: &EnergyReading) -> Option<f64> {
    if reading.source != Source::NvmlCounter {
        return None;
    }
    let (counter, integral) = (reading.joules?, reading.integral_joules?);
    (counter > 0.0).then(|| (counter - integral).abs() / counter)
}

/// Doubts about each reading: too short a window, counter against integral.
pub(super) fn counter_doubts(reported: &[Reported<'_>]) -> Vec<VerdictReason> {
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
pub(super) fn drift(reported: &[Reported<'_>]) -> Option<VerdictReason> {
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
