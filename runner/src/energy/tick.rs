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

impl CounterSample {
    /// When the read began: the value is no older than the counter's was then.
    pub fn began(&self) -> f64 {
        self.at - self.took / 2.0
    }

    /// When the read was over: the value is no newer than the counter's was then.
    pub fn over(&self) -> f64 {
        self.at + self.took / 2.0
    }
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

/// All updates seen in `samples` (ascending), with their period if it is [certain](certain_period). A step happened after the last poll with the old value had begun and before the
/// first one with the new value was over, whatever held the reading thread up in between; and, if the period is known, no longer
/// than one period before that poll, and in time with the other steps: so a poll that came late does not make its step uncertain.
pub fn ticks(samples: &[CounterSample], period: Option<f64>) -> Vec<Tick> {
    let polled: Vec<Tick> = samples
        .windows(2)
        .filter(|pair| pair[1].joules > pair[0].joules)
        .map(|pair| {
            let began = pair[0].began();
            let longest = |period: f64| period * (1.0 + PERIOD_TOLERANCE);
            let earliest = period.map_or(began, |period| began.max(pair[1].began() - longest(period)));
            tick_between(earliest, pair[1].over(), pair[1].joules)
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
        let at = |steps: f64| other.at + steps * period;
        let error = |steps: f64| other.half_gap + steps.abs() * PERIOD_TOLERANCE * period;
        let nearest = ((tick.at - other.at) / period).round();
        // A poll that was held up for longer than a period has room for several: any of them may be the last that it saw.
        let (mut first, mut last) = (nearest, nearest);
        while at(first - 1.0) + error(first - 1.0) >= earliest {
            first -= 1.0;
        }
        while at(last + 1.0) - error(last + 1.0) <= latest {
            last += 1.0;
        }
        let narrowed = (
            earliest.max(at(first) - error(first)),
            latest.min(at(last) + error(last)),
        );
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

/// The time between two updates, s, if it is sure that none went unseen and the error is small enough to place others by it. None where
/// the reading thread was held up too often.
///
/// No step was polled between two neighbours of the list. Where it was quiet between them for at least as long as the gap between
/// polls that holds the second one, that gap holds one step only: two in it would be closer together than the quiet time was long.
pub fn certain_period(ticks: &[Tick]) -> Option<f64> {
    let quiet = |pair: &[Tick]| (pair[1].at - pair[1].half_gap) - (pair[0].at + pair[0].half_gap);
    let single = |pair: &[Tick]| quiet(pair) >= 2.0 * pair[1].half_gap;
    let mut longest = &ticks[..0];
    let mut begin = 0;
    for end in 1..=ticks.len() {
        if end == ticks.len() || !single(&ticks[end - 1..=end]) {
            let run = &ticks[begin..end];
            if run.len() > longest.len() {
                longest = run;
            }
            begin = end;
        }
    }
    let [first, .., last] = longest else {
        return None;
    };
    let steps = (longest.len() - 1) as f64;
    let period = (last.at - first.at) / steps;
    let error = (first.half_gap + last.half_gap) / steps;
    (error <= PERIOD_TOLERANCE * period).then_some(period)
}

/// True if the counter went backwards anywhere.
pub fn was_reset(samples: &[CounterSample]) -> bool {
    samples.windows(2).any(|pair| pair[1].joules < pair[0].joules)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Polls of a counter that gains a joule each period; each begins some time after the one before, takes some time, and reads at a
    /// share of that.
    fn polls(period: f64, phase: f64, delays: &[(f64, f64, f64)]) -> Vec<CounterSample> {
        let mut began = 10.0;
        let poll = |(pause, took, share): &(f64, f64, f64)| {
            began += pause;
            let read = began + share * took;
            let sample = CounterSample {
                at: began + took / 2.0,
                took: *took,
                joules: ((read - phase) / period).floor(),
                watts: None,
            };
            began += took;
            sample
        };
        delays.iter().map(poll).collect()
    }

    /// Mostly as short as wished, sometimes held up.
    fn held_up(usual: f64) -> impl Strategy<Value = f64> {
        prop_oneof![8 => usual..1.5 * usual, 1 => usual..0.09]
    }

    proptest! {
        #[test]
        fn a_step_lies_where_it_is_said_to_whatever_holds_the_reading_thread_up(
            period in 0.004..0.1_f64,
            phase in 0.0..0.1_f64,
            delays in prop::collection::vec((held_up(0.001), held_up(0.000_02), 0.0..1.0_f64), 10..300),
        ) {
            let polls = polls(period, phase, &delays);
            let certain = certain_period(&ticks(&polls, None));
            if let Some(found) = certain {
                prop_assert!((found / period - 1.0).abs() <= PERIOD_TOLERANCE + 1e-9, "{found} is not {period}");
            }
            for tick in ticks(&polls, certain) {
                let truth = phase + tick.joules * period;
                prop_assert!((tick.at - truth).abs() <= tick.half_gap + 1e-9, "{tick:?}, in truth at {truth}");
            }
        }
    }

    #[test]
    fn a_period_is_certain_where_nothing_holds_the_thread_up() {
        let polls = polls(0.02, 0.003, &[(0.001, 0.000_02, 0.5); 200]);
        let found = certain_period(&ticks(&polls, None)).unwrap();
        assert!((found - 0.02).abs() < 0.0002, "{found}");
    }

    #[test]
    fn a_thread_that_sees_only_every_other_step_is_not_certain_of_twice_the_period() {
        let polls = polls(0.02, 0.003, &[(0.03, 0.01, 0.5); 20]);
        assert_eq!(certain_period(&ticks(&polls, None)), None);
    }
}
