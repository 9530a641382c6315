//! The status of a fleet: bounded at any number of nodes. Pure.

use jiff::Timestamp;
use lem_crds::{
    EfficiencyExperimentStatus,
    status::{ExperimentPhase, FleetStatus, NodesWithoutResult, PointResult, Progress, Verdict, VerdictCounts},
};

use super::{
    super::{
        aggregate::{conditions, phase, shorten},
        condition,
        decide::Stage,
        prepare::Prepared,
    },
    decide::FleetDecision,
    look::Outlook,
    nodes::Candidates,
};
use crate::experiment::{
    Account, ClassResult, MAXIMUM_POINTS, Most, NodeResult, classes, objective, pareto_front, plan_status, summary,
    work,
};

/// Lists of a class where there are few classes.
const FEW: Most = Most {
    extremes: 5,
    outliers: 20,
};
/// Lists of a class where there are many.
const MANY: Most = Most {
    extremes: 1,
    outliers: 3,
};
/// Classes, over all points, that are few.
const FEW_CLASSES: usize = 10;

/// What a status is made of.
#[derive(Debug, Clone, Copy)]
pub struct Aggregated<'a> {
    /// The experiment and its plan.
    pub prepared: &'a Prepared,
    /// Generation of its spec.
    pub generation: Option<i64>,
    /// The status so far.
    pub before: &'a EfficiencyExperimentStatus,
    /// Its nodes.
    pub candidates: &'a Candidates,
    /// Each node.
    pub outlooks: &'a [&'a Outlook],
    /// What happens next.
    pub decided: &'a FleetDecision,
    /// Now.
    pub now: Timestamp,
}

/// The status of a fleet that is or was measured.
pub fn status(input: &Aggregated<'_>) -> EfficiencyExperimentStatus {
    let Aggregated {
        prepared,
        generation,
        before,
        candidates,
        outlooks,
        decided,
        now,
    } = *input;
    let results: Vec<&NodeResult> = outlooks.iter().filter_map(|one| one.result.as_ref()).collect();
    let mut classes = classes(&prepared.spec, &results, FEW);
    if classes.len() > FEW_CLASSES {
        classes = crate::experiment::classes(&prepared.spec, &results, MANY);
    }
    let left_out = classes.len().saturating_sub(MAXIMUM_POINTS);
    classes.truncate(MAXIMUM_POINTS);
    let (mut points, classes): (Vec<_>, Vec<_>) = classes
        .into_iter()
        .map(|ClassResult { point, fleet }| (point, fleet))
        .unzip();
    points.iter_mut().for_each(shorten);
    let progress = progress(prepared, outlooks);
    let accounts = outlooks.iter().map(|one| one.account);
    let account = accounts.fold(Account::default(), Account::and);
    let of_node = work(&prepared.spec, &prepared.points, prepared.cohorts.len());
    let counts = (progress.finished, progress.planned);
    let chosen = prepared.spec.objective.as_ref();
    let chosen = chosen.map(|wanted| objective(wanted, &points, &|point, metric| of_nodes(&results, point, metric)));
    let mut status = EfficiencyExperimentStatus {
        observed_generation: generation,
        plan: Some(plan_status(
            &prepared.spec,
            &of_node,
            &account,
            counts,
            decided.nodes.matching * prepared.spec.processes.count,
        )),
        spent: (progress.finished > 0).then(|| account.spent(&prepared.spec)),
        headline: summary::headline(&points, chosen.as_ref()),
        pareto_front: pareto_front(&points),
        objective: chosen,
        points,
        fleet: Some(FleetStatus {
            nodes: decided.nodes,
            without_result: decided.without_result.clone(),
            classes,
            classes_left_out: left_out as u32,
        }),
        warnings: warnings(candidates, decided),
        progress,
        ..EfficiencyExperimentStatus::default()
    };
    if let Stage::Over(end) = &decided.decision.stage {
        let why = end.words().map(ToOwned::to_owned).into_iter();
        status.partial = why.chain(decided.without_result.iter().map(words)).collect();
        let counts = decided.nodes;
        status.phase = match counts.measured {
            0 if status.points.is_empty() => ExperimentPhase::Failed,
            measured if measured == counts.matching => ExperimentPhase::Complete,
            _ => ExperimentPhase::Partial,
        };
    } else {
        status.phase = phase(&decided.decision, status.progress.finished);
    }
    let wanted = conditions(prepared, &decided.decision, &status);
    status.conditions = condition::merge(&before.conditions, wanted, generation, now);
    status
}

/// Means of a metric at a point, one for each node of the point's class that has a usable one.
fn of_nodes(results: &[&NodeResult], of: &PointResult, metric: &str) -> Vec<f64> {
    let points = results.iter().flat_map(|node| &node.points).map(|point| &point.result);
    let same = points.filter(|point| {
        let usable = point.verdict != Verdict::Invalid && point.energy_scope == of.energy_scope;
        usable && point.index == of.index && point.node_class == of.node_class
    });
    same.filter_map(|point| Some(point.metrics.get(metric)?.mean)).collect()
}

/// Trials of all nodes; a node that has reported nothing is planned as the spec says.
fn progress(prepared: &Prepared, outlooks: &[&Outlook]) -> Progress {
    let planned = prepared.slots.len() as u32;
    let mut sum = Progress::default();
    for one in outlooks {
        let Some(result) = &one.result else {
            sum.planned += planned;
            continue;
        };
        let of_node = &result.progress;
        sum.planned += of_node.planned;
        sum.finished += of_node.finished;
        sum.retried += of_node.retried;
        sum.verdicts = VerdictCounts {
            valid: sum.verdicts.valid + of_node.verdicts.valid,
            suspect: sum.verdicts.suspect + of_node.verdicts.suspect,
            invalid: sum.verdicts.invalid + of_node.verdicts.invalid,
        };
    }
    sum.summary = format!("{}/{}", sum.finished, sum.planned);
    sum
}

fn words(entry: &NodesWithoutResult) -> String {
    let more = if entry.count as usize > entry.nodes.len() {
        format!(" and {} more", entry.count as usize - entry.nodes.len())
    } else {
        String::new()
    };
    let nodes = entry.nodes.join(", ");
    format!("{} ({}): {nodes}{more}: {}", entry.reason, entry.count, entry.message)
}

fn warnings(candidates: &Candidates, decided: &FleetDecision) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(taint) = &candidates.taint {
        warnings.push(format!(
            "{} nodes match but for a taint such as {taint}: they are no part of the fleet (spec.placement.tolerations)",
            candidates.tainted
        ));
    }
    if decided.exhausted {
        warnings.push(format!(
            "{} nodes have failed, more than spec.placement.maxFailedNodes: no further one is begun",
            decided.nodes.failed
        ));
    }
    warnings
}
