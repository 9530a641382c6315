//! A value, or the reason there is none (METHODOLOGY §8, stable schema). Pure.
//!
//! The calculation of a trial works on [`Value`]s throughout, so a reason travels with the figure it belongs to and a
//! missing figure can never turn into a zero.

use std::collections::BTreeMap;

use lem_crds::metrics::{MetricSet, Unavailable};

/// A figure, or why there is none.
pub(super) type Value = Result<f64, Unavailable>;

/// The figures of a trial and, for each figure that is null, its reason.
pub(super) type Published = (MetricSet<f64>, BTreeMap<String, Unavailable>);

/// Numerator over denominator; [`Unavailable::DivisionByZero`] where the denominator is zero.
pub(super) fn ratio(numerator: Value, denominator: Value) -> Value {
    ratio_or(numerator, denominator, Unavailable::DivisionByZero)
}

/// Numerator over denominator; `when_zero` where the denominator is zero.
pub(super) fn ratio_or(numerator: Value, denominator: Value, when_zero: Unavailable) -> Value {
    let (numerator, denominator) = (numerator?, denominator?);
    if denominator == 0.0 {
        return Err(when_zero);
    }
    Ok(numerator / denominator)
}

/// Product of two figures.
pub(super) fn product(left: Value, right: Value) -> Value {
    Ok(left? * right?)
}

/// The sum of all figures; the first reason where one of them is missing, never a smaller sum.
pub(super) fn sum(values: impl IntoIterator<Item = Value>) -> Value {
    values.into_iter().sum()
}

/// Separates figures from reasons: each field is in exactly one of the two.
pub(super) fn publish(set: &MetricSet<Value>) -> Published {
    let mut reasons = BTreeMap::new();
    let mut values = set.iter().map(|(_, value)| value.copied());
    let metrics = MetricSet::from_fn(|definition| {
        let value = values.next().flatten().unwrap_or(Err(Unavailable::NotReported));
        match value {
            Ok(figure) if figure.is_finite() => Some(figure),
            Ok(_) => {
                reasons.insert(definition.key.to_owned(), Unavailable::DivisionByZero);
                None
            }
            Err(reason) => {
                reasons.insert(definition.key.to_owned(), reason);
                None
            }
        }
    });
    (metrics, reasons)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_that_is_no_number_is_published_as_null_with_a_reason() {
        let set = MetricSet::from_fn(|_| Some(Ok(f64::NAN)));
        let (metrics, reasons) = publish(&set);
        assert!(metrics.iter().all(|(_, value)| value.is_none()));
        assert_eq!(reasons.len(), metrics.iter().count());
    }

    #[test]
    fn a_measured_zero_is_published_as_zero_and_has_no_reason() {
        let set = MetricSet::from_fn(|_| Some(Ok(0.0)));
        let (metrics, reasons) = publish(&set);
        assert!(metrics.iter().all(|(_, value)| value == Some(&0.0)));
        assert!(reasons.is_empty());
    }

    #[test]
    fn a_sum_with_a_missing_part_is_missing_and_not_smaller() {
        assert_eq!(
            sum([Ok(1.0), Err(Unavailable::CounterReset)]),
            Err(Unavailable::CounterReset)
        );
    }
}
