//! The open incarnation: from one trial to the next. Pure.

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use lem_crds::{
    experiment::{Barrier, Restart},
    plan::{Point, TrialIdentity},
    runner::{Assignment, RunnerError},
};

use super::{
    super::{
        stall::{self, Cause},
        trial::{self, Judged, ProcessState},
        view::{Incarnation, JobEnd, Seat},
    },
    Change, Decision, Letter, Situation, Stage, failure,
};

/// From the last Ready to the common start: the API server and the watches deliver within some 0.1 s, arming a meter takes
/// up to 0.35 s, and a loaded control plane deserves a margin.
const START_DELAY: SignedDuration = SignedDuration::from_secs(3);
/// A start that was written to some mailboxes only is still worth completing if it is that far ahead.
const LATEST_START: SignedDuration = SignedDuration::from_millis(1000);
/// Windows that a mailbox holds.
const WINDOWS_PER_RUNNER: usize = 64;

/// Leads an open incarnation.
pub(super) fn lead(situation: &Situation<'_>, incarnation: &Incarnation) -> Decision {
    match current(situation, incarnation) {
        Some((trial, point)) => in_trial(situation, incarnation, &trial, point),
        None => between_trials(situation, incarnation),
    }
}

/// The trial that is assigned and has neither all its windows nor a failure.
fn current<'a>(situation: &'a Situation<'_>, incarnation: &Incarnation) -> Option<(TrialIdentity, &'a Point)> {
    let pending = |trial: &TrialIdentity| {
        let reported = |seat: &Seat| seat.windows().any(|window| window == trial);
        let everyone = incarnation.seats.len() == situation.prepared.spec.processes.count as usize;
        let complete = everyone && incarnation.seats.iter().all(reported);
        !complete && !situation.failed(trial)
    };
    let assigned = incarnation.seats.iter().filter_map(Seat::assigned);
    let trial = assigned.filter(|trial| pending(trial)).max()?;
    let points = &situation.prepared.points;
    let point = points.iter().find(|point| point.plan_sha256 == trial.plan_sha256)?;
    Some((trial.clone(), point))
}

fn between_trials(situation: &Situation<'_>, incarnation: &Incarnation) -> Decision {
    let spec = &situation.prepared.spec;
    let mut decision = Decision::at(Stage::Closing);
    let cohort = situation
        .prepared
        .cohorts
        .iter()
        .find(|cohort| cohort.key == incarnation.cohort);
    let job_lost = incarnation
        .job
        .as_ref()
        .is_none_or(|job| job.end.is_some() || job.deleting);
    // A process that was late once may hang for good: all begin anew.
    let hangs = incarnation
        .seats
        .iter()
        .filter_map(Seat::assigned)
        .any(|trial| situation.was_late(trial));
    let full = incarnation
        .seats
        .iter()
        .any(|seat| seat.windows().count() >= WINDOWS_PER_RUNNER);
    let fresh_each_time = spec.processes.restart == Restart::PerTrial && incarnation.windows() > 0;
    let complete = incarnation.seats.len() == spec.processes.count as usize;
    let goes_on = !spec.suspend && !spec.cancel && !job_lost && !hangs && !full && !fresh_each_time && complete;
    let next = cohort.filter(|_| goes_on).and_then(|cohort| situation.next(cohort));
    if let Some(assignment) = next.and_then(|(slot, attempt)| situation.assignment(slot, attempt)) {
        decision.stage = Stage::Measuring(assignment.trial.clone());
        for seat in &incarnation.seats {
            let letter = Letter::Assignment(Box::new(assignment.clone()));
            decision.changes.push(tell(seat, letter));
        }
        return decision;
    }
    finish(incarnation, &mut decision);
    if hangs && incarnation.job.as_ref().is_some_and(|job| !job.deleting) {
        decision.changes.push(Change::DeleteJob {
            name: incarnation.name.clone(),
        });
    }
    decision
}

fn tell(seat: &Seat, letter: Letter) -> Change {
    Change::Tell {
        runner: seat.runner.name_any(),
        letter,
    }
}

