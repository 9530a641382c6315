//! How far each process is with the current trial, and what its deadline is. Pure.

use jiff::{SignedDuration, Timestamp};
use lem_crds::{
    experiment::Barrier,
    plan::{Point, TrialIdentity},
    quantity,
    runner::{RunnerError, RunnerPhase},
};

use super::{
    stall::{self, Cause},
    view::{Incarnation, JobView, Seat},
};

/// How far one process is.
#[derive(Debug, Clone, PartialEq)]
pub enum ProcessState {
    /// Has no running container yet.
    Unplaced {
        /// Deadline to have one.
        until: Option<Timestamp>,
        /// What stands in the way, if that is known.
        cause: Option<Cause>,
    },
    /// Loads the model.
    Loading {
        /// Deadline to have loaded it.
        until: Timestamp,
        /// Its pod has not reported anything yet.
        silent: bool,
    },
    /// Cools down and warms up.
    Preparing {
        /// Deadline to be ready.
        until: Timestamp,
    },
    /// Waits for the common start.
    Ready {
        /// Since when the deadline to be ready runs; another process may be late.
        until: Timestamp,
    },
    /// Measures, or has measured and not reported yet; without a barrier also cools down and warms up.
    InWindow {
        /// Deadline of its report.
        until: Timestamp,
    },
    /// Has reported.
    Reported,
    /// Will not report this trial.
    Lost(RunnerError),
}

/// What the state of a process is judged by.
#[derive(Debug, Clone, Copy)]
pub struct Judged<'a> {
    /// The trial.
    pub trial: &'a TrialIdentity,
    /// Its point.
    pub point: &'a Point,
    /// From a cohort's creation, or its admission by a queue, to running containers.
    pub schedule_deadline: quantity::Duration,
    /// Why there are no pods, if that is known.
    pub refusal: Option<&'a Cause>,
    /// Now.
    pub now: Timestamp,
}

/// What a process without a container has not done in time.
const START_ITS_POD: &str = "start its pod";

fn after(begin: Timestamp, lengths: &[quantity::Duration]) -> Timestamp {
    let sum = lengths.iter().fold(SignedDuration::ZERO, |sum, length| {
        sum.saturating_add(SignedDuration::try_from(length.get()).unwrap_or(SignedDuration::MAX))
    });
    begin.saturating_add(sum).unwrap_or(Timestamp::MAX)
}

/// The start that was agreed for a trial, if it was.
pub fn common_start(incarnation: &Incarnation, trial: &TrialIdentity) -> Option<Timestamp> {
    let starts = incarnation.seats.iter().filter_map(|seat| seat.start_at(trial));
    starts.max()
}

/// Where a process stands.
pub fn state(judged: &Judged<'_>, incarnation: &Incarnation, seat: &Seat) -> ProcessState {
    if seat.windows().any(|window| window == judged.trial) {
        return ProcessState::Reported;
    }
    let status = seat.runner.status.clone().unwrap_or_default();
    let begun = common_start(incarnation, judged.trial).is_some();
    let pod = seat.pod.as_ref();
    let takes_part = status.trial.as_ref() == Some(judged.trial)
        && matches!(status.phase, RunnerPhase::Ready | RunnerPhase::Measuring)
        && pod.is_none_or(|pod| pod.uid == status.pod_uid && !pod.ended());
    if begun && !takes_part {
        return ProcessState::Lost(why_lost(seat, judged));
    }
    let deadlines = &judged.point.window.deadlines;
    // One that was told early begins when it has reported the trial before.
    let told_at = seat.told(judged.trial).and_then(|told| told.assigned_at);
    let assigned_at = told_at.max(seat.last_window_ended_at().filter(|_| told_at.is_some()));
    if incarnation.job.as_ref().is_some_and(|job| job.suspended) {
        // Until it is admitted, the queue's patience counts and not ours.
        return ProcessState::Unplaced {
            until: None,
            cause: Some(stall::queued(&incarnation.name)),
        };
    }
    let Some(pod) = pod.filter(|pod| !pod.ended()) else {
        return ProcessState::Unplaced {
            until: not_placed_by(incarnation.job.as_ref(), seat, judged),
            cause: judged.refusal.filter(|_| seat.pod.is_none()).cloned(),
        };
    };
    let Some(started) = pod.started else {
        return ProcessState::Unplaced {
            until: Some(after(pod.created, &[judged.schedule_deadline])),
            cause: pod.obstacle.clone(),
        };
    };
    let loading = pod.uid != status.pod_uid || matches!(status.phase, RunnerPhase::Starting | RunnerPhase::Loading);
    // A process that has measured, or was there for long, has the time to be ready only; a new one that to load as well.
    let has_measured = pod.uid == status.pod_uid && !status.windows.is_empty();
    let ready_until = match assigned_at {
        Some(at) if has_measured || at > after(started, &[deadlines.load]) => after(at, &[deadlines.ready]),
        _ => after(started, &[deadlines.load, deadlines.ready]),
    };
    match (seat.start_at(judged.trial), takes_part) {
        (Some(start), _) => ProcessState::InWindow {
            until: after(start, &[deadlines.window]),
        },
        (None, false) if loading => ProcessState::Loading {
            until: after(started, &[deadlines.load]),
            silent: pod.uid != status.pod_uid,
        },
        // It says nothing between its load and the window's report, and nobody waits for it to.
        (None, _) if judged.point.window.barrier == Barrier::None => ProcessState::InWindow {
            until: after(ready_until, &[deadlines.window]),
        },
        (None, true) => ProcessState::Ready { until: ready_until },
        (None, false) => ProcessState::Preparing { until: ready_until },
    }
}

