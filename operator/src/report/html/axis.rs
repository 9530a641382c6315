//! Axes whose ticks are nice numbers.

use crate::report::number;

/// A range of values mapped to a range of pixels.
pub(super) struct Axis {
    low: f64,
    high: f64,
    step: f64,
    from: f64,
    to: f64,
}

impl Axis {
    /// An axis around all finite `values`, drawn from pixel `from` to pixel `to` with about `ticks` ticks. Zero is part of
    /// it where `with_zero` asks for it, or where the values span so much that leaving it out would mislead.
    pub(super) fn around(values: impl Iterator<Item = f64>, with_zero: bool, ticks: u32, from: f64, to: f64) -> Self {
        let (mut least, mut most) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.filter(|value| value.is_finite() && value.abs() < 1e300) {
            (least, most) = (least.min(value), most.max(value));
        }
        if least > most {
            (least, most) = (0.0, 1.0);
        }
        if with_zero || (least > 0.0 && least < 0.4 * most) {
            (least, most) = (least.min(0.0), most.max(0.0));
        }
        if most - least <= 1e-9 * most.abs().max(least.abs()) {
            let margin = if most == 0.0 { 1.0 } else { most.abs() * 0.05 };
            (least, most) = (least - margin, most + margin);
        }
        let step = nice((most - least) / f64::from(ticks.max(1)));
        Self {
            low: (least / step + 1e-9).floor() * step,
            high: (most / step - 1e-9).ceil() * step,
            step,
            from,
            to,
        }
    }

    /// The pixel of a value; values outside are drawn at the edge.
    pub(super) fn pixel(&self, value: f64) -> f64 {
        let fraction = ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0);
        self.from + fraction * (self.to - self.from)
    }

    /// Pixel and label of every tick.
    pub(super) fn ticks(&self) -> Vec<(f64, String)> {
        let count = ((self.high - self.low) / self.step).round().clamp(1.0, 50.0) as u32;
        (0..=count)
            .map(|index| {
                let value = self.low + f64::from(index) * self.step;
                (self.pixel(value), self.label(value))
            })
            .collect()
    }

    fn label(&self, value: f64) -> String {
        let size = self.low.abs().max(self.high.abs());
        let decimals = -self.step.log10().floor();
        if (1e-4..1e6).contains(&size) && decimals <= 6.0 {
            return number::fixed(value, decimals.max(0.0) as i32);
        }
        if value.abs() < self.step / 2.0 {
            return "0".to_owned();
        }
        let digits = (value.abs().log10().floor() + decimals).clamp(0.0, 15.0) as usize;
        format!("{value:.digits$e}")
    }
}

/// The next of 1, 2 or 5 times a power of ten that is not below `step`.
fn nice(step: f64) -> f64 {
    let power = 10_f64.powf(step.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .find(|factor| factor * power >= step * (1.0 - 1e-9));
    factor.unwrap_or(10.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(values: &[f64], with_zero: bool) -> Vec<String> {
        let axis = Axis::around(values.iter().copied(), with_zero, 5, 0.0, 100.0);
        axis.ticks().into_iter().map(|(_, label)| label).collect()
    }

    #[test]
    fn ticks_are_multiples_of_one_two_or_five() {
        assert_eq!(
            labels(&[0.413, 0.437], false),
            ["0.410", "0.415", "0.420", "0.425", "0.430", "0.435", "0.440"]
        );
        assert_eq!(labels(&[3.0, 97.0], false), ["0", "20", "40", "60", "80", "100"]);
        assert_eq!(labels(&[38.0, 47.0], true), ["0", "10", "20", "30", "40", "50"]);
        assert_eq!(labels(&[1.1e9, 4.2e9], false), ["0", "1e9", "2e9", "3e9", "4e9", "5e9"]);
    }

    #[test]
    fn an_axis_of_one_value_or_none_still_has_a_range() {
        assert!(labels(&[5.0], false).len() >= 2);
        assert!(labels(&[], false).len() >= 2);
        assert!(labels(&[0.0, 0.0], true).len() >= 2);
        assert!(labels(&[f64::NAN, f64::INFINITY], false).len() >= 2);
    }

    proptest::proptest! {
        #[test]
        fn every_value_lies_on_the_axis_and_no_axis_has_a_crowd_of_ticks(
            values in proptest::collection::vec(proptest::num::f64::NORMAL, 1..10),
        ) {
            let axis = Axis::around(values.iter().copied(), false, 5, 10.0, 90.0);
            proptest::prop_assert!(axis.ticks().len() <= 12);
            for (pixel, _) in axis.ticks() {
                proptest::prop_assert!((9.999..=90.001).contains(&pixel));
            }
        }
    }
}
