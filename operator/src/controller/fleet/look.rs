//! One node: how far it is, and what is to be done there. Pure.

use jiff::{SignedDuration, Timestamp};
use lem_crds::status::{TrialFailure, Verdict};

use super::{
    super::{
        decide::{self, Change, End, Situation, Stage},
        neighbour::Neighbour,
        prepare::Prepared,
        stall::Cause,
        trial,
        view::{Incarnation, Observed, PodView, Unexplained},
    },
    nodes::Obstacle,
};
use crate::experiment::{Account, Failure, NodeResult, Record};

/// The reason of nodes for which a budget had no room.
pub const BUDGET_SPENT: &str = "BudgetSpent";
/// A pod that no node has taken for so long gives way to a node that was not begun yet.
const BUSY_AFTER: SignedDuration = SignedDuration::from_mins(2);
/// What keeps a pod from its node though another node might take one. A volume or claim that is not there is so
/// everywhere.
const OF_THE_NODE: [&str; 6] = [
    "GpuMissing",
    "DeviceMissing",
    "MeasurementSlotTaken",
    "NodeAgentMissing",
    "NodeBusy",
    "Unschedulable",
];

/// Why a node has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Why {
    /// Bounded reason.
    pub reason: String,
    /// In one sentence.
    pub message: String,
}

impl Why {
    pub(super) fn new(reason: &str, message: impl Into<String>) -> Self {
        Self {
            reason: reason.to_owned(),
            message: message.into(),
        }
    }
}

impl From<&Obstacle> for Why {
    fn from(obstacle: &Obstacle) -> Self {
        Self::new(obstacle.reason, obstacle.message.clone())
    }
}

/// How far a node is.
#[derive(Debug, Clone, PartialEq)]
pub enum NodeState {
    /// Nothing was begun; this would begin it.
    Waiting(Vec<Change>),
    /// Begun, with something left to do and no process.
    Between {
        /// What would begin the next process.
        changes: Vec<Change>,
        /// The last one found no room on the node: others come first.
        busy: bool,
    },
    /// A process is being placed, loads, measures or ends.
    Measuring,
    /// Begun, and not under way by the user's wish.
    Paused,
    /// Every planned trial has a result that may be used.
    Measured,
    /// Begun, and its node takes no process now: it goes on when the node does. It counts as failed until then.
    Away(Why),
    /// Begun, and ended without all results.
    Failed(Why),
    /// Never measured.
    NotMeasured(Why),
}

/// What was seen of a node, and what follows.
#[derive(Debug, Clone)]
pub struct Outlook {
    /// Its name.
    pub node: String,
    /// How far it is.
    pub state: NodeState,
    /// What is to be done there in any case.
    pub changes: Vec<Change>,
    /// What frees the place of a process that has waited for the node for long; empty where none has.
    pub gives_way: Vec<Change>,
    /// Its processes are told to end and have not ended yet, or are being told so now.
    pub frees_place: bool,
    /// Why nothing moves there.
    pub stall: Option<Cause>,
    /// What does not start there without a word in its status why.
    pub unexplained: Option<Unexplained>,
    /// When to look again though nothing has happened.
    pub wake_at: Option<Timestamp>,
    /// What it came to so far; none if it has reported no window.
    pub result: Option<NodeResult>,
    /// What its processes have spent.
    pub account: Account,
    /// Names of its mailboxes.
    pub runners: Vec<String>,
    /// Those of them into which a process may still write.
    pub in_use: Vec<String>,
}

impl Outlook {
    /// Nothing will change there any more unless its mailboxes do. A budget may be raised.
    pub fn is_settled(&self) -> bool {
        let ended = match &self.state {
            NodeState::Measured => true,
            NodeState::Failed(why) => why.reason != BUDGET_SPENT,
            _ => false,
        };
        ended && self.changes.is_empty()
    }
}

/// Everything about one node.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// The experiment and its plan.
    pub prepared: &'a Prepared,
    /// The experiment among others.
    pub this: &'a Neighbour,
    /// Name of the node.
    pub node: &'a str,
    /// What keeps it from taking a process now; one that is gone has an obstacle too.
    pub obstacle: Option<&'a Obstacle>,
    /// Mailboxes, Jobs and pods of this node alone.
    pub observed: &'a Observed,
    /// What does not start there without a word in its status why.
    pub unexplained: Option<&'a Unexplained>,
    /// Why the budget of the fleet has no room for another trial.
    pub over_budget: Option<&'a str>,
    /// Now.
    pub now: Timestamp,
}

