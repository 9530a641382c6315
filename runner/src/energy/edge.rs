//! The energy counter moves in steps of 1–100 ms; this finds its value *at* a window's edge. Pure.
//!
//! Around an edge the counter is polled densely, always outside the window: before the start edge and after the end
//! edge. A step observed between two polls has the energy that the board had consumed at that moment, so
//!
//! ```text
//! E(start) = E(last step before start) + g · ∫ P dt from that step to start
//! E(end)   = E(first step after end)   − g · ∫ P dt from end to that step
//! ```
//!
//! where P is the power sampled next to the counter in the same polls, and g = ΔE / ∫P over the whole steps of all dense
//! polls corrects a power sensor that disagrees with the counter. Interpolating *across* the edge would be wrong just
//! where it matters: load usually begins and ends at the edges, so power inside and outside the window differ.
//!
//! Without a power sensor that is refreshed several times per step, P is the mean power of the neighbouring whole step outside the window.

use super::{
    integrate::{Power, trapezoid},
    tick::{CounterSample, Tick, ticks},
};

/// The counter at an edge.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EdgeEnergy {
    /// Cumulative J at the edge.
    pub joules: f64,
    /// Half-width of its error bar, J.
    pub uncertainty_joules: f64,
}

impl EdgeEnergy {
    /// Known without error.
    pub(super) const fn exact(joules: f64) -> Self {
        Self {
            joules,
            uncertainty_joules: 0.0,
        }
    }
}

/// The counter at `start`, from polls of which all but the last few are before it. None without polls.
pub fn energy_at_start(
    polls: &[CounterSample],
    start: f64,
    period: Option<f64>,
    gain: Option<Gain>,
) -> Option<EdgeEnergy> {
    let steps = ticks(polls, period);
    let before: Vec<Tick> = steps.into_iter().filter(|tick| tick.at <= start).collect();
    let Some(step) = before.last() else {
        return unphased(polls, start, period);
    };
    let neighbours = &before[before.len().saturating_sub(NEIGHBOURS)..];
    let Some(partial) = partial_energy(polls, neighbours, step, (step.at, start), gain) else {
        return unphased(polls, start, period);
    };
    Some(EdgeEnergy {
        joules: step.joules + partial.joules,
        uncertainty_joules: partial.uncertainty_joules,
    })
}

/// The counter at `end`, from polls of which all but the first few are after it. None without polls.
pub fn energy_at_end(polls: &[CounterSample], end: f64, period: Option<f64>, gain: Option<Gain>) -> Option<EdgeEnergy> {
    let steps = ticks(polls, period);
    let after: Vec<Tick> = steps.into_iter().filter(|tick| tick.at >= end).collect();
    let Some(step) = after.first() else {
        return unphased(polls, end, period);
    };
    let neighbours = &after[..after.len().min(NEIGHBOURS)];
    let Some(partial) = partial_energy(polls, neighbours, step, (end, step.at), gain) else {
        return unphased(polls, end, period);
    };
    // The counter was read at the edge: it never exceeded the truth then.
    let floor = polls
        .iter()
        .rfind(|poll| poll.over() <= end)
        .map_or(0.0, |poll| poll.joules);
    Some(EdgeEnergy {
        joules: (step.joules - partial.joules).max(floor),
        uncertainty_joules: partial.uncertainty_joules,
    })
}

/// How much more energy the counter sees than the power sensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gain {
    /// ΔE / ∫P.
    pub ratio: f64,
    /// Bound of its error.
    pub error: f64,
}

/// The gain over all whole steps of some groups of dense polls. Polling itself makes it uncertain, so it is weighed
/// against what the sensor is specified to: `1 + (ΔE/∫P − 1) · s² / (s² + d²)`, s the sensor's and d the polls' deviation.
///
/// None if the sensor is refreshed too rarely to say how the energy of one step is spread over it, or is missing.
pub fn gain(groups: &[&[CounterSample]], period: Option<f64>) -> Option<Gain> {
    let refresh = groups
        .iter()
        .filter_map(|polls| refresh_period(&power(polls)))
        .fold(0.0, f64::max);
    if refresh <= 0.0
        || period.is_some_and(|period| refresh > SLOWEST_REFRESH * period && refresh > FAST_REFRESH_SECONDS)
    {
        return None;
    }
    let (mut counted, mut integrated, mut variance) = (0.0, 0.0, 0.0_f64);
    for polls in groups {
        let (steps, power) = (ticks(polls, period), power(polls));
        let Some((first, last)) = steps.first().zip(steps.last()) else {
            continue;
        };
        let Some(whole) = trapezoid(&power, first.at, last.at) else {
            continue;
        };
        counted += last.joules - first.joules;
        integrated += whole.joules;
        let edges = [first, last].map(|tick| (local_watts(&power, tick.at) * tick.half_gap).powi(2) / 3.0);
        variance += whole.deviation_joules.powi(2) + edges[0] + edges[1];
    }
    if integrated <= 0.0 || counted <= 0.0 {
        return Some(Gain {
            ratio: 1.0,
            error: SENSOR_TOLERANCE,
        });
    }
    let (ratio, deviation) = (counted / integrated, variance.sqrt() / integrated);
    let (sensor, polls) = (SENSOR_DEVIATION.powi(2), deviation.powi(2));
    Some(Gain {
        ratio: 1.0 + (ratio - 1.0) * sensor / (sensor + polls),
        error: 3.0 * (sensor * polls / (sensor + polls)).sqrt(),
    })
}

