//! An experiment held against a baseline, point by point and metric by metric (METHODOLOGY §11). Pure.
//!
//! Points are the same where their plans and the class of their nodes are. Of an experiment the units are cycles; of a fleet
//! they are nodes, each with the mean of its cycles.

use std::{collections::BTreeMap, iter::repeat_n};

use lem_crds::{
    EfficiencyExperimentSpec, SCHEMA_VERSION, metrics,
    plan::Point,
    schedule::{BaselineMetric, BaselinePoint, ScheduleComparison, ScheduledChange},
    status::{PointResult, Verdict},
};

use super::{
    Failure, Most, NodeResult, Record, class_means, classes,
    compare::{Comparison, Outcome, Side, compare_at},
    cycle_values,
    statistics::{mean, sample_variance},
    summary,
};

/// A point with what it is compared by.
#[derive(Debug, Clone, PartialEq)]
pub struct MeasuredPoint {
    /// Position in the sweep.
    pub index: u32,
    /// What it is compared by.
    pub values: BaselinePoint,
}

impl MeasuredPoint {
    /// A point with the values of each compared metric.
    pub fn new(point: &PointResult, values: &BTreeMap<String, Vec<f64>>) -> Self {
        let metrics = values
            .iter()
            .map(|(metric, values)| (metric.clone(), logarithms(values)));
        Self {
            index: point.index,
            values: BaselinePoint {
                plan_sha256: point.plan_sha256.clone(),
                node_class: point.node_class.clone(),
                energy_scope: point.energy_scope.clone(),
                energy_sources: point.energy_sources.clone(),
                schema_version: SCHEMA_VERSION,
                metrics: metrics.collect(),
            },
        }
    }
}

/// The points of an experiment that may be used.
pub fn measured_points(
    spec: &EfficiencyExperimentSpec,
    points: &[Point],
    records: &[Record],
    failures: &[Failure],
    metrics: &[String],
) -> Vec<MeasuredPoint> {
    let summary = summary::summarise(spec, points, records, failures);
    let usable = summary
        .status
        .points
        .iter()
        .filter(|point| point.verdict != Verdict::Invalid);
    usable
        .map(|point| {
            let trials = || summary.trials.iter().filter(|trial| trial.point == point.index);
            let values = |metric: &String| cycle_values(trials().map(|trial| &trial.result), metric);
            let of_metric = |metric: &String| (metric.clone(), values(metric));
            MeasuredPoint::new(point, &metrics.iter().map(of_metric).collect())
        })
        .collect()
}

/// The points of a fleet that may be used, for each class of nodes. The nodes of a class are those whose energy is that of most
/// of it, as they are in the status of the fleet: whatever node comes first says nothing about the others.
pub fn measured_fleet(
    spec: &EfficiencyExperimentSpec,
    nodes: &[&NodeResult],
    metrics: &[String],
) -> Vec<MeasuredPoint> {
    let most = Most {
        extremes: 0,
        outliers: 0,
    };
    let classes = classes(spec, nodes, most).into_iter().map(|class| class.point);
    let usable = classes.filter(|class| class.verdict != Verdict::Invalid);
    usable
        .map(|class| {
            let means = |metric: &String| (metric.clone(), class_means(nodes, &class, metric));
            MeasuredPoint::new(&class, &metrics.iter().map(means).collect())
        })
        .collect()
}

/// Count, mean and variance of the logarithms: Welch's t on logarithms looks at nothing else.
fn logarithms(values: &[f64]) -> BaselineMetric {
    let logarithm = |value: &f64| (*value > 0.0 && value.is_finite()).then(|| value.ln());
    let logarithms: Option<Vec<f64>> = values.iter().map(logarithm).collect();
    let logarithms = logarithms.filter(|logarithms| !logarithms.is_empty());
    BaselineMetric {
        count: values.len() as u32,
        mean_logarithm: logarithms.as_deref().map(mean),
        variance_logarithm: logarithms.as_deref().and_then(sample_variance),
    }
}

