//! An experiment held against a baseline, point by point and metric by metric (METHODOLOGY §11). Pure.
//!
//! Points are the same where their plans and the class of their nodes are. Of an experiment the units are cycles; of a fleet
//! they are nodes, each with the mean of its cycles.

use std::collections::BTreeMap;

use lem_crds::{
    EfficiencyExperimentSpec, SCHEMA_VERSION, metrics,
    plan::Point,
    schedule::{BaselinePoint, ScheduleComparison, ScheduledChange},
    status::{PointResult, TrialResult, Verdict},
};

use super::{
    Failure, NodeResult, Record,
    compare::{Outcome, Side, compare_at},
    cycle_values, summary,
};

/// A point with the values that it is compared by.
#[derive(Debug, Clone, PartialEq)]
pub struct MeasuredPoint {
    /// Position in the sweep.
    pub index: u32,
    /// The values.
    pub values: BaselinePoint,
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
            let trials = summary.trials.iter().filter(|trial| trial.point == point.index);
            let trials: Vec<TrialResult> = trials.map(|trial| trial.result.clone()).collect();
            let of_metric = |metric: &String| (metric.clone(), cycle_values(&trials, metric));
            measured(point, metrics.iter().map(of_metric).collect())
        })
        .collect()
}

/// The points of a fleet that may be used, for each class of nodes.
pub fn measured_fleet(nodes: &[&NodeResult], metrics: &[String]) -> Vec<MeasuredPoint> {
    let mut classes: BTreeMap<(u32, &str), Vec<&PointResult>> = BTreeMap::new();
    for point in nodes.iter().flat_map(|node| &node.points).map(|point| &point.result) {
        if point.verdict != Verdict::Invalid {
            classes.entry((point.index, &point.node_class)).or_default().push(point);
        }
    }
    let of_class = |members: Vec<&PointResult>| {
        let first = *members.first()?;
        let same = members
            .iter()
            .filter(|point| point.energy_scope == first.energy_scope && point.energy_sources == first.energy_sources);
        let same: Vec<&&PointResult> = same.collect();
        let means = |metric: &String| {
            let of_node = |point: &&&PointResult| Some(point.metrics.get(metric)?.mean);
            (metric.clone(), same.iter().filter_map(of_node).collect())
        };
        Some(measured(first, metrics.iter().map(means).collect()))
    };
    classes.into_values().filter_map(of_class).collect()
}

fn measured(point: &PointResult, values: BTreeMap<String, Vec<f64>>) -> MeasuredPoint {
    MeasuredPoint {
        index: point.index,
        values: BaselinePoint {
            plan_sha256: point.plan_sha256.clone(),
            node_class: point.node_class.clone(),
            energy_scope: point.energy_scope.clone(),
            energy_sources: point.energy_sources.clone(),
            schema_version: SCHEMA_VERSION,
            values,
        },
    }
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
    /// The worst ratio.
    pub worst: Option<ScheduledChange>,
    /// In one sentence.
    pub message: String,
}

/// Compares every point with that of the baseline. Many comparisons at 95 % would find a regression sooner or later where there
/// is none: together they are wrong in at most 5 % of such cases (Bonferroni).
pub fn judge(baseline: &[BaselinePoint], present: &[MeasuredPoint], wanted: &ScheduleComparison) -> Judgement {
    let pairs: Vec<(&MeasuredPoint, &BaselinePoint, &String)> = present
        .iter()
        .filter_map(|point| Some((point, counterpart(baseline, &point.values)?)))
        .flat_map(|(point, before)| wanted.metrics.iter().map(move |metric| (point, before, metric)))
        .collect();
    let confidence = 1.0 - 0.05 / pairs.len().max(1) as f64;
    let mut judgement = Judgement::default();
    let mut worst: Option<(f64, ScheduledChange)> = None;
    let mut why_refused = None;
    for (point, before, metric) in &pairs {
        let compared = compare_at(metric, &side(before, metric), &side(&point.values, metric), confidence);
        let comparison = match compared {
            Ok(comparison) => comparison,
            Err(refusal) => {
                judgement.refused += 1;
                why_refused.get_or_insert_with(|| refusal.to_string());
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
                ratio: comparison.ratio,
                lower: comparison.lower,
                upper: comparison.upper,
            };
            worst = Some((badness, change));
        }
    }
    judgement.worst = worst.map(|(_, change)| change);
    judgement.message = words(&judgement, present.len(), why_refused);
    judgement
}

fn counterpart<'a>(baseline: &'a [BaselinePoint], point: &BaselinePoint) -> Option<&'a BaselinePoint> {
    let same = |other: &&BaselinePoint| other.plan_sha256 == point.plan_sha256 && other.node_class == point.node_class;
    baseline.iter().find(same)
}

fn side<'a>(point: &'a BaselinePoint, metric: &str) -> Side<'a> {
    Side {
        values: point.values.get(metric).map_or(&[], Vec::as_slice),
        energy_scope: &point.energy_scope,
        energy_sources: &point.energy_sources,
        node_class: &point.node_class,
        schema_version: point.schema_version,
    }
}

fn words(judgement: &Judgement, points: usize, why_refused: Option<String>) -> String {
    let refused = why_refused.map_or_else(String::new, |why| {
        format!("; {} refused, such as: {why}", judgement.refused)
    });
    let Some(worst) = &judgement.worst else {
        return if judgement.refused > 0 {
            format!("nothing was compared{refused}")
        } else {
            format!("none of its {points} points has the plan and the class of nodes of one of the baseline")
        };
    };
    format!(
        "{} of {} comparisons are worse, {} better; the worst is {} at point {}: {:.4} × the baseline (95 % interval {:.4} … {:.4}){refused}",
        judgement.worse,
        judgement.compared,
        judgement.better,
        worst.metric,
        worst.point,
        worst.ratio,
        worst.lower,
        worst.upper
    )
}
