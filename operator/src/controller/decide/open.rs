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
        stall::Cause,
        trial::{self, Judged, ProcessState},
        view::{Incarnation, JobEnd, Seat},
    },
    Change, Decision, Letter, Situation, Stage, WINDOWS_PER_RUNNER, delete_job, failure, neighbour,
};

/// From the last Ready to the common start: the API server and the watches deliver within some 0.1 s, arming a meter takes
/// up to 0.35 s, and a loaded control plane deserves a margin.
const START_DELAY: SignedDuration = SignedDuration::from_secs(3);
/// A start that was written to some mailboxes only is still worth completing if it is that far ahead.
const LATEST_START: SignedDuration = SignedDuration::from_millis(1000);

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
    let trial = assigned.filter(|trial| pending(trial)).max()?.clone();
    let point = situation.point(&trial)?;
    Some((trial, point))
}

fn between_trials(situation: &Situation<'_>, incarnation: &Incarnation) -> Decision {
    let spec = &situation.prepared.spec;
    let job_lost = incarnation
        .job
        .as_ref()
        .is_none_or(|job| job.end.is_some() || job.deleting);
    // A process that was late once may hang for good, and one on a lost node is not replaced: all begin anew.
    let late = |held: &Assignment| situation.was_late(&held.trial);
    let hangs = incarnation.seats.iter().flat_map(Seat::held).any(late) || incarnation.stranded(situation.now);
    let full = incarnation
        .seats
        .iter()
        .any(|seat| seat.windows().count() >= WINDOWS_PER_RUNNER);
    let fresh_each_time = spec.processes.restart == Restart::PerTrial && incarnation.windows() > 0;
    let complete = incarnation.seats.len() == spec.processes.count as usize;
    let affordable = situation.over_budget(1).is_none();
    let goes_on =
        !spec.suspend && !spec.cancel && affordable && !job_lost && !hangs && !full && !fresh_each_time && complete;
    let next = situation
        .cohort(incarnation)
        .filter(|_| goes_on)
        .and_then(|cohort| situation.next(cohort));
    let next = next.and_then(|(slot, attempt)| situation.assignment(slot, attempt));
    let Some(assignment) = next else {
        return close(incarnation, hangs);
    };
    if let Some(point) = situation.point(&assignment.trial)
        && incarnation
            .seats
            .iter()
            .any(|seat| seat.told(&assignment.trial).is_some())
    {
        // It was announced with the trial before, and this is where that trial's result has led.
        return in_trial(situation, incarnation, &assignment.trial, point);
    }
    let mut decision = Decision::at(Stage::Measuring(assignment.trial.clone()));
    decision.changes = assign_all(situation, incarnation, incarnation.seats.iter(), &assignment);
    decision
}

/// Tells processes what to measure, and where they go on by themselves what comes after it.
fn assign_all<'a>(
    situation: &Situation<'_>,
    incarnation: &Incarnation,
    seats: impl Iterator<Item = &'a Seat>,
    assignment: &Assignment,
) -> Vec<Change> {
    let mut seats = seats.peekable();
    if seats.peek().is_none() {
        // As in most looks: what comes after it need not be found out.
        return Vec::new();
    }
    let most = incarnation.seats.iter().map(|seat| seat.windows().count()).max();
    let room = WINDOWS_PER_RUNNER.saturating_sub(most.unwrap_or_default());
    let letter = Letter::Assignment {
        assignment: Box::new(assignment.clone()),
        upcoming: situation.upcoming(&incarnation.cohort, assignment, room),
    };
    seats.map(|seat| tell(seat, letter.clone())).collect()
}

fn tell(seat: &Seat, letter: Letter) -> Change {
    Change::Tell {
        runner: seat.runner.name_any(),
        letter,
    }
}

/// No window comes any more from these processes; at once means without their last baseline.
pub(in super::super) fn close(incarnation: &Incarnation, at_once: bool) -> Decision {
    let mut decision = Decision::at(Stage::Closing);
    let unfinished = incarnation.seats.iter().filter(|seat| !seat.runner.spec.finish);
    decision.changes = unfinished.map(|seat| tell(seat, Letter::Finish)).collect();
    if at_once {
        decision.changes.extend(delete_job(incarnation));
    }
    decision
}

