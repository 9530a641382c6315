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
//! where P is the power sampled next to the counter in the same polls, and g = ΔE / ∫P over whole steps of the same
//! polls corrects a power sensor that disagrees with the counter. Interpolating *across* the edge would be wrong just
//! where it matters: load usually begins and ends at the edges, so power inside and outside the window differ.
//!
//! Without an instantaneous power sensor, P is the mean power of the neighbouring whole step outside the window.

use super::integrate::{Power, trapezoid};

/// One poll: the counter and the power, read next to each other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CounterSample {
    /// Monotonic seconds.
    pub at: f64,
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

/// The counter at an edge.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EdgeEnergy {
    /// Cumulative J at the edge.
    pub joules: f64,
    /// Half-width of its error bar, J.
    pub uncertainty_joules: f64,
}

/// All updates seen in `samples` (ascending). A step happened after the last poll with the old value, and, if the
/// period is known, no longer than one period before the first poll with the new one.
pub fn ticks(samples: &[CounterSample], period: Option<f64>) -> Vec<Tick> {
    samples
        .windows(2)
        .filter(|pair| pair[1].joules > pair[0].joules)
        .map(|pair| {
            let earliest = period.map_or(pair[0].at, |period| pair[0].at.max(pair[1].at - period));
            Tick {
                at: f64::midpoint(earliest, pair[1].at),
                half_gap: (pair[1].at - earliest) / 2.0,
                joules: pair[1].joules,
            }
        })
        .collect()
}

/// Median time between two updates, s; none with fewer than two.
pub fn update_period(ticks: &[Tick]) -> Option<f64> {
    let mut gaps: Vec<f64> = ticks.windows(2).map(|pair| pair[1].at - pair[0].at).collect();
    gaps.sort_by(f64::total_cmp);
    gaps.get(gaps.len() / 2).copied()
}

/// True if the counter went backwards anywhere.
pub fn was_reset(samples: &[CounterSample]) -> bool {
    samples.windows(2).any(|pair| pair[1].joules < pair[0].joules)
}

/// The counter at `start`, from polls of which all but the last few are before it. None without polls.
pub fn energy_at_start(polls: &[CounterSample], start: f64, period: Option<f64>) -> Option<EdgeEnergy> {
    let steps = ticks(polls, period);
    let before: Vec<Tick> = steps.into_iter().filter(|tick| tick.at <= start).collect();
    let Some(step) = before.last() else {
        return unphased(polls, start, period);
    };
    let partial = partial_energy(polls, &before, step, step.at, start)?;
    Some(EdgeEnergy {
        joules: step.joules + partial.joules,
        uncertainty_joules: partial.uncertainty_joules,
    })
}

/// The counter at `end`, from polls of which all but the first few are after it. None without polls.
pub fn energy_at_end(polls: &[CounterSample], end: f64, period: Option<f64>) -> Option<EdgeEnergy> {
    let steps = ticks(polls, period);
    let after: Vec<Tick> = steps.into_iter().filter(|tick| tick.at >= end).collect();
    let Some(step) = after.first() else {
        return unphased(polls, end, period);
    };
    let partial = partial_energy(polls, &after, step, end, step.at)?;
    // The counter was read at the edge: it never exceeded the truth then.
    let floor = polls
        .iter()
        .rfind(|poll| poll.at <= end)
        .map_or(0.0, |poll| poll.joules);
    Some(EdgeEnergy {
        joules: (step.joules - partial.joules).max(floor),
        uncertainty_joules: partial.uncertainty_joules,
    })
}

/// Energy of the part of a step period between its update and the edge.
fn partial_energy(polls: &[CounterSample], steps: &[Tick], step: &Tick, from: f64, to: f64) -> Option<EdgeEnergy> {
    let power: Vec<Power> = polls
        .iter()
        .filter_map(|poll| poll.watts.map(|watts| Power { at: poll.at, watts }))
        .collect();
    let span = steps
        .first()
        .zip(steps.last())
        .filter(|(first, last)| last.at > first.at);
    let Some(integral) = trapezoid(&power, from, to) else {
        // No instantaneous power: the neighbouring whole steps stand for it.
        let watts = match span {
            Some((first, last)) => (last.joules - first.joules) / (last.at - first.at),
            None => return unphased(polls, from, None),
        };
        let joules = watts * (to - from);
        return Some(EdgeEnergy {
            joules,
            uncertainty_joules: joules.abs() + watts * step.half_gap,
        });
    };
    let gain = span.and_then(|(first, last)| {
        let whole = trapezoid(&power, first.at, last.at)?;
        let counted = last.joules - first.joules;
        let noise = whole.error_joules + local_watts(&power, first.at) * (first.half_gap + last.half_gap);
        // A difference that the polling itself explains corrects nothing.
        ((counted - whole.joules).abs() > noise && whole.joules > 0.0).then(|| counted / whole.joules)
    });
    let gain = gain.unwrap_or(1.0);
    let joules = gain * integral.joules;
    Some(EdgeEnergy {
        joules,
        uncertainty_joules: gain * (integral.error_joules + local_watts(&power, step.at) * step.half_gap)
            + (joules - integral.joules).abs()
            + COUNTER_RESOLUTION_JOULES,
    })
}

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
