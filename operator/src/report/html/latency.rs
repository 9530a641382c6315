//! Distribution of the request latency of one point: the share of requests done within a time.

use std::collections::BTreeMap;

use lem_crds::{runner::WindowRecord, samples::Unpacked};

use super::{
    axis::Axis,
    drawing::{Anchor, Drawing, WIDTH},
};
use crate::report::number;

const LEFT: f64 = 56.0;
const RIGHT: f64 = WIDTH - 16.0;
const TOP: f64 = 58.0;
const BOTTOM: f64 = 210.0;
/// Steps of the curve at most.
const STEPS: u64 = 300;

/// Latencies of all requests of a point, pooled, in seconds.
pub(super) struct Distribution {
    /// Value and how often it occurs, ascending.
    values: Vec<(f64, u64)>,
    /// Requests.
    pub(super) count: u64,
    /// Series that could not be read.
    pub(super) unreadable: u32,
}

impl Distribution {
    pub(super) fn pool<'a>(windows: impl Iterator<Item = &'a WindowRecord>) -> Self {
        let (mut values, mut unreadable) = (Vec::new(), 0);
        for window in windows {
            match window.end_to_end.unpack() {
                Ok(Unpacked::Exact(seconds)) => values.extend(seconds.into_iter().map(|value| (value, 1))),
                Ok(Unpacked::Histogram(histogram)) => values.extend(
                    histogram
                        .iter_recorded()
                        .map(|bin| (bin.value_iterated_to() as f64 / 1e6, bin.count_at_value())),
                ),
                Err(_) => unreadable += 1,
            }
        }
        values.sort_by(|(left, _), (right, _)| left.total_cmp(right));
        let count = values.iter().fold(0_u64, |sum, (_, count)| sum.saturating_add(*count));
        Self {
            values,
            count,
            unreadable,
        }
    }

    /// The values at ascending ranks from 0.
    fn at_ranks(&self, ranks: impl Iterator<Item = u64>) -> Vec<f64> {
        let (mut index, mut before) = (0, 0_u64);
        ranks
            .filter_map(|rank| {
                while let Some((value, count)) = self.values.get(index) {
                    if rank < before.saturating_add(*count) {
                        return Some(*value);
                    }
                    before = before.saturating_add(*count);
                    index += 1;
                }
                self.values.last().map(|(value, _)| *value)
            })
            .collect()
    }

    /// A percentile, Hyndman–Fan type 7.
    pub(super) fn percentile(&self, fraction: f64) -> Option<f64> {
        let position = self.count.checked_sub(1)? as f64 * fraction;
        let rank = position.floor() as u64;
        match self.at_ranks([rank, rank + 1].into_iter())[..] {
            [low, high] => Some(low + (high - low) * position.fract()),
            _ => None,
        }
    }

    /// Latency and share of requests done within it, in steps.
    fn curve(&self) -> Vec<(f64, f64)> {
        let steps = self.count.min(STEPS);
        let rank = |step: u64| (u128::from(step) * u128::from(self.count) / u128::from(steps)) as u64;
        let ranks: Vec<u64> = (1..=steps).map(|step| rank(step) - 1).collect();
        let mut share = 0.0;
        let mut points = Vec::new();
        for (value, rank) in self.at_ranks(ranks.iter().copied()).into_iter().zip(&ranks) {
            points.push((value, share));
            share = (rank + 1) as f64 / self.count as f64;
            points.push((value, share));
        }
        points
    }
}

/// The windows of a point, pooled.
pub(super) fn of_windows(windows: &BTreeMap<(u32, u32), &WindowRecord>) -> Distribution {
    Distribution::pool(windows.values().copied())
}

