//! What `lem run --dry-run` says: points, trials, and what they will cost.

use std::{collections::BTreeMap, path::Path};

use lem_crds::{
    EfficiencyExperiment, EfficiencyExperimentSpec,
    experiment::{ModelSource, Placement, PlacementStrategy},
    plan::Point,
    status::PlanStatus,
};
use serde::Serialize;

use super::super::Output;
use crate::{
    experiment::{self, Account, Work, plan_status},
    report::number::counted,
};

/// The plan as a machine reads it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Planned<'a> {
    name: &'a str,
    /// It is that of each node, and how many there are only a cluster knows.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    per_node: bool,
    plan: PlanStatus,
    /// Rough time on a small CPU, where the size of the model is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    assumed_seconds: Option<f64>,
    points: Vec<PlannedPoint<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PlannedPoint<'a> {
    index: u32,
    values: &'a BTreeMap<String, String>,
    plan_sha256: &'a str,
}

/// The plan of an experiment, in the form that is asked for.
pub(super) fn show(experiment: &EfficiencyExperiment, output: Output) -> anyhow::Result<String> {
    let spec = &experiment.spec;
    let points = experiment::plan(spec)?;
    let order = experiment::order_trials(&points, spec.protocol.cycles, &spec.protocol.order);
    let cohorts = experiment::group_cohorts(&points, &order, spec.processes.restart)?;
    let work = experiment::work(spec, &points, cohorts.len());
    let name = experiment.metadata.name.as_deref().unwrap_or_default();
    let planned = Planned {
        name,
        per_node: each_node(spec).is_some(),
        plan: plan_status(
            spec,
            &work,
            &Account::default(),
            (0, work.trials as u32),
            spec.processes.count,
        ),
        assumed_seconds: assumed_seconds(spec, &work),
        points: points
            .iter()
            .map(|point| PlannedPoint {
                index: point.index,
                values: &point.values,
                plan_sha256: &point.plan_sha256,
            })
            .collect(),
    };
    Ok(match output {
        Output::Table => text(&planned, spec, &points, &work),
        Output::Json => serde_json::to_string_pretty(&planned)? + "\n",
        Output::Yaml => format!("---\n{}", serde_yaml::to_string(&planned)?),
    })
}

/// The placement of an experiment that measures each node by itself.
fn each_node(spec: &EfficiencyExperimentSpec) -> Option<&Placement> {
    let placement = spec.placement.as_ref();
    placement.filter(|placement| placement.strategy == PlacementStrategy::EachNode)
}

fn text(planned: &Planned<'_>, spec: &EfficiencyExperimentSpec, points: &[Point], work: &Work) -> String {
    let mut lines = vec![format!(
        "{}: {} × {} = {}, {} in {}, model loaded {}",
        planned.name,
        counted(work.points, "point", "points"),
        counted(spec.protocol.cycles as usize, "cycle", "cycles"),
        counted(work.trials, "trial", "trials"),
        counted(work.windows, "window", "windows"),
        counted(spec.processes.count as usize, "process", "processes"),
        if work.loads == 1 {
            "once".to_owned()
        } else {
            format!("{} times", work.loads)
        }
    )];
    let point = |point: &Point| {
        format!(
            "  {:>3}  {}  plan {:.12}",
            point.index,
            point.label(),
            point.plan_sha256
        )
    };
    lines.extend(points.iter().map(point));
    lines.push(format!(
        "each process: {} measured tokens, at least {} requests with warm-up; baselines and cool-downs {:.1} min",
        work.tokens_per_process,
        work.requests_per_process,
        work.fixed_seconds / 60.0
    ));
    if let Some(placement) = each_node(spec) {
        let most = placement.max_concurrent_nodes.map_or_else(
            || placement.concurrent_nodes(u32::MAX).to_string(),
            |most| most.to_string(),
        );
        lines.push(format!(
            "all of that on each node that matches, {most} of them at the same time"
        ));
    }
    let least_gpu_seconds = planned.plan.least_gpu_seconds;
    if least_gpu_seconds > 0.0 {
        let each = if planned.per_node { " of each node" } else { "" };
        lines.push(format!(
            "at least {least_gpu_seconds:.0} GPU seconds{each}, beside loading, warm-up and windows"
        ));
    }
    lines.push(match planned.assumed_seconds {
        Some(seconds) => format!(
            "about {:.0} min on a small CPU (weights read at 4 GB/s by all processes together); a GPU is far faster",
            seconds / 60.0
        ),
        None => "the time in windows depends on the model's size, which is not known before it is loaded".to_owned(),
    });
    lines.join("\n") + "\n"
}

/// Seconds on a small CPU; none where the model's size is not known before it is loaded.
fn assumed_seconds(spec: &EfficiencyExperimentSpec, work: &Work) -> Option<f64> {
    let bytes = model_bytes(spec)?;
    let tokens = work.decoded_tokens_per_process * u64::from(spec.processes.count);
    Some(work.fixed_seconds + tokens as f64 * bytes as f64 / ASSUMED_BYTES_PER_SECOND)
}

/// Weight bytes per second that the engines of a two-core machine stream in decode together; for the forecast only.
const ASSUMED_BYTES_PER_SECOND: f64 = 4e9;

fn model_bytes(spec: &EfficiencyExperimentSpec) -> Option<u64> {
    let ModelSource::Directory(directory) = &spec.model.source else {
        return None;
    };
    let path = Path::new(&directory.path);
    if path.is_file() {
        return path.metadata().ok().map(|metadata| metadata.len());
    }
    let files = path.read_dir().ok()?.filter_map(Result::ok).map(|entry| entry.path());
    let weights = files.filter(|file| file.extension().is_some_and(|e| e == "safetensors" || e == "gguf"));
    Some(
        weights
            .filter_map(|file| file.metadata().ok())
            .map(|metadata| metadata.len())
            .sum(),
    )
}
