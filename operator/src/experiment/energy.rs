//! Energy of a trial by domain, over distinct counters (METHODOLOGY §4, §6), and its idle part (§2). Pure.

use std::collections::{BTreeMap, BTreeSet};

use lem_crds::{
    experiment::{CpuEnergy, GpuEnergy},
    metrics::Unavailable,
    plan::LoadPlan,
    runner::{CounterIdentity, Domain, EnergyReading, IdleState, Source},
};

use super::{
    attribution::{CounterEnergy, CounterReader, Interval, counter_energy},
    availability::Value,
    completeness::Reported,
};

/// Energy of one domain.
#[derive(Debug)]
pub(super) struct DomainEnergy {
    pub(super) domain: Domain,
    pub(super) joules: Value,
    /// Energy of each counter; complete where `joules` is.
    pub(super) counters: BTreeMap<CounterIdentity, CounterEnergy>,
    pub(super) sources: BTreeSet<Source>,
    /// Counters that were read and gave no energy, in words.
    pub(super) missing: Vec<String>,
    /// Processes that lack a domain which others have, in words.
    pub(super) mixed: Vec<String>,
}

/// Energy of a trial.
#[derive(Debug)]
pub(super) struct TrialEnergy {
    pub(super) domains: [DomainEnergy; 3],
    pub(super) total: Value,
    pub(super) uncertainty: Value,
    pub(super) idle_power: Value,
    pub(super) adjusted: Value,
}

impl TrialEnergy {
    /// The domains that are in the total.
    pub(super) fn available(&self) -> impl Iterator<Item = &DomainEnergy> {
        self.domains.iter().filter(|domain| domain.joules.is_ok())
    }

    /// Their names, for `energyScope`.
    pub(super) fn scope(&self) -> Vec<String> {
        self.available().map(|domain| domain.domain.name().to_owned()).collect()
    }

    /// Their sources.
    pub(super) fn sources(&self) -> BTreeSet<Source> {
        self.available()
            .flat_map(|domain| domain.sources.iter().copied())
            .collect()
    }
}