/// Deadline of a process that has no pod, or whose pod has ended and waits for a replacement.
fn not_placed_by(job: Option<&JobView>, seat: &Seat, judged: &Judged<'_>) -> Option<Timestamp> {
    match (&seat.pod, job) {
        // The Job controller replaces it with a delay of its own, and the Job has a deadline of its own.
        (Some(_), _) => None,
        (None, Some(job)) => Some(after(job.admitted?, &[judged.schedule_deadline])),
        // Not even the Job could be made.
        (None, None) => {
            let assigned_at = seat.runner.spec.assignment.as_ref()?.assigned_at?;
            Some(after(assigned_at, &[judged.schedule_deadline]))
        }
    }
}

fn why_lost(seat: &Seat, judged: &Judged<'_>) -> RunnerError {
    if let Some(error) = seat.runner.status.as_ref().and_then(|status| status.error.clone()) {
        return error;
    }
    let error = |category: &str, message: String| RunnerError {
        category: category.to_owned(),
        message,
    };
    match &seat.pod {
        Some(pod) if pod.end.is_some() => error("exited", pod.end.clone().unwrap_or_default()),
        Some(pod) if pod.stranded_at().is_some_and(|at| at <= judged.now) => {
            error("node", format!("pod {} is lost with its node", pod.name))
        }
        Some(pod) if pod.deleted_by.is_some() => {
            error("deleted", format!("pod {} was deleted before it reported", pod.name))
        }
        Some(_) | None if seat.told(judged.trial).is_some() => error(
            "replaced",
            "its pod was lost after the common start, and the one in its place was not part of it".to_owned(),
        ),
        _ => error(
            "mailbox",
            "its Runner was deleted or made anew after the common start".to_owned(),
        ),
    }
}

/// What a process did not do in time, if its deadline is over.
pub fn overdue(state: &ProcessState, now: Timestamp) -> Option<RunnerError> {
    let (until, what, field) = match state {
        ProcessState::Unplaced { until, cause } => {
            let words = cause.as_ref().map_or_else(
                || START_ITS_POD.to_owned(),
                |cause| format!("{START_ITS_POD}: {}", cause.message),
            );
            ((*until)?, words, "placement.scheduleDeadline")
        }
        ProcessState::Loading { until, silent: false } => {
            (*until, "load the model".to_owned(), "protocol.deadlines.load")
        }
        ProcessState::Loading { until, silent: true } => (
            *until,
            "report at all (look whether its pod reaches the API server)".to_owned(),
            "protocol.deadlines.load",
        ),
        ProcessState::Preparing { until } => (*until, "become ready".to_owned(), "protocol.deadlines.ready"),
        ProcessState::InWindow { until } => (*until, "report its window".to_owned(), "protocol.deadlines.window"),
        ProcessState::Ready { .. } | ProcessState::Reported | ProcessState::Lost(_) => return None,
    };
    (now >= until).then(|| RunnerError {
        category: "deadline".to_owned(),
        message: format!("did not {what} within spec.{field}"),
    })
}

/// Whether a trial failed for want of a container. Of a failed trial nothing but its errors is kept.
pub fn never_started(error: &RunnerError) -> bool {
    let words = error.message.strip_prefix("did not ");
    error.category == "deadline" && words.is_some_and(|words| words.starts_with(START_ITS_POD))
}

/// When to look again though nothing has happened.
pub fn wake_at(state: &ProcessState) -> Option<Timestamp> {
    match state {
        ProcessState::Unplaced { until, .. } => *until,
        ProcessState::Loading { until, .. }
        | ProcessState::Preparing { until }
        | ProcessState::Ready { until }
        | ProcessState::InWindow { until } => Some(*until),
        ProcessState::Reported | ProcessState::Lost(_) => None,
    }
}
