//! `lem compare`: two results, point by point, on their cycles or, of a fleet, on its nodes (METHODOLOGY §11).

use std::path::PathBuf;

use lem_crds::{
    SCHEMA_VERSION,
    metrics::{self, MetricDefinition},
    plan,
    status::PointResult,
};

use super::{End, Output, color, print, report::load, width, yaml};
use crate::{
    experiment::{self, Comparison, Refusal, Side},
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
    let pairs = pairs(baseline, candidate);
    let mut rows = Vec::new();
    for name in &how.metrics {
        let Some(definition) = metrics::definition(name) else {
            eprintln!("error: --metric {name}: no such metric; see the columns of `report … -o csv`");
            return Ok(End::Invalid);
        };
        for &(before, after) in &pairs.both {
            rows.push(row((name, definition), (before, baseline), (after, candidate)));
        }
    }
    if rows.is_empty() {
        eprintln!("error: the two results have no point in common");
        return Ok(End::Invalid);
    }
    rows.extend(pairs.left.iter().map(|point| alone(point, baseline, "left")));
    rows.extend(pairs.right.iter().map(|point| alone(point, candidate, "right")));
    let text = match how.output {
        Output::Table => comparison_terminal(left, right, &rows, color(), width()),
        Output::Json => comparison_json(left, right, &rows)?,
        Output::Yaml => yaml(&comparison_json(left, right, &rows)?)?,
    };
    print(&text)?;
    Ok(End::Valid)
}

/// The points of two results.
struct Pairs<'a> {
    /// Those that are held against each other.
    both: Vec<(&'a PointResult, &'a PointResult)>,
    /// Those that only the baseline has.
    left: Vec<&'a PointResult>,
    /// Those that only the candidate has.
    right: Vec<&'a PointResult>,
}

/// Pairs points of equal sweep values and class of nodes. A single point is compared with a single point whatever they
/// are called. Where the only points of some values are of different classes, they are paired too: the comparison says
/// that it is refused, and why.
fn pairs<'a>(baseline: &'a Summary, candidate: &'a Summary) -> Pairs<'a> {
    let (left, right) = (&baseline.status.points, &candidate.status.points);
    if let ([left], [right]) = (&left[..], &right[..]) {
        return Pairs {
            both: vec![(left, right)],
            left: Vec::new(),
            right: Vec::new(),
        };
    }
    let mut pairs = Pairs {
        both: Vec::new(),
        left: Vec::new(),
        right: right.iter().collect(),
    };
    for point in left {
        let same = |other: &&PointResult| other.values == point.values && other.node_class == point.node_class;
        match pairs.right.iter().position(same) {
            Some(position) => pairs.both.push((point, pairs.right.remove(position))),
            None => pairs.left.push(point),
        }
    }
    for point in std::mem::take(&mut pairs.left) {
        let of_values = |points: &[PointResult]| points.iter().filter(|other| other.values == point.values).count();
        let position = pairs.right.iter().position(|other| other.values == point.values);
        match position.filter(|_| of_values(left) == 1 && of_values(right) == 1) {
            Some(position) => pairs.both.push((point, pairs.right.remove(position))),
            None => pairs.left.push(point),
        }
    }
    pairs
}

/// A point that only one of the results has.
fn alone(point: &PointResult, summary: &Summary, side: &str) -> ComparisonRow {
    ComparisonRow {
        metric: label(point, summary),
        unit: String::new(),
        left_mean: None,
        right_mean: None,
        ratio: None,
        lower: None,
        upper: None,
        conclusion: Conclusion::Refused(format!("only the {side} result has this point")),
    }
}

/// The sweep values of a point, and its class where the result has several.
fn label(point: &PointResult, summary: &Summary) -> String {
    let several = summary
        .status
        .points
        .iter()
        .any(|other| other.node_class != point.node_class);
    match (several, point.values.is_empty()) {
        (false, _) => plan::label(&point.values),
        (true, true) => point.node_class.clone(),
        (true, false) => format!("{} on {}", plan::label(&point.values), point.node_class),
    }
}

/// The values of a metric by which a point is compared: one for each cycle, or of a fleet one for each node.
fn values((point, summary): (&PointResult, &Summary), metric: &str) -> Vec<f64> {
    if summary.status.fleet.is_some() {
        let means = experiment::node_means(&summary.trials, point, metric);
        return means.into_values().collect();
    }
    let of_point = summary.trials.iter().filter(|trial| trial.point == point.index);
    experiment::cycle_values(of_point.map(|trial| &trial.result), metric)
}

