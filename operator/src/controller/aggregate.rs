//! Step "aggregate": everything that was reported and decided, as the status that a user reads. Pure, and a function of
//! its input alone but for the times of transitions: an unchanged state gives an unchanged status.

use jiff::Timestamp;
use lem_crds::{
    EfficiencyExperimentStatus,
    metrics::{Estimate, MetricSet},
    status::{ExperimentPhase, PointResult, TrialFailure},
};

use super::{
    condition::{self, ConditionType, Wanted},
    decide::{Decision, End, Stage},
    prepare::Prepared,
    stall::Cause,
};
use crate::experiment::{
    Account, Failure, Record, plan_status,
    schedule::{self, Known},
    summary, work,
};

/// Digits of a figure in a status: far below any error of a measurement.
const SIGNIFICANT_DIGITS: usize = 7;
/// Reason of the conditions of an experiment that ended by its user's wish.
pub(super) const CANCELLED: &str = "Cancelled";
/// Reason of the conditions of an experiment whose budget had no room for the rest.
pub(super) const BUDGET_SPENT: &str = "BudgetSpent";

/// What a status is made of.
#[derive(Debug, Clone, Copy)]
pub struct Aggregated<'a> {
    /// The experiment and its plan.
    pub prepared: &'a Prepared,
    /// Generation of its spec.
    pub generation: Option<i64>,
    /// The status so far.
    pub before: &'a EfficiencyExperimentStatus,
    /// What processes reported.
    pub records: &'a [Record],
    /// What happens next.
    pub decision: &'a Decision,
    /// Now.
    pub now: Timestamp,
}

/// The status of an experiment that runs or has run.
pub fn status(input: &Aggregated<'_>) -> EfficiencyExperimentStatus {
    let Aggregated {
        prepared,
        generation,
        before,
        records,
        decision,
        now,
    } = *input;
    let records = &finished_windows(records, decision);
    let failures: Vec<TrialFailure> = before.failures.iter().chain(&decision.failures).cloned().collect();
    let known: Vec<Failure> = failures.iter().map(Failure::from).collect();
    let mut status = summary::summarise(&prepared.spec, &prepared.points, records, &known).status;
    status.points.iter_mut().for_each(shorten);
    status.progress.retried = schedule::retries_used(&Known {
        spec: &prepared.spec,
        points: &prepared.points,
        records,
        failures: &known,
    });
    let account = Account::of(records);
    let of_process = work(&prepared.spec, &prepared.points, prepared.cohorts.len());
    let counts = (status.progress.finished, status.progress.planned);
    status.plan = Some(plan_status(
        &prepared.spec,
        &of_process,
        &account,
        counts,
        prepared.spec.processes.count,
    ));
    let over = matches!(decision.stage, Stage::Over(_));
    if !over {
        status.partial.clear();
        status.phase = phase(decision, status.progress.finished);
        if status.points.is_empty() {
            status.headline = None;
        }
        // What a process has spent so far changes with each of its reports: figures are settled once per trial.
        let settled = status.progress == before.progress && failures == before.failures;
        if settled && !before.points.is_empty() {
            status.points.clone_from(&before.points);
            status.headline.clone_from(&before.headline);
            status.warnings.clone_from(&before.warnings);
            status.pareto_front.clone_from(&before.pareto_front);
            status.objective.clone_from(&before.objective);
        }
        if settled && before.plan.is_some() {
            status.plan.clone_from(&before.plan);
            status.spent = before.spent;
        }
    } else if let Stage::Over(end @ End::Cancelled) = &decision.stage {
        status.partial.splice(0..0, end.words().map(ToOwned::to_owned));
    }
    let wanted = conditions(prepared, decision, &status);
    status.conditions = condition::merge(&before.conditions, wanted, generation, now);
    status.observed_generation = generation;
    status.failures = failures;
    status
}

/// Keeps the digits that can mean something. A sweep of 100 points has 40,000 figures, and the store of the cluster takes
/// objects of 1.5 MiB.
pub(super) fn shorten(point: &mut PointResult) {
    let short = |figure: f64| {
        let text = format!("{figure:.*e}", SIGNIFICANT_DIGITS - 1);
        text.parse().unwrap_or(figure)
    };
    let metrics = &point.metrics;
    point.metrics = MetricSet::from_fn(|definition| {
        let estimate = metrics.get(definition.name)?;
        Some(Estimate {
            mean: short(estimate.mean),
            count: estimate.count,
            standard_deviation: estimate.standard_deviation.map(short),
            lower: estimate.lower.map(short),
            upper: estimate.upper.map(short),
            coefficient_of_variation: estimate.coefficient_of_variation.map(short),
        })
    });
}

/// The records without windows of the trial under way: half a trial is no result, and no doubt about one either.
fn finished_windows(records: &[Record], decision: &Decision) -> Vec<Record> {
    let mut records = records.to_vec();
    if let Stage::Measuring(trial) = &decision.stage {
        for record in &mut records {
            record.status.windows.retain(|window| window.trial != *trial);
        }
    }
    records
}

/// The status of an experiment that cannot run as written.
pub fn refused(
    before: &EfficiencyExperimentStatus,
    generation: Option<i64>,
    message: String,
    now: Timestamp,
) -> EfficiencyExperimentStatus {
    let wanted = vec![Wanted {
        kind: ConditionType::Validated,
        holds: Some(false),
        reason: "Refused",
        message,
    }];
    EfficiencyExperimentStatus {
        observed_generation: generation,
        conditions: condition::merge(&before.conditions, wanted, generation, now),
        phase: ExperimentPhase::Pending,
        ..EfficiencyExperimentStatus::default()
    }
}