/// Values whose logarithms have the kept count, mean and variance: half of them lie below the mean and half above it, at the
/// same distance, one of an odd count on it. Welch's t of them is that of the values that were measured. `None` where a
/// value had no logarithm.
fn stand_ins(metric: BaselineMetric) -> Option<Vec<f64>> {
    if metric.count == 0 {
        return Some(Vec::new());
    }
    let mean = metric.mean_logarithm?;
    let pairs = metric.count / 2;
    let squares = metric.variance_logarithm.unwrap_or(0.0) * f64::from(metric.count - 1);
    let distance = (squares / f64::from(2 * pairs.max(1))).sqrt();
    let sides = repeat_n([mean - distance, mean + distance], pairs as usize);
    let middle = repeat_n(mean, (metric.count - 2 * pairs) as usize);
    Some(sides.flatten().chain(middle).map(f64::exp).collect())
}

/// What a comparison with the baseline came to.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Judgement {
    /// Comparisons that were made.
    pub compared: u32,
    /// Shown to be better.
    pub better: u32,
    /// Shown to be worse, and by more than the tolerance.
    pub worse: u32,
    /// Refused.
    pub refused: u32,
    /// Points of the baseline that nothing was held against.
    pub unmatched: u32,
    /// The worst ratio.
    pub worst: Option<ScheduledChange>,
    /// In one sentence.
    pub message: String,
}

/// Compares every point with that of the baseline. Many comparisons at 95 % would find a regression sooner or later where there
/// is none: together they are wrong in at most 5 % of such cases (Bonferroni). What nothing can ever be held against, such as a
/// class of one node, is left out, unless the baseline has nothing else.
pub fn judge(baseline: &[BaselinePoint], present: &[MeasuredPoint], wanted: &ScheduleComparison) -> Judgement {
    let spread = with_a_spread(baseline, wanted);
    let baseline = if spread.is_empty() { baseline } else { &spread };
    let asked = |before: &BaselinePoint, metric: &String| spread.is_empty() || before.metrics.contains_key(metric);
    let pairs: Vec<(&MeasuredPoint, &BaselinePoint, &String)> = present
        .iter()
        .filter_map(|point| Some((point, counterpart(baseline, &point.values)?)))
        .flat_map(|(point, before)| wanted.metrics.iter().map(move |metric| (point, before, metric)))
        .filter(|(_, before, metric)| asked(before, metric))
        .collect();
    let confidence = 1.0 - 0.05 / pairs.len().max(1) as f64;
    let mut judgement = Judgement::default();
    let mut worst: Option<(f64, ScheduledChange)> = None;
    let mut why_refused = None;
    for (point, before, metric) in &pairs {
        let comparison = match compared(metric, before, &point.values, confidence) {
            Ok(comparison) => comparison,
            Err(why) => {
                judgement.refused += 1;
                why_refused.get_or_insert(why);
                continue;
            }
        };
        let more_is_better = metrics::definition(metric).and_then(metrics::MetricDefinition::higher_is_better);
        let badness = if more_is_better == Some(true) {
            1.0 / comparison.ratio
        } else {
            comparison.ratio
        };
        judgement.compared += 1;
        judgement.better += u32::from(comparison.outcome == Outcome::Better);
        let beyond = badness > 1.0 + wanted.tolerance_percent.get() / 100.0;
        judgement.worse += u32::from(comparison.outcome == Outcome::Worse && beyond);
        if worst.as_ref().is_none_or(|(most, _)| badness > *most) {
            let change = ScheduledChange {
                point: point.index,
                node_class: point.values.node_class.clone(),
                metric: (*metric).clone(),
                ratio: finite(comparison.ratio),
                lower: finite(comparison.lower),
                upper: finite(comparison.upper),
            };
            worst = Some((badness, change));
        }
    }
    judgement.worst = worst.map(|(_, change)| change);
    let unmatched = baseline
        .iter()
        .filter(|before| !present.iter().any(|point| same(before, &point.values)));
    judgement.unmatched = unmatched.count() as u32;
    judgement.message = words(&judgement, baseline, present, why_refused);
    judgement
}

