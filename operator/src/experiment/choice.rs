//! Which point of a sweep to take: the Pareto front of speed against energy, and the best point under the objective. Pure.
//!
//! Points are ranked within a class of nodes, and only where their total energy has the same domains and sources
//! (METHODOLOGY §11).

use std::collections::BTreeMap;

use lem_crds::{
    SCHEMA_VERSION,
    experiment::Objective,
    metrics,
    status::{BestPoint, FrontPoint, Kept, LimitFigure, ObjectiveClass, ObjectiveStatus, PointResult, Verdict},
};

use super::{
    comparable::{Prevailing, same_energy},
    compare::{Outcome, Side, compare},
};
use crate::report::number;

/// Gives the values of a metric at a point, one for each cycle, or for each node of a fleet.
pub type Values<'a> = dyn Fn(&PointResult, &str) -> Vec<f64> + 'a;

/// Class of nodes, energy domains and sources: what points share whose energy may be compared.
type Kind<'a> = (&'a str, &'a [String], &'a [String]);

/// Usable points by their kind.
fn comparable_groups(points: &[PointResult]) -> BTreeMap<Kind<'_>, Vec<&PointResult>> {
    let mut groups: BTreeMap<_, Vec<&PointResult>> = BTreeMap::new();
    for point in points.iter().filter(|point| point.verdict != Verdict::Invalid) {
        let (scope, sources) = (point.energy_scope.as_slice(), point.energy_sources.as_slice());
        let kind = (point.node_class.as_str(), scope, sources);
        groups.entry(kind).or_default().push(point);
    }
    groups
}

/// The point of fewest joules per token among those whose energy may be compared: one for each class of nodes and each
/// set of domains and sources, in the order of the sweep. Empty without energy.
pub fn cheapest(points: &[PointResult]) -> Vec<&PointResult> {
    let mut found = Vec::new();
    for group in comparable_groups(points).into_values() {
        let figures = group
            .into_iter()
            .filter_map(|point| Some((mean(point, "joules_per_token")?, point)));
        let least = figures.min_by(|left, right| left.0.total_cmp(&right.0));
        found.extend(least.map(|(_, point)| point));
    }
    found.sort_by_key(|point| point.index);
    found
}

/// The points of which no other has at least as many tokens per second for at most as many joules per token, and one of
/// the two better; the fastest first. There is one front for each class of nodes and each set of energy domains and
/// sources, and none where that has only one point.
pub fn pareto_front(points: &[PointResult]) -> Vec<FrontPoint> {
    let mut front = Vec::new();
    for ((class, ..), compared) in comparable_groups(points) {
        let mut candidates: Vec<FrontPoint> = compared
            .into_iter()
            .filter_map(|point| {
                Some(FrontPoint {
                    point: point.index,
                    node_class: class.to_owned(),
                    tokens_per_second: mean(point, "effective_throughput")?,
                    joules_per_token: mean(point, "joules_per_token")?,
                })
            })
            .collect();
        if candidates.len() < 2 {
            continue;
        }
        candidates.sort_by(|left, right| {
            let speed = right.tokens_per_second.total_cmp(&left.tokens_per_second);
            speed.then(left.joules_per_token.total_cmp(&right.joules_per_token))
        });
        let mut least = f64::INFINITY;
        for candidate in candidates {
            if candidate.joules_per_token < least {
                least = candidate.joules_per_token;
                front.push(candidate);
            }
        }
    }
    front
}

/// The best point of each class.
pub fn objective(objective: &Objective, points: &[PointResult], values: &Values<'_>) -> ObjectiveStatus {
    let classes = by_class(points);
    let answer = |(class, members): (&str, Vec<&PointResult>)| of_class(objective, class, &members, values);
    ObjectiveStatus {
        metric: objective.metric().to_owned(),
        classes: classes.into_iter().map(answer).collect(),
    }
}

fn by_class(points: &[PointResult]) -> BTreeMap<&str, Vec<&PointResult>> {
    let mut classes: BTreeMap<&str, Vec<&PointResult>> = BTreeMap::new();
    for point in points {
        classes.entry(&point.node_class).or_default().push(point);
    }
    classes
}