/// Nothing more happens to an experiment in this phase.
pub fn is_over(phase: ExperimentPhase) -> bool {
    match phase {
        ExperimentPhase::Complete | ExperimentPhase::Partial | ExperimentPhase::Failed => true,
        ExperimentPhase::Pending
        | ExperimentPhase::Starting
        | ExperimentPhase::Measuring
        | ExperimentPhase::Suspended => false,
    }
}

pub(super) fn phase(decision: &Decision, finished: u32) -> ExperimentPhase {
    match decision.stage {
        Stage::Suspended => ExperimentPhase::Suspended,
        Stage::Fleet(nodes) if nodes.measuring + nodes.measured + nodes.failed == 0 => ExperimentPhase::Pending,
        Stage::Starting { .. } | Stage::Fleet(_) if finished == 0 => ExperimentPhase::Starting,
        Stage::Fleet(_) | Stage::Starting { .. } | Stage::Measuring(_) | Stage::Closing | Stage::Over(_) => {
            ExperimentPhase::Measuring
        }
    }
}

pub(super) fn conditions(prepared: &Prepared, decision: &Decision, status: &EfficiencyExperimentStatus) -> Vec<Wanted> {
    let wanted = |kind, holds, reason, message: String| Wanted {
        kind,
        holds: Some(holds),
        reason,
        message,
    };
    let count = prepared.spec.processes.count;
    let validated = wanted(
        ConditionType::Validated,
        true,
        "Planned",
        format!(
            "{} points, {} trials, {} cohorts of {count} processes{}",
            prepared.points.len(),
            prepared.slots.len(),
            prepared.cohorts.len(),
            if prepared.each_node() { " on each node" } else { "" }
        ),
    );
    let (scheduled, scheduled_reason, scheduled_words) = match &decision.stage {
        Stage::Starting { placed: false } => (false, "Placing", format!("{count} processes are being placed")),
        Stage::Starting { placed: true } | Stage::Measuring(_) | Stage::Closing => {
            (true, "Placed", format!("{count} processes run"))
        }
        Stage::Fleet(nodes) => {
            let words = format!("{} of {} nodes have a process", nodes.measuring, nodes.matching);
            (nodes.measuring > 0, "EachNode", words)
        }
        Stage::Suspended => (false, "Suspended", "no process runs".to_owned()),
        Stage::Over(_) => (false, "Over", "no process is needed any more".to_owned()),
    };
    let (measuring, measuring_reason, measuring_words) = match &decision.stage {
        Stage::Starting { .. } => (false, "Loading", "the model is being loaded".to_owned()),
        Stage::Measuring(trial) => {
            let point = prepared.points.iter().find(|point| point.index == trial.point);
            let label = point.map_or_else(String::new, lem_crds::plan::Point::label);
            let words = format!("{label} cycle {} attempt {}", trial.cycle + 1, trial.attempt + 1);
            (true, "Trial", words)
        }
        Stage::Closing => (
            true,
            "LastBaseline",
            "the processes take their last baseline".to_owned(),
        ),
        Stage::Fleet(nodes) => {
            let words = format!(
                "{} nodes measured, {} failed, {} under way, {} waiting",
                nodes.measured, nodes.failed, nodes.measuring, nodes.waiting
            );
            (nodes.measuring > 0, "EachNode", words)
        }
        Stage::Suspended => (false, "Suspended", "spec.suspend is true".to_owned()),
        Stage::Over(_) => (false, "Over", "nothing more is measured".to_owned()),
    };
    let over = matches!(decision.stage, Stage::Over(_));
    let reason = match (&decision.stage, status.phase) {
        (Stage::Over(End::Cancelled), _) => CANCELLED,
        (Stage::Over(End::Budget(_)), _) => BUDGET_SPENT,
        (Stage::Over(_), ExperimentPhase::Complete) => "Measured",
        (Stage::Over(_), ExperimentPhase::Partial) => "Partial",
        (Stage::Over(_), _) => "NoResult",
        _ => "Running",
    };
    let failed = over && status.phase == ExperimentPhase::Failed;
    let summary = format!("{} trials have a result", status.progress.summary);
    let why = status.partial.first().map_or_else(|| summary.clone(), Clone::clone);
    let suspended = decision.stage == Stage::Suspended;
    vec![
        validated,
        wanted(ConditionType::Scheduled, scheduled, scheduled_reason, scheduled_words),
        wanted(ConditionType::Measuring, measuring, measuring_reason, measuring_words),
        wanted(ConditionType::Complete, over && !failed, reason, summary),
        wanted(
            ConditionType::Failed,
            failed,
            if failed { reason } else { "NotFailed" },
            if failed { why } else { String::new() },
        ),
        wanted(
            ConditionType::Suspended,
            suspended,
            if suspended { "Asked" } else { "NotAsked" },
            if suspended {
                "set spec.suspend to false to go on".to_owned()
            } else {
                String::new()
            },
        ),
        stall(decision.stall.as_ref()),
    ]
}

fn stall(cause: Option<&Cause>) -> Wanted {
    Wanted {
        kind: ConditionType::Stalled,
        holds: Some(cause.is_some()),
        reason: cause.map_or("Progressing", |cause| cause.reason),
        message: cause.map(|cause| cause.message.clone()).unwrap_or_default(),
    }
}

/// Puts what stands in the way into a status that is otherwise as wanted.
pub(super) fn stalled(
    wanted: &mut EfficiencyExperimentStatus,
    before: &EfficiencyExperimentStatus,
    cause: &Cause,
    now: Timestamp,
) {
    let generation = wanted.observed_generation;
    let condition = condition::merge(&before.conditions, vec![stall(Some(cause))], generation, now);
    wanted
        .conditions
        .retain(|one| one.type_ != ConditionType::Stalled.name());
    wanted.conditions.extend(condition);
}
