//! Nodes of one class at one point: one result for all of them, and who leaves the others. Pure.
//!
//! The units are nodes: means, intervals and medians go over them, each with the mean of its own cycles.

use std::collections::{BTreeMap, BTreeSet};

use lem_crds::{
    EfficiencyExperimentSpec,
    experiment::Pricing,
    metrics::{Estimate, MetricSet, Unavailable},
    status::{
        FleetClass, NodeFigure, NodeSign, OutlierNode, OutlierRule, PointResult, Sign, Spread, Verdict, VerdictReason,
    },
};

use super::{
    super::{
        comparable::{Energy, Metered, Prevailing, same_energy},
        compare::{MINIMUM_FLEET, usual_range},
        efficiency::JOULES_PER_KILOWATT_HOUR,
        statistics::estimate,
    },
    NodePoint, NodeResult,
    difference::apart_from_all,
};

const SECONDS_PER_DAY: f64 = 86_400.0;

/// How long the lists of a class may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Most {
    /// Best and worst nodes each.
    pub extremes: usize,
    /// Outliers with their signs.
    pub outliers: usize,
}

/// Everything about the nodes of one class at one point.
#[derive(Debug, Clone)]
pub struct ClassResult {
    /// Every metric, its interval over nodes.
    pub point: PointResult,
    /// How the nodes compare.
    pub fleet: FleetClass,
}

/// The classes of every point, in order of point and class.
pub fn classes(spec: &EfficiencyExperimentSpec, nodes: &[&NodeResult], most: Most) -> Vec<ClassResult> {
    let mut members: BTreeMap<(u32, &str), Vec<(&str, &NodePoint)>> = BTreeMap::new();
    for node in nodes {
        for point in &node.points {
            let key = (point.result.index, point.result.node_class.as_str());
            members.entry(key).or_default().push((&node.node, point));
        }
    }
    let results = members.into_values().map(|members| class(spec, &members, most));
    results.collect()
}

/// Means of a metric, one for each node that a point of a class is made of.
pub fn class_means(nodes: &[&NodeResult], class: &PointResult, metric: &str) -> Vec<f64> {
    let points = nodes.iter().flat_map(|node| &node.points).map(|point| &point.result);
    let compared = points.filter(|point| {
        let usable = point.verdict != Verdict::Invalid;
        let same_class = point.index == class.index && point.node_class == class.node_class;
        let same_energy = point.energy_scope == class.energy_scope && point.energy_sources == class.energy_sources;
        usable && same_class && same_energy
    });
    compared
        .filter_map(|point| Some(point.metrics.get(metric)?.mean))
        .collect()
}

/// A node with what it came to at the point.
type Member<'a> = (&'a str, &'a NodePoint);

impl Metered for Member<'_> {
    fn energy(&self) -> Energy<'_> {
        (&self.1.result.energy_scope, &self.1.result.energy_sources)
    }
}

