//! Doubts about energy, its counters and its baselines (METHODOLOGY §4, §9). Pure.

use lem_crds::{
    metrics::Unavailable,
    runner::{CounterIdentity, EnergyReading, IdleState, Source},
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

/// Largest |counter − integral| / counter over the GPUs (METHODOLOGY §4), infinite where a counter stood still while its
/// board drew power; `gpu` gives the reason where none is read.
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
    Some(relative_difference(counter, integral))
}

/// |other − base| / |base|; infinite where only the base is zero, so that no limit lets it pass.
fn relative_difference(base: f64, other: f64) -> f64 {
    let difference = (other - base).abs();
    if difference > 0.0 { difference / base.abs() } else { 0.0 }
}

/// Doubts about each reading: too short a window, counter against integral.
pub(super) fn counter_doubts(reported: &[Reported<'_>]) -> Vec<VerdictReason> {
    let mut found = Vec::new();
    for process in reported {
        for reading in &process.window.energy {
            let doubts = [
                (Doubt::WindowTooShort, too_short(reading)),
                (Doubt::CounterIntegralDisagree, disagrees(reading)),
            ];
            found.extend(doubts.into_iter().filter_map(|(doubt, words)| {
                let message = format!("process {}: {}", process.index, words?);
                Some(reason(doubt, message))
            }));
        }
    }
    found
}

/// Why the window may be too short for the reading, in words. A period that is not known shows no window to be long
/// enough; an estimate has none.
fn too_short(reading: &EnergyReading) -> Option<String> {
    reading.joules?;
    let read = match reading.source {
        Source::NvmlCounter | Source::Rapl => "counter",
        Source::NvmlPowerIntegral => "the sampled power of",
        Source::Estimate => return None,
    };
    let (window, id) = (reading.duration_seconds, &reading.counter.id);
    match reading.update_period_seconds {
        Some(period) => (window < MINIMUM_UPDATE_PERIODS * period).then(|| {
            format!(
                "window of {window:.3} s is below {MINIMUM_UPDATE_PERIODS} update periods of {period:.4} s of {read} {id}"
            )
        }),
        None => Some(format!(
            "the update period of {read} {id} is not known, so that the window of {window:.3} s may be below \
             {MINIMUM_UPDATE_PERIODS} of them"
        )),
    }
}

/// How far counter and integral are apart, in words, if that is too far.
fn disagrees(reading: &EnergyReading) -> Option<String> {
    let share = disagreement(reading).filter(|share| *share > INTEGRAL_LIMIT)?;
    let apart = if share.is_finite() {
        format!(
            "differ by {:.1} %, above {:.0} %",
            share * 100.0,
            INTEGRAL_LIMIT * 100.0
        )
    } else {
        format!("differ: 0 J and {:.1} J", reading.integral_joules?)
    };
    Some(format!("counter and power integral of {} {apart}", reading.counter.id))
}

/// Idle power with the model resident, before against after, over the counters that have both: what one of them loses is
/// not made up for by what another one gains, and a small one that trembles is no drift of the whole.
pub(super) fn drift(reported: &[Reported<'_>]) -> Option<VerdictReason> {
    let before = idle_powers(reported, IdleState::ModelResident);
    let after = idle_powers(reported, IdleState::ModelResidentAfter);
    let both = before
        .iter()
        .filter_map(|(identity, power)| Some((identity, power.ok()?, after.get(identity)?.ok()?)));
    let both: Vec<(&CounterIdentity, f64, f64)> = both.collect();
    let change = |(_, before, after): &(&CounterIdentity, f64, f64)| (after - before).abs();
    let changed: f64 = both.iter().map(change).sum();
    let total: f64 = both.iter().map(|(_, before, _)| before).sum();
    if changed <= DRIFT_LIMIT * total {
        return None;
    }
    let most = both.iter().max_by(|one, other| change(one).total_cmp(&change(other)));
    let (CounterIdentity { node, id, .. }, before, after) = most?;
    let message = format!(
        "idle power changed by {changed:.2} W from {total:.2} W, by more than {:.0} %: that of {id} on node {node} went from \
         {before:.2} W to {after:.2} W",
        DRIFT_LIMIT * 100.0
    );
    Some(reason(Doubt::BaselineDrifted, message))
}