fn of_class(objective: &Objective, class: &str, members: &[&PointResult], values: &Values<'_>) -> ObjectiveClass {
    let metric = objective.metric();
    let usable = members.iter().filter(|point| point.verdict != Verdict::Invalid);
    let usable: Vec<&PointResult> = usable.copied().collect();
    let usable_count = usable.len();
    let comparable = same_energy(usable, Prevailing::Widest);
    let other_energy = usable_count - comparable.len();
    let mut candidates: Vec<Candidate<'_>> = comparable
        .into_iter()
        .filter_map(|point| Candidate::new(objective, point))
        .collect();
    let compared = candidates.len() as u32;
    let left_out = members.len() as u32 - compared;
    let nearest = candidates
        .iter()
        .filter_map(|candidate| Some((candidate.worst_breach?, candidate.point)))
        .min_by(|left, right| left.0.total_cmp(&right.0));
    candidates.retain(|candidate| candidate.worst_breach.is_none());
    let beyond_limits = compared - candidates.len() as u32;
    let less_is_better = objective.minimise.is_some();
    candidates.sort_by(|left, right| {
        let ascending = left.value.total_cmp(&right.value);
        if less_is_better { ascending } else { ascending.reverse() }
    });
    let best = candidates.first().map(|best| {
        let others = candidates.iter().skip(1);
        let not_shown_worse = others.filter(|other| !shown_worse(metric, best.point, other.point, values));
        BestPoint {
            point: best.point.index,
            value: best.value,
            not_shown_worse: not_shown_worse.map(|other| other.point.index).collect(),
            limits: best.limits.clone(),
        }
    });
    let mut message = match (&best, nearest) {
        (Some(best), _) => said(metric, best, members),
        (None, Some((_, nearest))) => format!(
            "no point keeps every limit; the nearest is point {} ({})",
            nearest.index,
            lem_crds::plan::label(&nearest.values)
        ),
        (None, None) => format!("no point has a usable {metric}, and a figure for every limit"),
    };
    if other_energy > 0 {
        let points = number::counted(other_energy, "point", "points");
        message = format!("{message}; not ranked for energy of other domains or sources: {points}");
    }
    ObjectiveClass {
        node_class: class.to_owned(),
        compared,
        beyond_limits,
        left_out,
        best,
        message,
    }
}

/// A point with its figures.
struct Candidate<'a> {
    point: &'a PointResult,
    value: f64,
    limits: Vec<LimitFigure>,
    /// Of its broken limits the largest ratio to the limit, above 1; none where it keeps all.
    worst_breach: Option<f64>,
}

impl<'a> Candidate<'a> {
    /// None where a figure is missing.
    fn new(objective: &Objective, point: &'a PointResult) -> Option<Self> {
        let value = mean(point, objective.metric())?;
        let mut limits = Vec::new();
        let mut worst_breach: Option<f64> = None;
        for (metric, limit) in &objective.subject_to {
            let limit = limit.get();
            let estimate = point.metrics.get(metric)?;
            let more_is_better = metrics::definition(metric)?.higher_is_better()?;
            let keeps = |figure: f64| {
                if more_is_better {
                    figure >= limit
                } else {
                    figure <= limit
                }
            };
            if !keeps(estimate.mean) {
                let excess = if more_is_better {
                    limit / estimate.mean
                } else {
                    estimate.mean / limit
                };
                worst_breach = Some(worst_breach.map_or(excess, |worst| worst.max(excess)));
            }
            let bound = if more_is_better { estimate.lower } else { estimate.upper };
            let kept = if bound.is_some_and(keeps) {
                Kept::Shown
            } else {
                Kept::NotShown
            };
            limits.push(LimitFigure {
                metric: metric.clone(),
                limit,
                value: estimate.mean,
                bound,
                kept,
            });
        }
        Some(Self {
            point,
            value,
            limits,
            worst_breach,
        })
    }
}

fn mean(point: &PointResult, metric: &str) -> Option<f64> {
    point.metrics.get(metric).map(|estimate| estimate.mean)
}

/// Whether the cycles tell that the other point is worse; too few of them do not.
fn shown_worse(metric: &str, best: &PointResult, other: &PointResult, values: &Values<'_>) -> bool {
    let (of_best, of_other) = (values(best, metric), values(other, metric));
    let compared = compare(metric, &as_side(&of_best, best), &as_side(&of_other, other));
    compared.is_ok_and(|comparison| comparison.outcome == Outcome::Worse)
}

fn as_side<'a>(values: &'a [f64], point: &'a PointResult) -> Side<'a> {
    Side {
        values,
        energy_scope: &point.energy_scope,
        energy_sources: &point.energy_sources,
        node_class: &point.node_class,
        schema_version: SCHEMA_VERSION,
    }
}

fn said(metric: &str, best: &BestPoint, members: &[&PointResult]) -> String {
    let unit = metrics::definition(metric).map_or("", |definition| definition.unit);
    let values = members.iter().find(|point| point.index == best.point);
    let label = values.map_or_else(String::new, |point| lem_crds::plan::label(&point.values));
    let mut clauses = vec![format!(
        "point {} ({label}): {metric} {} {unit}",
        best.point,
        number::plain(best.value)
    )];
    if !best.not_shown_worse.is_empty() {
        let points: Vec<String> = best.not_shown_worse.iter().map(ToString::to_string).collect();
        let noun = if points.len() == 1 { "point" } else { "points" };
        clauses.push(format!("not shown to be worse: {noun} {}", points.join(", ")));
    }
    for doubtful in best.limits.iter().filter(|limit| limit.kept == Kept::NotShown) {
        let bound = doubtful.bound.map_or_else(
            || "one cycle has no interval".to_owned(),
            |bound| format!("its interval reaches {}", number::plain(bound)),
        );
        clauses.push(format!(
            "{} {} keeps {} by its mean only, {bound}",
            doubtful.metric,
            number::plain(doubtful.value),
            number::plain(doubtful.limit)
        ));
    }
    clauses.join("; ")
}
