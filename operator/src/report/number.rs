//! Numbers with as many digits as their uncertainty supports.

use lem_crds::metrics::Estimate;

/// What stands where there is no value.
pub(super) const NOTHING: &str = "—";
/// Significant digits of a value whose uncertainty is not known.
const DIGITS: i32 = 4;

/// A count with its noun, "1 point" or "2 points".
pub(crate) fn counted(count: usize, singular: &str, plural: &str) -> String {
    format!("{count} {}", if count == 1 { singular } else { plural })
}

/// A value without an uncertainty: four significant digits, whole numbers in full.
pub(crate) fn plain(value: f64) -> String {
    if !value.is_finite() {
        return NOTHING.to_owned();
    }
    if value.fract() == 0.0 && value.abs() < 1e9 {
        return fixed(value, 0);
    }
    let exponent = exponent(value, DIGITS);
    if (-4..9).contains(&exponent) {
        fixed(value, (DIGITS - 1 - exponent).max(0))
    } else {
        format!("{value:.*e}", (DIGITS - 1) as usize)
    }
}

/// A value with the half-width of its interval: the half-width to two significant digits, the value to the same place.
pub(super) fn with_half_width(value: f64, half_width: f64) -> String {
    if !value.is_finite() || !half_width.is_finite() {
        return plain(value);
    }
    if half_width <= 0.0 {
        return format!("{} ± 0", plain(value));
    }
    let largest = exponent(value.abs().max(half_width), DIGITS);
    if (-4..9).contains(&largest) {
        let decimals = decimals(half_width);
        return format!("{} ± {}", fixed(value, decimals), fixed(half_width, decimals));
    }
    let scale = 10_f64.powi(largest);
    let decimals = decimals(half_width / scale);
    format!(
        "({} ± {})e{largest}",
        fixed(value / scale, decimals),
        fixed(half_width / scale, decimals)
    )
}

/// The mean of an estimate with its half-width, in the unit and with an SI prefix where the unit counts FLOPs.
pub(super) fn estimate(estimate: &Estimate, unit: &str) -> String {
    let (divisor, prefix) = prefix(estimate.mean, unit);
    let number = match half_width(estimate) {
        Some(half_width) => with_half_width(estimate.mean / divisor, half_width / divisor),
        None => plain(estimate.mean / divisor),
    };
    if prefix.is_empty() {
        number
    } else {
        format!("{number} {prefix}{unit}")
    }
}

/// Lower and upper bound of an estimate, to the digits of its half-width.
pub(super) fn interval(estimate: &Estimate, unit: &str) -> String {
    let (Some(lower), Some(upper)) = (estimate.lower, estimate.upper) else {
        return NOTHING.to_owned();
    };
    let (divisor, prefix) = prefix(estimate.mean, unit);
    let half_width = (upper - lower) / 2.0 / divisor;
    let bound = |value: f64| {
        let size = exponent(value.abs().max(half_width), DIGITS);
        if half_width > 0.0 && (-4..9).contains(&size) {
            fixed(value, decimals(half_width))
        } else {
            plain(value)
        }
    };
    let text = format!("{} … {}", bound(lower / divisor), bound(upper / divisor));
    if prefix.is_empty() {
        text
    } else {
        format!("{text} {prefix}{unit}")
    }
}

/// Half the width of the 95 % interval.
pub(super) fn half_width(estimate: &Estimate) -> Option<f64> {
    Some((estimate.upper? - estimate.lower?) / 2.0)
}

/// A ratio as a percentage.
pub(super) fn percent(ratio: f64) -> String {
    if ratio.is_finite() {
        format!("{} %", fixed(ratio * 100.0, if ratio.abs() < 0.1 { 2 } else { 1 }))
    } else {
        NOTHING.to_owned()
    }
}

