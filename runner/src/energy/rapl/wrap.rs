//! A counter that starts again from zero at a known range. Pure.

use super::update::LONGEST_PAUSE_SECONDS;

/// RAPL is updated every millisecond, so a reading may be that old; this is longer than any such delay, ns.
pub(crate) const UPDATE_DELAY: u64 = 10_000_000;

/// Why a reading does not continue a counter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Discontinuity {
    /// More energy than a package can draw, or a step back that is no wrap.
    #[error(
        "counter {id} moved by {microjoules} µJ within {nanoseconds} ns, which no package can draw: it was reset, or the node slept"
    )]
    Reset {
        id: String,
        microjoules: u64,
        nanoseconds: u64,
    },
    /// So late that the counter may have wrapped unseen.
    #[error("counter {id} was not read for {nanoseconds} ns, in which it may have wrapped unseen")]
    Late { id: String, nanoseconds: u64 },
}

/// Adds up a wrapping counter, as long as it is read more often than it wraps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Unwrapped {
    /// All in µJ.
    range: u64,
    last: u64,
    total: u64,
    /// Since the value was seen to move, ns.
    still: u64,
}

/// Longest time that is allowed for between two updates, ns: counters of virtual machines are updated once a second (QEMU,
/// `MSR_ENERGY_THREAD_SLEEP_US`), or late.
const LONGEST_UPDATE_PERIOD: u64 = (LONGEST_PAUSE_SECONDS * 1e9) as u64;

impl Unwrapped {
    /// Begins at a first reading.
    pub(crate) fn new(range_microjoules: u64, first_microjoules: u64) -> Self {
        Self {
            range: range_microjoules,
            last: first_microjoules,
            total: 0,
            still: 0,
        }
    }

    /// The next reading of the counter `id`, at most `nanoseconds` after the one before; returns the energy since the
    /// first, in µJ. A step back is a wrap where a package can draw what it comes to, else a reset. After an error the
    /// counter is over.
    pub(crate) fn follow(&mut self, id: &str, now_microjoules: u64, nanoseconds: u64) -> Result<u64, Discontinuity> {
        if drawable(nanoseconds) >= self.range {
            return Err(Discontinuity::Late {
                id: id.to_owned(),
                nanoseconds,
            });
        }
        let before = self.total;
        let total = self.advance(now_microjoules);
        let step = total - before;
        // A step is what was drawn since the one before, in however many reads that is.
        let drawn = nanoseconds
            .saturating_add(self.still)
            .min(LONGEST_UPDATE_PERIOD.max(nanoseconds));
        self.still = if step == 0 { drawn } else { 0 };
        if step > drawable(drawn.saturating_add(UPDATE_DELAY)) {
            return Err(Discontinuity::Reset {
                id: id.to_owned(),
                microjoules: step,
                nanoseconds,
            });
        }
        Ok(total)
    }

    /// `(range − last) + now` if the counter has wrapped.
    fn advance(&mut self, now_microjoules: u64) -> u64 {
        let step = now_microjoules
            .checked_sub(self.last)
            .unwrap_or_else(|| self.range.saturating_sub(self.last).saturating_add(now_microjoules));
        self.last = now_microjoules;
        self.total = self.total.saturating_add(step);
        self.total
    }
}

/// Highest power of one CPU package that is reckoned with, W; more than any package sold.
const HIGHEST_PACKAGE_WATTS: f64 = 1000.0;

/// Most energy that a package draws in some time, µJ: 1000 W are 1 µJ each ns.
fn drawable(nanoseconds: u64) -> u64 {
    (HIGHEST_PACKAGE_WATTS * 1e-3 * nanoseconds as f64) as u64
}

/// Longest time between two reads, s: a quarter of the fastest wrap.
pub(crate) fn longest_read_interval_seconds(range_microjoules: u64) -> f64 {
    0.25 * range_microjoules as f64 / 1e6 / HIGHEST_PACKAGE_WATTS
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_wrap_adds_the_rest_of_the_range() {
        let mut counter = Unwrapped::new(1_000_000, 900_000);
        assert_eq!(counter.advance(50_000), 150_000);
        assert_eq!(counter.advance(60_000), 160_000);
    }

    #[test]
    fn a_counter_that_is_updated_once_a_second_is_followed_between_its_updates() {
        let mut counter = Unwrapped::new(262_143_328_850, 0);
        let tenth = 100_000_000;
        for read in 1..=40_u64 {
            // 400 W, seen at each tenth read.
            let joules = 400 * (read / 10);
            assert_eq!(
                counter.follow("package-0", joules * 1_000_000, tenth).unwrap(),
                joules * 1_000_000
            );
        }
        let reset = counter.follow("package-0", 0, tenth);
        assert!(matches!(reset, Err(Discontinuity::Reset { .. })), "{reset:?}");
    }

    #[test]
    fn an_amd_package_is_read_often_enough() {
        let interval = longest_read_interval_seconds(65_532_610_987);
        assert!((16.0..17.0).contains(&interval), "{interval}");
    }

    proptest! {
        #[test]
        fn any_steps_below_the_range_add_up(range in 1_000_u64..1 << 40, steps in prop::collection::vec(0.0..0.99_f64, 1..50)) {
            let mut counter = Unwrapped::new(range, 0);
            let (mut truth, mut last) = (0_u64, 0);
            for step in steps {
                truth += (step * range as f64) as u64;
                last = counter.advance(truth % range);
            }
            prop_assert_eq!(last, truth);
        }
    }
}
