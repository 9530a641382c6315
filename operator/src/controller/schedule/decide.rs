//! What a schedule asks for now: an experiment, the end of one, the entry of a finished one in the series. Pure.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use lem_crds::{
    EfficiencyExperiment,
    experiment::PlacementStrategy,
    schedule::{
        BaselineMetric, ConcurrencyPolicy, EfficiencyScheduleSpec, EfficiencyScheduleStatus, ScheduleBaseline,
        ScheduleComparison, ScheduledResult,
    },
    status::{ExperimentPhase, Verdict},
};

use super::{
    super::{
        aggregate::{self, BUDGET_SPENT, CANCELLED},
        condition::{self, ConditionType, Wanted},
    },
    SCHEDULED_AT_ANNOTATION,
    clock::Clock,
};
use crate::experiment::{self, Judgement, MeasuredPoint};

/// Entries of the series.
const SERIES: usize = 100;
/// Points of the baseline.
const BASELINE_POINTS: usize = 100;

/// An experiment of the schedule, or the one that its user calls the baseline.
#[derive(Debug, Clone)]
pub struct Measured<'a> {
    /// The experiment.
    pub experiment: &'a EfficiencyExperiment,
    /// What it is compared by; read only of those that are over and whose entry is not settled.
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

/// What to do, in this order: cancel, create, write the status and delete; where one of the first two fails, the status is
/// written without the time. Whoever is stopped in between finds the time due again, and the experiment that was created for
/// it.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// Names of experiments that end now.
    pub cancel: Vec<String>,
    /// An experiment for this time.
    pub create: Option<Timestamp>,
    /// The status.
    pub status: EfficiencyScheduleStatus,
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
    status.series.sort_by(|one, other| age(one).cmp(&age(other)));
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
        cancel: Vec::new(),
        create: None,
        status,
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
    // The one of this time may be there already: the status that says so was not written, or is not seen yet.
    let mut others = running.iter().filter(|one| scheduled_at(one) != Some(time));
    match view.spec.concurrency_policy {
        // Its event calls for another look when it is over.
        ConcurrencyPolicy::Forbid if others.next().is_some() => return,
        ConcurrencyPolicy::Forbid | ConcurrencyPolicy::Allow => {}
        ConcurrencyPolicy::Replace => {
            let uncancelled = others.filter(|experiment| !experiment.spec.cancel);
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

/// Where an entry stands in the series.
fn age(entry: &ScheduledResult) -> (Option<Timestamp>, &str) {
    (entry.scheduled_at, &entry.experiment)
}

/// An experiment has its entry in the series that was written last, or is older than all of a full one: such a one has had it,
/// or has ended when a hundred later ones had.
pub(super) fn settled(series: &[ScheduledResult], experiment: &EfficiencyExperiment) -> bool {
    let uid = experiment.uid().unwrap_or_default();
    let name = experiment.name_any();
    let oldest = series.first().filter(|_| series.len() >= SERIES);
    let older = oldest.is_some_and(|oldest| (scheduled_at(experiment), name.as_str()) < age(oldest));
    older || series.iter().any(|entry| entry.experiment_uid == uid)
}

/// Experiments that are over and have no entry yet, the oldest first.
fn newly_over<'a>(view: &View<'a>) -> Vec<&'a Measured<'a>> {
    let over = view
        .experiments
        .iter()
        .filter(|one| aggregate::is_over(phase(one.experiment)));
    let mut fresh: Vec<_> = over
        .filter(|one| !settled(&view.before.series, one.experiment))
        .collect();
    fresh.sort_by_key(|one| (scheduled_at(one.experiment), one.experiment.name_any()));
    fresh
}

/// Takes the experiment that the user names; gives why it cannot be taken.
fn pin_named_baseline(view: &View<'_>, status: &mut EfficiencyScheduleStatus) -> Option<String> {
    let name = to_pin(&view.spec.comparison, status)?;
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

/// The experiment that the user names, unless its figures are kept already: to work them out again at each look takes every
/// record of it.
pub(super) fn to_pin<'a>(comparison: &'a ScheduleComparison, status: &EfficiencyScheduleStatus) -> Option<&'a str> {
    let name = comparison.baseline_experiment_name.as_deref()?;
    let mut baselines = status.baseline.iter();
    let pinned = baselines.any(|baseline| baseline.experiment == name);
    (!pinned || !same_metrics(comparison, status)).then_some(name)
}