/// A value to a number of decimals; negative decimals round to tens, hundreds and so on. Never `-0`.
pub(super) fn fixed(value: f64, decimals: i32) -> String {
    let text = if decimals >= 0 {
        format!("{value:.*}", decimals.min(17) as usize)
    } else {
        let unit = 10_f64.powi(-decimals);
        format!("{:.0}", (value / unit).round() * unit)
    };
    if text.starts_with('-') && !text.contains(|c: char| c.is_ascii_digit() && c != '0') {
        text[1..].to_owned()
    } else {
        text
    }
}

/// Divisor and SI prefix of a FLOP count; `1` and none for any other unit.
fn prefix(value: f64, unit: &str) -> (f64, &'static str) {
    const PREFIXES: [(f64, &str); 6] = [
        (1e18, "E"),
        (1e15, "P"),
        (1e12, "T"),
        (1e9, "G"),
        (1e6, "M"),
        (1e3, "k"),
    ];
    if !unit.starts_with("FLOP") {
        return (1.0, "");
    }
    PREFIXES
        .into_iter()
        .find(|(size, _)| value.abs() >= *size)
        .unwrap_or((1.0, ""))
}

/// Decimals that write a half-width with two significant digits.
fn decimals(half_width: f64) -> i32 {
    1 - exponent(half_width, 2)
}

/// The decimal exponent after rounding to significant digits: 9.96 with two digits is 10, exponent 1.
fn exponent(value: f64, digits: i32) -> i32 {
    let text = format!("{:.*e}", (digits - 1).max(0) as usize, value.abs());
    text.split_once('e')
        .and_then(|(_, exponent)| exponent.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_has_no_more_digits_than_its_half_width_supports() {
        assert_eq!(with_half_width(0.412_963, 0.0123), "0.413 ± 0.012");
        assert_eq!(with_half_width(1523.77, 41.2), "1524 ± 41");
        assert_eq!(with_half_width(1523.77, 412.0), "1520 ± 410");
        assert_eq!(with_half_width(0.5, 0.0996), "0.50 ± 0.10");
    }

    #[test]
    fn a_half_width_larger_than_its_value_is_shown_as_it_is() {
        assert_eq!(with_half_width(0.02, 1.4), "0.0 ± 1.4");
        assert_eq!(with_half_width(-0.02, 1.4), "0.0 ± 1.4");
    }

    #[test]
    fn tiny_and_huge_values_are_not_written_as_rows_of_zeros() {
        assert_eq!(with_half_width(4.13e-7, 1.2e-8), "(4.13 ± 0.12)e-7");
        assert_eq!(with_half_width(2.5e12, 1.0e10), "(2.500 ± 0.010)e12");
        assert_eq!(plain(4.132_67e-7), "4.133e-7");
    }

    #[test]
    fn values_without_an_interval_keep_whole_counts_and_drop_surplus_digits() {
        assert_eq!(plain(12_288.0), "12288");
        assert_eq!(plain(152.346_1), "152.3");
        assert_eq!(plain(0.0), "0");
        assert_eq!(plain(f64::NAN), NOTHING);
    }

    #[test]
    fn flops_carry_an_si_prefix_and_other_units_do_not() {
        let estimate_of = |mean: f64, half: f64| Estimate {
            mean,
            count: 3,
            standard_deviation: Some(half),
            lower: Some(mean - half),
            upper: Some(mean + half),
            coefficient_of_variation: Some(half / mean),
        };
        assert_eq!(estimate(&estimate_of(1.234e12, 4.1e10), "FLOP"), "1.234 ± 0.041 TFLOP");
        assert_eq!(
            interval(&estimate_of(1.234e12, 4.1e10), "FLOP/s"),
            "1.193 … 1.275 TFLOP/s"
        );
        assert_eq!(estimate(&estimate_of(1523.0, 41.0), "tok/s"), "1523 ± 41");
    }

    proptest::proptest! {
        #[test]
        fn any_number_is_written_without_panic(value: f64, half_width: f64) {
            let _ = (plain(value), with_half_width(value, half_width), fixed(value, 3));
        }
    }
}
