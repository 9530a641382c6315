use lem_crds::runner::Domain;
use proptest::prelude::*;

use super::*;
use crate::energy::rapl::wrap::UPDATE_DELAY;

/// Nanoseconds between two readings.
const INTERVAL: u64 = 100_000_000;

fn package(range_microjoules: u64) -> NodeCounter {
    NodeCounter {
        domain: Domain::Cpu,
        id: "package-0".to_owned(),
        socket: Some(0),
        range_microjoules,
    }
}

fn raw(at: u64, microjoules: u64) -> RawValue {
    RawValue {
        from: at,
        to: at + 1000,
        microjoules,
    }
}

fn last(series: &Series) -> CounterValue {
    series.readings.back().unwrap()[0]
}

#[test]
fn a_wrap_is_undone() {
    let range = 262_143_328_850;
    let mut series = Series::begin(vec![package(range)], &[raw(0, range - 5_000_000)]);
    series.advance(&[raw(INTERVAL, 1_000_000)]).unwrap();
    assert_eq!(last(&series).microjoules, 6_000_000);
}

#[test]
fn a_counter_that_was_reset_is_no_wrap() {
    let mut series = Series::begin(vec![package(262_143_328_850)], &[raw(0, 100_000_000_000)]);
    let lost = series.advance(&[raw(INTERVAL, 7)]);
    assert!(matches!(lost, Err(Discontinuity::Reset { .. })), "{lost:?}");
}

#[test]
fn a_node_that_slept_is_not_given_the_energy_of_its_sleep() {
    // CLOCK_MONOTONIC stands still meanwhile.
    let mut series = Series::begin(vec![package(262_143_328_850)], &[raw(0, 0)]);
    let lost = series.advance(&[raw(INTERVAL, 200_000_000)]);
    assert!(matches!(lost, Err(Discontinuity::Reset { .. })), "{lost:?}");
}

#[test]
fn a_reading_so_late_that_a_wrap_may_have_been_missed_ends_the_series() {
    let range = 65_532_610_987;
    let mut series = Series::begin(vec![package(range)], &[raw(0, 0)]);
    let lost = series.advance(&[raw(range + INTERVAL, 1)]);
    assert!(matches!(lost, Err(Discontinuity::Late { .. })), "{lost:?}");
}

#[test]
fn no_more_readings_are_kept_than_fit_into_an_answer() {
    let mut series = Series::begin(vec![package(1 << 40)], &[raw(0, 0)]);
    for step in 1..=2 * KEPT as u64 {
        series.advance(&[raw(step * INTERVAL, step * 1_000_000)]).unwrap();
    }
    let kept = series.after(0);
    assert_eq!(kept.len(), KEPT);
    assert_eq!(kept.last().unwrap()[0].microjoules, 2 * KEPT as u64 * 1_000_000);
    let newest = series.after((2 * KEPT as u64 - 3) * INTERVAL);
    assert_eq!(newest.len(), 3, "only what is newer than asked for");
}

proptest! {
    #[test]
    fn any_power_a_package_can_draw_adds_up_over_any_number_of_wraps(
        range in 1_000_000_000_u64..1 << 38,
        begin in 0.0..1.0_f64,
        steps in prop::collection::vec((0.0..1000.0_f64, 0.1..20.0_f64), 1..400),
    ) {
        let origin = (begin * range as f64) as u64;
        let mut series = Series::begin(vec![package(range)], &[raw(0, origin)]);
        let (mut at, mut truth) = (0, 0);
        for (watts, intervals) in steps {
            // Late readings, as long as no wrap can hide in between.
            let elapsed = ((intervals * INTERVAL as f64) as u64).min(range / 2);
            at += elapsed;
            truth += (watts * 1e-3 * elapsed as f64) as u64;
            let before = last(&series).microjoules;
            prop_assert_eq!(series.advance(&[raw(at, (origin + truth) % range)]), Ok(()));
            prop_assert!(last(&series).microjoules >= before, "it went back");
            prop_assert_eq!(last(&series).microjoules, truth);
        }
    }

    #[test]
    fn whatever_is_read_a_series_never_goes_back_and_never_outruns_a_package(
        range in 1_000_u64..u64::MAX,
        reads in prop::collection::vec((0_u64..1 << 40, any::<u64>()), 1..200),
    ) {
        let mut at = 0;
        let mut series = Series::begin(vec![package(range)], &[raw(0, reads[0].1)]);
        for (elapsed, microjoules) in reads {
            let before = last(&series);
            at += elapsed;
            let now = raw(at, microjoules);
            match series.advance(&[now]) {
                Ok(()) => {
                    let after = last(&series);
                    prop_assert!(after.microjoules >= before.microjoules);
                    let step = after.microjoules - before.microjoules;
                    prop_assert!(step <= after.to - before.from + UPDATE_DELAY, "{step} µJ is over 1000 W");
                }
                Err(_) => series = Series::begin(vec![package(range)], &[now]),
            }
        }
    }

    #[test]
    fn a_reset_at_any_moment_gives_a_new_series_or_at_most_what_a_package_draws(
        value in 0_u64..262_143_328_850,
        since_reset in 0_u64..100_000_000,
    ) {
        let mut series = Series::begin(vec![package(262_143_328_850)], &[raw(0, value)]);
        if series.advance(&[raw(INTERVAL, since_reset)]).is_ok() {
            prop_assert!(last(&series).microjoules <= INTERVAL + 1000 + UPDATE_DELAY);
        }
    }
}