/// The kept figures are those of the metrics that are asked for now.
fn same_metrics(comparison: &ScheduleComparison, status: &EfficiencyScheduleStatus) -> bool {
    let points = status.baseline.iter().flat_map(|baseline| &baseline.points);
    let mut missing = points.flat_map(|point| {
        let metrics = comparison.metrics.iter();
        metrics.filter(|metric| !point.metrics.contains_key(*metric))
    });
    missing.next().is_none()
}

/// The first experiment of a schedule that stands for it is its baseline, unless its user names another.
fn pins_itself(view: &View<'_>, status: &EfficiencyScheduleStatus, finished: &Measured<'_>) -> bool {
    let comparison = &view.spec.comparison;
    let named = comparison.baseline_experiment_name.is_some();
    let wanted = !named && (status.baseline.is_none() || !same_metrics(comparison, status));
    wanted && unfit(finished).is_none()
}

/// Why an experiment is not taken as the baseline, which it would be for good.
fn unfit(finished: &Measured<'_>) -> Option<&'static str> {
    if finished.points.is_empty() {
        Some("it has no usable point")
    } else if !finished.points.iter().any(comparable) {
        Some("no metric of its points has two positive values to compare, of cycles or of nodes of one class")
    } else if !stands_for_the_schedule(finished.experiment) {
        Some("it has not measured enough, or a point of it is invalid")
    } else {
        None
    }
}

/// A point has a spread to compare with in some metric. Not in each: one that is never had here would leave the others without
/// a baseline.
fn comparable(point: &MeasuredPoint) -> bool {
    point.values.metrics.values().any(BaselineMetric::is_comparable)
}

/// An experiment has measured all that it could. A fleet that has lost some nodes has: its points are those of whole classes,
/// and some node of a large fleet is always away.
fn stands_for_the_schedule(experiment: &EfficiencyExperiment) -> bool {
    match phase(experiment) {
        ExperimentPhase::Complete => verdict(experiment).is_some_and(|verdict| verdict != Verdict::Invalid),
        ExperimentPhase::Partial => each_node(experiment) && !cut_short(experiment) && measured_half(experiment),
        ExperimentPhase::Pending
        | ExperimentPhase::Starting
        | ExperimentPhase::Measuring
        | ExperimentPhase::Suspended
        | ExperimentPhase::Failed => false,
    }
}

fn each_node(experiment: &EfficiencyExperiment) -> bool {
    let placement = experiment.spec.placement.as_ref();
    placement.is_some_and(|placement| placement.strategy == PlacementStrategy::EachNode)
}

/// A fleet has left nodes alone that it could have measured: cancelled, out of its budget, or too many have failed.
fn cut_short(experiment: &EfficiencyExperiment) -> bool {
    let Some(status) = &experiment.status else {
        return false;
    };
    let mut ends = status
        .conditions
        .iter()
        .filter(|condition| condition.type_ == ConditionType::Complete.name());
    let ended_early = ends.any(|condition| [CANCELLED, BUDGET_SPENT].contains(&condition.reason.as_str()));
    let most = experiment.spec.placement.as_ref();
    let most = most.and_then(|placement| placement.max_failed_nodes);
    let nodes = status.fleet.as_ref().map(|fleet| fleet.nodes).unwrap_or_default();
    ended_early || most.is_some_and(|most| nodes.failed > most.of(nodes.matching))
}

fn measured_half(experiment: &EfficiencyExperiment) -> bool {
    let fleet = experiment.status.as_ref().and_then(|status| status.fleet.as_ref());
    fleet.is_some_and(|fleet| fleet.nodes.measured >= fleet.nodes.matching.div_ceil(2))
}

fn verdict(experiment: &EfficiencyExperiment) -> Option<Verdict> {
    let points = experiment.status.iter().flat_map(|status| &status.points);
    points.map(|point| point.verdict).max()
}

fn baseline(of: &Measured<'_>) -> ScheduleBaseline {
    let kept = of.points.iter().take(BASELINE_POINTS);
    ScheduleBaseline {
        experiment: of.experiment.name_any(),
        experiment_uid: of.experiment.uid().unwrap_or_default(),
        points: kept.map(|point| point.values.clone()).collect(),
        points_left_out: of.points.len().saturating_sub(BASELINE_POINTS) as u32,
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
            message: match unfit(finished).filter(|_| wanted.baseline_experiment_name.is_none()) {
                Some(why) => format!("there is no baseline yet, and this is none: {why}"),
                None => "there is no baseline yet".to_owned(),
            },
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
        unmatched: judgement.unmatched,
        worst: judgement.worst,
        message: judgement.message,
    }
}

/// None where its points are not comparable: the best of another class of nodes, or of energy that was read otherwise, says
/// nothing of the series.
fn best(experiment: &EfficiencyExperiment, metrics: &[String]) -> BTreeMap<String, f64> {
    let points = || {
        let all = experiment.status.iter().flat_map(|status| &status.points);
        all.filter(|point| point.verdict != Verdict::Invalid)
    };
    let kinds: BTreeSet<_> = points()
        .map(|point| (&point.node_class, &point.energy_scope, &point.energy_sources))
        .collect();
    if kinds.len() > 1 {
        return BTreeMap::new();
    }
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
    let mut over: Vec<&Measured<'_>> = view
        .experiments
        .iter()
        .filter(|one| aggregate::is_over(phase(one.experiment)) && one.experiment.metadata.deletion_timestamp.is_none())
        .filter(|one| settled(&view.before.series, one.experiment))
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
        holds: Some(refused.is_none()),
        reason: match (&refused, view.spec.suspend) {
            (Some(_), _) => "Refused",
            (None, true) => "Suspended",
            (None, false) => "Scheduled",
        },
        message: refused
            .or(baseline_missing.map(|why| format!("spec.comparison.baselineExperimentName: {why}")))
            .unwrap_or_default(),
    };
    let regressed = status.series.last().and_then(regressed);
    [accepted].into_iter().chain(regressed).collect()
}