/// Looks at one node.
pub fn look(seen: &Seen<'_>) -> Outlook {
    let remembered = remembered(seen.observed);
    let failures: Vec<Failure> = remembered.iter().map(Failure::from).collect();
    let records = seen.observed.records();
    let situation = Situation {
        prepared: seen.prepared,
        node: Some(seen.node),
        observed: seen.observed,
        records: &records,
        failures: &failures,
        this: seen.this,
        // The set is on one node: its first pod there keeps all other experiments off it.
        neighbours: &[],
        over_budget: seen.over_budget,
        now: seen.now,
    };
    let incarnations = seen.observed.incarnations();
    let mut outlook = Outlook {
        node: seen.node.to_owned(),
        state: NodeState::Measuring,
        changes: Vec::new(),
        gives_way: Vec::new(),
        frees_place: incarnations.iter().all(Incarnation::closed) && incarnations.iter().any(|one| !one.over()),
        stall: None,
        unexplained: seen.unexplained.cloned(),
        wake_at: None,
        result: result(seen, &records, &failures),
        account: Account::of(&records),
        runners: seen.observed.runners.iter().map(kube::ResourceExt::name_any).collect(),
        in_use: in_use(&incarnations),
    };
    let open = incarnations.iter().find(|one| !one.closed());
    if let Some(open) = open.filter(|open| seen.obstacle.is_some() && !holds_its_node(open)) {
        // It waits for a node that takes nothing any more.
        outlook.changes = decide::close(open, true).changes;
        outlook.frees_place = true;
        return outlook;
    }
    let decision = decide::decide(&situation);
    if let (false, Some(open)) = (decision.failures.is_empty(), open) {
        // Nothing else happens before they are remembered.
        outlook.changes = remember(open, decision.failures);
        return outlook;
    }
    outlook.stall = decision.stall;
    outlook.wake_at = decision.wake_at;
    if let Some((open, until)) = open.and_then(|open| Some((open, busy_at(open)?))) {
        if until <= seen.now {
            outlook.gives_way = decide::close(open, true).changes;
        } else {
            outlook.wake_at = outlook.wake_at.into_iter().chain([until]).min();
        }
    }
    let creates = |change: &Change| open.is_none() && matches!(change, Change::CreateCohort { .. });
    let (begin, rest): (Vec<Change>, Vec<Change>) = decision.changes.into_iter().partition(creates);
    outlook.changes = rest;
    let begins = !begin.is_empty();
    let stop = begins.then(|| why_not_again(seen, &records, &failures)).flatten();
    let had_processes = !incarnations.is_empty();
    outlook.state = match (&decision.stage, stop) {
        (Stage::Over(end), _) if !had_processes => NodeState::NotMeasured(why_over(end)),
        (Stage::Over(end), _) => ended(&outlook, end, &failures),
        (_, Some(state)) => state,
        (Stage::Suspended, None) if !had_processes => NodeState::Waiting(Vec::new()),
        (Stage::Suspended, None) => NodeState::Paused,
        (_, None) if begins && !had_processes => NodeState::Waiting(begin),
        (_, None) if begins => NodeState::Between {
            busy: found_no_room(&begin, &incarnations),
            changes: begin,
        },
        _ => NodeState::Measuring,
    };
    outlook
}

/// Mailboxes of sets of processes that may still write.
fn in_use(incarnations: &[Incarnation]) -> Vec<String> {
    let open = incarnations.iter().filter(|one| !(one.closed() && one.over()));
    open.flat_map(|one| &one.seats)
        .map(|seat| kube::ResourceExt::name_any(&seat.runner))
        .collect()
}

/// Some process of the set has found its mailbox.
fn came_to_run(incarnation: &Incarnation) -> bool {
    let mut statuses = incarnation.seats.iter().filter_map(|seat| seat.runner.status.as_ref());
    statuses.any(|status| !status.pod_uid.is_empty())
}

/// The set whose successor is to be begun has never come to run.
fn found_no_room(begin: &[Change], incarnations: &[Incarnation]) -> bool {
    let before = begin.iter().find_map(|change| match change {
        // They are in order of number.
        Change::CreateCohort { cohort, .. } => incarnations.iter().rfind(|one| one.cohort == *cohort),
        _ => None,
    });
    before.is_some_and(|before| !came_to_run(before))
}

