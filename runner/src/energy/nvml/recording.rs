//! The polls of one board around and inside one window, and the reading that they make. Pure.

use super::{
    super::{
        clock::Mark,
        cumulative::{CumulativeEnergy, PEAK_OVER_MEAN, Read},
        edge::{EdgeEnergy, SENSOR_TOLERANCE, energy_at_end, energy_at_start, gain, refresh_period, refreshed},
        integrate::{Power, thin, trapezoid},
        reading::{CounterIdentity, EnergyReading, EnergySource, RawCounter, Unavailable, UnavailableReason},
        tick::{CounterSample, Tick, certain_period, ticks, update_period, was_reset},
    },
    sampler::LONGEST_WAIT_SECONDS,
};

/// Polls kept before the window: about two seconds of them.
const POLLS_BEFORE: usize = 2048;

/// Updates that an edge needs on its side of the window where polls there have failed: a whole step. Without a failure,
/// the time in which none was seen bounds the age of the counter's value.
const UPDATES_BESIDE_LOST_POLLS: usize = 2;

/// What power is averaged over if it is, s (NVML, `nvmlDeviceGetPowerUsage`).
const AVERAGED_OVER_SECONDS: f64 = 1.0;

/// Where a poll lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Before,
    Inside,
    After,
}

/// Polls of one board. The first of `inside` and of `after` are the reads at the edges.
#[derive(Debug, Default)]
pub(super) struct Recording {
    before: Vec<CounterSample>,
    inside: Vec<CounterSample>,
    after: Vec<CounterSample>,
    power: Vec<Power>,
    /// Why the counter could not be read at one of the edges.
    edge_failure: Option<Unavailable>,
    /// Why it could not be read at other times before and after the window.
    lost_before: Option<Unavailable>,
    lost_after: Option<Unavailable>,
}

impl Recording {
    /// Adds one poll, with the middle of its read and how long that took; `instant` tells whether its power is instantaneous.
    pub(super) fn add(
        &mut self,
        place: Place,
        (at, took): (f64, f64),
        joules: Result<f64, Unavailable>,
        watts: Option<f64>,
        instant: bool,
    ) {
        let polls = match place {
            Place::Before => &mut self.before,
            Place::Inside => &mut self.inside,
            Place::After => &mut self.after,
        };
        match joules {
            Ok(joules) => polls.push(CounterSample {
                at,
                took,
                joules,
                watts: watts.filter(|_| instant),
            }),
            Err(failure) => self.lose(place, failure),
        }
        // Single polls may fail: the field is not always ready. The integral's own error bound covers the gap.
        self.power.extend(watts.map(|watts| Power { at, watts }));
        if self.before.len() > 2 * POLLS_BEFORE {
            self.before.drain(..POLLS_BEFORE);
            let oldest = self.before.first().map_or(0.0, |poll| poll.at);
            self.power.retain(|power| power.at >= oldest);
        }
    }

    /// A read that failed. Inside and after the window the first is the one at the edge, which no other replaces; the
    /// others leave a hole among the polls, as a thread that was held up does.
    fn lose(&mut self, place: Place, failure: Unavailable) {
        let lost = match place {
            Place::Before => &mut self.lost_before,
            Place::Inside if self.inside.is_empty() => &mut self.edge_failure,
            Place::Inside => return,
            Place::After if self.after.is_empty() => &mut self.edge_failure,
            Place::After => &mut self.lost_after,
        };
        lost.get_or_insert(failure);
    }

    /// Number of counter updates seen in one place.
    pub(super) fn updates(&self, place: Place) -> usize {
        let polls = match place {
            Place::Before => &self.before,
            Place::Inside => &self.inside,
            Place::After => &self.after,
        };
        ticks(polls, None).len()
    }

    /// True if there is nothing to wait for.
    pub(super) fn counter_failed(&self) -> bool {
        self.edge_failure.is_some() || self.before.is_empty() && self.lost_before.is_some()
    }

    /// What the updates around the window say of the time between two of them.
    fn period(&self, of: fn(&[Tick]) -> Option<f64>) -> Option<f64> {
        of(&ticks(&self.before, None)).or_else(|| of(&ticks(&self.after, None)))
    }

