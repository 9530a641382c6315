//! From a spec to its points: the sweep's grid, each point's load and window, and the hash that names it
//! (METHODOLOGY §1, §10). Pure.

use std::collections::{BTreeMap, BTreeSet};

use lem_crds::{
    EfficiencyExperimentSpec, SCHEMA_VERSION,
    experiment::{Barrier, Engine, PlacementStrategy, SweepAxis, SweepField, SweepValue},
    metrics::{self, MetricDefinition},
    plan::{LoadPlan, Point, WindowPlan, sha256},
    validate::{self, Violation},
};
use serde::Serialize;
use serde_json::Value as Json;

/// Most points of one experiment.
pub const MAXIMUM_POINTS: usize = 100;

/// Why a spec has no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The grid is too large.
    #[error("spec.sweep: it has {points} points, at most {MAXIMUM_POINTS} are measured: take fewer values or axes")]
    TooManyPoints {
        /// Points of the grid.
        points: usize,
    },
    /// An axis without values.
    #[error("spec.sweep: {field} has no values")]
    EmptyAxis {
        /// The swept field.
        field: &'static str,
    },
    /// Two axes of one field.
    #[error("spec.sweep: {field} is swept by more than one axis")]
    RepeatedAxis {
        /// The swept field.
        field: &'static str,
    },
    /// The field belongs to a branch that the spec does not take.
    #[error(
        "spec.sweep: {field} cannot be swept, because the spec has no {missing}: write spec.{missing}, or sweep another field"
    )]
    OtherBranch {
        /// The swept field.
        field: &'static str,
        /// The part of the path that is absent.
        missing: String,
    },
    /// A combination of values would be refused if it were written into the spec.
    #[error("spec.sweep: {values} is refused: {}", validate::listed(violations))]
    Refused {
        /// The swept fields with their values.
        values: String,
        /// What is wrong with it.
        violations: Vec<Violation>,
    },
    /// Two combinations mean the same.
    #[error("spec.sweep: points {first} and {second} are the same: give each value once")]
    RepeatedPoint {
        /// Index of the first.
        first: u32,
        /// Index of the second.
        second: u32,
    },
    /// The stop rule watches what no cycle makes more certain.
    #[error("spec.protocol.stopRule.metric: {metric:?} is no metric that varies between cycles")]
    UnwatchableMetric {
        /// The name.
        metric: String,
    },
    /// The spec serialises to no JSON.
    #[error("the spec cannot be written as JSON")]
    Serialise(#[source] serde_json::Error),
    /// A plan serialises to no JSON.
    #[error("a plan cannot be hashed")]
    Hash(#[source] serde_json::Error),
}

/// Every point of an experiment, in order of the grid: the first axis varies slowest.
///
/// # Errors
/// A sweep that does not fit the spec; each error names the field.
pub fn plan(spec: &EfficiencyExperimentSpec) -> Result<Vec<Point>, PlanError> {
    check_axes(&spec.sweep)?;
    if let Some(rule) = &spec.protocol.stop_rule
        && !metrics::definition(&rule.metric).is_some_and(MetricDefinition::has_spread)
    {
        return Err(PlanError::UnwatchableMetric {
            metric: rule.metric.clone(),
        });
    }
    let base = serde_json::to_value(spec).map_err(PlanError::Serialise)?;
    let mut points: Vec<Point> = Vec::new();
    for (index, combination) in grid(&spec.sweep).into_iter().enumerate() {
        let point = point(index as u32, spec, &base, &combination)?;
        if let Some(first) = points.iter().find(|other| other.plan_sha256 == point.plan_sha256) {
            return Err(PlanError::RepeatedPoint {
                first: first.index,
                second: point.index,
            });
        }
        points.push(point);
    }
    Ok(points)
}

fn check_axes(axes: &[SweepAxis]) -> Result<(), PlanError> {
    let mut seen = BTreeSet::new();
    let mut points = 1_usize;
    for axis in axes {
        let field = axis.field.path();
        if axis.values.is_empty() {
            return Err(PlanError::EmptyAxis { field });
        }
        if !seen.insert(axis.field) {
            return Err(PlanError::RepeatedAxis { field });
        }
        points = points.saturating_mul(axis.values.len());
    }
    if points > MAXIMUM_POINTS {
        return Err(PlanError::TooManyPoints { points });
    }
    Ok(())
}

fn described(combination: &Combination<'_>) -> String {
    let values = combination
        .iter()
        .map(|(field, value)| format!("{} {value}", field.path()));
    values.collect::<Vec<_>>().join(" with ")
}

type Combination<'a> = Vec<(SweepField, &'a SweepValue)>;

