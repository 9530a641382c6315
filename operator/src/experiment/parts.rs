//! Parts of a window (METHODOLOGY §4): the time in which all processes held their configured concurrency, and the phases. Pure.
//!
//! Each process has a steady state of its own, so its figures are rates: tokens per second and watts, added over replicas
//! and over distinct counters. The phases of a process are told apart by counters that nobody else on the node makes move.

use lem_crds::{
    metrics::Unavailable,
    runner::{CounterIdentity, Domain, EnergyReading, PartEnergy, SteadyStateRecord},
};

use super::{
    availability::{Value, ratio, sum},
    completeness::Reported,
    energy::TrialEnergy,
};

/// Largest error bound of the energy of a part, by where it begins and ends, over the energy. Beyond it the counters are too
/// coarse for a part of this length.
const RESOLUTION: f64 = 0.05;

/// Figures of the steady states.
pub(super) struct SteadyState {
    /// Mean over the processes, in seconds.
    pub(super) duration: Value,
    /// Sum over the processes.
    pub(super) tokens_per_second: Value,
    /// Power over tokens per second.
    pub(super) joules_per_token: Value,
}

/// Of these processes; the energy has the domains and counters that the trial's total has.
pub(super) fn steady_state(reported: &[Reported<'_>], energy: &TrialEnergy) -> SteadyState {
    let total = |of: fn(&SteadyStateRecord) -> f64| {
        sum(reported.iter().map(|process| {
            let record = process.window.steady_state.as_ref();
            record.map(of).ok_or(Unavailable::NoSteadyState)
        }))
    };
    let tokens_per_second = total(|steady| steady.tokens as f64 / steady.duration_seconds);
    SteadyState {
        duration: ratio(total(|steady| steady.duration_seconds), Ok(reported.len() as f64)),
        tokens_per_second,
        joules_per_token: tokens_per_second.and_then(|_| ratio(watts(reported, energy), tokens_per_second)),
    }
}

/// Power of all counters of the total, in watts.
fn watts(reported: &[Reported<'_>], energy: &TrialEnergy) -> Value {
    over_counters(energy, |identity| counter_watts(reported, identity))
}

/// Energy of a phase over all counters of the total, in joules.
pub(super) fn phase_energy(
    reported: &[Reported<'_>],
    energy: &TrialEnergy,
    of: fn(&EnergyReading) -> Option<PartEnergy>,
) -> Value {
    over_counters(energy, |identity| {
        let part = only_reading(reported, identity).and_then(of);
        let part = part.ok_or(Unavailable::PhaseNotResolved)?;
        Ok((part.joules, part.uncertainty_joules))
    })
}

/// Sum over the counters of the total of a figure with its error bound, if the bounds together are small enough.
fn over_counters(energy: &TrialEnergy, of: impl Fn(&CounterIdentity) -> Result<(f64, f64), Unavailable>) -> Value {
    energy.total?;
    let (mut total, mut uncertainty) = (0.0, 0.0);
    for identity in energy.available().flat_map(|domain| domain.counters.keys()) {
        let (figure, bound) = of(identity)?;
        total += figure;
        uncertainty += bound;
    }
    if uncertainty <= RESOLUTION * total {
        Ok(total)
    } else {
        Err(Unavailable::PhaseNotResolved)
    }
}

/// The reading of a counter, if one process alone made it move: within its phases another one is in phases of its own.
fn only_reading<'a>(reported: &[Reported<'a>], identity: &CounterIdentity) -> Option<&'a EnergyReading> {
    let moves = |process: &&Reported<'a>| match identity.domain {
        Domain::Gpu => process.window.energy.iter().any(|reading| reading.counter == *identity),
        Domain::Cpu | Domain::Dram => process.window.node == identity.node,
    };
    let mut processes = reported.iter().filter(moves);
    let (only, None) = (processes.next()?, processes.next()) else {
        return None;
    };
    only.window.energy.iter().find(|reading| reading.counter == *identity)
}

/// Power of one counter with its error bound: several processes of a node read the same one, which is one power and not a sum.
fn counter_watts(reported: &[Reported<'_>], identity: &CounterIdentity) -> Result<(f64, f64), Unavailable> {
    let (mut watts, mut bound, mut readers) = (0.0, 0.0, 0.0);
    for process in reported {
        for reading in process
            .window
            .energy
            .iter()
            .filter(|reading| reading.counter == *identity)
        {
            let steady = process.window.steady_state.as_ref().ok_or(Unavailable::NoSteadyState)?;
            let energy = reading.steady_state.ok_or(Unavailable::PhaseNotResolved)?;
            watts += energy.joules / steady.duration_seconds;
            bound += energy.uncertainty_joules / steady.duration_seconds;
            readers += 1.0;
        }
    }
    if readers > 0.0 {
        Ok((watts / readers, bound / readers))
    } else {
        Err(Unavailable::PhaseNotResolved)
    }
}