/// From when on a set counts as one that finds no room on its node; none if it runs, or if what it waits for is not the
/// node.
fn busy_at(open: &Incarnation) -> Option<Timestamp> {
    let queued = open.job.as_ref().is_none_or(|job| job.suspended);
    if queued || came_to_run(open) || holds_its_node(open) {
        return None;
    }
    let no_room = |pod: &&PodView| {
        let obstacle = pod.obstacle.as_ref().filter(|_| !pod.placed && !pod.ended());
        obstacle.is_some_and(|cause| OF_THE_NODE.contains(&cause.reason))
    };
    let pods = open.seats.iter().filter_map(|seat| seat.pod.as_ref());
    let since = pods.filter(no_room).map(|pod| pod.created).min()?;
    Some(since.saturating_add(BUSY_AFTER).unwrap_or(Timestamp::MAX))
}

/// Failed trials of the node, in its mailboxes.
fn remembered(observed: &Observed) -> Vec<TrialFailure> {
    let mut runners: Vec<_> = observed.runners.iter().collect();
    runners.sort_by_key(|runner| runner.spec.incarnation);
    runners
        .iter()
        .flat_map(|runner| runner.spec.failures.iter().cloned())
        .collect()
}

fn remember(open: &Incarnation, failures: Vec<TrialFailure>) -> Vec<Change> {
    let keep = open.seats.first().map(|seat| {
        let mut all = seat.runner.spec.failures.clone();
        all.extend(failures);
        Change::Remember {
            runner: kube::ResourceExt::name_any(&seat.runner),
            failures: all,
        }
    });
    keep.into_iter().collect()
}

fn holds_its_node(incarnation: &Incarnation) -> bool {
    let placed = |pod: &PodView| pod.placed && !pod.ended();
    incarnation
        .seats
        .iter()
        .any(|seat| seat.pod.as_ref().is_some_and(placed))
}

fn result(seen: &Seen<'_>, records: &[Record], failures: &[Failure]) -> Option<NodeResult> {
    let Prepared { spec, points, .. } = seen.prepared;
    records
        .iter()
        .any(Record::has_windows)
        .then(|| NodeResult::new(spec, points, seen.node, records, failures))
}

/// How the node stands if no further process is begun there: none has ever come to load there, or it takes none now.
fn why_not_again(seen: &Seen<'_>, records: &[Record], failures: &[Failure]) -> Option<NodeState> {
    let loaded = records.iter().any(|record| record.status.environment.is_some());
    let last = failures.last().filter(|_| !loaded);
    if let Some((_, error)) = last.and_then(|failure| failure.processes.first()) {
        let came_to_run = records.iter().any(|record| !record.status.pod_uid.is_empty());
        return Some(if trial::never_started(error) && !came_to_run {
            NodeState::NotMeasured(Why::new("NotPlaced", error.message.clone()))
        } else {
            NodeState::Failed(Why::new(&error.category, error.message.clone()))
        });
    }
    let why = Why::from(seen.obstacle?);
    Some(if records.iter().any(Record::has_windows) {
        NodeState::Away(why)
    } else {
        NodeState::NotMeasured(why)
    })
}

fn why_over(end: &End) -> Why {
    let reason = match end {
        End::Cancelled => "Cancelled",
        End::Budget(_) => BUDGET_SPENT,
        End::Done => "Incomplete",
    };
    Why::new(reason, end.words().unwrap_or_default())
}

/// How a node ended on which nothing more is measured.
fn ended(outlook: &Outlook, end: &End, failures: &[Failure]) -> NodeState {
    let result = outlook.result.as_ref();
    if result.is_some_and(NodeResult::complete) {
        return NodeState::Measured;
    }
    if *end != End::Done {
        return NodeState::Failed(why_over(end));
    }
    let invalid = result.filter(|result| result.progress.finished == result.progress.planned);
    let invalid = invalid.and_then(|result| {
        let points = result.points.iter().map(|point| &point.result);
        let mut points = points.filter(|point| point.verdict == Verdict::Invalid);
        points.next()?.reasons.first()
    });
    if let Some(reason) = invalid {
        return NodeState::Failed(Why::new("Invalid", reason.message.clone()));
    }
    let error = failures.last().and_then(|failure| failure.processes.first());
    NodeState::Failed(match error {
        Some((_, error)) => Why::new(&error.category, error.message.clone()),
        None => Why::new("Incomplete", "its processes ended before every trial had a result"),
    })
}