/// Share of the counter's period from which on a power value says no more than the counter itself.
const SLOWEST_REFRESH: f64 = 0.3;

/// As fast as it is polled, give or take a late poll: never too slow, s.
const FAST_REFRESH_SECONDS: f64 = 0.003;

/// Median time between two new values, s. None without samples.
pub(super) fn refresh_period(power: &[Power]) -> Option<f64> {
    let (first, last) = power.first().zip(power.last())?;
    let mut gaps: Vec<f64> = power.windows(2).map(|pair| pair[1].at - pair[0].at).collect();
    gaps.sort_by(f64::total_cmp);
    Some(gaps.get(gaps.len() / 2).copied().unwrap_or(last.at - first.at))
}

/// Standard deviation of the power sensors' gain: half of the ± 5 % that NVML gives for `nvmlDeviceGetPowerUsage`.
const SENSOR_DEVIATION: f64 = 0.025;

/// Power as far as it is really known.
fn power(polls: &[CounterSample]) -> Vec<Power> {
    let instant = |poll: &CounterSample| poll.watts.map(|watts| Power { at: poll.at, watts });
    refreshed(polls.iter().filter_map(instant))
}

/// The samples with a new value, and the last one. A sensor may be refreshed more rarely than it is polled; sensors are
/// noisy, so a steady power is not mistaken for an old value.
pub(super) fn refreshed(samples: impl Iterator<Item = Power>) -> Vec<Power> {
    let mut kept: Vec<Power> = Vec::new();
    let mut latest = None;
    for sample in samples {
        if kept
            .last()
            .is_none_or(|last| (last.watts - sample.watts).abs() > f64::EPSILON)
        {
            kept.push(sample);
        }
        latest = Some(sample);
    }
    let unchanged = latest.filter(|latest| kept.last().is_some_and(|last| last.at < latest.at));
    kept.extend(unchanged);
    kept
}

/// Energy of the part of a step period between its update and the edge.
fn partial_energy(
    polls: &[CounterSample],
    steps: &[Tick],
    step: &Tick,
    (from, to): (f64, f64),
    gain: Option<Gain>,
) -> Option<EdgeEnergy> {
    let power = power(polls);
    let Some((gain, integral)) = gain.zip(trapezoid(&power, from, to)) else {
        return neighbour_energy(steps, step, &power, to - from);
    };
    let polled = integral.error_joules + local_watts(&power, step.at) * step.half_gap;
    Some(EdgeEnergy {
        joules: gain.ratio * integral.joules,
        uncertainty_joules: (1.0 + SENSOR_TOLERANCE) * gain.ratio.max(1.0) * polled
            + gain.error * integral.joules
            + COUNTER_RESOLUTION_JOULES,
    })
}

/// Without a power sensor that is fast enough, the neighbouring whole steps stand for the part. None with one update.
fn neighbour_energy(steps: &[Tick], step: &Tick, power: &[Power], seconds: f64) -> Option<EdgeEnergy> {
    let (first, last) = steps.first().zip(steps.last())?;
    let watts = (last.joules - first.joules) / (last.at - first.at);
    let joules = watts * seconds;
    // The unseen part may draw from nothing to three times its neighbour, or what a slow sensor has seen of the range.
    let values = || power.iter().map(|sample| sample.watts);
    let range = values().fold(0.0, f64::max) - values().fold(f64::INFINITY, f64::min);
    let relative = if range.is_finite() && watts > 0.0 {
        (range / watts + SENSOR_TOLERANCE).min(2.0)
    } else {
        2.0
    };
    joules.is_finite().then_some(EdgeEnergy {
        joules,
        uncertainty_joules: relative * joules.abs() + watts * step.half_gap + COUNTER_RESOLUTION_JOULES,
    })
}