/// The drawing of a distribution, or nothing without a request.
pub(super) fn draw(title: &str, distribution: &Distribution) -> Option<Drawing> {
    let marks = [("p50", 0.5), ("p95", 0.95), ("p99", 0.99)];
    let longest = distribution.values.last()?.0;
    let (scale, unit) = if longest < 1.0 { (1e3, "ms") } else { (1.0, "s") };
    let percentiles: Vec<(&str, f64)> = marks
        .iter()
        .filter_map(|(name, fraction)| Some((*name, distribution.percentile(*fraction)? * scale)))
        .collect();
    let texts: Vec<String> = percentiles
        .iter()
        .map(|(name, value)| format!("{name} {} {unit}", number::plain(*value)))
        .collect();
    let curve = distribution.curve();
    let x = Axis::around(curve.iter().map(|(value, _)| value * scale), false, 6, LEFT, RIGHT);
    let y = Axis::around([0.0, 1.0].into_iter(), true, 5, BOTTOM, TOP);

    let mut drawing = Drawing::new(title, &texts.join(", "), BOTTOM + 40.0);
    for (step, (pixel, _)) in y.ticks().iter().enumerate() {
        drawing.line("grid", (LEFT, *pixel), (RIGHT, *pixel));
        let label = format!("{} %", step * 20);
        drawing.text("tick", Anchor::End, (LEFT - 6.0, pixel + 4.0), &label);
    }
    for (pixel, label) in x.ticks() {
        drawing.line("axis", (pixel, BOTTOM), (pixel, BOTTOM + 4.0));
        drawing.text("tick", Anchor::Middle, (pixel, BOTTOM + 17.0), &label);
    }
    drawing.line("axis", (LEFT, BOTTOM), (RIGHT, BOTTOM));
    drawing.text("name", Anchor::Start, (4.0, 12.0), "share of requests");
    let middle = f64::midpoint(LEFT, RIGHT);
    let name = format!("request latency in {unit}");
    drawing.text("name", Anchor::Middle, (middle, BOTTOM + 35.0), &name);
    for (row, ((_, value), text)) in percentiles.iter().zip(&texts).enumerate() {
        let (pixel, height) = (x.pixel(*value), 12.0 + 15.0 * row as f64);
        drawing.line("mark", (pixel, height + 3.0), (pixel, BOTTOM));
        // A label in its own row; on the side of its line that has room, away from the name of the axis.
        let (anchor, beside) = if pixel > WIDTH / 2.0 {
            (Anchor::End, pixel - 5.0)
        } else {
            (Anchor::Start, (pixel + 5.0).max(116.0))
        };
        drawing.text("tick", anchor, (beside, height), text);
    }
    drawing.polyline(
        "series s0",
        curve
            .iter()
            .map(|(value, share)| (x.pixel(value * scale), y.pixel(*share))),
    );
    Some(drawing)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn distribution(values: &[(f64, u64)]) -> Distribution {
        Distribution {
            values: values.to_vec(),
            count: values.iter().map(|(_, count)| count).sum(),
            unreadable: 0,
        }
    }

    #[test]
    fn percentiles_interpolate_as_type_7_does() {
        let one_to_five = distribution(&[(1.0, 1), (2.0, 1), (3.0, 1), (4.0, 1), (5.0, 1)]);
        assert_eq!(one_to_five.percentile(0.5), Some(3.0));
        assert!((one_to_five.percentile(0.95).unwrap() - 4.8).abs() < 1e-12);
        assert_eq!(one_to_five.percentile(1.0), Some(5.0));
        assert_eq!(distribution(&[]).percentile(0.5), None);
    }

    #[test]
    fn a_value_with_a_weight_counts_as_often_as_it_occurred() {
        let weighted = distribution(&[(1.0, 3), (9.0, 1)]);
        assert_eq!(weighted.percentile(0.5), Some(1.0));
        assert_eq!(weighted.percentile(1.0), Some(9.0));
    }

    #[test]
    fn the_curve_ends_with_every_request_done_however_many_there_are() {
        for values in [
            vec![(0.1, 1)],
            vec![(0.1, 7), (0.2, 1_000_000_007)],
            vec![(0.3, u64::MAX)],
        ] {
            let curve = distribution(&values).curve();
            assert_eq!(curve.last().unwrap(), &(values.last().unwrap().0, 1.0));
            assert!(curve.len() <= 600);
        }
    }
}