/// Every combination of the axes' values; one empty combination without axes.
fn grid(axes: &[SweepAxis]) -> Vec<Combination<'_>> {
    axes.iter().fold(vec![Vec::new()], |combinations, axis| {
        let extended = combinations.iter().flat_map(|combination| {
            axis.values.iter().map(|value| {
                let mut longer = combination.clone();
                longer.push((axis.field, value));
                longer
            })
        });
        extended.collect()
    })
}

/// What the hash of a point covers: everything that its windows measure, and not how often.
#[derive(Serialize)]
struct Hashed<'a> {
    load: &'a LoadPlan,
    window: &'a WindowPlan,
    processes: u32,
    schema_version: u32,
}

fn point(
    index: u32,
    spec: &EfficiencyExperimentSpec,
    base: &Json,
    combination: &Combination<'_>,
) -> Result<Point, PlanError> {
    let mut resolved = spec.clone();
    if !combination.is_empty() {
        let mut json = base.clone();
        for (field, value) in combination {
            set(&mut json, *field, value)?;
        }
        // Admission has seen the spec without these values.
        let admitted = validate::spec(&json).and_then(|()| {
            let unreadable = |error: serde_json::Error| vec![Violation::new("spec", error.to_string())];
            serde_json::from_value(json).map_err(unreadable)
        });
        resolved = admitted.map_err(|violations| PlanError::Refused {
            values: described(combination),
            violations,
        })?;
    }
    let Engine::Candle(mut candle) = resolved.engine;
    let batching = std::mem::take(&mut candle.batching);
    let load = LoadPlan {
        model: resolved.model,
        engine: Engine::Candle(candle),
        energy: resolved.energy,
        baseline: resolved.protocol.baseline,
        gpus: None,
        gpus_per_process: resolved.processes.gpus_per_process,
    };
    let each_node = resolved
        .placement
        .as_ref()
        .is_some_and(|placement| placement.strategy == PlacementStrategy::EachNode);
    let window = WindowPlan {
        workload: resolved.workload,
        decoder: resolved.decoder,
        batching,
        warmup: resolved.protocol.warmup,
        cooldown: resolved.protocol.cooldown,
        // A process that is alone on its node waits for nobody.
        barrier: if each_node && resolved.processes.count == 1 {
            Barrier::None
        } else {
            resolved.protocol.barrier
        },
        deadlines: resolved.protocol.deadlines,
    };
    let hashed = Hashed {
        load: &load,
        window: &window,
        processes: resolved.processes.count,
        schema_version: SCHEMA_VERSION,
    };
    let plan_sha256 = sha256(&hashed).map_err(PlanError::Hash)?;
    let values: BTreeMap<String, String> = combination
        .iter()
        .map(|(field, value)| (field.path().to_owned(), value.to_string()))
        .collect();
    Ok(Point {
        index,
        values,
        load,
        window,
        plan_sha256,
    })
}

/// Puts a value at the field's path. Every part of the path but the last must be there already: creating one would
/// choose another branch of an "exactly one of".
fn set(spec: &mut Json, field: SweepField, value: &SweepValue) -> Result<(), PlanError> {
    let path = field.path();
    let other_branch = |missing: &str| PlanError::OtherBranch {
        field: path,
        missing: missing.to_owned(),
    };
    let (parents, leaf) = path.rsplit_once('.').unwrap_or(("", path));
    let mut place = spec;
    let mut walked = String::new();
    for key in parents.split('.').filter(|key| !key.is_empty()) {
        if !walked.is_empty() {
            walked.push('.');
        }
        walked.push_str(key);
        place = place.get_mut(key).ok_or_else(|| other_branch(&walked))?;
    }
    let object = place.as_object_mut().ok_or_else(|| other_branch(&walked))?;
    let converted = match (object.get(leaf), value) {
        (Some(Json::Number(_)), SweepValue::Text(text)) => text
            .parse::<i64>()
            .map_or_else(|_| Json::from(text.as_str()), Json::from),
        (Some(Json::Number(_)), SweepValue::Integer(number)) => Json::from(*number),
        // Decimals, names and optional fields that are absent are all text.
        (_, value) => Json::from(value.to_string()),
    };
    object.insert(leaf.to_owned(), converted);
    Ok(())
}