/// One metric, under the name that the user gave it, of one point on both sides.
fn row(
    (name, definition): (&str, &MetricDefinition),
    left: (&PointResult, &Summary),
    right: (&PointResult, &Summary),
) -> ComparisonRow {
    let (before, after) = (values(left, name), values(right, name));
    let compared = if left.1.status.fleet.is_some() == right.1.status.fleet.is_some() {
        experiment::compare(name, &side(left.0, &before), &side(right.0, &after))
    } else {
        Err(Refusal::Units)
    };
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
    let (point, summary) = left;
    let metric = if summary.status.points.len() < 2 && point.values.is_empty() {
        name.to_owned()
    } else {
        format!("{name} · {}", label(point, summary))
    };
    ComparisonRow {
        metric,
        unit: definition.unit.to_owned(),
        left_mean: point.metrics.get(name).map(|estimate| estimate.mean),
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

#[cfg(test)]
mod tests {
    use lem_crds::status::FleetStatus;

    use super::*;
    use crate::{
        experiment::summary::{MeasuredTrial, TrialNode},
        report::fixture::Fixture,
    };

    fn summary(change: impl FnOnce(&mut Fixture)) -> Summary {
        let mut fixture = Fixture::new();
        change(&mut fixture);
        Summary {
            status: fixture.status,
            trials: fixture.trials,
        }
    }

    fn indices(pairs: &Pairs<'_>) -> Vec<(u32, u32)> {
        pairs
            .both
            .iter()
            .map(|(left, right)| (left.index, right.index))
            .collect()
    }

    #[test]
    fn a_point_is_held_against_that_of_its_values_and_class_wherever_it_stands_and_what_has_none_is_named() {
        let left = summary(|fixture| fixture.status.points.truncate(3));
        let right = summary(|fixture| {
            fixture.status.points.remove(0);
            fixture.status.points.reverse();
            for (index, point) in (0..).zip(&mut fixture.status.points) {
                point.index = index;
            }
            // The values of the last point once more, on other nodes.
            let mut other = fixture.status.points[2].clone();
            other.node_class = "another CPU".to_owned();
            fixture.status.points.insert(0, other);
        });
        let pairs = pairs(&left, &right);
        assert_eq!(indices(&pairs), [(1, 2), (2, 1)]);
        let names = |points: &[&PointResult]| -> Vec<(String, String)> {
            let name = |point: &&PointResult| (point.values["workload.batchSize"].clone(), point.node_class.clone());
            points.iter().map(name).collect()
        };
        let class = left.status.points[0].node_class.clone();
        assert_eq!(names(&pairs.left), [("1".to_owned(), class.clone())]);
        assert_eq!(
            names(&pairs.right),
            [("4".to_owned(), "another CPU".to_owned()), ("64".to_owned(), class)]
        );
        let row = alone(pairs.right[0], &right, "right");
        assert!(
            row.metric.contains("workload.batchSize=4") && row.metric.ends_with("on another CPU"),
            "{}",
            row.metric
        );
    }

    #[test]
    fn points_that_differ_in_nothing_but_the_class_of_nodes_are_refused_by_name() {
        let left = summary(|_| {});
        let right = summary(|fixture| {
            for point in &mut fixture.status.points {
                point.node_class = "another CPU".to_owned();
            }
        });
        let pairs = pairs(&left, &right);
        assert_eq!((pairs.both.len(), pairs.left.len(), pairs.right.len()), (4, 0, 0));
        let definition = metrics::definition("joules_per_token").unwrap();
        let (before, after) = pairs.both[0];
        let row = row(("joules_per_token", definition), (before, &left), (after, &right));
        assert!(
            matches!(&row.conclusion, Conclusion::Refused(why) if why.contains("node classes differ")),
            "{row:?}"
        );
    }

    /// Nodes of the first point's class, each with two cycles of these joules per token.
    fn fleet(nodes: &[(&str, [f64; 2])]) -> Summary {
        summary(|fixture| {
            fixture.status.fleet = Some(FleetStatus::default());
            fixture.status.points.truncate(1);
            let of_cycle = fixture.trials[0].clone();
            let class = fixture.status.points[0].node_class.clone();
            let trial = |(node, cycle, joules): (&str, u32, f64)| {
                let mut trial: MeasuredTrial = of_cycle.clone();
                trial.node = Some(TrialNode {
                    name: node.to_owned(),
                    class: class.clone(),
                });
                trial.result.cycle = cycle;
                trial.result.metrics.joules_per_token = Some(joules);
                trial
            };
            let cycles = nodes
                .iter()
                .flat_map(|(node, [first, second])| [(*node, 0, *first), (*node, 1, *second)]);
            fixture.trials = cycles.map(trial).collect();
        })
    }

    #[test]
    fn the_units_of_a_fleet_are_the_means_of_its_nodes_and_nodes_of_other_class_or_energy_are_none() {
        let mut fleet = fleet(&[
            ("a", [1.0, 3.0]),
            ("b", [3.0, 5.0]),
            ("c", [9.0, 9.0]),
            ("d", [9.0, 9.0]),
        ]);
        for trial in &mut fleet.trials[4..6] {
            trial.node.as_mut().unwrap().class = "another CPU".to_owned();
        }
        for trial in &mut fleet.trials[6..] {
            trial.result.energy_sources = vec!["estimate".to_owned()];
        }
        assert_eq!(
            values((&fleet.status.points[0], &fleet), "joules_per_token"),
            [2.0, 4.0]
        );
    }

    #[test]
    fn means_of_nodes_are_not_held_against_cycles() {
        let nodes = [("a", [1.0, 3.0]), ("b", [3.0, 5.0])];
        let (left, mut right) = (fleet(&nodes), fleet(&nodes));
        right.status.fleet = None;
        let definition = metrics::definition("joules_per_token").unwrap();
        let points = (&left.status.points[0], &right.status.points[0]);
        let row = row(("joules_per_token", definition), (points.0, &left), (points.1, &right));
        assert!(
            matches!(&row.conclusion, Conclusion::Refused(why) if why.contains("not compared with cycles")),
            "{:?}",
            row.conclusion
        );
    }
}