    /// The reading of the window.
    pub(super) fn reading(&self, counter: CounterIdentity, start: Mark, end: Mark, averaged: bool) -> EnergyReading {
        let (from, to) = (start.monotonic_seconds, end.monotonic_seconds);
        let integral = trapezoid(&self.power, from, to).filter(|_| self.power_covers(from, to));
        let mut reading = EnergyReading {
            counter,
            source: EnergySource::NvmlCounter,
            joules: None,
            unavailable: None,
            uncertainty_joules: None,
            duration_seconds: to - from,
            start,
            end,
            start_raw: raw(self.inside.first(), start),
            end_raw: raw(self.after.first(), end),
            update_period_seconds: self.period(update_period),
            integral_joules: integral.map(|integral| integral.joules),
            integral_disagreement: None,
            range_joules: None,
            power_is_averaged: averaged,
            power: thin(&self.power, from, to),
            cumulative: CumulativeEnergy::default(),
        };
        // Updates are placed by it, which a wrong one must not do.
        let period = self.period(certain_period);
        match self.counted(from, to, period) {
            Ok([first, last]) => {
                let joules = last.joules - first.joules;
                reading.joules = Some(joules);
                reading.uncertainty_joules = Some(last.uncertainty_joules + first.uncertainty_joules);
                let peak = if averaged {
                    PEAK_OVER_MEAN
                } else {
                    1.0 + SENSOR_TOLERANCE
                };
                let age = period.unwrap_or(LONGEST_WAIT_SECONDS);
                reading.cumulative = self.counted_within((from, first), (to, last), age, peak);
                reading.integral_disagreement = integral
                    .filter(|_| joules > 0.0)
                    .map(|integral| (joules - integral.joules).abs() / joules);
            }
            // Counter and power are two sensors of NVML: the second one may go on without the first. No board draws
            // nothing.
            Err(failure)
                if failure.reason != UnavailableReason::CounterReset
                    && integral.is_some_and(|integral| integral.joules > 0.0) =>
            {
                reading.source = EnergySource::NvmlPowerIntegral;
                reading.joules = reading.integral_joules;
                reading.update_period_seconds = self.power_period(from, to, averaged);
                // What the counter showed is not what this energy is the difference of.
                (reading.start_raw, reading.end_raw) = (None, None);
                reading.cumulative = self.integrated_within(from, to);
                reading.uncertainty_joules = integral.map(|integral| {
                    integral.error_joules + if averaged { self.averaging_joules(from, to) } else { 0.0 }
                });
            }
            Err(failure) => reading.unavailable = Some(failure),
        }
        reading
    }

    /// The counter at both edges.
    fn counted(&self, from: f64, to: f64, period: Option<f64>) -> Result<[EdgeEnergy; 2], Unavailable> {
        if let Some(failure) = &self.edge_failure {
            return Err(failure.clone());
        }
        let all = [&self.before, &self.inside, &self.after];
        let polls = in_order(all.into_iter().flatten());
        if was_reset(&polls) {
            return Err(Unavailable::new(
                UnavailableReason::CounterReset,
                "the energy counter went backwards around or in the window: driver reload or device reset",
            ));
        }
        if let Some(frozen) = self.frozen(&polls) {
            return Err(frozen);
        }
        // The read at the edge itself comes just after the edge, and closes the power series there.
        let before = in_order(self.before.iter().chain(self.inside.first()));
        let (earlier, later) = (ticks(&before, period), ticks(&self.after, period));
        let updates = [
            (&self.lost_before, earlier.iter().filter(|tick| tick.at <= from).count()),
            (&self.lost_after, later.iter().filter(|tick| tick.at >= to).count()),
        ];
        for (lost, updates) in updates {
            if let Some(failure) = lost
                && updates < UPDATES_BESIDE_LOST_POLLS
            {
                return Err(failure.clone());
            }
        }
        let gain = gain(&[&before, &self.after], period);
        let start = energy_at_start(&before, from, period, gain);
        let end = energy_at_end(&self.after, to, period, gain);
        let (start, end) = start.zip(end).ok_or_else(|| {
            Unavailable::new(
                UnavailableReason::NotStarted,
                "the energy counter was not read at both edges",
            )
        })?;
        Ok([start, end])
    }

    /// Why there is no energy if the counter, polled in this order, has not moved since the window started or before.
    fn frozen(&self, polls: &[CounterSample]) -> Option<Unavailable> {
        let (edge, last) = self.inside.first().zip(self.after.last())?;
        let since = polls.iter().find(|poll| poll.joules >= last.joules)?;
        Unavailable::standstill(last.joules - edge.joules, last.at - since.at, LONGEST_WAIT_SECONDS)
    }

    /// How old sampled power may be, s: the time that it is averaged over, else that between two new values in the
    /// dense polls.
    fn power_period(&self, from: f64, to: f64, averaged: bool) -> Option<f64> {
        if averaged {
            return Some(AVERAGED_OVER_SECONDS);
        }
        let begin = self.power.partition_point(|power| power.at <= from);
        let end = self.power.partition_point(|power| power.at < to).max(begin);
        let dense = [&self.power[..begin], &self.power[end..]];
        let periods = dense.map(|polls| refresh_period(&refreshed(polls.iter().copied())));
        let longest = periods.into_iter().flatten().reduce(f64::max);
        longest.filter(|period| *period > 0.0)
    }

