//! The status of a fleet: bounded at any number of nodes. Pure.

use std::collections::BTreeSet;

use jiff::Timestamp;
use lem_crds::{
    EfficiencyExperimentStatus,
    status::{
        ExperimentPhase, FleetStatus, FrontPoint, Headline, NodesWithoutResult, ObjectiveStatus, PointResult, Progress,
        VerdictCounts,
    },
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
    Account, ClassResult, MAXIMUM_POINTS, Most, NodeResult, cheapest, class_means, classes, objective, pareto_front,
    plan_status, summary, work,
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
/// Lists of a class where there are so many that the store takes no longer ones.
pub(super) const MOST: Most = Most {
    extremes: 1,
    outliers: 1,
};
/// Classes, over all points, that are few, and that are many.
const FEW_CLASSES: usize = 10;
const MANY_CLASSES: usize = 30;

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
        let most = if classes.len() > MANY_CLASSES { MOST } else { MANY };
        classes = crate::experiment::classes(&prepared.spec, &results, most);
    }
    let (mut points, mut classes): (Vec<_>, Vec<_>) = classes
        .into_iter()
        .map(|ClassResult { point, fleet }| (point, fleet))
        .unzip();
    points.iter_mut().for_each(shorten);
    let progress = progress(prepared, outlooks);
    let accounts = outlooks.iter().map(|one| one.account);
    let account = accounts.fold(Account::default(), Account::and);
    let of_node = work(&prepared.spec, &prepared.points, prepared.cohorts.len());
    let counts = (progress.finished, progress.planned);
    // Among all points, also those for which the status has no room.
    let choice = choice(prepared, &points, &results);
    let left_out = points.len() - choice.listed.len();
    keep(&mut points, &choice.listed);
    keep(&mut classes, &choice.listed);
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
        headline: choice.headline,
        pareto_front: choice.front,
        objective: choice.objective,
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

/// Which of the points to take, and which of them a status lists.
struct Choice {
    headline: Option<Headline>,
    front: Vec<FrontPoint>,
    objective: Option<ObjectiveStatus>,
    listed: BTreeSet<usize>,
}

fn choice(prepared: &Prepared, points: &[PointResult], results: &[&NodeResult]) -> Choice {
    let wanted = prepared.spec.objective.as_ref();
    let mut objective =
        wanted.map(|wanted| objective(wanted, points, &|point, metric| class_means(results, point, metric)));
    let mut front = pareto_front(points);
    let listed = listed(points, objective.as_ref(), &front);
    let headline = summary::headline(points, objective.as_ref());
    front.truncate(MAXIMUM_POINTS);
    if let Some(objective) = &mut objective {
        objective.classes.truncate(MAXIMUM_POINTS);
    }
    Choice {
        headline,
        front,
        objective,
        listed,
    }
}

fn keep<T>(list: &mut Vec<T>, positions: &BTreeSet<usize>) {
    let mut position = 0..;
    list.retain(|_| position.next().is_some_and(|position| positions.contains(&position)));
}

/// Positions of the points that a status lists. Where there are too many, those come first that are chosen, then those
/// of the front, then the others in their order.
fn listed(points: &[PointResult], chosen: Option<&ObjectiveStatus>, front: &[FrontPoint]) -> BTreeSet<usize> {
    if points.len() <= MAXIMUM_POINTS {
        return (0..points.len()).collect();
    }
    let position = |index: u32, class: &str| {
        let mut points = points.iter();
        points.position(|point| point.index == index && point.node_class == class)
    };
    let answers = chosen.into_iter().flat_map(|chosen| &chosen.classes);
    let best = answers.filter_map(|class| position(class.best.as_ref()?.point, &class.node_class));
    let least_energy = cheapest(points)
        .into_iter()
        .filter_map(|point| position(point.index, &point.node_class));
    let of_front = front
        .iter()
        .filter_map(|point| position(point.point, &point.node_class));
    let mut listed = BTreeSet::new();
    for position in best.chain(least_energy).chain(of_front).chain(0..points.len()) {
        if listed.len() == MAXIMUM_POINTS {
            break;
        }
        listed.insert(position);
    }
    listed
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
