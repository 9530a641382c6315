//! What to do next, given everything that was seen. Pure: the same observation always gives the same decision, so a
//! restarted operator goes on where the last one was, and a second look at the same state changes nothing.
//!
//! At most one incarnation of one cohort is open at a time. It goes from trial to trial until nothing is left for it,
//! the experiment is suspended or cancelled, or its Job is lost; then it is closed, and the next one begins.

mod open;

pub(super) use self::open::close;

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use lem_crds::{
    experiment::{Barrier, Restart},
    plan::{Point, TrialIdentity},
    runner::{Assignment, MOST_UPCOMING, RunnerError},
    status::{FleetNodes, ProcessFailure, TrialFailure},
};

use super::{
    neighbour::{self, Neighbour},
    prepare::Prepared,
    stall::Cause,
    view::{Incarnation, JobEnd, Observed, Seat},
};
use crate::experiment::{
    Account, Cohort, Failure, Record, TrialSlot,
    schedule::{self, Known},
};

/// Two sets of processes in a row without a single window: the third would fail as well.
const FRUITLESS_INCARNATIONS: usize = 2;
/// How soon to see whether an experiment that is waited for has its nodes; nothing is asked of the API server for it.
const TURN: SignedDuration = SignedDuration::from_secs(2);
/// Windows that a mailbox holds.
const WINDOWS_PER_RUNNER: usize = 64;
/// Characters of a failure's message that status keeps.
const LONGEST_MESSAGE: usize = 600;

/// One change of the cluster.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Make the objects of an incarnation; those that are there already stay as they are.
    CreateCohort {
        /// Key of the cohort.
        cohort: String,
        /// Number of the incarnation.
        incarnation: u32,
        /// The one node that it measures, where each node is measured by itself.
        node: Option<String>,
        /// The first trial.
        assignment: Box<Assignment>,
        /// Those after it, where a process goes on by itself.
        upcoming: Vec<Assignment>,
    },
    /// Write a mailbox.
    Tell {
        /// Name of the `Runner`.
        runner: String,
        /// What it holds from now on.
        letter: Letter,
    },
    /// Give the account that the nodes of a fleet share its rights on these mailboxes, and on no others.
    Grant {
        /// Names of all `Runner`s of the fleet.
        runners: Vec<String>,
    },
    /// Keep the failed trials of a node in its mailbox.
    Remember {
        /// Name of the `Runner`.
        runner: String,
        /// All that it keeps from now on.
        failures: Vec<TrialFailure>,
    },
    /// Delete a Job with its pods.
    DeleteJob {
        /// Its name.
        name: String,
    },
    /// Let a finished Job go after so many seconds.
    SetTimeToLive {
        /// Its name.
        name: String,
        /// Seconds.
        seconds: u32,
    },
}

/// What is written into a mailbox.
#[derive(Debug, Clone, PartialEq)]
pub enum Letter {
    /// The next trial, or its common start and what follows it.
    Assignment {
        /// What to measure.
        assignment: Box<Assignment>,
        /// What comes after it.
        upcoming: Vec<Assignment>,
    },
    /// No further trial comes.
    Finish,
}

/// How far the experiment is.
#[derive(Debug, Clone, PartialEq)]
pub enum Stage {
    /// Pods are being placed, or load the model.
    Starting {
        /// All pods run.
        placed: bool,
    },
    /// A trial is under way.
    Measuring(TrialIdentity),
    /// The last baseline of an incarnation.
    Closing,
    /// Nodes are measured, each by itself.
    Fleet(FleetNodes),
    /// Nothing runs, by the user's wish.
    Suspended,
    /// Nothing more comes.
    Over(End),
}

/// Why nothing more comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Nothing is left to do, or what is left was given up.
    Done,
    /// By the user's wish.
    Cancelled,
    /// The budget has no room for what is left; with its figures.
    Budget(String),
}

impl End {
    /// Why results may be missing.
    pub fn words(&self) -> Option<&str> {
        match self {
            Self::Done => None,
            Self::Cancelled => Some("cancelled by spec.cancel"),
            Self::Budget(words) => Some(words),
        }
    }
}