    /// The counter within the window: each value read is up to `age` old. Power reached `peak` times what was sampled.
    fn counted_within(
        &self,
        start: (f64, EdgeEnergy),
        end: (f64, EdgeEnergy),
        age: f64,
        peak: f64,
    ) -> CumulativeEnergy {
        let reads = self.inside.iter().map(|poll| Read {
            from: poll.began(),
            to: poll.over(),
            joules: poll.joules,
        });
        let watts = self.watts_within(start.0, end.0).map(|watts| peak * watts);
        CumulativeEnergy::new(start, reads, end, age, watts)
    }

    /// The same of the power's integral, which has no steps.
    fn integrated_within(&self, from: f64, to: f64) -> CumulativeEnergy {
        let mut joules = 0.0;
        let mut reads = Vec::with_capacity(self.power.len());
        for pair in self.power.windows(2) {
            let at = pair[1].at.clamp(from, to);
            joules += trapezoid(pair, pair[0].at.clamp(from, to), at).map_or(0.0, |part| part.joules);
            reads.push(Read {
                from: at,
                to: at,
                joules,
            });
        }
        let watts = self.watts_within(from, to);
        let edges = [(from, 0.0), (to, joules)].map(|(at, joules)| (at, EdgeEnergy::exact(joules)));
        CumulativeEnergy::new(edges[0], reads.into_iter(), edges[1], 0.0, watts)
    }

    fn watts_within(&self, from: f64, to: f64) -> impl Iterator<Item = f64> {
        let inside = self.power.iter().filter(move |power| (from..=to).contains(&power.at));
        inside.map(|power| power.watts)
    }

    fn power_covers(&self, from: f64, to: f64) -> bool {
        let ends = self.power.first().zip(self.power.last());
        ends.is_some_and(|(first, last)| first.at <= from && last.at >= to)
    }

    /// A mean over the last second is late by half a second: bound by the range of power seen.
    fn averaging_joules(&self, from: f64, to: f64) -> f64 {
        let highest = self.watts_within(from, to).fold(0.0, f64::max);
        (highest - self.watts_within(from, to).fold(highest, f64::min)).min(highest)
    }
}

/// Two threads poll, and the one that was held up adds its poll late.
fn in_order<'a>(polls: impl Iterator<Item = &'a CounterSample>) -> Vec<CounterSample> {
    let mut polls: Vec<CounterSample> = polls.copied().collect();
    polls.sort_by(|a, b| a.at.total_cmp(&b.at));
    polls
}

