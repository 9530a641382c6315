//! Tables of the page: the summary, every metric of every point, and provenance.

use lem_crds::status::PointResult;
use serde::Serialize;
use serde_json::Value;

use crate::report::{Report, facts, number};

/// One point in the summary.
#[derive(Serialize)]
pub(super) struct SummaryRow {
    index: u32,
    label: String,
    values: Vec<String>,
    source: String,
    verdict: String,
}

/// One point with all its metrics.
#[derive(Serialize)]
pub(super) struct PointTable {
    index: u32,
    label: String,
    verdict: String,
    source: String,
    flops: String,
    node_class: String,
    plan_sha256: String,
    cycles: u32,
    metrics: Vec<MetricRow>,
}

/// One metric of one point.
#[derive(Serialize)]
struct MetricRow {
    name: &'static str,
    description: &'static str,
    unit: &'static str,
    mean: String,
    interval: String,
    variation: String,
    /// Cycles that gave a value, or why none did.
    count: String,
    null: bool,
}

/// One fact with its value per process.
#[derive(Serialize)]
pub(super) struct Fact {
    name: String,
    values: Vec<String>,
}

/// The short table.
pub(super) fn summary(report: &Report<'_>) -> Vec<SummaryRow> {
    let row = |point: &PointResult| SummaryRow {
        index: point.index,
        label: facts::label(report, point),
        values: facts::COLUMNS
            .iter()
            .map(|column| facts::shown(point, column.name))
            .collect(),
        source: facts::energy_source(&point.energy_scope, &point.energy_sources),
        verdict: facts::name(&point.verdict),
    };
    report.status.points.iter().map(row).collect()
}

/// Every metric of every point.
pub(super) fn points(report: &Report<'_>) -> Vec<PointTable> {
    let table = |point: &PointResult| PointTable {
        index: point.index,
        label: facts::whole_label(point),
        verdict: facts::name(&point.verdict),
        source: facts::energy_source(&point.energy_scope, &point.energy_sources),
        flops: match (point.flops_method, point.flops_confidence) {
            (Some(method), Some(confidence)) => format!("{method:?} (confidence {confidence:?})").to_lowercase(),
            _ => "none".to_owned(),
        },
        node_class: facts::printable(&point.node_class),
        plan_sha256: facts::printable(&point.plan_sha256),
        cycles: point.cycles,
        metrics: metrics(point),
    };
    report.status.points.iter().map(table).collect()
}

fn metrics(point: &PointResult) -> Vec<MetricRow> {
    point
        .metrics
        .iter()
        .map(|(definition, estimate)| {
            let nothing = || number::NOTHING.to_owned();
            let reason = || facts::reason_text(facts::reason_for_null(&point.not_available, definition));
            MetricRow {
                name: definition.name,
                description: definition.description,
                unit: definition.unit,
                mean: estimate.map_or_else(nothing, |e| number::estimate(e, definition.unit)),
                interval: estimate.map_or_else(nothing, |e| number::interval(e, definition.unit)),
                variation: estimate
                    .and_then(|e| e.coefficient_of_variation)
                    .map_or_else(nothing, number::percent),
                count: estimate.map_or_else(reason, |e| e.count.to_string()),
                null: estimate.is_none(),
            }
        })
        .collect()
}

/// Where the time of each process went.
pub(super) fn held(report: &Report<'_>) -> Vec<Fact> {
    merged(report, |record| serde_json::to_value(record.held).ok())
}

/// The environment of each process, fact by fact.
pub(super) fn provenance(report: &Report<'_>) -> Vec<Fact> {
    merged(report, |record| {
        let mut value = serde_json::to_value(record.environment.as_ref()?).ok()?;
        let facts = value.as_object_mut()?;
        facts.insert("schemaVersion".to_owned(), record.schema_version.into());
        Some(value)
    })
}

/// Facts of all processes side by side; one value where all processes agree.
fn merged(report: &Report<'_>, facts_of: impl Fn(&lem_crds::RunnerStatus) -> Option<Value>) -> Vec<Fact> {
    let mut names: Vec<String> = Vec::new();
    let mut processes: Vec<(u32, Vec<(String, String)>)> = Vec::new();
    for (process, record) in report.records {
        let mut flat = Vec::new();
        if let Some(value) = facts_of(record) {
            flatten(&mut flat, String::new(), &value);
        }
        for (name, _) in &flat {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        processes.push((*process, flat));
    }
    names.sort();
    names
        .into_iter()
        .map(|name| {
            let of = |flat: &[(String, String)]| {
                let value = flat.iter().find(|(known, _)| *known == name);
                value.map_or_else(|| number::NOTHING.to_owned(), |(_, value)| value.clone())
            };
            let values: Vec<(u32, String)> = processes.iter().map(|(process, flat)| (*process, of(flat))).collect();
            let agree = values.windows(2).all(|pair| pair[0].1 == pair[1].1);
            let values = if agree {
                values.into_iter().take(1).map(|(_, value)| value).collect()
            } else {
                values
                    .into_iter()
                    .map(|(process, value)| format!("process {process}: {value}"))
                    .collect()
            };
            Fact { name, values }
        })
        .collect()
}

fn flatten(found: &mut Vec<(String, String)>, path: String, value: &Value) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                let path = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                flatten(found, path, value);
            }
        }
        Value::Array(array) => {
            for (index, value) in array.iter().enumerate() {
                flatten(found, format!("{path}[{index}]"), value);
            }
        }
        Value::Null => found.push((path, number::NOTHING.to_owned())),
        Value::String(text) => found.push((path, facts::printable(text))),
        Value::Number(number) if number.is_f64() => {
            found.push((path, number::plain(number.as_f64().unwrap_or(f64::NAN))));
        }
        other => found.push((path, other.to_string())),
    }
}
