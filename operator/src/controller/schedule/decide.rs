//! What a schedule asks for now: an experiment, the end of one, the entry of a finished one in the series. Pure.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use lem_crds::{
    EfficiencyExperiment,
    schedule::{
        ConcurrencyPolicy, EfficiencyScheduleSpec, EfficiencyScheduleStatus, ScheduleBaseline, ScheduledResult,
    },
    status::{ExperimentPhase, Verdict},
};

use super::{
    super::{
        aggregate,
        condition::{self, ConditionType, Wanted},
    },
    SCHEDULED_AT_ANNOTATION,
    clock::Clock,
};
use crate::experiment::{self, Judgement, MeasuredPoint};

/// Entries of the series.
const SERIES: usize = 100;

/// An experiment of the schedule, or the one that its user calls the baseline.
#[derive(Debug, Clone)]
pub struct Measured<'a> {
    /// The experiment.
    pub experiment: &'a EfficiencyExperiment,
    /// What it is compared by; read only of those that are over and not in the series yet.
    pub points: Vec<MeasuredPoint>,
}

/// Everything that a decision rests on.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// Generation of the spec.
    pub generation: Option<i64>,
    /// When the schedule was made.
    pub created: Timestamp,
    /// What was asked for.
    pub spec: &'a EfficiencyScheduleSpec,
    /// Why the template cannot run, if it cannot.
    pub refused: Option<&'a str>,
    /// The status so far.
    pub before: &'a EfficiencyScheduleStatus,
    /// Its experiments.
    pub experiments: &'a [Measured<'a>],
    /// The experiment that its user calls the baseline.
    pub named_baseline: Option<&'a Measured<'a>>,
    /// Now.
    pub now: Timestamp,
}

/// What to do, in this order: create, write the status, cancel and delete.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// An experiment for this time.
    pub create: Option<Timestamp>,
    /// The status.
    pub status: EfficiencyScheduleStatus,
    /// Names of experiments that end now.
    pub cancel: Vec<String>,
    /// Names of experiments whose entry stands in the series, and that are beyond the history.
    pub delete: Vec<String>,
    /// When to look again.
    pub wake_at: Option<Timestamp>,
}

/// Decides.
pub fn decide(view: &View<'_>) -> Decision {
    let mut status = view.before.clone();
    status.observed_generation = view.generation;
    let baseline_missing = pin_named_baseline(view, &mut status);
    for finished in newly_over(view) {
        if pins_itself(view, &status, finished) {
            status.baseline = Some(baseline(finished));
        }
        let entry = entry(view, &status, finished);
        status.series.push(entry);
    }
    let surplus = status.series.len().saturating_sub(SERIES);
    status.series.drain(..surplus);
    let running = running(view);
    status.active = running.iter().map(|experiment| experiment.name_any()).collect();
    let clock = Clock::new(&view.spec.schedule, view.spec.time_zone.as_deref());
    let refused = clock
        .as_ref()
        .err()
        .cloned()
        .or_else(|| view.refused.map(ToOwned::to_owned));
    let mut decision = Decision {
        create: None,
        status,
        cancel: Vec::new(),
        delete: surplus_experiments(view),
        wake_at: None,
    };
    decision.status.next_schedule_time = None;
    if let (Ok(clock), None, false) = (&clock, &refused, view.spec.suspend) {
        due(view, clock, &running, &mut decision);
    }
    let wanted = conditions(view, &decision.status, refused, baseline_missing);
    decision.status.conditions = condition::merge(&view.before.conditions, wanted, view.generation, view.now);
    decision
}

/// Creates what is due, and says what comes next.
fn due(view: &View<'_>, clock: &Clock, running: &[&EfficiencyExperiment], decision: &mut Decision) {
    let after = view.before.last_schedule_time.unwrap_or(view.created);
    decision.status.next_schedule_time = clock.next_after(view.now);
    decision.wake_at = decision.status.next_schedule_time;
    let in_time = |time: &Timestamp| {
        let deadline = view
            .spec
            .starting_deadline_seconds
            .map(i64::from)
            .map(SignedDuration::from_secs);
        deadline.is_none_or(|deadline| view.now.duration_since(*time) <= deadline)
    };
    let Some(time) = clock.last_due(after, view.now).filter(in_time) else {
        return;
    };
    match view.spec.concurrency_policy {
        // Its event calls for another look when it is over.
        ConcurrencyPolicy::Forbid if !running.is_empty() => return,
        ConcurrencyPolicy::Forbid | ConcurrencyPolicy::Allow => {}
        ConcurrencyPolicy::Replace => {
            let uncancelled = running.iter().filter(|experiment| !experiment.spec.cancel);
            decision.cancel = uncancelled.map(|experiment| experiment.name_any()).collect();
        }
    }
    decision.create = Some(time);
    decision.status.last_schedule_time = Some(time);
}

