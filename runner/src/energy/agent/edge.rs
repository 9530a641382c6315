//! A counter that is read at known moments, at an instant between two of them. Pure.
//!
//! The energy only grows, so the truth at an edge lies between the readings on its two sides: that is the error bar,
//! whatever the power did. Within it the power *outside* the window is taken to go on up to the edge, for the reason
//! given in [`super::super::edge`]: load begins and ends at the edges, so interpolating across them would be wrong just
//! where it matters.

use super::super::{cumulative::Read, edge::EdgeEnergy};

/// Mean power between two readings, W.
pub(super) fn watts(before: &Read, after: &Read) -> f64 {
    let seconds = after.at() - before.at();
    if seconds > 0.0 {
        (after.joules - before.joules) / seconds
    } else {
        0.0
    }
}

/// By how much the values of a counter may lag.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Lag {
    /// J.
    pub(super) joules: f64,
    /// They are renewed less often than they are read, so that two neighbouring readings tell no power.
    pub(super) is_slow: bool,
}

/// The counter at a window's start. None without a reading on each side.
pub(super) fn energy_at_start(readings: &[Read], start: f64, lag: Lag) -> Option<EdgeEnergy> {
    let (before, after) = sides(readings, start);
    let (last, next) = before.last().zip(after.first())?;
    let outside = before.iter().nth_back(1).map(|previous| watts(previous, last));
    let guess = outside.map(|outside| last.joules + outside * (start - last.at()));
    Some(within(last, next, guess, lag))
}

/// The same at a window's end.
pub(super) fn energy_at_end(readings: &[Read], end: f64, lag: Lag) -> Option<EdgeEnergy> {
    let (before, after) = sides(readings, end);
    let (last, next) = before.last().zip(after.first())?;
    let outside = after.get(1).map(|following| watts(next, following));
    let guess = outside.map(|outside| next.joules - outside * (next.at() - end));
    Some(within(last, next, guess, lag))
}

/// The readings that were over before an instant, and those that began after it.
pub(super) fn sides(readings: &[Read], instant: f64) -> (&[Read], &[Read]) {
    let before = readings.partition_point(|reading| reading.to <= instant);
    let after = readings.partition_point(|reading| reading.from < instant);
    (&readings[..before], &readings[after..])
}

/// A guess, or the middle without one, with the farther of the two bounds as its error.
fn within(last: &Read, next: &Read, guess: Option<f64>, lag: Lag) -> EdgeEnergy {
    let lowest = last.joules;
    let highest = next.joules + lag.joules;
    let joules = guess
        .filter(|_| !lag.is_slow)
        .unwrap_or_else(|| f64::midpoint(lowest, highest))
        .clamp(lowest, highest);
    EdgeEnergy {
        joules,
        uncertainty_joules: (joules - lowest).max(highest - joules),
    }
}

#[cfg(test)]
mod tests {
    use lem_fake_nvml::Waveform;
    use proptest::prelude::*;

    use super::*;

    const NO_LAG: Lag = Lag {
        joules: 0.0,
        is_slow: false,
    };

    /// Readings of a power that is a function of time, every 100 ms and a little late.
    fn readings(waveform: &Waveform, phase: f64, lateness: &[f64]) -> Vec<Read> {
        let mut from = 100.0 + phase;
        let mut read = Vec::new();
        for late in lateness {
            let to = from + 0.000_05 + late / 10.0;
            // Read at either end of the interval, whichever is the more awkward.
            let at = if read.len() % 2 == 0 { from } else { to };
            read.push(Read {
                from,
                to,
                joules: waveform.joules_between(90.0, at),
            });
            from += 0.1 + late;
        }
        read
    }

    fn waveform() -> impl Strategy<Value = Waveform> {
        prop_oneof![
            (1.0..400.0_f64).prop_map(|watts| Waveform::Constant { watts }),
            (any::<u32>(), 1.0..100.0_f64, 100.0..900.0_f64, 1.0..400.0_f64).prop_map(
                |(seed, low, high, slot_milliseconds)| Waveform::Bursty {
                    seed: u64::from(seed),
                    low,
                    high,
                    slot_milliseconds,
                }
            ),
            (1.0..100.0_f64, 100.0..900.0_f64, 20.0..4000.0_f64, 0.1..0.9_f64).prop_map(
                |(low, high, period_milliseconds, duty)| Waveform::Square {
                    low,
                    high,
                    period_milliseconds,
                    duty,
                }
            ),
        ]
    }

    proptest! {
        #[test]
        fn the_error_bar_holds_the_truth_whatever_the_power_does(
            waveform in waveform(),
            phase in 0.0..0.1_f64,
            lateness in prop::collection::vec(0.0..0.05_f64, 40..80),
            first in 0.0..1.0_f64,
            length in 0.01..2.5_f64,
        ) {
            let readings = readings(&waveform, phase, &lateness);
            let (start, end) = (100.6 + first, 100.6 + first + length);
            let from = energy_at_start(&readings, start, NO_LAG).unwrap();
            let to = energy_at_end(&readings, end, NO_LAG).unwrap();
            let truth = waveform.joules_between(90.0, start);
            prop_assert!((from.joules - truth).abs() <= from.uncertainty_joules + 1e-6, "{from:?} {truth}");
            let truth = waveform.joules_between(90.0, end);
            prop_assert!((to.joules - truth).abs() <= to.uncertainty_joules + 1e-6, "{to:?} {truth}");
        }

        #[test]
        fn load_that_begins_and_ends_with_the_window_is_not_smeared_over_a_reading(
            phase in 0.0..0.1_f64,
            idle in 5.0..60.0_f64,
        ) {
            // High power exactly inside the window.
            let waveform = Waveform::Square { low: idle, high: 300.0, period_milliseconds: 4000.0, duty: 0.5 };
            let quiet = [0.0; 60];
            let readings = readings(&waveform, phase, &quiet);
            let start = 104.0;
            let edge = energy_at_start(&readings, start, NO_LAG).unwrap();
            let truth = waveform.joules_between(90.0, start);
            // Within a thousandth of the two seconds.
            prop_assert!((edge.joules - truth).abs() < 0.6, "{edge:?} {truth}");
            let edge = energy_at_end(&readings, 102.0, NO_LAG).unwrap();
            let truth = waveform.joules_between(90.0, 102.0);
            prop_assert!((edge.joules - truth).abs() < 0.6, "{edge:?} {truth}");
        }
    }

    #[test]
    fn an_edge_without_a_reading_on_both_sides_is_unknown() {
        let one = [Read {
            from: 1.0,
            to: 1.0,
            joules: 5.0,
        }];
        assert_eq!(energy_at_start(&one, 0.5, NO_LAG), None);
        assert_eq!(energy_at_end(&one, 1.5, NO_LAG), None);
    }
}