/// The points and metrics of a baseline that have two values or more, and a logarithm of each.
fn with_a_spread(baseline: &[BaselinePoint], wanted: &ScheduleComparison) -> Vec<BaselinePoint> {
    let mut points = baseline.to_vec();
    for point in &mut points {
        point
            .metrics
            .retain(|metric, kept| kept.is_comparable() && wanted.metrics.contains(metric));
    }
    points.retain(|point| !point.metrics.is_empty());
    points
}

/// JSON has no infinity, and the interval of two cycles that are far apart goes beyond every number.
fn finite(ratio: f64) -> f64 {
    ratio.min(f64::MAX)
}

fn same(one: &BaselinePoint, other: &BaselinePoint) -> bool {
    one.plan_sha256 == other.plan_sha256 && one.node_class == other.node_class
}

fn counterpart<'a>(baseline: &'a [BaselinePoint], point: &BaselinePoint) -> Option<&'a BaselinePoint> {
    baseline.iter().find(|before| same(before, point))
}

/// One metric of a point against that of the baseline, or why they are not compared.
fn compared(
    metric: &str,
    before: &BaselinePoint,
    after: &BaselinePoint,
    confidence: f64,
) -> Result<Comparison, String> {
    let values = |point: &BaselinePoint| match point.metrics.get(metric) {
        Some(kept) => stand_ins(*kept),
        None => Some(Vec::new()),
    };
    let (Some(baseline), Some(candidate)) = (values(before), values(after)) else {
        return Err(format!(
            "a value of {metric} is not positive and has no logarithm, so there is no ratio to compare"
        ));
    };
    let compared = compare_at(metric, &side(before, &baseline), &side(after, &candidate), confidence);
    compared.map_err(|refusal| refusal.to_string())
}

fn side<'a>(point: &'a BaselinePoint, values: &'a [f64]) -> Side<'a> {
    Side {
        values,
        energy_scope: &point.energy_scope,
        energy_sources: &point.energy_sources,
        node_class: &point.node_class,
        schema_version: point.schema_version,
    }
}

fn words(
    judgement: &Judgement,
    baseline: &[BaselinePoint],
    present: &[MeasuredPoint],
    why_refused: Option<String>,
) -> String {
    if judgement.unmatched as usize == baseline.len() {
        return nothing_fits(baseline.len(), present.len());
    }
    let rest = left_out(judgement, baseline, present, why_refused);
    let Some(worst) = &judgement.worst else {
        return format!("nothing was compared{rest}");
    };
    format!(
        "{} of {} comparisons are worse, {} better; the worst is {} at point {}: {} × the baseline (95 % interval {} … {}){rest}",
        judgement.worse,
        judgement.compared,
        judgement.better,
        worst.metric,
        worst.point,
        readable(worst.ratio),
        readable(worst.lower),
        readable(worst.upper)
    )
}

/// The largest number has 309 digits.
fn readable(ratio: f64) -> String {
    if ratio < 1e6 {
        format!("{ratio:.4}")
    } else {
        format!("{ratio:.4e}")
    }
}

/// Why nothing is known of an experiment, and what leads on.
fn nothing_fits(before: usize, present: usize) -> String {
    if present == 0 {
        return format!("it has no usable point to hold against the {before} of the baseline");
    }
    format!(
        "none of its {present} usable points has the plan and the class of nodes of one of the {before} of the baseline; name an experiment that has them in spec.comparison.baselineExperimentName to hold the next ones against it"
    )
}

