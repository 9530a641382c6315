//! What the agent told of one window and its surroundings, and the reading that it makes. Pure.

use lem_crds::{
    agent::{CounterAnswer, CounterValue, CountersUnavailable, NodeCounter},
    metrics,
};

use super::{
    super::{
        clock::Mark,
        cumulative::{CumulativeEnergy, PEAK_OVER_MEAN, Read},
        edge::EdgeEnergy,
        integrate::{Power, thin},
        reading::{CounterIdentity, EnergyReading, EnergySource, RawCounter, Unavailable, UnavailableReason},
    },
    edge::{Lag, energy_at_end, energy_at_start, sides, watts},
    failed,
};
use crate::energy::rapl::update::{Updates, newest, standstill};

/// All readings of one window.
#[derive(Debug)]
pub(super) struct Recording {
    after: u64,
    series: Option<String>,
    /// Why the series began.
    began: String,
    counters: Vec<NodeCounter>,
    readings: Vec<Vec<CounterValue>>,
    /// Ends the window's chance of a result.
    broken: Option<Unavailable>,
    /// The last question that failed; the next may succeed.
    missed: Option<Unavailable>,
}

impl Recording {
    /// Of readings after an instant, monotonic seconds.
    pub(super) fn new(after: f64) -> Self {
        Self {
            after: (after.max(0.0) * 1e9) as u64,
            series: None,
            began: String::new(),
            counters: Vec::new(),
            readings: Vec::new(),
            broken: None,
            missed: None,
        }
    }

    /// From when on readings are missing, ns.
    pub(super) fn after(&self) -> u64 {
        self.after
    }

    /// Adds what the agent answered.
    pub(super) fn add(&mut self, answer: Result<CounterAnswer, Unavailable>) {
        let answer = match answer {
            Ok(answer) => answer,
            Err(why) => {
                self.missed = Some(why);
                return;
            }
        };
        if let Some(why) = answer.unavailable {
            // What was read before it and what comes after it are two series.
            self.broken.get_or_insert(unavailable(&why));
            return;
        }
        self.missed = None;
        if self.series.as_ref().is_some_and(|series| *series != answer.series) {
            self.broken.get_or_insert(anew(&answer.began));
            return;
        }
        self.series = Some(answer.series);
        self.began = answer.began;
        self.counters = answer.counters;
        for reading in answer.readings {
            if reading.len() == self.counters.len()
                && let Some(first) = reading.first()
                && first.from > self.after
            {
                self.after = first.from;
                self.readings.push(reading);
            }
        }
    }

    /// Whether waiting longer is of no use: so many readings after the end are there, or there will be no result.
    pub(super) fn is_over(&self, end: f64, readings: usize) -> bool {
        let after = self
            .readings
            .iter()
            .rev()
            .take_while(|reading| reading.iter().all(|value| seconds(value.from) >= end));
        self.broken.is_some() || after.count() >= readings
    }

    /// The counter with what it was at both edges; else why that is not known.
    fn known(&self, counter: &NodeCounter, (start, end): (Mark, Mark)) -> Result<Known, Unavailable> {
        if let Some(why) = &self.broken {
            return Err(why.clone());
        }
        let readings = self.of(counter);
        let updates = Updates::of(&readings);
        let power = power(&updates.fresh);
        let lag = lag(&readings, &updates, &power);
        let first = energy_at_start(&readings, start.monotonic_seconds, lag);
        let edges = first.zip(energy_at_end(&readings, end.monotonic_seconds, lag));
        let Some((first, last)) = edges else {
            return Err(self.uncovered(&readings, start));
        };
        let seconds = end.monotonic_seconds - start.monotonic_seconds;
        match standstill(&readings, last.joules - first.joules, seconds) {
            Some(frozen) => Err(frozen),
            None => Ok(Known {
                readings,
                period_seconds: updates.period_seconds,
                power,
                edges: [first, last],
            }),
        }
    }

    fn uncovered(&self, readings: &[Read], start: Mark) -> Unavailable {
        if let Some(why) = &self.missed {
            return why.clone();
        }
        let (before, _) = sides(readings, start.monotonic_seconds);
        if before.is_empty() {
            return anew(&self.began);
        }
        failed("the node's energy agent has stopped to read the counters within the window".to_owned())
    }

