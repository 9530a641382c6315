//! The updates of a stepping counter, found in polls of it. Pure.

/// One poll: the counter and the power, read next to each other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CounterSample {
    /// Middle of the read, monotonic seconds.
    pub at: f64,
    /// Length of the read, s.
    pub took: f64,
    /// Cumulative J.
    pub joules: f64,
    /// Instantaneous power in W; none if the device only has an average.
    pub watts: Option<f64>,
}

/// An update of the counter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tick {
    /// Middle of the interval in which it happened.
    pub at: f64,
    /// Half the length of that interval, s.
    pub half_gap: f64,
    /// The counter after it, J.
    pub joules: f64,
}

/// All updates seen in `samples` (ascending). A step happened after the last poll with the old value, and, if the
/// period is known, no longer than one period before the first poll with the new one, and in time with the other steps:
/// so a poll that came late does not make its step uncertain.
pub fn ticks(samples: &[CounterSample], period: Option<f64>) -> Vec<Tick> {
    let polled: Vec<Tick> = samples
        .windows(2)
        .filter(|pair| pair[1].joules > pair[0].joules)
        .map(|pair| {
            let earliest = period.map_or(pair[0].at, |period| pair[0].at.max(pair[1].at - period));
            tick_between(earliest, pair[1].at, pair[1].joules)
        })
        .collect();
    match period {
        Some(period) => polled.iter().map(|tick| in_time(tick, &polled, period)).collect(),
        None => polled,
    }
}

fn tick_between(earliest: f64, latest: f64, joules: f64) -> Tick {
    Tick {
        at: f64::midpoint(earliest, latest),
        half_gap: (latest - earliest) / 2.0,
        joules,
    }
}

/// Error allowed to a measured period, relative, and to each step of a real counter.
const PERIOD_TOLERANCE: f64 = 0.02;

/// Narrows a step that was polled late by the steps around it that were not.
fn in_time(tick: &Tick, others: &[Tick], period: f64) -> Tick {
    let (mut earliest, mut latest) = (tick.at - tick.half_gap, tick.at + tick.half_gap);
    for other in others.iter().filter(|other| 2.0 * other.half_gap < tick.half_gap) {
        let steps = ((tick.at - other.at) / period).round();
        let expected = other.at + steps * period;
        let error = other.half_gap + steps.abs() * PERIOD_TOLERANCE * period;
        let narrowed = (earliest.max(expected - error), latest.min(expected + error));
        // Out of time: this counter is not that regular.
        if narrowed.0 < narrowed.1 {
            (earliest, latest) = narrowed;
        }
    }
    tick_between(earliest, latest, tick.joules)
}

/// Mean time between two updates, s, over the steps that were polled in time; none with fewer than two.
pub fn update_period(ticks: &[Tick]) -> Option<f64> {
    let mut gaps: Vec<f64> = ticks.windows(2).map(|pair| pair[1].at - pair[0].at).collect();
    gaps.sort_by(f64::total_cmp);
    let median = gaps.get(gaps.len() / 2).copied()?;
    let sharpest = ticks.iter().map(|tick| tick.half_gap).fold(f64::INFINITY, f64::min);
    let mut sharp = ticks.iter().filter(|tick| tick.half_gap <= 2.0 * sharpest);
    let Some((first, last)) = sharp.next().zip(sharp.next_back()) else {
        return Some(median);
    };
    let steps = ((last.at - first.at) / median).round();
    Some(if steps >= 1.0 {
        (last.at - first.at) / steps
    } else {
        median
    })
}

/// True if the counter went backwards anywhere.
pub fn was_reset(samples: &[CounterSample]) -> bool {
    samples.windows(2).any(|pair| pair[1].joules < pair[0].joules)
}