fn raw(poll: Option<&CounterSample>, edge: Mark) -> Option<RawCounter> {
    poll.map(|poll| RawCounter {
        at: edge.shifted(poll.at - edge.monotonic_seconds),
        joules: poll.joules,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::energy::reading::CounterDomain;

    fn mark(seconds: f64) -> Mark {
        Mark {
            monotonic_seconds: seconds,
            wall_seconds: seconds,
        }
    }

    fn counter() -> CounterIdentity {
        CounterIdentity {
            domain: CounterDomain::Gpu,
            id: "GPU-0".to_owned(),
            node: "node-a".to_owned(),
        }
    }

    /// The window of [`seen`], and the reads at its edges, s.
    const START: f64 = 0.4;
    const END: f64 = 2.4;
    const EDGE_READS: [f64; 2] = [START + 0.000_05, END + 0.000_05];

    /// Polls around and in a window by what the counter answers at an instant.
    fn seen(counter: impl Fn(f64) -> Result<f64, Unavailable>, power: impl Fn(f64) -> Option<f64>) -> Recording {
        let mut recording = Recording::default();
        let mut poll = |place: Place, at: f64| recording.add(place, (at, 0.000_02), counter(at), power(at), true);
        for step in 0..400 {
            poll(Place::Before, 0.001 * f64::from(step));
        }
        poll(Place::Inside, EDGE_READS[0]);
        for sample in 1..20 {
            poll(Place::Inside, START + 0.1 * f64::from(sample));
        }
        for step in 0..370 {
            poll(Place::After, EDGE_READS[1] + 0.001 * f64::from(step));
        }
        recording
    }

    /// 100 W, counted every 20 ms.
    fn stepping(at: f64) -> f64 {
        ((at + 1e-9) / 0.02).floor() * 2.0
    }

    /// 100 W as a sensor shows them that is refreshed every 5 ms and never still.
    fn noisy(at: f64) -> f64 {
        let refresh = ((at + 1e-9) / 0.005).floor();
        100.0 + 0.05 * (refresh * 0.618).fract()
    }

    fn lost() -> Unavailable {
        Unavailable::new(UnavailableReason::DeviceFailed, "the read failed")
    }

    fn is_at(at: f64, instant: f64) -> bool {
        (at - instant).abs() < 0.000_02
    }

    #[test]
    fn a_counter_that_stands_still_is_no_energy_of_zero() {
        let frozen = |_: f64| Ok(5.0);
        let reading = seen(frozen, |at| Some(noisy(at))).reading(counter(), mark(START), mark(END), false);
        assert_eq!(reading.source, EnergySource::NvmlPowerIntegral, "{reading:?}");
        assert!((reading.joules.unwrap() - 200.0).abs() < 1.0, "{reading:?}");

        let reading = seen(frozen, |_| None).reading(counter(), mark(START), mark(END), false);
        let reason = reading.unavailable.as_ref().map(|why| why.reason);
        assert_eq!(
            (reading.joules, reason),
            (None, Some(UnavailableReason::DeviceFailed)),
            "{reading:?}"
        );

        // It moved until the window began.
        let stopped = |at: f64| Ok(stepping(at.min(START)));
        let reading = seen(stopped, |at| Some(noisy(at))).reading(counter(), mark(START), mark(END), false);
        assert_eq!(reading.source, EnergySource::NvmlPowerIntegral, "{reading:?}");
    }

    #[test]
    fn single_reads_that_fail_beside_the_edges_cost_nothing() {
        // One before, one in and one after the window.
        let failing = [0.2, START + 0.1 * 6.0, EDGE_READS[1] + 0.001 * 100.0];
        let counted = |at: f64| {
            if failing.iter().any(|instant| is_at(at, *instant)) {
                Err(lost())
            } else {
                Ok(stepping(at))
            }
        };
        let reading = seen(counted, |at| Some(noisy(at))).reading(counter(), mark(START), mark(END), false);
        assert_eq!(reading.source, EnergySource::NvmlCounter, "{reading:?}");
        let (error, bar) = (
            (reading.joules.unwrap() - 200.0).abs(),
            reading.uncertainty_joules.unwrap(),
        );
        assert!(error <= bar && bar < 2.0, "{reading:?}");
    }

    #[test]
    fn reads_that_fail_so_that_an_edge_is_not_certain_leave_the_power() {
        let failing: [fn(f64) -> bool; 4] = [
            |at| is_at(at, EDGE_READS[0]),
            |at| is_at(at, EDGE_READS[1]),
            |at| at < START,
            |at| at > EDGE_READS[1] + 0.000_5,
        ];
        for (index, fails) in failing.into_iter().enumerate() {
            let counted = |at: f64| if fails(at) { Err(lost()) } else { Ok(stepping(at)) };
            let reading = seen(counted, |at| Some(noisy(at))).reading(counter(), mark(START), mark(END), false);
            assert_eq!(reading.source, EnergySource::NvmlPowerIntegral, "{index}: {reading:?}");
            assert!((reading.joules.unwrap() - 200.0).abs() < 1.0, "{index}: {reading:?}");
        }
    }

    #[test]
    fn integrated_power_says_how_old_it_may_be() {
        let uncounted = seen(
            |_| Err(Unavailable::new(UnavailableReason::NotSupported, "no counter")),
            |at| Some(noisy(at)),
        );
        let period = |averaged| {
            let reading = uncounted.reading(counter(), mark(START), mark(END), averaged);
            assert_eq!(reading.source, EnergySource::NvmlPowerIntegral, "{reading:?}");
            reading.update_period_seconds.unwrap()
        };
        assert!((period(true) - 1.0).abs() < 1e-9, "a mean of one second");
        assert!((period(false) - 0.005).abs() < 0.001, "refreshed every 5 ms");
    }

    #[test]
    fn a_poll_that_is_added_late_is_no_reset_of_the_counter() {
        let mut recording = Recording::default();
        let mut add = |place, at: f64, joules: f64| recording.add(place, (at, 0.0), Ok(joules), Some(100.0), true);
        for step in 0..100 {
            let at = 0.001 * f64::from(step);
            add(Place::Before, at, (at / 0.02).floor() * 2.0);
        }
        // The sampler's last poll, made after the one at the edge and added before it.
        add(Place::Before, 0.1005, 10.0);
        add(Place::Inside, 0.099_9, 8.0);
        for step in 0..50 {
            let at = 1.1 + 0.001 * f64::from(step);
            add(Place::After, at, ((at + 1e-9) / 0.02).floor() * 2.0);
        }
        let reading = recording.reading(counter(), mark(0.099_8), mark(1.1), false);
        assert_eq!(reading.unavailable, None);
        let truth = 100.0 * (1.1 - 0.099_8);
        let error = (reading.joules.unwrap() - truth).abs();
        assert!(error <= reading.uncertainty_joules.unwrap(), "{reading:?}");
    }
}