    fn of(&self, counter: &NodeCounter) -> Vec<Read> {
        let index = self
            .counters
            .iter()
            .position(|other| other.domain == counter.domain && other.id == counter.id);
        let values = self.readings.iter().filter_map(|reading| reading.get(index?));
        values
            .map(|value| Read {
                from: seconds(value.from),
                to: seconds(value.to),
                joules: value.microjoules as f64 / 1e6,
            })
            .collect()
    }

    /// Mean power between the last two values of a counter, W.
    pub(super) fn last_power(&self, counter: &NodeCounter) -> Option<f64> {
        let (before, last) = newest(&self.of(counter))?;
        let seconds = last.from - before.from;
        (seconds > 0.0).then(|| (last.joules - before.joules) / seconds)
    }

    /// The reading of one counter. Its cumulative values are those at the edges, since the agent's own are not.
    pub(super) fn reading(
        &self,
        counter: &NodeCounter,
        identity: CounterIdentity,
        (start, end): (Mark, Mark),
        interval_seconds: f64,
    ) -> EnergyReading {
        let found = self.known(counter, (start, end));
        let at = |at: Mark, edge: &EdgeEnergy| RawCounter {
            at,
            joules: edge.joules,
        };
        let known = found.as_ref().ok();
        let edges = known.map(|known| &known.edges);
        let power = known.map_or(&[][..], |known| &known.power);
        EnergyReading {
            counter: identity,
            source: EnergySource::Rapl,
            joules: edges.map(|[first, last]| (last.joules - first.joules).max(0.0)),
            uncertainty_joules: edges.map(|[first, last]| first.uncertainty_joules + last.uncertainty_joules),
            duration_seconds: end.monotonic_seconds - start.monotonic_seconds,
            start,
            end,
            start_raw: edges.map(|[first, _]| at(start, first)),
            end_raw: edges.map(|[_, last]| at(end, last)),
            // The agent undoes wraps.
            range_joules: None,
            update_period_seconds: Some(known.map_or(interval_seconds, |known| {
                // An agent that was held up knows less of an edge than its pace promises.
                let gaps = [start, end].map(|edge| gap(&known.readings, edge.monotonic_seconds));
                gaps.into_iter()
                    .fold(interval_seconds.max(known.period_seconds), f64::max)
            })),
            integral_joules: None,
            integral_disagreement: None,
            power_is_averaged: false,
            power: thin(power, start.monotonic_seconds, end.monotonic_seconds),
            cumulative: known.map_or_else(CumulativeEnergy::default, |known| known.within(start, end)),
            unavailable: found.err(),
        }
    }
}

/// A counter that is known at both edges of the window.
#[derive(Debug)]
struct Known {
    /// Around the window and within it.
    readings: Vec<Read>,
    /// Longest time between two updates of it.
    period_seconds: f64,
    power: Vec<Power>,
    edges: [EdgeEnergy; 2],
}

impl Known {
    /// The counter between the edges.
    fn within(&self, start: Mark, end: Mark) -> CumulativeEnergy {
        let [first, last] = self.edges;
        CumulativeEnergy::new(
            (start.monotonic_seconds, first),
            self.readings.iter().copied(),
            (end.monotonic_seconds, last),
            self.period_seconds,
            self.power.iter().map(|power| PEAK_OVER_MEAN * power.watts),
        )
    }
}

/// Time between the readings on the two sides of an instant, s.
fn gap(readings: &[Read], instant: f64) -> f64 {
    let (before, after) = sides(readings, instant);
    let around = before.last().zip(after.first());
    around.map_or(0.0, |(last, next)| next.at() - last.at())
}

/// Two series have nothing in common, so a window that is not within one has no energy.
fn anew(because: &str) -> Unavailable {
    let message = format!(
        "the node's energy agent began to count anew in the window, so what was consumed is not known: {because}"
    );
    Unavailable::new(UnavailableReason::CounterReset, message)
}

/// Mean power between readings, at their middle.
fn power(readings: &[Read]) -> Vec<Power> {
    let between = |pair: &[Read]| Power {
        at: f64::midpoint(pair[0].at(), pair[1].at()),
        watts: watts(&pair[0], &pair[1]),
    };
    readings.windows(2).map(between).collect()
}

/// RAPL itself lags by up to one update.
fn lag(readings: &[Read], updates: &Updates, power: &[Power]) -> Lag {
    let highest = power.iter().map(|power| power.watts).reduce(f64::max);
    let mean = readings
        .first()
        .zip(readings.last())
        .map(|(first, last)| watts(first, last));
    Lag {
        joules: highest.or(mean).unwrap_or_default() * updates.period_seconds,
        is_slow: updates.is_slow,
    }
}

fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 * 1e-9
}

/// The agent's reason as a meter's.
pub(super) fn unavailable(why: &CountersUnavailable) -> Unavailable {
    let reason = match why.reason {
        metrics::Unavailable::NoCounter => UnavailableReason::NoPowercap,
        metrics::Unavailable::PermissionDenied => UnavailableReason::PermissionDenied,
        _ => UnavailableReason::DeviceFailed,
    };
    Unavailable::new(reason, format!("the node's energy agent: {}", why.message))
}

#[cfg(test)]
mod tests {
    use lem_crds::{agent::PROTOCOL, runner::Domain};

    use super::*;
    use crate::energy::CounterDomain;

    /// A window of two seconds on a package that draws so much.
    fn reading(watts: f64) -> EnergyReading {
        renewed(watts, 0.1, 2.0)
    }

    /// The same with a counter that is renewed after so many seconds, and a window of such a length.
    fn renewed(watts: f64, after: f64, length: f64) -> EnergyReading {
        let counter = NodeCounter {
            domain: Domain::Cpu,
            id: "package-0".to_owned(),
            socket: Some(0),
            range_microjoules: 262_143_328_850,
        };
        let value = |step: u64| CounterValue {
            from: 100_000_000 * step,
            to: 100_000_000 * step + 1000,
            microjoules: (watts * 1e6 * (0.1 * step as f64 / after + 1e-6).floor() * after) as u64,
        };
        let mut recording = Recording::new(0.0);
        recording.add(Ok(CounterAnswer {
            protocol: PROTOCOL,
            node: "node-a".to_owned(),
            boot: "boot".to_owned(),
            series: "series".to_owned(),
            began: "the agent started".to_owned(),
            interval: 100_000_000,
            counters: vec![counter.clone()],
            readings: (1..10 + (10.0 * (length + 1.0)) as u64)
                .map(|step| vec![value(step)])
                .collect(),
            unavailable: None,
        }));
        let identity = CounterIdentity {
            domain: CounterDomain::Cpu,
            id: counter.id.clone(),
            node: "node-a".to_owned(),
        };
        let edges = [0.55, 0.55 + length].map(|seconds| Mark {
            monotonic_seconds: seconds,
            wall_seconds: seconds,
        });
        recording.reading(&counter, identity, (edges[0], edges[1]), 0.1)
    }

    #[test]
    fn a_counter_that_a_virtual_machine_renews_once_a_second_is_known_to_within_that() {
        let reading = renewed(50.0, 1.0, 10.0);
        let period = reading.update_period_seconds.unwrap();
        assert!((1.0..1.3).contains(&period), "{period} s");
        let (joules, error) = (reading.joules.unwrap(), reading.uncertainty_joules.unwrap());
        assert!((joules - 500.0).abs() <= error && error > 50.0, "{joules} ± {error} J");
        assert!(
            !reading.power.is_empty() && reading.power.iter().all(|power| (power.watts - 50.0).abs() < 5.0),
            "no spikes where it is renewed: {:?}",
            reading.power
        );
    }

    #[test]
    fn a_short_window_on_such_a_counter_is_bounded_by_what_it_may_have_missed_or_has_no_energy() {
        for length in (2..20).map(|tenths| 0.1 * f64::from(tenths)) {
            let reading = renewed(50.0, 1.0, length);
            let Some(joules) = reading.joules else {
                continue;
            };
            let error = reading.uncertainty_joules.unwrap();
            assert!(
                (joules - 50.0 * length).abs() <= error,
                "{joules} ± {error} J in {length:.1} s"
            );
        }
    }

    #[test]
    fn a_counter_that_stands_still_at_the_agent_is_no_energy_of_zero() {
        let frozen = reading(0.0);
        let reason = frozen.unavailable.as_ref().map(|why| why.reason);
        assert_eq!(
            (frozen.joules, reason),
            (None, Some(UnavailableReason::DeviceFailed)),
            "{frozen:?}"
        );
        let drawing = reading(50.0);
        let joules = drawing.joules.unwrap();
        assert!(
            (joules - 100.0).abs() <= drawing.uncertainty_joules.unwrap(),
            "{drawing:?}"
        );
    }
}