fn in_trial(situation: &Situation<'_>, incarnation: &Incarnation, trial: &TrialIdentity, point: &Point) -> Decision {
    let spec = &situation.prepared.spec;
    let mut decision = Decision::at(Stage::Measuring(trial.clone()));
    let start = trial::common_start(incarnation, trial);
    let refusal = situation.observed.refusal();
    let judged = Judged {
        trial,
        point,
        schedule_deadline: spec.placement.clone().unwrap_or_default().schedule_deadline,
        refusal: refusal.as_ref(),
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
    let in_window = |(_, state): &(&Seat, ProcessState)| matches!(state, ProcessState::InWindow { .. });
    if start.is_none() && !states.iter().any(in_window) && gives_nodes_back(situation, incarnation) {
        // Nothing is being measured. The trial has not failed, it has not happened.
        return close(incarnation, true);
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
            node: situation.node.map(ToOwned::to_owned),
            upcoming: situation.upcoming(&incarnation.cohort, &assignment, WINDOWS_PER_RUNNER),
            assignment: Box::new(assignment.clone()),
        });
    }
    let seats = states.iter().map(|(seat, _)| *seat);
    let untold = seats.filter(|seat| seat.told(trial).is_none());
    decision
        .changes
        .extend(assign_all(situation, incarnation, untold, &assignment));
    if point.window.barrier == Barrier::Trial && !missing {
        synchronise(situation, incarnation, trial, &states, &mut decision);
    }
    describe(incarnation, &states, &mut decision);
    decision
}

/// Its user wants that, its Job waits for a pod on a lost node, or it stands in the way of an older experiment.
fn gives_nodes_back(situation: &Situation<'_>, incarnation: &Incarnation) -> bool {
    let spec = &situation.prepared.spec;
    let steps_back =
        || incarnation.partly_placed() && neighbour::before_all(situation.this, situation.neighbours).is_some();
    spec.suspend || spec.cancel || incarnation.stranded(situation.now) || steps_back()
}

/// All ready: one start for all, and with it what follows. A start that only some were told is completed as long as it
/// lies ahead.
fn synchronise(
    situation: &Situation<'_>,
    incarnation: &Incarnation,
    trial: &TrialIdentity,
    states: &[(&Seat, ProcessState)],
    decision: &mut Decision,
) {
    let start = trial::common_start(incarnation, trial);
    let ahead = |delay| situation.now.saturating_add(delay).unwrap_or(Timestamp::MAX);
    let ready = |(_, state): &(&Seat, ProcessState)| matches!(state, ProcessState::Ready { .. });
    let start_at = match start {
        None if states.iter().all(ready) => ahead(START_DELAY),
        None => return,
        Some(start) => start,
    };
    let uninformed: Vec<&Seat> = states
        .iter()
        .filter(|(seat, state)| seat.start_at(trial).is_none() && *state != ProcessState::Reported)
        .map(|(seat, _)| *seat)
        .collect();
    if uninformed.is_empty() {
        return;
    }
    if start.is_some() && start_at < ahead(LATEST_START) {
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
    let room = |seat: &Seat| seat.windows().count() + 1 < WINDOWS_PER_RUNNER;
    let upcoming = situation
        .cohort(incarnation)
        .filter(|_| incarnation.seats.iter().all(room))
        .map(|cohort| situation.following(cohort, trial, 1))
        .unwrap_or_default();
    for seat in uninformed {
        if let Some(told) = seat.told(trial) {
            let started = Assignment {
                start_at: Some(start_at),
                ..told.clone()
            };
            let letter = Letter::Assignment {
                assignment: Box::new(started),
                upcoming: upcoming.clone(),
            };
            decision.changes.push(tell(seat, letter));
        }
    }
}

/// How far it is, what stands in the way, and when to look again.
fn describe(incarnation: &Incarnation, states: &[(&Seat, ProcessState)], decision: &mut Decision) {
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
    decision.stall = obstacle.or_else(ended);
    let deadlines = states.iter().filter_map(|(_, state)| trial::wake_at(state));
    let stranded = incarnation
        .seats
        .iter()
        .filter_map(|seat| seat.pod.as_ref()?.stranded_at());
    decision.wake_at = deadlines.chain(stranded).min();
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
