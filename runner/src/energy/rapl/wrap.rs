//! A counter that starts again from zero at a known range. Pure.

/// Adds up a wrapping counter, as long as it is read more often than it wraps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Unwrapped {
    /// All in µJ.
    range: u64,
    last: u64,
    total: u64,
}

impl Unwrapped {
    /// Begins at a first reading.
    pub(crate) fn new(range_microjoules: u64, first_microjoules: u64) -> Self {
        Self {
            range: range_microjoules,
            last: first_microjoules,
            total: 0,
        }
    }

    /// The next reading; returns the energy since the first, in J. `(range − last) + now` if the counter has wrapped.
    pub(crate) fn advance(&mut self, now_microjoules: u64) -> f64 {
        self.advance_microjoules(now_microjoules) as f64 / 1e6
    }

    /// The same in µJ.
    pub(crate) fn advance_microjoules(&mut self, now_microjoules: u64) -> u64 {
        let step = now_microjoules
            .checked_sub(self.last)
            .unwrap_or_else(|| self.range.saturating_sub(self.last).saturating_add(now_microjoules));
        self.last = now_microjoules;
        self.total = self.total.saturating_add(step);
        self.total
    }
}

/// Highest power of one CPU package that the read interval reckons with, W; more than any package sold.
pub(crate) const HIGHEST_PACKAGE_WATTS: f64 = 1000.0;

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
        assert!((counter.advance(50_000) - 0.15).abs() < 1e-12);
        assert!((counter.advance(60_000) - 0.16).abs() < 1e-12);
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
            let (mut truth, mut last) = (0_u64, 0.0);
            for step in steps {
                truth += (step * range as f64) as u64;
                last = counter.advance(truth % range);
            }
            prop_assert!((last - truth as f64 / 1e6).abs() < 1e-3);
        }
    }
}