/// No window comes any more from these processes.
fn finish(incarnation: &Incarnation, decision: &mut Decision) {
    for seat in incarnation.seats.iter().filter(|seat| !seat.runner.spec.finish) {
        decision.changes.push(tell(seat, Letter::Finish));
    }
}

fn in_trial(situation: &Situation<'_>, incarnation: &Incarnation, trial: &TrialIdentity, point: &Point) -> Decision {
    let spec = &situation.prepared.spec;
    let mut decision = Decision::at(Stage::Measuring(trial.clone()));
    let start = trial::common_start(incarnation, trial);
    let judged = Judged {
        trial,
        point,
        schedule_deadline: spec.placement.clone().unwrap_or_default().schedule_deadline,
        now: situation.now,
    };
    let states: Vec<(&Seat, ProcessState)> = incarnation
        .seats
        .iter()
        .map(|seat| (seat, trial::state(&judged, incarnation, seat)))
        .collect();

    if let Some(job) = &incarnation.job
        && let Some(end) = &job.end
    {
        decision.failures.push(failure(trial, job_failures(&states, end)));
        return decision;
    }
    let stopping = spec.suspend || spec.cancel;
    if stopping
        && start.is_none()
        && !states
            .iter()
            .any(|(_, state)| matches!(state, ProcessState::InWindow { .. }))
    {
        // Nothing is being measured: give the nodes back at once. The trial has not failed, it has not happened.
        decision.stage = Stage::Closing;
        finish(incarnation, &mut decision);
        if incarnation.job.as_ref().is_some_and(|job| !job.deleting) {
            decision.changes.push(Change::DeleteJob {
                name: incarnation.name.clone(),
            });
        }
        return decision;
    }
    let late: Vec<(u32, RunnerError)> = states
        .iter()
        .filter_map(|(seat, state)| Some((seat.process(), trial::overdue(state, situation.now)?)))
        .collect();
    if !late.is_empty() {
        decision.failures.push(failure(trial, late));
        return decision;
    }
    let lost: Vec<(u32, RunnerError)> = states
        .iter()
        .filter_map(|(seat, state)| match state {
            ProcessState::Lost(error) => Some((seat.process(), error.clone())),
            _ => None,
        })
        .collect();
    if !lost.is_empty() {
        decision.failures.push(failure(trial, lost));
        return decision;
    }

    let assignment = situation.assign(trial.clone(), point);
    let missing = incarnation.seats.len() < spec.processes.count as usize;
    if missing || incarnation.job.is_none() {
        decision.changes.push(Change::CreateCohort {
            cohort: incarnation.cohort.clone(),
            incarnation: incarnation.number,
            assignment: Box::new(assignment.clone()),
        });
    }
    for (seat, _) in states.iter().filter(|(seat, _)| seat.assigned() != Some(trial)) {
        decision
            .changes
            .push(tell(seat, Letter::Assignment(Box::new(assignment.clone()))));
    }
    if point.window.barrier == Barrier::Trial && !missing {
        synchronise(situation.now, start, trial, &states, &mut decision);
    }
    describe(incarnation, situation, &states, &mut decision);
    decision
}

/// All ready: one start for all. A start that only some were told is completed as long as it lies ahead.
fn synchronise(
    now: Timestamp,
    start: Option<Timestamp>,
    trial: &TrialIdentity,
    states: &[(&Seat, ProcessState)],
    decision: &mut Decision,
) {
    let start_at = match start {
        None if states
            .iter()
            .all(|(_, state)| matches!(state, ProcessState::Ready { .. })) =>
        {
            now.saturating_add(START_DELAY).unwrap_or(Timestamp::MAX)
        }
        None => return,
        Some(start) => start,
    };
    let uninformed: Vec<&Seat> = states
        .iter()
        .filter(|(seat, state)| seat.start_at().is_none() && *state != ProcessState::Reported)
        .map(|(seat, _)| *seat)
        .collect();
    if uninformed.is_empty() {
        return;
    }
    if start.is_some() && start_at < now.saturating_add(LATEST_START).unwrap_or(Timestamp::MAX) {
        let late = |seat: &&Seat| {
            let error = RunnerError {
                category: "barrier".to_owned(),
                message: "was not told the common start in time".to_owned(),
            };
            (seat.process(), error)
        };
        decision
            .failures
            .push(failure(trial, uninformed.iter().map(late).collect()));
        decision.changes.clear();
        return;
    }
    for seat in uninformed {
        if let Some(assignment) = &seat.runner.spec.assignment {
            let assignment = Assignment {
                start_at: Some(start_at),
                ..assignment.clone()
            };
            decision
                .changes
                .push(tell(seat, Letter::Assignment(Box::new(assignment))));
        }
    }
}