/// Whether an experiment is worse than the baseline, and why that is said. `None` where it was held against nothing, for it is
/// the baseline or there is none. One worse point is enough; that none is worse takes all of them, for the one that could not
/// be compared may be the one that was worse before.
fn worse(result: &ScheduledResult) -> Option<(Option<bool>, &'static str)> {
    Some(match (result.compared, result.refused, result.unmatched) {
        (0, 0, 0) => return None,
        (0, 0, _) => (None, "NoCounterpart"),
        (0, _, _) => (None, "NotComparable"),
        _ if result.worse > 0 => (Some(true), "Worse"),
        (_, 0, 0) => (Some(false), "NotWorse"),
        _ => (None, "PartlyCompared"),
    })
}

/// What was known last, since there is something that experiments are held against.
pub(super) fn last_known(series: &[ScheduledResult]) -> Option<bool> {
    let newest_first = series.iter().rev();
    newest_first.map_while(worse).find_map(|(holds, _)| holds)
}

/// What the newest experiment says: what an older one came to is no answer for it.
fn regressed(newest: &ScheduledResult) -> Option<Wanted> {
    let (holds, reason) = worse(newest)?;
    Some(Wanted {
        kind: ConditionType::Regressed,
        holds,
        reason,
        message: format!("{}: {}", newest.experiment, newest.message),
    })
}