fn phase(experiment: &EfficiencyExperiment) -> ExperimentPhase {
    experiment
        .status
        .as_ref()
        .map(|status| status.phase)
        .unwrap_or_default()
}

fn running<'a>(view: &View<'a>) -> Vec<&'a EfficiencyExperiment> {
    let experiments = view.experiments.iter().map(|one| one.experiment);
    let mut running: Vec<_> = experiments.filter(|one| !aggregate::is_over(phase(one))).collect();
    running.sort_by_key(|experiment| experiment.name_any());
    running
}

fn scheduled_at(experiment: &EfficiencyExperiment) -> Option<Timestamp> {
    experiment.annotations().get(SCHEDULED_AT_ANNOTATION)?.parse().ok()
}

/// Experiments that are over and have no entry yet, the oldest first.
fn newly_over<'a>(view: &View<'a>) -> Vec<&'a Measured<'a>> {
    let known = |one: &&Measured<'_>| {
        let uid = one.experiment.uid().unwrap_or_default();
        view.before.series.iter().any(|entry| entry.experiment_uid == uid)
    };
    let over = view
        .experiments
        .iter()
        .filter(|one| aggregate::is_over(phase(one.experiment)));
    let mut fresh: Vec<_> = over.filter(|one| !known(one)).collect();
    fresh.sort_by_key(|one| (scheduled_at(one.experiment), one.experiment.name_any()));
    fresh
}

/// Takes the experiment that the user names; gives why it cannot be taken.
fn pin_named_baseline(view: &View<'_>, status: &mut EfficiencyScheduleStatus) -> Option<String> {
    let name = view.spec.comparison.baseline_experiment_name.as_ref()?;
    if status
        .baseline
        .as_ref()
        .is_some_and(|baseline| baseline.experiment == *name)
        && same_metrics(view, status)
    {
        return None;
    }
    let found = view
        .named_baseline
        .filter(|named| aggregate::is_over(phase(named.experiment)));
    match found {
        Some(named) if !named.points.is_empty() => {
            status.baseline = Some(baseline(named));
            None
        }
        Some(_) => Some(format!("the experiment {name} has no usable point")),
        None => Some(format!("there is no experiment {name} in this namespace that is over")),
    }
}

/// The kept figures are those of the metrics that are asked for now.
fn same_metrics(view: &View<'_>, status: &EfficiencyScheduleStatus) -> bool {
    let points = status.baseline.iter().flat_map(|baseline| &baseline.points);
    let mut missing = points.flat_map(|point| {
        let metrics = view.spec.comparison.metrics.iter();
        metrics.filter(|metric| !point.values.contains_key(*metric))
    });
    missing.next().is_none()
}

/// The first complete experiment of a schedule is its baseline, unless its user names another.
fn pins_itself(view: &View<'_>, status: &EfficiencyScheduleStatus, finished: &Measured<'_>) -> bool {
    let named = view.spec.comparison.baseline_experiment_name.is_some();
    let complete = phase(finished.experiment) == ExperimentPhase::Complete;
    let usable = verdict(finished.experiment).is_some_and(|verdict| verdict != Verdict::Invalid);
    !named && (status.baseline.is_none() || !same_metrics(view, status)) && complete && usable
}

fn verdict(experiment: &EfficiencyExperiment) -> Option<Verdict> {
    let points = experiment.status.iter().flat_map(|status| &status.points);
    points.map(|point| point.verdict).max()
}

fn baseline(of: &Measured<'_>) -> ScheduleBaseline {
    ScheduleBaseline {
        experiment: of.experiment.name_any(),
        experiment_uid: of.experiment.uid().unwrap_or_default(),
        points: of.points.iter().map(|point| point.values.clone()).collect(),
    }
}