fn class(spec: &EfficiencyExperimentSpec, members: &[Member<'_>], most: Most) -> ClassResult {
    let usable = members
        .iter()
        .filter(|(_, point)| point.result.verdict != Verdict::Invalid);
    let usable: Vec<Member<'_>> = usable.copied().collect();
    let usable_count = usable.len();
    let compared = same_energy(usable, Prevailing::Usual);
    let left_out = (usable_count - compared.len()) as u32;
    let figures: Vec<NodeFigure> = compared.iter().map(|(node, point)| point.figure(node)).collect();
    let (rule, outliers) = outliers(&compared, &figures);
    let point = pooled(members, &compared, left_out);
    let mut ranked: Vec<&NodeFigure> = figures.iter().filter(|one| one.joules_per_token.is_some()).collect();
    ranked.sort_by(|left, right| {
        let figure = |one: &NodeFigure| one.joules_per_token.unwrap_or(f64::INFINITY);
        figure(left)
            .total_cmp(&figure(right))
            .then_with(|| left.node.cmp(&right.node))
    });
    // Nobody is among both the best and the worst.
    let extremes = most.extremes.min(ranked.len() / 2);
    let joules_per_token = spread(&figures, |one| one.joules_per_token);
    let mut named: Vec<OutlierNode> = outliers
        .iter()
        .filter_map(|position| {
            let (figure, (_, point)) = (&figures[*position], &compared[*position]);
            outlier(
                spec.pricing.as_ref(),
                figure,
                point,
                &compared,
                joules_per_token?.median,
            )
        })
        .collect();
    named.sort_by(|left, right| {
        let distance = |one: &OutlierNode| one.ratio.ln().abs();
        distance(right)
            .total_cmp(&distance(left))
            .then_with(|| left.figure.node.cmp(&right.figure.node))
    });
    let count = named.len() as u32;
    named.truncate(most.outliers);
    let fleet = FleetClass {
        point: point.index,
        values: point.values.clone(),
        node_class: point.node_class.clone(),
        energy_scope: point.energy_scope.clone(),
        energy_sources: point.energy_sources.clone(),
        nodes: figures.len() as u32,
        suspect: figures.iter().filter(|one| one.verdict == Verdict::Suspect).count() as u32,
        left_out,
        joules_per_token,
        tokens_per_second: spread(&figures, |one| one.tokens_per_second),
        watts: spread(&figures, |one| one.watts),
        best: ranked.iter().take(extremes).map(|one| (*one).clone()).collect(),
        worst: ranked.iter().rev().take(extremes).map(|one| (*one).clone()).collect(),
        slowest: slowest(&figures, most.extremes),
        outlier_rule: rule,
        outliers: count,
        outlier_nodes: named,
    };
    ClassResult { point, fleet }
}

/// The slowest nodes, no more of them than there are nodes beside them.
fn slowest(figures: &[NodeFigure], most: usize) -> Vec<NodeFigure> {
    let mut ranked: Vec<(f64, &NodeFigure)> = figures
        .iter()
        .filter_map(|one| Some((one.tokens_per_second?, one)))
        .collect();
    ranked.sort_by(|(left, one), (right, other)| left.total_cmp(right).then_with(|| one.node.cmp(&other.node)));
    let most = most.min(ranked.len() / 2);
    ranked.into_iter().take(most).map(|(_, one)| one.clone()).collect()
}

fn outliers(compared: &[Member<'_>], figures: &[NodeFigure]) -> (OutlierRule, Vec<usize>) {
    let metered: Vec<(usize, f64)> = figures
        .iter()
        .enumerate()
        .filter_map(|(position, figure)| Some((position, figure.joules_per_token?)))
        .collect();
    if metered.len() < MINIMUM_FLEET {
        // The power of a board that does the same work is far steadier than its speed.
        let metrics: [fn(&NodePoint) -> &[f64]; 2] = [|point| &point.joules_per_token, |point| &point.watts];
        let apart = metrics.map(|metric| {
            let cycles: Vec<&[f64]> = metered
                .iter()
                .map(|(position, _)| metric(compared[*position].1))
                .collect();
            apart_from_all(&cycles, metrics.len())
        });
        if apart.iter().all(Option::is_none) {
            return (OutlierRule::None, Vec::new());
        }
        let found: BTreeSet<usize> = apart.into_iter().flatten().flatten().collect();
        let positions = found.into_iter().map(|index| metered[index].0);
        return (OutlierRule::PairwiseRatio, positions.collect());
    }
    let values: Vec<f64> = metered.iter().map(|(_, value)| *value).collect();
    let usual = usual_range(&values);
    let outside = |value: f64| usual.is_some_and(|usual| !usual.contains(value));
    let positions = metered
        .iter()
        .filter(|(_, value)| outside(*value))
        .map(|(position, _)| *position);
    (OutlierRule::MedianAbsoluteDeviation, positions.collect())
}

fn values(figures: &[NodeFigure], figure: fn(&NodeFigure) -> Option<f64>) -> Vec<f64> {
    figures.iter().filter_map(figure).collect()
}

fn spread(figures: &[NodeFigure], figure: fn(&NodeFigure) -> Option<f64>) -> Option<Spread> {
    let values = values(figures, figure);
    let usual = usual_range(&values)?;
    Some(Spread {
        median: usual.median,
        median_absolute_deviation: usual.deviation,
        minimum: values.iter().copied().reduce(f64::min)?,
        maximum: values.iter().copied().reduce(f64::max)?,
    })
}

fn outlier(
    pricing: Option<&Pricing>,
    figure: &NodeFigure,
    point: &NodePoint,
    compared: &[Member<'_>],
    middle: f64,
) -> Option<OutlierNode> {
    let joules = figure.joules_per_token?;
    let excess = figure.tokens_per_second.map(|rate| {
        let per_day = (joules - middle) * rate * SECONDS_PER_DAY;
        per_day / JOULES_PER_KILOWATT_HOUR
    });
    let price = pricing.and_then(|pricing| {
        let per_kilowatt_hour = pricing.energy_price_per_kilowatt_hour.as_ref()?.get();
        Some(per_kilowatt_hour * pricing.power_usage_effectiveness.get())
    });
    Some(OutlierNode {
        figure: figure.clone(),
        ratio: joules / middle,
        signs: signs(point, compared),
        excess_kilowatt_hours_per_day: excess,
        excess_cost_per_day: excess.zip(price).map(|(energy, price)| energy * price),
    })
}

/// What the node showed beside the median of its class. Conspicuous is what leaves the class as outliers do; in a small
/// class, what lies outside all others.
fn signs(point: &NodePoint, compared: &[Member<'_>]) -> Vec<NodeSign> {
    let sign = |(sign, node): (&Sign, &f64)| {
        let of_class: Vec<f64> = compared
            .iter()
            .filter_map(|(_, other)| other.signs.get(sign).copied())
            .collect();
        let usual = usual_range(&of_class)?;
        let class = usual.median;
        let conspicuous = if of_class.len() < MINIMUM_FLEET {
            let equal_or_beyond = |other: &&f64| (**other - class).abs() >= (node - class).abs();
            // It is in the list itself. A difference below a hundredth is none to look at.
            (node - class).abs() > 0.01 * class.abs() && of_class.iter().filter(equal_or_beyond).count() == 1
        } else {
            !usual.contains(*node)
        };
        Some(NodeSign {
            sign: *sign,
            node: *node,
            class,
            conspicuous,
        })
    };
    point.signs.iter().filter_map(sign).collect()
}

/// One result for the class: of every metric the mean over nodes, with its interval.
fn pooled(members: &[Member<'_>], compared: &[Member<'_>], left_out: u32) -> PointResult {
    // Members of a class at a point agree in everything that is not measured.
    let first = &members[0].1.result;
    let results: Vec<&PointResult> = compared.iter().map(|(_, point)| &point.result).collect();
    let mut not_available: BTreeMap<String, Unavailable> = BTreeMap::new();
    let metrics = MetricSet::from_fn(|definition| {
        let means: Vec<f64> = results
            .iter()
            .filter_map(|result| result.metrics.get(definition.name))
            .map(|estimate: &Estimate| estimate.mean)
            .collect();
        let found = estimate(&means);
        if found.is_none() {
            let why = members
                .iter()
                .find_map(|(_, point)| point.result.not_available.get(definition.key));
            let why = why.copied().unwrap_or(Unavailable::NotReported);
            not_available.insert(definition.key.to_owned(), why);
        }
        found
    });
    let reasons = reasons(members, left_out);
    let verdict = if results.is_empty() {
        Verdict::Invalid
    } else {
        reasons.iter().map(|reason| reason.severity).max().unwrap_or_default()
    };
    let sources: BTreeSet<&String> = results.iter().flat_map(|result| &result.energy_sources).collect();
    let least_confident = results.iter().filter(|result| result.flops_confidence.is_some());
    let least_confident = least_confident.min_by_key(|result| result.flops_confidence);
    PointResult {
        index: first.index,
        values: first.values.clone(),
        plan_sha256: first.plan_sha256.clone(),
        node_class: first.node_class.clone(),
        cycles: results.iter().map(|result| result.cycles).sum(),
        verdict,
        reasons,
        energy_scope: results
            .first()
            .map(|result| result.energy_scope.clone())
            .unwrap_or_default(),
        energy_sources: sources.into_iter().cloned().collect(),
        flops_method: least_confident.and_then(|result| result.flops_method),
        flops_confidence: least_confident.and_then(|result| result.flops_confidence),
        metrics,
        not_available,
        measured_at: members.iter().filter_map(|(_, point)| point.result.measured_at).max(),
    }
}

/// The doubts of the nodes, each once with the number of nodes that have it. A node that is left out makes the class
/// doubtful, not invalid: the others have a result.
fn reasons(members: &[Member<'_>], left_out: u32) -> Vec<VerdictReason> {
    let mut grouped: BTreeMap<_, (u32, Verdict, &str, &str)> = BTreeMap::new();
    for (node, point) in members {
        for reason in point
            .result
            .reasons
            .iter()
            .filter(|reason| reason.severity != Verdict::Valid)
        {
            let entry = grouped
                .entry(reason.doubt)
                .or_insert((0, reason.severity, node, &reason.message));
            entry.0 += 1;
        }
    }
    let total = members.len();
    let mut reasons: Vec<VerdictReason> = grouped
        .into_iter()
        .map(|(doubt, (count, severity, node, message))| VerdictReason {
            doubt,
            severity: severity.min(Verdict::Suspect),
            message: format!("{count} of {total} nodes, such as {node}: {message}"),
        })
        .collect();
    if left_out > 0 {
        reasons.push(VerdictReason {
            doubt: lem_crds::status::Doubt::MixedEnergyScope,
            severity: Verdict::Suspect,
            message: format!("{left_out} of {total} nodes have energy of other domains or sources and are left out"),
        });
    }
    reasons
}