/// The energy of all domains. `shared` says whether some GPU is MIG-sliced: its power is known for the board only.
pub(super) fn trial_energy(reported: &[Reported<'_>], load: &LoadPlan, shared: bool) -> TrialEnergy {
    let mut domains = [Domain::Gpu, Domain::Cpu, Domain::Dram].map(|domain| domain_energy(reported, load, domain));
    if shared {
        domains[0].joules = Err(Unavailable::SharedDevice);
    }
    let available: Vec<&DomainEnergy> = domains.iter().filter(|domain| domain.joules.is_ok()).collect();
    let total = if available.is_empty() {
        Err(no_energy(&domains))
    } else {
        available.iter().map(|domain| domain.joules).sum()
    };
    let counters: Vec<(&CounterIdentity, &CounterEnergy)> =
        available.iter().flat_map(|domain| &domain.counters).collect();
    let uncertainty = total.map(|_| counters.iter().map(|(_, energy)| energy.uncertainty).sum());
    let idle = idle_powers(reported, IdleState::ModelResident);
    let power_of = |identity: &CounterIdentity| idle.get(identity).copied().unwrap_or(Err(Unavailable::NoBaseline));
    let idle_power = total.and_then(|_| counters.iter().map(|(identity, _)| power_of(identity)).sum());
    let idle_energy: Value = counters
        .iter()
        .map(|(identity, energy)| Ok(power_of(identity)? * energy.covered_seconds))
        .sum();
    let adjusted = total.and_then(|total| Ok(total - idle_energy?));
    TrialEnergy {
        domains,
        total,
        uncertainty,
        idle_power,
        adjusted,
    }
}

/// Why there is no total: switched off if all of it is, else the domains have no reading.
fn no_energy(domains: &[DomainEnergy; 3]) -> Unavailable {
    let reasons: BTreeSet<Unavailable> = domains.iter().filter_map(|domain| domain.joules.err()).collect();
    match reasons.first() {
        Some(Unavailable::SwitchedOff) if reasons.len() == 1 => Unavailable::SwitchedOff,
        _ if reasons.contains(&Unavailable::SharedDevice) => Unavailable::SharedDevice,
        _ => Unavailable::NoEnergyReading,
    }
}

/// When a window ran, in seconds since the Unix epoch.
pub(super) fn window_interval(process: &Reported<'_>) -> Interval {
    Interval {
        start: seconds(process.window.started_at),
        end: seconds(process.window.ended_at),
    }
}

fn seconds(at: jiff::Timestamp) -> f64 {
    at.as_nanosecond() as f64 / 1e9
}

/// When a reading was taken: its counter's own times, else those of its window.
fn reading_interval(process: &Reported<'_>, reading: &EnergyReading) -> Interval {
    match (&reading.start, &reading.end) {
        (Some(start), Some(end)) => Interval {
            start: seconds(start.at),
            end: seconds(end.at),
        },
        _ => window_interval(process),
    }
}

fn domain_energy(reported: &[Reported<'_>], load: &LoadPlan, domain: Domain) -> DomainEnergy {
    let readings = measured_before_estimated(reported, domain);
    let mut result = DomainEnergy {
        domain,
        joules: Ok(0.0),
        counters: BTreeMap::new(),
        sources: readings.iter().map(|(_, reading)| reading.source).collect(),
        missing: Vec::new(),
        mixed: Vec::new(),
    };
    if readings.is_empty() {
        result.joules = Err(absence(reported, load, domain));
        return result;
    }
    let identities: BTreeSet<&CounterIdentity> = readings.iter().map(|(_, reading)| &reading.counter).collect();
    let mut lacking = None;
    for process in reported {
        let covered = match domain {
            Domain::Gpu => readings.iter().any(|(reader, _)| reader.index == process.index),
            Domain::Cpu | Domain::Dram => identities.iter().any(|identity| identity.node == process.window.node),
        };
        if !covered {
            let message = format!(
                "process {} on node {} has no {} energy",
                process.index,
                process.window.node,
                domain.name()
            );
            result.mixed.push(message);
            lacking.get_or_insert(absence(std::slice::from_ref(process), load, domain));
        }
    }
    for identity in identities {
        let own: Vec<_> = readings
            .iter()
            .filter(|(_, reading)| reading.counter == *identity)
            .collect();
        let readers: Vec<CounterReader<'_>> = own
            .iter()
            .map(|(process, reading)| CounterReader {
                reading,
                interval: reading_interval(process, reading),
            })
            .collect();
        let unread: Vec<Interval> = reported
            .iter()
            .filter(|process| domain != Domain::Gpu && process.window.node == identity.node)
            .filter(|process| own.iter().all(|(reader, _)| reader.index != process.index))
            .map(window_interval)
            .collect();
        match counter_energy(&readers, &unread) {
            Ok(energy) => {
                result.joules = result.joules.map(|sum| sum + energy.joules);
                result.counters.insert(identity.clone(), energy);
            }
            Err(reason) => {
                result.joules = result.joules.and(Err(reason));
                let words = own
                    .iter()
                    .map(|(_, reading)| reading.message.as_str())
                    .find(|words| !words.is_empty());
                let words = words.map(|words| format!(": {words}")).unwrap_or_default();
                let CounterIdentity { node, id, .. } = identity;
                result.missing.push(format!(
                    "{} counter {id} on node {node} gave no energy ({reason:?}){words}",
                    domain.name()
                ));
            }
        }
    }
    if let Some(reason) = lacking {
        result.joules = result.joules.and(Err(reason));
    }
    result
}

/// The readings of a domain. Where a node has a measured reading, estimates of the same domain there are left out:
/// they cover the same silicon.
fn measured_before_estimated<'r, 'a>(
    reported: &'r [Reported<'a>],
    domain: Domain,
) -> Vec<(&'r Reported<'a>, &'a EnergyReading)> {
    let all = || {
        reported.iter().flat_map(move |process| {
            let of_domain = process
                .window
                .energy
                .iter()
                .filter(move |reading| reading.counter.domain == domain);
            of_domain.map(move |reading| (process, reading))
        })
    };
    let measured: BTreeSet<&str> = all()
        .filter(|(_, reading)| reading.source != Source::Estimate)
        .map(|(_, reading)| reading.counter.node.as_str())
        .collect();
    all()
        .filter(|(_, reading)| reading.source != Source::Estimate || !measured.contains(reading.counter.node.as_str()))
        .collect()
}

/// Why a domain has no reading: as a process says, else as the plan implies.
fn absence(reported: &[Reported<'_>], load: &LoadPlan, domain: Domain) -> Unavailable {
    let stated = reported
        .iter()
        .flat_map(|process| &process.window.absent_domains)
        .find(|absent| absent.domain == domain)
        .map(|absent| absent.reason);
    stated.unwrap_or(match domain {
        Domain::Gpu if load.energy.gpu == GpuEnergy::Disabled => Unavailable::SwitchedOff,
        Domain::Cpu | Domain::Dram if load.energy.cpu == CpuEnergy::Disabled => Unavailable::SwitchedOff,
        Domain::Gpu => Unavailable::NoDevice,
        Domain::Cpu | Domain::Dram => Unavailable::NoCounter,
    })
}

/// Mean idle power of each counter in one state, over all processes that measured it: several on a node read the same
/// counter, which is one power and not a sum.
pub(super) fn idle_powers(reported: &[Reported<'_>], state: IdleState) -> BTreeMap<CounterIdentity, Value> {
    let mut sums: BTreeMap<CounterIdentity, Result<(f64, f64), Unavailable>> = BTreeMap::new();
    let baselines = reported
        .iter()
        .flat_map(|process| process.baselines)
        .filter(|baseline| baseline.state == state);
    for reading in baselines.flat_map(|baseline| &baseline.readings) {
        let sum = sums.entry(reading.counter.clone()).or_insert(Ok((0.0, 0.0)));
        let reason = reading.unavailable.unwrap_or(Unavailable::CounterFailed);
        *sum = sum.and_then(|(joules, seconds)| {
            Ok((
                joules + reading.joules.ok_or(reason)?,
                seconds + reading.duration_seconds,
            ))
        });
    }
    let mean = |(joules, seconds): (f64, f64)| {
        if seconds > 0.0 {
            Ok(joules / seconds)
        } else {
            Err(Unavailable::NoBaseline)
        }
    };
    sums.into_iter()
        .map(|(identity, sum)| (identity, sum.and_then(mean)))
        .collect()
}