/// What the judgement says nothing about.
fn left_out(
    judgement: &Judgement,
    baseline: &[BaselinePoint],
    present: &[MeasuredPoint],
    why_refused: Option<String>,
) -> String {
    let new = present
        .iter()
        .filter(|point| counterpart(baseline, &point.values).is_none())
        .count();
    let refused = why_refused.map(|why| format!("; {} refused, such as: {why}", judgement.refused));
    let vanished = (judgement.unmatched > 0).then(|| {
        format!(
            "; {} of the {} points of the baseline have no usable counterpart",
            judgement.unmatched,
            baseline.len()
        )
    });
    let added = (new > 0).then(|| {
        format!(
            "; {new} of its {} points have nothing in the baseline to be held against",
            present.len()
        )
    });
    [refused, vanished, added].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use lem_crds::status::Progress;
    use serde_json::json;

    use super::*;
    use crate::{
        experiment::{NodePoint, estimate, tests::fixtures::spec},
        report::fixture::Fixture,
    };

    fn result(scope: &[&str], joules_per_token: f64) -> PointResult {
        let mut result = Fixture::new().status.points.remove(0);
        result.energy_scope = scope.iter().map(|domain| (*domain).to_owned()).collect();
        result.metrics.joules_per_token = estimate(&[joules_per_token]);
        result
    }

    fn node(name: &str, scope: &[&str], joules_per_token: f64) -> NodeResult {
        NodeResult {
            node: name.to_owned(),
            progress: Progress::default(),
            partial: Vec::new(),
            points: vec![NodePoint {
                result: result(scope, joules_per_token),
                joules_per_token: vec![joules_per_token, 1.01 * joules_per_token],
                watts: Vec::new(),
                signs: BTreeMap::new(),
            }],
        }
    }

    fn fleet(nodes: &[NodeResult]) -> Vec<MeasuredPoint> {
        let nodes: Vec<&NodeResult> = nodes.iter().collect();
        measured_fleet(&spec(&json!({})), &nodes, &["joulesPerToken".to_owned()])
    }

    fn point(plan: &str, joules_per_token: &[f64]) -> MeasuredPoint {
        let mut result = result(&["gpu"], 1.0);
        plan.clone_into(&mut result.plan_sha256);
        let values = BTreeMap::from([("joulesPerToken".to_owned(), joules_per_token.to_vec())]);
        MeasuredPoint::new(&result, &values)
    }

    fn judged(baseline: &[MeasuredPoint], present: &[MeasuredPoint]) -> Judgement {
        let baseline: Vec<BaselinePoint> = baseline.iter().map(|point| point.values.clone()).collect();
        judge(&baseline, present, &ScheduleComparison::default())
    }

    #[test]
    fn a_first_node_that_lacks_a_domain_does_not_stand_for_its_class() {
        let baseline = [
            node("a", &["cpu", "gpu"], 1.0),
            node("b", &["cpu", "gpu"], 1.01),
            node("c", &["cpu", "gpu"], 0.99),
        ];
        let present = [
            node("a", &["gpu"], 0.9),
            node("b", &["cpu", "gpu"], 1.31),
            node("c", &["cpu", "gpu"], 1.29),
        ];
        let (baseline, present) = (fleet(&baseline), fleet(&present));
        assert_eq!(present.len(), 1);
        assert_eq!(present[0].values.energy_scope, ["cpu", "gpu"]);
        assert_eq!(present[0].values.metrics["joulesPerToken"].count, 2);
        let judgement = judged(&baseline, &present);
        assert_eq!(
            (judgement.compared, judgement.worse, judgement.refused),
            (1, 1, 0),
            "{}",
            judgement.message
        );
    }

    #[test]
    fn what_is_kept_of_values_compares_as_the_values_do() {
        let values = |count: u32, around: f64| -> Vec<f64> {
            let spread = |index: u32| around * (1.0 + f64::from(index * 7 % 11) / 100.0);
            (0..count).map(spread).collect()
        };
        for (before, after) in [(2, 2), (2, 3), (3, 5), (4, 7), (1000, 999)] {
            let (before, after) = (values(before, 1.0), values(after, 1.1));
            let (baseline, present) = (point("plan", &before), point("plan", &after));
            let wanted = compare_at(
                "joulesPerToken",
                &side(&baseline.values, &before),
                &side(&present.values, &after),
                0.95,
            );
            let wanted = wanted.unwrap();
            let found = judged(&[baseline], &[present]).worst.unwrap();
            for (found, wanted) in [
                (found.ratio, wanted.ratio),
                (found.lower, wanted.lower),
                (found.upper, wanted.upper),
            ] {
                assert!((found - wanted).abs() < 1e-9, "{found} instead of {wanted}");
            }
        }
    }

    #[test]
    fn an_interval_beyond_every_number_can_be_written_and_read() {
        let judgement = judged(&[point("plan", &[1e-100, 1e100])], &[point("plan", &[1.0, 1.1])]);
        let worst = judgement.worst.unwrap();
        assert!(worst.upper >= f64::MAX, "{} is no overflow", worst.upper);
        let written = serde_json::to_string(&worst).unwrap();
        let read: ScheduledChange = serde_json::from_str(&written).unwrap();
        assert_eq!(read, worst);
        assert!(judgement.message.contains("1.7977e308"), "{}", judgement.message);
    }

    #[test]
    fn a_thousand_nodes_take_no_more_room_than_three() {
        let of = |count: u32| {
            let joules: Vec<f64> = (0..count).map(|index| 1.0 + f64::from(index) / 1000.0).collect();
            serde_json::to_string(&point("plan", &joules).values).unwrap().len()
        };
        assert!(of(1000) < of(3) + 20, "{} against {}", of(1000), of(3));
    }

    #[test]
    fn a_value_that_is_not_positive_is_refused_with_the_reason() {
        let judgement = judged(&[point("plan", &[1.0, 1.1])], &[point("plan", &[0.0, 1.1])]);
        assert_eq!((judgement.compared, judgement.refused), (0, 1));
        assert!(judgement.message.contains("not positive"), "{}", judgement.message);
    }

    #[test]
    fn points_that_vanished_or_are_new_are_counted_in_the_message() {
        let baseline = [point("a", &[1.0, 1.1]), point("b", &[1.0, 1.1])];
        let present = [point("a", &[1.0, 1.1]), point("c", &[1.0, 1.1])];
        let judgement = judged(&baseline, &present);
        assert_eq!((judgement.compared, judgement.unmatched), (1, 1));
        let message = judgement.message;
        assert!(
            message.contains("1 of the 2 points of the baseline have no usable counterpart"),
            "{message}"
        );
        assert!(
            message.contains("1 of its 2 points have nothing in the baseline to be held against"),
            "{message}"
        );
    }

    #[test]
    fn a_class_of_one_node_leaves_the_others_comparable() {
        let baseline = [point("a", &[1.0, 1.1]), point("b", &[1.0])];
        let present = [point("a", &[1.0, 1.1]), point("b", &[2.0])];
        let judgement = judged(&baseline, &present);
        assert_eq!(
            (judgement.compared, judgement.refused, judgement.unmatched),
            (1, 0, 0),
            "{}",
            judgement.message
        );
        let alone = judged(&baseline[1..], &present[1..]);
        assert_eq!((alone.compared, alone.refused), (0, 1), "{}", alone.message);
    }

    #[test]
    fn without_any_counterpart_the_message_says_how_to_go_on() {
        let judgement = judged(&[point("a", &[1.0, 1.1])], &[point("b", &[1.0, 1.1])]);
        assert_eq!((judgement.compared, judgement.refused, judgement.unmatched), (0, 0, 1));
        let message = judgement.message;
        assert!(message.contains("spec.comparison.baselineExperimentName"), "{message}");
        let judgement = judged(&[point("a", &[1.0, 1.1])], &[]);
        assert_eq!(
            judgement.message,
            "it has no usable point to hold against the 1 of the baseline"
        );
    }
}