/// Updates that count as neighbours of an edge: two whole steps.
const NEIGHBOURS: usize = 3;

/// Twice what power sensors are specified to, to be safe; in error bars only.
pub(super) const SENSOR_TOLERANCE: f64 = 0.1;

/// NVML counts in mJ.
const COUNTER_RESOLUTION_JOULES: f64 = 0.001;

/// Highest power sampled next to an instant, W.
fn local_watts(power: &[Power], at: f64) -> f64 {
    let next = power.partition_point(|sample| sample.at < at);
    let watts = |index: usize| power.get(index).map_or(0.0, |sample| sample.watts);
    watts(next).max(watts(next.saturating_sub(1)))
}

/// No update was seen: the value read is up to one period (or the whole polled time) old.
fn unphased(polls: &[CounterSample], edge: f64, period: Option<f64>) -> Option<EdgeEnergy> {
    let nearest = polls
        .iter()
        .min_by(|a, b| (a.at - edge).abs().total_cmp(&(b.at - edge).abs()))?;
    let polled = polls.last()?.at - polls.first()?.at;
    Some(EdgeEnergy {
        joules: nearest.joules,
        uncertainty_joules: nearest.watts.unwrap_or(0.0) * period.unwrap_or(polled) + COUNTER_RESOLUTION_JOULES,
    })
}

#[cfg(test)]
mod tests {
    use lem_fake_nvml::{Board, Waveform};

    use super::{
        super::tick::{certain_period, was_reset},
        *,
    };

    /// A poll loop on a simulated clock, with the delays of a timer that is always a little late.
    struct Polling {
        board: Board,
        has_instant_power: bool,
    }

    impl Polling {
        fn poll(&self, at: f64) -> CounterSample {
            CounterSample {
                at,
                took: 0.0,
                joules: self.board.counter_millijoules(at, 0.0) as f64 / 1e3,
                watts: self
                    .has_instant_power
                    .then(|| f64::from(self.board.instant_milliwatts(at)) / 1e3),
            }
        }

        /// Polls from `from` to `to`, closed with a poll just after `to`.
        fn run(&self, from: f64, to: f64) -> Vec<CounterSample> {
            let mut polls = Vec::new();
            let mut at = from;
            while at < to {
                polls.push(self.poll(at));
                at += 0.001_06 + 0.000_5 * (at * 7919.0).fract();
            }
            polls.push(self.poll(to + 0.000_02));
            polls
        }

        /// Estimated energy, its error bar and the truth.
        fn window(&self, start: f64, end: f64) -> (f64, f64, f64) {
            let side = 2.2 * self.board.tick_milliseconds / 1e3;
            let before = self.run(start - (1.5 * side).max(0.15), start);
            let after = self.run(end + 0.000_02, end + side);
            let period = certain_period(&ticks(&before, None));
            let gain = gain(&[&before, &after], period);
            let first = energy_at_start(&before, start, period, gain).unwrap();
            let last = energy_at_end(&after, end, period, gain).unwrap();
            (
                last.joules - first.joules,
                first.uncertainty_joules + last.uncertainty_joules,
                self.board.waveform.joules_between(start, end),
            )
        }
    }

    fn waveforms() -> [Waveform; 4] {
        [
            Waveform::Constant { watts: 350.0 },
            Waveform::Bursty {
                seed: 3,
                low: 90.0,
                high: 700.0,
                slot_milliseconds: 13.0,
            },
            Waveform::Square {
                low: 100.0,
                high: 700.0,
                period_milliseconds: 170.0,
                duty: 0.4,
            },
            Waveform::Ramp {
                from: 100.0,
                to: 700.0,
                seconds: 0.9,
            },
        ]
    }

    /// Worst relative error over many phases, and how many error bars miss the truth.
    fn worst(polling: &Polling, seconds: f64) -> (f64, usize) {
        let mut outside = 0;
        let errors = (0..300).map(|window| {
            let start = 100.0 + 0.7391 * f64::from(window);
            let (joules, bar, truth) = polling.window(start, start + seconds);
            outside += usize::from((joules - truth).abs() > bar);
            (joules - truth).abs() / truth
        });
        (errors.fold(0.0, f64::max), outside)
    }

