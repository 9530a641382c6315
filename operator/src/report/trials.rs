//! The table of trials: one row each, for spreadsheets and data frames. Its columns, whatever they are written as. Pure.

use std::collections::{BTreeMap, BTreeSet};

use lem_crds::metrics::DEFINITIONS;

use super::{Report, facts};
use crate::experiment::summary::MeasuredTrial;

/// One column.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TrialColumn {
    /// Its name; metrics have their names of METHODOLOGY, swept values `value.<field>`.
    pub(super) name: String,
    /// One cell for each trial.
    pub(super) cells: Cells,
}

/// Cells of one type; none where there is no value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Cells {
    /// Texts.
    Text(Vec<Option<String>>),
    /// Whole numbers.
    Integer(Vec<Option<i32>>),
    /// Metrics.
    Number(Vec<Option<f64>>),
}

/// Identity, the node where each is measured by itself, swept values, verdict, scope, every metric, and the reasons of
/// those that are null in `not_available`.
pub(super) fn columns(report: &Report<'_>) -> Vec<TrialColumn> {
    // A status may have no room for a point, the plan has: it tells what a trial has measured.
    let planned = report
        .points
        .iter()
        .map(|point| (point.index, &point.values, &point.plan_sha256));
    let listed = report.status.points.iter();
    let listed = listed.map(|point| (point.index, &point.values, &point.plan_sha256));
    let known: BTreeMap<u32, _> = listed
        .chain(planned)
        .map(|(index, values, plan)| (index, (values, plan)))
        .collect();
    let fields: BTreeSet<&str> = known
        .values()
        .flat_map(|(values, _)| values.keys().map(String::as_str))
        .collect();
    let point = |trial: &MeasuredTrial| known.get(&trial.point);
    let text = |name: &str, value: &dyn Fn(&MeasuredTrial) -> Option<String>| TrialColumn {
        name: name.to_owned(),
        cells: Cells::Text(report.trials.iter().map(value).collect()),
    };
    let integer = |name: &str, value: &dyn Fn(&MeasuredTrial) -> u32| TrialColumn {
        name: name.to_owned(),
        cells: Cells::Integer(
            report
                .trials
                .iter()
                .map(|trial| i32::try_from(value(trial)).ok())
                .collect(),
        ),
    };
    let mut columns = vec![
        text("experiment", &|_| Some(report.experiment_name.to_owned())),
        text("model", &|_| Some(report.model.to_owned())),
        integer("point", &|trial| trial.point),
    ];
    columns.extend(fields.iter().map(|field| {
        let value = |trial: &MeasuredTrial| point(trial)?.0.get(*field).cloned();
        text(&format!("value.{field}"), &value)
    }));
    columns.extend([
        text("node", &|trial| Some(trial.node.as_ref()?.name.clone())),
        text("node_class", &|trial| match &trial.node {
            Some(node) => Some(node.class.clone()),
            None => Some(report.point(trial.point)?.node_class.clone()),
        }),
        text("plan_sha256", &|trial| Some(point(trial)?.1.clone())),
        integer("cycle", &|trial| trial.result.cycle),
        integer("attempt", &|trial| trial.result.attempt),
        text("verdict", &|trial| Some(facts::name(&trial.result.verdict))),
        text("reasons", &|trial| some_text(reasons(trial))),
        integer("processes", &|trial| trial.result.processes),
        text("energy_scope", &|trial| some_text(trial.result.energy_scope.join("+"))),
        text("energy_sources", &|trial| {
            some_text(trial.result.energy_sources.join("+"))
        }),
        text("flops_method", &|trial| {
            Some(facts::name(&trial.result.flops_method?).to_lowercase())
        }),
        text("flops_confidence", &|trial| {
            Some(facts::name(&trial.result.flops_confidence?).to_lowercase())
        }),
    ]);
    columns.extend(DEFINITIONS.iter().map(|definition| {
        let value = |trial: &MeasuredTrial| trial.result.metrics.get(definition.name).copied();
        TrialColumn {
            name: definition.name.to_owned(),
            cells: Cells::Number(report.trials.iter().map(value).collect()),
        }
    }));
    columns.push(text("not_available", &|trial| some_text(not_available(trial))));
    columns
}

fn some_text(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn reasons(trial: &MeasuredTrial) -> String {
    let reasons = trial.result.reasons.iter();
    let reasons: Vec<String> = reasons
        .map(|reason| format!("{:?}: {}", reason.doubt, reason.message))
        .collect();
    reasons.join("; ")
}

fn not_available(trial: &MeasuredTrial) -> String {
    let nulls = trial.result.metrics.iter().filter(|(_, value)| value.is_none());
    let nulls: Vec<String> = nulls
        .map(|(definition, _)| {
            let reason = facts::reason_for_null(&trial.result.not_available, definition);
            format!("{}={}", definition.name, facts::reason_text(reason))
        })
        .collect();
    nulls.join("; ")
}