/// How far it is, what stands in the way, and when to look again.
fn describe(
    incarnation: &Incarnation,
    situation: &Situation<'_>,
    states: &[(&Seat, ProcessState)],
    decision: &mut Decision,
) {
    let unplaced = |state: &ProcessState| matches!(state, ProcessState::Unplaced { .. });
    let loading = |state: &ProcessState| matches!(state, ProcessState::Loading { .. });
    if incarnation.windows() == 0 && states.iter().any(|(_, state)| unplaced(state) || loading(state)) {
        let placed = !states.iter().any(|(_, state)| unplaced(state));
        decision.stage = Stage::Starting { placed };
    }
    let obstacle = states.iter().find_map(|(_, state)| match state {
        ProcessState::Unplaced { cause, .. } => cause.clone(),
        _ => None,
    });
    let without_pod = states.iter().any(|(seat, _)| seat.pod.is_none());
    let refused = || {
        let words = situation.observed.job_warning.as_ref().filter(|_| without_pod)?;
        Some(stall::pods_refused(words))
    };
    let ended = || {
        // A process that fails again and again shows here while its Job still replaces it.
        states.iter().find_map(|(seat, state)| match (state, &seat.pod) {
            (ProcessState::Unplaced { .. }, Some(pod)) => {
                let end = pod.end.clone()?;
                let why = seat.runner.status.as_ref().and_then(|status| status.error.clone());
                let fate = if why.as_ref().is_some_and(RunnerError::is_refusal) {
                    "its Job is being ended"
                } else {
                    "its Job starts it again"
                };
                let words = why.map_or(end, |error| error.message);
                let process = seat.process();
                Some(Cause::new(
                    "ProcessFailed",
                    format!("process {process} failed ({words}): {fate}"),
                ))
            }
            _ => None,
        })
    };
    decision.stall = obstacle.or_else(refused).or_else(ended);
    decision.wake_at = states.iter().filter_map(|(_, state)| trial::wake_at(state)).min();
}

/// What ended the Job, process by process; the Job's own words where no process said anything.
fn job_failures(states: &[(&Seat, ProcessState)], end: &JobEnd) -> Vec<(u32, RunnerError)> {
    let said: Vec<(u32, RunnerError)> = states
        .iter()
        .filter_map(|(seat, _)| {
            let error = seat.runner.status.as_ref()?.error.clone()?;
            Some((seat.process(), error))
        })
        .collect();
    if !said.is_empty() {
        return said;
    }
    let ended: Vec<(u32, RunnerError)> = states
        .iter()
        .filter_map(|(seat, _)| {
            let message = seat.pod.as_ref()?.end.clone()?;
            let category = "exited".to_owned();
            Some((seat.process(), RunnerError { category, message }))
        })
        .collect();
    if !ended.is_empty() {
        return ended;
    }
    let message = match end {
        JobEnd::Complete => "its Job ended before every process had reported".to_owned(),
        JobEnd::Failed(words) => format!("its Job failed: {words}"),
    };
    let category = "job".to_owned();
    states
        .iter()
        .filter(|(_, state)| *state != ProcessState::Reported)
        .map(|(seat, _)| {
            let error = RunnerError {
                category: category.clone(),
                message: message.clone(),
            };
            (seat.process(), error)
        })
        .collect()
}