fn entry(view: &View<'_>, status: &EfficiencyScheduleStatus, finished: &Measured<'_>) -> ScheduledResult {
    let experiment = finished.experiment;
    let uid = experiment.uid().unwrap_or_default();
    let wanted = &view.spec.comparison;
    let judgement = match &status.baseline {
        Some(baseline) if baseline.experiment_uid == uid => Judgement {
            message: "it is the baseline".to_owned(),
            ..Judgement::default()
        },
        Some(baseline) => experiment::judge(&baseline.points, &finished.points, wanted),
        None => Judgement {
            message: "there is no baseline yet".to_owned(),
            ..Judgement::default()
        },
    };
    ScheduledResult {
        experiment: experiment.name_any(),
        experiment_uid: uid,
        scheduled_at: scheduled_at(experiment),
        phase: phase(experiment),
        verdict: verdict(experiment),
        best: best(experiment, &wanted.metrics),
        compared: judgement.compared,
        better: judgement.better,
        worse: judgement.worse,
        refused: judgement.refused,
        worst: judgement.worst,
        message: judgement.message,
    }
}

fn best(experiment: &EfficiencyExperiment, metrics: &[String]) -> BTreeMap<String, f64> {
    let points = || {
        let all = experiment.status.iter().flat_map(|status| &status.points);
        all.filter(|point| point.verdict != Verdict::Invalid)
    };
    let of_metric = |metric: &String| {
        let means = points().filter_map(|point| Some(point.metrics.get(metric)?.mean));
        let best = if experiment::higher_is_better(metric)? {
            means.reduce(f64::max)
        } else {
            means.reduce(f64::min)
        };
        Some((metric.clone(), best?))
    };
    metrics.iter().filter_map(of_metric).collect()
}

/// Finished experiments beyond the history whose entry is kept in the status that was written last.
fn surplus_experiments(view: &View<'_>) -> Vec<String> {
    let kept = |one: &&Measured<'_>| {
        let uid = one.experiment.uid().unwrap_or_default();
        view.before.series.iter().any(|entry| entry.experiment_uid == uid)
    };
    let mut over: Vec<&Measured<'_>> = view
        .experiments
        .iter()
        .filter(|one| aggregate::is_over(phase(one.experiment)) && one.experiment.metadata.deletion_timestamp.is_none())
        .filter(kept)
        .collect();
    over.sort_by_key(|one| std::cmp::Reverse((scheduled_at(one.experiment), one.experiment.name_any())));
    let (complete, others): (Vec<_>, Vec<_>) = over
        .into_iter()
        .partition(|one| phase(one.experiment) == ExperimentPhase::Complete);
    let beyond = |experiments: Vec<&Measured<'_>>, limit: u32| -> Vec<String> {
        let surplus = experiments.into_iter().skip(limit as usize);
        surplus.map(|one| one.experiment.name_any()).collect()
    };
    let mut names = beyond(complete, view.spec.successful_experiments_history_limit);
    names.extend(beyond(others, view.spec.failed_experiments_history_limit));
    names
}

fn conditions(
    view: &View<'_>,
    status: &EfficiencyScheduleStatus,
    refused: Option<String>,
    baseline_missing: Option<String>,
) -> Vec<Wanted> {
    let accepted = Wanted {
        kind: ConditionType::Accepted,
        holds: refused.is_none(),
        reason: match (&refused, view.spec.suspend) {
            (Some(_), _) => "Refused",
            (None, true) => "Suspended",
            (None, false) => "Scheduled",
        },
        message: refused
            .or(baseline_missing.map(|why| format!("spec.comparison.baselineExperimentName: {why}")))
            .unwrap_or_default(),
    };
    // Without a comparison nothing is known: then the condition is as it was, or absent.
    let last = status.series.iter().rfind(|entry| entry.compared > 0);
    let regressed = last.map(|entry| Wanted {
        kind: ConditionType::Regressed,
        holds: entry.worse > 0,
        reason: if entry.worse > 0 { "Worse" } else { "NotWorse" },
        message: format!("{}: {}", entry.experiment, entry.message),
    });
    [accepted].into_iter().chain(regressed).collect()
}