/// What to do, and how things stand.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// Changes of the cluster, in order.
    pub changes: Vec<Change>,
    /// Trials that have just failed. They are written into status before anything else happens: a change that rests on
    /// a failure which nobody remembers would be undone by the next restart.
    pub failures: Vec<TrialFailure>,
    /// How far the experiment is.
    pub stage: Stage,
    /// Why nothing moves, if something stands in the way.
    pub stall: Option<Cause>,
    /// When to look again though nothing has happened.
    pub wake_at: Option<Timestamp>,
}

impl Decision {
    pub(super) fn at(stage: Stage) -> Self {
        Self {
            changes: Vec::new(),
            failures: Vec::new(),
            stage,
            stall: None,
            wake_at: None,
        }
    }
}

/// Everything that a decision rests on.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    /// The experiment and its plan.
    pub prepared: &'a Prepared,
    /// The one node that all of this is about, where each node is measured by itself.
    pub node: Option<&'a str>,
    /// What was seen.
    pub observed: &'a Observed,
    /// What processes have reported.
    pub records: &'a [Record],
    /// Trials that have failed so far.
    pub failures: &'a [Failure],
    /// The experiment among others.
    pub this: &'a Neighbour,
    /// Experiments that are partly placed.
    pub neighbours: &'a [Neighbour],
    /// Why the budget has no room for another trial, where the processes of others spend of it too.
    pub over_budget: Option<&'a str>,
    /// Now.
    pub now: Timestamp,
}

impl Situation<'_> {
    fn known(&self) -> Known<'_> {
        Known {
            spec: &self.prepared.spec,
            points: &self.prepared.points,
            records: self.records,
            failures: self.failures,
        }
    }

    /// At most so many trials that follow one whose result does not change the plan; none where the plan depends on it.
    fn following(&self, cohort: &Cohort, trial: &TrialIdentity, count: usize) -> Vec<Assignment> {
        let spec = &self.prepared.spec;
        if spec.suspend || spec.cancel || spec.processes.restart == Restart::PerTrial || self.over_budget(2).is_some() {
            return Vec::new();
        }
        let mut last = (trial.point, trial.cycle);
        let mut runnable = self.runnable(cohort);
        let mut following = Vec::new();
        while following.len() < count {
            runnable.retain(|slot| (slot.point, slot.cycle) != last);
            let Some(slot) = schedule::first_untried(&self.known(), &runnable) else {
                break;
            };
            // A cycle that a stop rule has added comes again: what is after it depends on it.
            if (slot.point, slot.cycle) == last {
                break;
            }
            last = (slot.point, slot.cycle);
            following.extend(self.assignment(slot, 0));
        }
        following
    }

    /// What a process that waits for nobody is told beside a trial: it goes on by itself, and its device does not idle
    /// while the operator looks. Not under a budget, which is judged before each window.
    fn upcoming(&self, cohort: &str, assignment: &Assignment, room: usize) -> Vec<Assignment> {
        if assignment.window.barrier == Barrier::Trial || self.prepared.spec.budget.is_some() {
            return Vec::new();
        }
        let cohort = self.prepared.cohorts.iter().find(|one| one.key == cohort);
        let count = room.saturating_sub(1).min(MOST_UPCOMING);
        cohort.map_or_else(Vec::new, |cohort| self.following(cohort, &assignment.trial, count))
    }

    /// Why the budget has no room for so many further trials.
    fn over_budget(&self, trials: u32) -> Option<String> {
        let spec = &self.prepared.spec;
        spec.budget.as_ref()?;
        match (self.over_budget, self.node) {
            (Some(words), _) => Some(words.to_owned()),
            // One node does not know what the others have spent.
            (None, Some(_)) => None,
            (None, None) => Account::of(self.records).over_budget(spec, trials * spec.processes.count),
        }
    }

    /// The next trial of a cohort.
    fn next(&self, cohort: &Cohort) -> Option<(TrialSlot, u32)> {
        let runnable = self.runnable(cohort);
        if runnable.is_empty() {
            return None;
        }
        schedule::next_trial(&self.known(), &runnable, self.prepared.spec.protocol.retry_budget)
    }

    /// The trials of a cohort without the points of which a process has said that they cannot run.
    fn runnable(&self, cohort: &Cohort) -> Vec<TrialSlot> {
        let refused: BTreeSet<&str> = self
            .failures
            .iter()
            .filter(|failure| failure.processes.iter().any(|(_, error)| error.is_refusal()))
            .map(|failure| failure.trial.plan_sha256.as_str())
            .collect();
        let runs = |slot: &&TrialSlot| {
            let point = self.prepared.points.iter().find(|point| point.index == slot.point);
            point.is_some_and(|point| !refused.contains(point.plan_sha256.as_str()))
        };
        cohort.trials.iter().filter(runs).copied().collect()
    }

    fn cohort(&self, incarnation: &Incarnation) -> Option<&Cohort> {
        let mut cohorts = self.prepared.cohorts.iter();
        cohorts.find(|cohort| cohort.key == incarnation.cohort)
    }

    fn point(&self, trial: &TrialIdentity) -> Option<&Point> {
        let mut points = self.prepared.points.iter();
        points.find(|point| point.plan_sha256 == trial.plan_sha256)
    }

    fn assignment(&self, slot: TrialSlot, attempt: u32) -> Option<Assignment> {
        let point = self.prepared.points.iter().find(|point| point.index == slot.point)?;
        Some(self.assign(self.known().identity(slot, attempt)?, point))
    }

    /// The assignment of a trial, given now and without a start yet.
    fn assign(&self, trial: TrialIdentity, point: &Point) -> Assignment {
        Assignment {
            trial,
            window: point.window.clone(),
            assigned_at: Some(self.now),
            start_at: None,
        }
    }

    fn failed(&self, trial: &TrialIdentity) -> bool {
        self.failures.iter().any(|failure| failure.trial == *trial)
    }

    /// A process missed a deadline in it.
    fn was_late(&self, trial: &TrialIdentity) -> bool {
        let of_trial = self.failures.iter().filter(|failure| failure.trial == *trial);
        of_trial
            .flat_map(|failure| &failure.processes)
            .any(|(_, error)| error.category == "deadline")
    }

    /// Whether another set of processes of a cohort would fare as the last ones did.
    fn given_up(&self, cohort: &Cohort, incarnations: &[Incarnation]) -> bool {
        let mut fruitless = 0;
        let of_cohort = incarnations.iter().filter(|one| one.cohort == cohort.key);
        for incarnation in of_cohort.rev() {
            let failed = incarnation
                .seats
                .iter()
                .flat_map(Seat::held)
                .any(|held| self.failed(&held.trial));
            if !failed || incarnation.windows() > 0 {
                break;
            }
            let never_loaded = incarnation.seats.iter().any(|seat| {
                let status = seat.runner.status.as_ref();
                status.is_some_and(|status| {
                    status.environment.is_none() && status.error.as_ref().is_some_and(RunnerError::is_refusal)
                })
            });
            if never_loaded {
                return true;
            }
            fruitless += 1;
        }
        fruitless >= FRUITLESS_INCARNATIONS
    }
}

