//! What all renderings say alike: names, sources, reasons and gaps.

use std::{collections::BTreeMap, fmt::Debug};

use lem_crds::{
    metrics::{self, MetricDefinition, Unavailable},
    plan,
    status::{Doubt, PointResult, Verdict},
};

use super::{Report, number};

/// A metric that the short tables show.
pub(super) struct Column {
    /// Its name in METHODOLOGY.
    pub(super) name: &'static str,
    /// The heading, with unit.
    pub(super) heading: &'static str,
}

/// The metrics of the short tables, in order.
pub(super) const COLUMNS: [Column; 6] = [
    Column {
        name: "effective_throughput",
        heading: "tokens/s",
    },
    Column {
        name: "joules_per_token",
        heading: "J/token",
    },
    Column {
        name: "joules_per_output_token",
        heading: "J/output token",
    },
    Column {
        name: "total_power_w",
        heading: "W",
    },
    Column {
        name: "ttft_ms",
        heading: "TTFT ms",
    },
    Column {
        name: "e2e_latency_p95_ms",
        heading: "p95 ms",
    },
];
/// Metrics whose absence changes what the energy means, though the short tables do not show them.
const DOMAINS: [Column; 3] = [
    Column {
        name: "gpu_energy_j",
        heading: "GPU energy",
    },
    Column {
        name: "cpu_energy_j",
        heading: "CPU energy",
    },
    Column {
        name: "dram_energy_j",
        heading: "DRAM energy",
    },
];

/// A reason for doubt, once, with the points that it is about.
pub(super) struct Reason {
    pub(super) severity: Verdict,
    pub(super) doubt: Doubt,
    pub(super) message: String,
    pub(super) points: Vec<u32>,
}

/// A value that is missing, once, with the points that it is missing from.
pub(super) struct Missing {
    pub(super) what: &'static str,
    pub(super) reason: String,
    pub(super) points: Vec<u32>,
}

/// Text of a user without control characters, which would drive a terminal, break a line or turn its direction.
pub(crate) fn printable(text: &str) -> String {
    let hidden = |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|c| if hidden(c) { '\u{fffd}' } else { c }).collect()
}

/// All values of a point as `field=value, …`; `default` without a sweep.
pub(super) fn whole_label(point: &PointResult) -> String {
    joined(point.values.iter())
}

/// The values in which a point differs from others; all of them where it is alone.
pub(super) fn label(report: &Report<'_>, point: &PointResult) -> String {
    let label = values_label(report, point);
    if report.status.fleet.is_none() {
        return label;
    }
    // A point of a fleet is one class of its nodes.
    let class = printable(&point.node_class);
    if point.values.is_empty() {
        class
    } else {
        format!("{label} on {class}")
    }
}

fn values_label(report: &Report<'_>, point: &PointResult) -> String {
    if report.status.points.len() < 2 {
        return whole_label(point);
    }
    joined(
        point
            .values
            .iter()
            .filter(|(field, value)| !is_common(report, field, value)),
    )
}

/// The values that all points share, where there are several points.
pub(super) fn common_values(report: &Report<'_>) -> Option<String> {
    let [first, _, ..] = report.status.points.as_slice() else {
        return None;
    };
    let mut common = first
        .values
        .iter()
        .filter(|(field, value)| is_common(report, field, value))
        .peekable();
    common.peek()?;
    Some(joined(common))
}

fn is_common(report: &Report<'_>, field: &str, value: &str) -> bool {
    let points = &report.status.points;
    points
        .iter()
        .all(|point| point.values.get(field).is_some_and(|other| other == value))
}

fn joined<'a>(values: impl Iterator<Item = (&'a String, &'a String)>) -> String {
    printable(&plan::label(values))
}

/// Where the energy of a total comes from, such as `cpu: estimate`.
pub(super) fn energy_source(scope: &[String], sources: &[String]) -> String {
    if scope.is_empty() {
        return "no energy".to_owned();
    }
    let sources = if sources.is_empty() {
        "source not stated".to_owned()
    } else {
        sources.join(", ")
    };
    printable(&format!("{}: {sources}", scope.join(" + ")))
}

