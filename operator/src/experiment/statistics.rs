//! Mean, spread and exact Student-t interval over cycles (METHODOLOGY §2). Pure.

use lem_crds::metrics::Estimate;
use statrs::distribution::{ContinuousCDF, StudentsT};

/// Two-sided confidence of every interval.
pub(super) const CONFIDENCE: f64 = 0.95;

/// Mean with sample standard deviation (n − 1), exact Student-t 95 % interval and coefficient of variation
/// (METHODOLOGY §2). `None` without a value; one value has no spread.
pub fn estimate(values: &[f64]) -> Option<Estimate> {
    if values.is_empty() {
        return None;
    }
    let count = values.len() as f64;
    let mean = mean(values);
    let standard_deviation = sample_variance(values).map(f64::sqrt);
    let half_width = standard_deviation
        .zip(student_quantile(count - 1.0, CONFIDENCE))
        .map(|(deviation, quantile)| quantile * deviation / count.sqrt());
    Some(Estimate {
        mean,
        count: values.len() as u32,
        standard_deviation,
        lower: half_width.map(|half| mean - half),
        upper: half_width.map(|half| mean + half),
        coefficient_of_variation: standard_deviation
            .filter(|_| mean != 0.0)
            .map(|deviation| deviation / mean.abs()),
    })
}

/// The two-sided quantile of Student's t at a confidence; `None` only where the degrees of freedom are not positive.
pub(super) fn student_quantile(degrees_of_freedom: f64, confidence: f64) -> Option<f64> {
    let distribution = StudentsT::new(0.0, 1.0, degrees_of_freedom).ok()?;
    Some(distribution.inverse_cdf(f64::midpoint(1.0, confidence)))
}

/// Half the width of the interval of mean(after) − mean(before) with unequal variances (Welch 1947, degrees of freedom by
/// Welch–Satterthwaite); `None` with fewer than two values on a side. Values without any spread, such as token counts,
/// leave no error to multiply: 0.
pub(super) fn welch_half_width(before: &[f64], after: &[f64], confidence: f64) -> Option<f64> {
    let of_mean = |values: &[f64]| Some(sample_variance(values)? / values.len() as f64);
    let (variance_before, variance_after) = (of_mean(before)?, of_mean(after)?);
    let variance = variance_before + variance_after;
    if variance <= 0.0 {
        return Some(0.0);
    }
    let degrees = variance.powi(2)
        / (variance_before.powi(2) / (before.len() as f64 - 1.0) + variance_after.powi(2) / (after.len() as f64 - 1.0));
    Some(student_quantile(degrees, confidence)? * variance.sqrt())
}

/// Arithmetic mean; zero values give no number, so callers ask for at least one.
pub(super) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Sample variance (n − 1); `None` for fewer than two values.
pub(super) fn sample_variance(values: &[f64]) -> Option<f64> {
    if values.len() < 2 {
        return None;
    }
    let mean = mean(values);
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    Some(squares / (values.len() as f64 - 1.0))
}

/// Percentile by linear interpolation, Hyndman–Fan type 7 (METHODOLOGY §3). `sorted` is ascending.
pub(super) fn percentile(sorted: &[f64], fraction: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let position = fraction * last as f64;
    let below = (position.floor() as usize).min(last);
    let above = (below + 1).min(last);
    let weight = position - below as f64;
    Some(sorted[below] + weight * (sorted[above] - sorted[below]))
}

/// Median of any values, type 7.
pub(super) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    percentile(&sorted, 0.5)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two-sided 95 % quantiles for 1 to 39 degrees of freedom, as printed in tables of Student's t.
    const PUBLISHED: [f64; 39] = [
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
        2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042, 2.040,
        2.037, 2.035, 2.032, 2.030, 2.028, 2.026, 2.024, 2.023,
    ];

    #[test]
    fn the_quantiles_are_the_published_ones_for_two_to_forty_cycles() {
        for (index, published) in PUBLISHED.iter().enumerate() {
            let degrees = index as f64 + 1.0;
            let computed = student_quantile(degrees, CONFIDENCE).unwrap();
            assert!(
                (computed - published).abs() <= 0.000_51,
                "{degrees}: {computed} against {published}"
            );
        }
    }

    #[test]
    fn three_cycles_give_the_interval_computed_by_hand() {
        // 10, 12, 14: mean 12; squares 4 + 0 + 4 = 8, over 2 = 4, so deviation 2;
        // half-width 4.302653 × 2 / √3 = 4.968275; CV 2 / 12.
        let estimate = estimate(&[10.0, 12.0, 14.0]).unwrap();
        assert!((estimate.mean - 12.0).abs() < 1e-12);
        assert_eq!(estimate.count, 3);
        assert!((estimate.standard_deviation.unwrap() - 2.0).abs() < 1e-12);
        assert!((estimate.lower.unwrap() - 7.031_725).abs() < 1e-5);
        assert!((estimate.upper.unwrap() - 16.968_275).abs() < 1e-5);
        assert!((estimate.coefficient_of_variation.unwrap() - 1.0 / 6.0).abs() < 1e-12);
    }

    #[test]
    fn one_cycle_has_a_mean_and_no_spread() {
        let estimate = estimate(&[3.0]).unwrap();
        assert_eq!((estimate.mean, estimate.count), (3.0, 1));
        assert_eq!(estimate.standard_deviation, None);
        assert_eq!(
            (estimate.lower, estimate.upper, estimate.coefficient_of_variation),
            (None, None, None)
        );
    }

    #[test]
    fn a_mean_of_zero_has_no_coefficient_of_variation() {
        let estimate = estimate(&[-1.0, 1.0]).unwrap();
        assert_eq!(estimate.coefficient_of_variation, None);
        assert!(estimate.standard_deviation.is_some());
    }

    #[test]
    fn percentiles_are_type_seven() {
        // 1, 2, 3, 4 at 95 %: position 2.85, so 3 + 0.85 × 1.
        let sorted = [1.0, 2.0, 3.0, 4.0];
        assert!((percentile(&sorted, 0.95).unwrap() - 3.85).abs() < 1e-12);
        assert!((percentile(&sorted, 0.5).unwrap() - 2.5).abs() < 1e-12);
        assert_eq!(percentile(&sorted, 1.0), Some(4.0));
        assert_eq!(percentile(&[], 0.5), None);
    }
}
