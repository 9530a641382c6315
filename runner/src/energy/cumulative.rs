//! How the energy of one counter grew within a window, and the energy of a part of the window from it. Pure.
//!
//! Inside a window the counters are read at the sample interval only, and a part begins and ends where the requests
//! have it. The energy only grows, so at any instant it lies between the reads on its two sides; and it grows no faster
//! than at the highest power that was seen. Both together bound it at every instant; the middle of the bounds is the value.

use super::edge::EdgeEnergy;

/// How much higher than its mean over a sample interval power may have been within it, where it is not sampled itself. The same
/// is assumed of a stepping counter's unseen part at the edges of a window.
pub(super) const PEAK_OVER_MEAN: f64 = 3.0;

/// A counter that was read some time between two instants (monotonic seconds).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Read {
    pub(super) from: f64,
    pub(super) to: f64,
    /// Cumulative J.
    pub(super) joules: f64,
}

impl Read {
    /// The best guess of when it was read.
    pub(super) fn at(&self) -> f64 {
        f64::midpoint(self.from, self.to)
    }
}

/// What is known of the cumulative energy at one instant.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Known {
    /// Monotonic seconds.
    at: f64,
    /// Lower bound, J since any zero.
    lowest: f64,
    /// Upper bound.
    highest: f64,
}

impl Known {
    const fn middle(&self) -> f64 {
        f64::midpoint(self.lowest, self.highest)
    }
}

/// A counter's cumulative energy from the start of a window to its end.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CumulativeEnergy {
    known: Vec<Known>,
    /// Highest power seen, W.
    highest_watts: f64,
}

impl CumulativeEnergy {
    /// From the counter at the edges with their instants (monotonic seconds), from reads of it in order, and from powers that
    /// it reached, in W. Reads that lie beyond the edges are left out; the value of one is up to `age` seconds old.
    pub(super) fn new(
        start: (f64, EdgeEnergy),
        reads: impl Iterator<Item = Read>,
        end: (f64, EdgeEnergy),
        age: f64,
        watts: impl Iterator<Item = f64>,
    ) -> Self {
        let mean = (end.1.joules - start.1.joules).max(0.0) / (end.0 - start.0).max(f64::MIN_POSITIVE);
        let highest_watts = watts
            .reduce(f64::max)
            .map_or(PEAK_OVER_MEAN * mean, |highest| highest.max(mean));
        let edge = |(at, edge): (f64, EdgeEnergy)| Known {
            at,
            lowest: edge.joules - edge.uncertainty_joules,
            highest: edge.joules + edge.uncertainty_joules,
        };
        let inside = reads
            .filter(|read| read.to > start.0 && read.to < end.0)
            .map(|read| Known {
                at: read.to,
                lowest: read.joules,
                highest: read.joules + highest_watts * (read.to - read.from + age),
            });
        let mut known: Vec<Known> = [edge(start)].into_iter().chain(inside).chain([edge(end)]).collect();
        tighten(&mut known, highest_watts);
        Self { known, highest_watts }
    }

    /// Energy between two instants of the window (monotonic seconds), J, with the bound of the error that comes from reading
    /// the counter beside these instants and not at them. None where they are not in order or not in the window.
    pub fn between(&self, from: f64, to: f64) -> Option<EdgeEnergy> {
        let (first, last) = (self.known.first()?, self.known.last()?);
        if !(first.at <= from && from < to && to <= last.at) {
            return None;
        }
        let (begin, end) = (self.at(from), self.at(to));
        let joules = (end.middle() - begin.middle()).max(0.0);
        let lowest = (end.lowest - begin.highest).max(0.0);
        let highest = (end.highest - begin.lowest).min(self.highest_watts * (to - from));
        Some(EdgeEnergy {
            joules,
            uncertainty_joules: (joules - lowest).max(highest - joules).max(0.0),
        })
    }

    /// The same of several times together; none if one of them has none, or nothing is known of the window.
    pub fn over(&self, times: &[(f64, f64)]) -> Option<EdgeEnergy> {
        self.known.first()?;
        let mut total = EdgeEnergy::exact(0.0);
        for (from, to) in times.iter().filter(|(from, to)| from < to) {
            let part = self.between(*from, *to)?;
            total.joules += part.joules;
            total.uncertainty_joules += part.uncertainty_joules;
        }
        Some(total)
    }

    /// What is known at an instant within the window.
    fn at(&self, instant: f64) -> Known {
        let next = self.known.partition_point(|known| known.at < instant);
        let next = next.min(self.known.len() - 1);
        let (before, after) = (&self.known[next.saturating_sub(1)], &self.known[next]);
        let (since, until) = (instant - before.at, after.at - instant);
        let lowest = before.lowest.max(after.lowest - self.highest_watts * until);
        let highest = after.highest.min(before.highest + self.highest_watts * since);
        Known {
            at: instant,
            lowest,
            highest: highest.max(lowest),
        }
    }
}

/// Narrows each instant by those before it and then by those after it: an exact edge says much of the old values read beside it.
fn tighten(known: &mut [Known], highest_watts: f64) {
    for index in 1..known.len() {
        let before = known[index - 1];
        let own = &mut known[index];
        own.lowest = own.lowest.max(before.lowest);
        own.highest = own.highest.min(before.highest + highest_watts * (own.at - before.at));
        // Some power was higher than all that was sampled: what was counted goes before it.
        own.highest = own.highest.max(own.lowest);
    }
    for index in (1..known.len()).rev() {
        let after = known[index];
        let own = &mut known[index - 1];
        own.highest = own.highest.min(after.highest);
        own.lowest = own.lowest.max(after.lowest - highest_watts * (after.at - own.at));
        own.lowest = own.lowest.min(own.highest);
    }
}