    #[test]
    fn a_one_second_window_is_right_within_half_a_percent_at_every_phase() {
        for waveform in waveforms() {
            for tick in [1.0, 5.0, 20.0, 100.0] {
                for power_gain in [1.0, 0.95] {
                    let board = Board {
                        power_gain,
                        ..Board::new("GPU-0", tick, waveform.clone())
                    };
                    let polling = Polling {
                        board,
                        has_instant_power: true,
                    };
                    let (error, outside) = worst(&polling, 1.0);
                    println!(
                        "{waveform:?} tick {tick} ms, gain {power_gain}: {:.4} %, {outside} outside",
                        100.0 * error
                    );
                    assert!(
                        error <= 0.005,
                        "{waveform:?} tick {tick} ms, gain {power_gain}: {error}"
                    );
                    assert_eq!(
                        outside, 0,
                        "error bars of {waveform:?} tick {tick} ms, gain {power_gain}"
                    );
                }
            }
        }
    }

    #[test]
    fn load_that_begins_and_ends_at_the_edges_is_not_smeared_over_an_update() {
        // Power is high exactly inside the window: interpolating across the edges would lose a tenth of it.
        let waveform = Waveform::Square {
            low: 80.0,
            high: 700.0,
            period_milliseconds: 2_000.0,
            duty: 0.5,
        };
        let board = Board {
            tick_phase_milliseconds: 50.0,
            ..Board::new("GPU-0", 100.0, waveform)
        };
        for has_instant_power in [true, false] {
            let polling = Polling {
                board: board.clone(),
                has_instant_power,
            };
            let (joules, _, truth) = polling.window(200.0, 201.0);
            assert!((joules - truth).abs() / truth < 0.005, "{joules} {truth}");
        }
    }

    #[test]
    fn a_slow_power_sensor_widens_the_error_bar() {
        // Bursts that are shorter than the sensor's refresh cannot be seen at all: some windows stay outside.
        for waveform in waveforms() {
            for power_period_milliseconds in [5.0, 25.0, 100.0] {
                let board = Board {
                    power_period_milliseconds,
                    ..Board::new("GPU-0", 100.0, waveform.clone())
                };
                let polling = Polling {
                    board,
                    has_instant_power: true,
                };
                let (error, outside) = worst(&polling, 1.0);
                println!(
                    "{waveform:?} {power_period_milliseconds} ms: {:.4} %, {outside} outside",
                    100.0 * error
                );
                assert!(
                    outside < 30,
                    "{waveform:?} {power_period_milliseconds} ms: {outside} outside"
                );
            }
        }
    }

    #[test]
    fn without_instantaneous_power_the_error_bar_still_holds_the_truth_nearly_always() {
        for waveform in waveforms() {
            let board = Board::new("GPU-0", 20.0, waveform.clone());
            let polling = Polling {
                board,
                has_instant_power: false,
            };
            let (error, outside) = worst(&polling, 1.0);
            println!("{waveform:?}: {:.4} %, {outside} outside", 100.0 * error);
            assert!(error < 0.05 && outside < 15, "{waveform:?}: {error}, {outside} outside");
        }
    }

    #[test]
    fn a_step_that_was_polled_late_is_placed_by_the_others() {
        let board = Board::new("GPU-0", 20.0, Waveform::Constant { watts: 350.0 });
        let polling = Polling {
            board,
            has_instant_power: true,
        };
        let mut polls = polling.run(50.0, 50.15);
        // The step at 50.14 s falls into a hole of 16 ms.
        polls.retain(|poll| !(50.132..50.148).contains(&poll.at));
        let period = certain_period(&ticks(&polls, None));
        let step = ticks(&polls, period).into_iter().last().unwrap();
        assert!((step.at - 50.14).abs() < 0.001, "{step:?}");
        assert!(
            step.half_gap < 0.002 && (step.at - 50.14).abs() <= step.half_gap,
            "{step:?}"
        );
    }

    #[test]
    fn a_poll_that_came_late_widens_the_error_bar() {
        let sample = |at: f64, joules: f64| CounterSample {
            at,
            took: 0.0,
            joules,
            watts: Some(100.0),
        };
        let bar = |late: f64| {
            let polls = [
                sample(0.0, 0.0),
                sample(0.001, 1.0),
                sample(0.010 - late, 1.0),
                sample(0.011 + late, 2.0),
            ];
            energy_at_start(&polls, 0.03, None, gain(&[&polls], None))
                .unwrap()
                .uncertainty_joules
        };
        assert!(bar(0.005) > bar(0.0));
    }

    #[test]
    fn a_counter_that_goes_back_is_a_reset_and_no_update() {
        let sample = |at: f64, joules: f64| CounterSample {
            at,
            took: 0.0,
            joules,
            watts: None,
        };
        let polls = [sample(0.0, 5.0), sample(0.1, 1.0)];
        assert!(was_reset(&polls));
        assert!(ticks(&polls, None).is_empty());
    }
}