/// The shown value of a metric of a point: mean ± half-width, `—` without one.
pub(super) fn shown(point: &PointResult, name: &str) -> String {
    point.metrics.get(name).map_or_else(
        || number::NOTHING.to_owned(),
        |estimate| number::estimate(estimate, unit(name)),
    )
}

/// The unit of a metric.
pub(super) fn unit(name: &str) -> &'static str {
    metrics::definition(name).map_or("1", |definition| definition.unit)
}

/// Why a metric is null, looked up under either of its names.
pub(super) fn reason_for_null(
    not_available: &BTreeMap<String, Unavailable>,
    definition: &MetricDefinition,
) -> Option<Unavailable> {
    not_available
        .get(definition.key)
        .or_else(|| not_available.get(definition.name))
        .copied()
}

/// The reason in words of the schema, or that there is none.
pub(super) fn reason_text(reason: Option<Unavailable>) -> String {
    reason.map_or_else(|| "no reason given".to_owned(), |reason| name(&reason))
}

/// The name of a unit variant, which is also its name in JSON.
pub(super) fn name(variant: &impl Debug) -> String {
    format!("{variant:?}")
}

/// Every reason for doubt once, the worst first.
pub(super) fn reasons(report: &Report<'_>) -> Vec<Reason> {
    let mut found: Vec<Reason> = Vec::new();
    for point in &report.status.points {
        for reason in &point.reasons {
            let message = printable(&reason.message);
            let same =
                |r: &&mut Reason| r.doubt == reason.doubt && r.severity == reason.severity && r.message == message;
            if let Some(known) = found.iter_mut().find(same) {
                if known.points.last() != Some(&point.index) {
                    known.points.push(point.index);
                }
            } else {
                found.push(Reason {
                    severity: reason.severity,
                    doubt: reason.doubt,
                    message,
                    points: vec![point.index],
                });
            }
        }
    }
    found.sort_by_key(|reason| std::cmp::Reverse(reason.severity));
    found
}

/// Every missing value of the short tables and every missing energy domain, once per reason.
pub(super) fn missing(report: &Report<'_>) -> Vec<Missing> {
    let mut found: Vec<Missing> = Vec::new();
    for column in COLUMNS.iter().chain(&DOMAINS) {
        let Some(definition) = metrics::definition(column.name) else {
            continue;
        };
        for point in &report.status.points {
            if point.metrics.get(column.name).is_some() {
                continue;
            }
            let reason = reason_text(reason_for_null(&point.not_available, definition));
            match found
                .iter_mut()
                .find(|m| m.what == column.heading && m.reason == reason)
            {
                Some(known) => known.points.push(point.index),
                None => found.push(Missing {
                    what: column.heading,
                    reason,
                    points: vec![point.index],
                }),
            }
        }
    }
    found
}

/// Which points something is about: nothing where it is all of them.
pub(super) fn about(points: &[u32], report: &Report<'_>) -> String {
    if points.len() >= report.status.points.len() {
        return String::new();
    }
    let list: Vec<String> = points.iter().map(u32::to_string).collect();
    let noun = if list.len() == 1 { "point" } else { "points" };
    format!(" ({noun} {})", list.join(", "))
}

/// Every energy scope with its sources, once, with its points.
pub(super) fn scopes(report: &Report<'_>) -> Vec<String> {
    let mut found: Vec<(String, Vec<u32>)> = Vec::new();
    for point in &report.status.points {
        let source = energy_source(&point.energy_scope, &point.energy_sources);
        match found.iter_mut().find(|(known, _)| *known == source) {
            Some((_, points)) => points.push(point.index),
            None => found.push((source, vec![point.index])),
        }
    }
    found
        .into_iter()
        .map(|(source, points)| format!("{source}{}", about(&points, report)))
        .collect()
}
