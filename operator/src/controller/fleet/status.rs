//! The status of a fleet: bounded at any number of nodes. Pure.

use jiff::Timestamp;
use lem_crds::{
    EfficiencyExperimentStatus,
    status::{ExperimentPhase, FleetStatus, NodesWithoutResult, Progress, VerdictCounts},
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
use crate::experiment::{ClassResult, MAXIMUM_POINTS, Most, NodeResult, classes, summary};

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
    let mut status = EfficiencyExperimentStatus {
        observed_generation: generation,
        headline: summary::headline(&points),
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
    if let Stage::Over { cancelled } = decided.decision.stage {
        status.partial = decided.without_result.iter().map(words).collect();
        if cancelled {
            status.partial.insert(0, "cancelled by spec.cancel".to_owned());
        }
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