#[cfg(test)]
mod tests {
    use lem_fake_nvml::Waveform;
    use proptest::prelude::*;

    use super::*;

    /// A counter with these steps, read every `interval`, from 100 s to 103 s.
    fn seen(waveform: &Waveform, interval: f64, step: f64) -> CumulativeEnergy {
        let energy = |at: f64| waveform.joules_between(100.0, at);
        let instants = || {
            (1..)
                .map(move |index| 100.0 + f64::from(index) * interval)
                .take_while(|at| *at < 103.0)
        };
        let stale = |at: f64| (at / step).floor() * step;
        let reads = instants().map(|at| Read {
            from: at,
            to: at,
            joules: energy(stale(at).max(100.0)),
        });
        let edges = [100.0, 103.0].map(|at| (at, EdgeEnergy::exact(energy(at))));
        let watts = instants().map(|at| waveform.watts(at));
        CumulativeEnergy::new(edges[0], reads, edges[1], step, watts)
    }

    proptest! {
        #[test]
        fn a_part_of_constant_power_is_within_its_error_bar_and_the_bar_is_that_of_the_readings_around_it(
            watts in 1.0..900.0_f64,
            interval in 0.02..0.3_f64,
            step in 0.001..0.1_f64,
            from in 0.0..1.5_f64,
            length in 0.1..1.5_f64,
        ) {
            let seen = seen(&Waveform::Constant { watts }, interval, step);
            let part = seen.between(100.0 + from, 100.0 + from + length).unwrap();
            let truth = watts * length;
            prop_assert!((part.joules - truth).abs() <= part.uncertainty_joules + 1e-9, "{part:?} {truth}");
            prop_assert!(part.uncertainty_joules <= 2.0 * watts * (interval + 2.0 * step) + 1e-9, "{part:?}");
        }

        #[test]
        fn a_part_of_changing_power_is_within_its_error_bar(
            low in 10.0..100.0_f64,
            high in 200.0..900.0_f64,
            period_milliseconds in 400.0..2000.0_f64,
            from in 0.0..1.5_f64,
            length in 0.1..1.5_f64,
        ) {
            // Sampled often enough to have seen both powers.
            let waveform = Waveform::Square { low, high, period_milliseconds, duty: 0.5 };
            let seen = seen(&waveform, 0.05, 0.02);
            let part = seen.between(100.0 + from, 100.0 + from + length).unwrap();
            let truth = waveform.joules_between(100.0 + from, 100.0 + from + length);
            prop_assert!((part.joules - truth).abs() <= part.uncertainty_joules + 1e-9, "{part:?} {truth}");
        }

        #[test]
        fn the_parts_of_a_window_add_up_to_it(cut in 0.05..2.95_f64, interval in 0.02..0.3_f64) {
            let waveform = Waveform::Ramp { from: 100.0, to: 700.0, seconds: 0.9 };
            let seen = seen(&waveform, interval, 0.02);
            let parts = [(100.0, 100.0 + cut), (100.0 + cut, 103.0)].map(|(from, to)| seen.between(from, to).unwrap().joules);
            let whole = seen.between(100.0, 103.0).unwrap();
            prop_assert!((parts[0] + parts[1] - whole.joules).abs() < 1e-6 * whole.joules, "{parts:?} {whole:?}");
        }
    }

    #[test]
    fn the_whole_window_is_what_its_edges_say() {
        let edge = |joules| EdgeEnergy {
            joules,
            uncertainty_joules: 0.5,
        };
        let seen = CumulativeEnergy::new(
            (1.0, edge(10.0)),
            std::iter::empty(),
            (3.0, edge(210.0)),
            0.1,
            [100.0].into_iter(),
        );
        let whole = seen.between(1.0, 3.0).unwrap();
        assert!((whole.joules - 200.0).abs() < 1e-9, "{whole:?}");
        assert!(whole.uncertainty_joules <= 1.0, "{whole:?}");
    }

    #[test]
    fn a_part_that_begins_just_after_the_window_does_not_have_the_error_of_a_whole_interval() {
        let seen = seen(&Waveform::Constant { watts: 300.0 }, 0.1, 0.02);
        let part = seen.between(100.0001, 103.0).unwrap();
        assert!(part.uncertainty_joules < 0.1, "{part:?}");
    }

    #[test]
    fn several_times_have_the_sum_of_their_energies_and_no_time_has_none_of_it() {
        let seen = seen(&Waveform::Constant { watts: 300.0 }, 0.1, 0.02);
        let both = seen.over(&[(100.2, 100.7), (101.0, 101.0), (101.5, 102.5)]).unwrap();
        assert!((both.joules - 450.0).abs() <= both.uncertainty_joules, "{both:?}");
        assert_eq!(seen.over(&[]), Some(EdgeEnergy::exact(0.0)));
        assert_eq!(seen.over(&[(100.2, 100.7), (102.5, 103.5)]), None);
        assert_eq!(CumulativeEnergy::default().over(&[]), None);
    }

    #[test]
    fn what_is_outside_the_window_or_backwards_has_no_energy() {
        let seen = seen(&Waveform::Constant { watts: 300.0 }, 0.1, 0.02);
        for (from, to) in [(99.9, 101.0), (101.0, 103.1), (102.0, 101.0), (f64::NAN, 101.0)] {
            assert_eq!(seen.between(from, to), None, "{from} {to}");
        }
        assert_eq!(CumulativeEnergy::default().between(1.0, 2.0), None);
    }
}