/// Decides.
pub fn decide(situation: &Situation<'_>) -> Decision {
    let incarnations = situation.observed.incarnations();
    let spec = &situation.prepared.spec;
    if let Some(incarnation) = incarnations.iter().find(|one| !one.closed()) {
        return open::lead(situation, incarnation);
    }
    let mut decision = Decision::at(Stage::Closing);
    decision.changes = times_to_live(situation, &incarnations);
    if let Some(last) = incarnations.iter().find(|one| !one.over()) {
        await_end(situation, last, &mut decision);
        return decision;
    }
    if spec.cancel {
        decision.stage = Stage::Over(End::Cancelled);
        return decision;
    }
    let next = situation
        .prepared
        .cohorts
        .iter()
        .filter(|cohort| !situation.given_up(cohort, &incarnations))
        .find_map(|cohort| Some((cohort, situation.next(cohort)?)));
    let Some((cohort, (slot, attempt))) = next else {
        decision.stage = Stage::Over(End::Done);
        return decision;
    };
    if let Some(words) = situation.over_budget(1) {
        decision.stage = Stage::Over(End::Budget(words));
        return decision;
    }
    if spec.suspend {
        decision.stage = Stage::Suspended;
        return decision;
    }
    let number = incarnations
        .iter()
        .filter(|one| one.cohort == cohort.key)
        .map(|one| one.number + 1)
        .max()
        .unwrap_or(0);
    decision.stage = Stage::Starting { placed: false };
    if let Some(other) = neighbour::before_start(situation.this, situation.neighbours) {
        decision.stall = Some(neighbour::waiting(situation.this, other));
        decision.wake_at = Some(situation.now.saturating_add(TURN).unwrap_or(Timestamp::MAX));
        return decision;
    }
    if let Some(assignment) = situation.assignment(slot, attempt) {
        decision.changes.push(Change::CreateCohort {
            cohort: cohort.key.clone(),
            incarnation: number,
            node: situation.node.map(ToOwned::to_owned),
            upcoming: situation.upcoming(&cohort.key, &assignment, WINDOWS_PER_RUNNER),
            assignment: Box::new(assignment),
        });
    }
    decision
}

