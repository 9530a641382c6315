//! `lem compare`: two results, point by point, on their cycles (METHODOLOGY §11).

use std::path::PathBuf;

use lem_crds::{
    SCHEMA_VERSION,
    metrics::{self, MetricDefinition},
    plan,
    status::{PointResult, TrialResult},
};

use super::{End, Output, color, print, report::load, width, yaml};
use crate::{
    experiment::{self, Comparison, Side},
    local::summary::Summary,
    report::{ComparisonRow, Conclusion, comparison_json, comparison_terminal},
};

/// Options of `lem compare`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Folder of the baseline's results.
    #[arg(value_name = "A")]
    baseline: PathBuf,
    /// Folder of the candidate's results.
    #[arg(value_name = "B")]
    candidate: PathBuf,
    #[command(flatten)]
    how: How,
}

/// What is compared and how it is shown, wherever the results come from.
#[derive(Debug, clap::Args)]
pub(super) struct How {
    /// Metrics to compare, by their names in status or METHODOLOGY.
    #[arg(long = "metric", value_name = "NAME", default_values = ["joules_per_token", "joules_per_output_token", "effective_throughput", "total_power_w", "ttft_ms", "e2e_latency_p95_ms"])]
    metrics: Vec<String>,
    /// What to print.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<End> {
    let (_, baseline, _) = load(&arguments.baseline)?;
    let (_, candidate, _) = load(&arguments.candidate)?;
    let (left, right) = (
        arguments.baseline.display().to_string(),
        arguments.candidate.display().to_string(),
    );
    show((&left, &baseline), (&right, &candidate), &arguments.how)
}

/// Prints the comparison of two results, each with its name.
pub(super) fn show(
    (left, baseline): (&str, &Summary),
    (right, candidate): (&str, &Summary),
    how: &How,
) -> anyhow::Result<End> {
    let mut rows = Vec::new();
    for name in &how.metrics {
        let Some(definition) = metrics::definition(name) else {
            eprintln!("error: --metric {name}: no such metric; see the columns of `report … -o csv`");
            return Ok(End::Invalid);
        };
        for (before, after) in pairs(baseline, candidate) {
            rows.push(row((name, definition), (before, baseline), (after, candidate)));
        }
    }
    if rows.is_empty() {
        eprintln!("error: the two results have no point in common");
        return Ok(End::Invalid);
    }
    let text = match how.output {
        Output::Table => comparison_terminal(left, right, &rows, color(), width()),
        Output::Json => comparison_json(left, right, &rows)?,
        Output::Yaml => yaml(&comparison_json(left, right, &rows)?)?,
    };
    print(&text)?;
    Ok(End::Valid)
}

/// Points of equal sweep values; a single point is compared with a single point whatever they are called.
fn pairs<'a>(baseline: &'a Summary, candidate: &'a Summary) -> Vec<(&'a PointResult, &'a PointResult)> {
    if let ([left], [right]) = (&baseline.status.points[..], &candidate.status.points[..]) {
        return vec![(left, right)];
    }
    let same = |left: &&PointResult| candidate.status.points.iter().find(|right| right.values == left.values);
    baseline
        .status
        .points
        .iter()
        .filter_map(|left| Some((left, same(&left)?)))
        .collect()
}

/// One metric, under the name that the user gave it, of one point on both sides.
fn row(
    (name, definition): (&str, &MetricDefinition),
    left: (&PointResult, &Summary),
    right: (&PointResult, &Summary),
) -> ComparisonRow {
    let values = |(point, summary): (&PointResult, &Summary)| {
        let trials: Vec<TrialResult> = summary
            .trials
            .iter()
            .filter(|trial| trial.point == point.index)
            .map(|trial| trial.result.clone())
            .collect();
        experiment::cycle_values(&trials, name)
    };
    let (before, after) = (values(left), values(right));
    let compared = experiment::compare(name, &side(left.0, &before), &side(right.0, &after));
    let (numbers, conclusion) = match compared {
        Ok(Comparison {
            ratio,
            lower,
            upper,
            outcome,
        }) => (
            Some((ratio, lower, upper)),
            match outcome {
                experiment::Outcome::Better => Conclusion::Better,
                experiment::Outcome::Worse => Conclusion::Worse,
                experiment::Outcome::NoDifferenceShown => Conclusion::NoDifferenceShown,
            },
        ),
        Err(refusal) => (None, Conclusion::Refused(refusal.to_string())),
    };
    let label = if left.0.values.is_empty() {
        name.to_owned()
    } else {
        format!("{name} · {}", plan::label(&left.0.values))
    };
    ComparisonRow {
        metric: label,
        unit: definition.unit.to_owned(),
        left_mean: left.0.metrics.get(name).map(|estimate| estimate.mean),
        right_mean: right.0.metrics.get(name).map(|estimate| estimate.mean),
        ratio: numbers.map(|(ratio, _, _)| ratio),
        lower: numbers.map(|(_, lower, _)| lower),
        upper: numbers.map(|(_, _, upper)| upper),
        conclusion,
    }
}

fn side<'a>(point: &'a PointResult, values: &'a [f64]) -> Side<'a> {
    Side {
        values,
        energy_scope: &point.energy_scope,
        energy_sources: &point.energy_sources,
        node_class: &point.node_class,
        schema_version: SCHEMA_VERSION,
    }
}