/// The namespace is being deleted: its pods go first, and the Job controller, which may not replace them there, would
/// hold on to them for good. Without its Job a pod is let go.
pub fn let_go(situation: &Situation<'_>) -> Decision {
    let incarnations = situation.observed.incarnations();
    let mut decision = Decision::at(Stage::Closing);
    decision.changes = incarnations.iter().filter_map(delete_job).collect();
    decision
}

/// The deletion of the Job, unless it is under way or done.
pub(super) fn delete_job(incarnation: &Incarnation) -> Option<Change> {
    incarnation.job.as_ref().filter(|job| !job.deleting)?;
    Some(Change::DeleteJob {
        name: incarnation.name.clone(),
    })
}

/// What is left to do once the experiment is over: its last Job may end later.
pub fn afterwards(situation: &Situation<'_>) -> Decision {
    let incarnations = situation.observed.incarnations();
    let mut decision = Decision::at(Stage::Over(End::Done));
    decision.changes = times_to_live(situation, &incarnations);
    decision
}

/// Bounded name of a change, for logs.
pub fn name(change: &Change) -> &'static str {
    match change {
        Change::CreateCohort { .. } => "create_cohort",
        Change::Tell {
            letter: Letter::Finish, ..
        } => "finish",
        Change::Tell { .. } => "assign",
        Change::Grant { .. } => "grant",
        Change::Remember { .. } => "remember",
        Change::DeleteJob { .. } => "delete_job",
        Change::SetTimeToLive { .. } => "set_time_to_live",
    }
}

/// A closed incarnation whose processes still take their last baseline. The Job has a deadline of its own; a process
/// that cannot report is not waited for longer than a load may take.
fn await_end(situation: &Situation<'_>, incarnation: &Incarnation, decision: &mut Decision) {
    let deadlines = &situation.prepared.spec.protocol.deadlines;
    let heard = incarnation.seats.iter().filter_map(|seat| {
        let status = seat.runner.status.as_ref()?;
        status.heartbeat
    });
    let Some(last_word) = heard.max().or(incarnation.job.as_ref().map(|job| job.created)) else {
        return;
    };
    let bound = SignedDuration::try_from(deadlines.load.get()).unwrap_or(SignedDuration::MAX);
    let until = last_word.saturating_add(bound).unwrap_or(Timestamp::MAX);
    if situation.now < until {
        decision.wake_at = Some(until);
    } else {
        decision.changes.extend(delete_job(incarnation));
    }
}

/// Finished Jobs are let go by outcome.
fn times_to_live(situation: &Situation<'_>, incarnations: &[Incarnation]) -> Vec<Change> {
    let lives = situation.prepared.spec.ttl_seconds_after_finished.unwrap_or_default();
    let finished = incarnations.iter().filter_map(|incarnation| {
        let job = incarnation.job.as_ref().filter(|job| !job.deleting)?;
        let seconds = match job.end.as_ref()? {
            JobEnd::Complete => lives.success,
            JobEnd::Failed(_) => lives.failure,
        };
        (job.time_to_live != Some(seconds)).then(|| Change::SetTimeToLive {
            name: incarnation.name.clone(),
            seconds,
        })
    });
    finished.collect()
}

fn failure(trial: &TrialIdentity, processes: Vec<(u32, RunnerError)>) -> TrialFailure {
    TrialFailure {
        trial: trial.clone(),
        processes: processes
            .into_iter()
            .map(|(process, error)| ProcessFailure {
                process,
                category: error.category,
                message: error.message.chars().take(LONGEST_MESSAGE).collect(),
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests;
