//! One node: how far it is, and what is to be done there. Pure.

use jiff::Timestamp;
use lem_crds::status::{TrialFailure, Verdict};

use super::{
    super::{
        decide::{self, Change, End, Situation, Stage},
        neighbour::Neighbour,
        prepare::Prepared,
        stall::Cause,
        view::{Incarnation, Observed},
    },
    nodes::Obstacle,
};
use crate::experiment::{Account, Failure, NodeResult, Record};

/// The reason of nodes for which a budget had no room.
pub const BUDGET_SPENT: &str = "BudgetSpent";

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
    /// A process is being placed, loads, measures or ends.
    Measuring,
    /// Begun, and not under way by the user's wish.
    Paused,
    /// Every planned trial has a result that may be used.
    Measured,
    /// Begun, and ended without all results.
    Failed(Why),
    /// Never ran.
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
    /// Why nothing moves there.
    pub stall: Option<Cause>,
    /// When to look again though nothing has happened.
    pub wake_at: Option<Timestamp>,
    /// What it came to so far; none if it has reported no window.
    pub result: Option<NodeResult>,
    /// What its processes have spent.
    pub account: Account,
    /// Names of its mailboxes.
    pub runners: Vec<String>,
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
        stall: None,
        wake_at: None,
        result: result(seen, &records, &failures),
        account: Account::of(&records),
        runners: seen.observed.runners.iter().map(kube::ResourceExt::name_any).collect(),
    };
    let open = incarnations.iter().find(|one| !one.closed());
    if let Some(open) = open.filter(|open| seen.obstacle.is_some() && !holds_its_node(open)) {
        // It waits for a node that takes nothing any more.
        outlook.changes = decide::close(open, true).changes;
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
    let begins = open.is_none()
        && decision
            .changes
            .iter()
            .any(|change| matches!(change, Change::CreateCohort { .. }));
    let stop = begins.then(|| why_not_again(seen, &records, &failures)).flatten();
    let begun = !incarnations.is_empty();
    outlook.state = match (&decision.stage, stop) {
        (Stage::Over(end), _) if !begun => NodeState::NotMeasured(why_over(end)),
        (Stage::Over(end), _) => ended(&outlook, end, &failures),
        (_, Some(why)) if records.iter().any(Record::has_windows) => NodeState::Failed(why),
        (_, Some(why)) => NodeState::NotMeasured(why),
        (Stage::Suspended, None) if !begun => NodeState::Waiting(Vec::new()),
        (Stage::Suspended, None) => NodeState::Paused,
        (_, None) if begins && !begun => NodeState::Waiting(decision.changes.clone()),
        _ => NodeState::Measuring,
    };
    let nothing_begun = matches!(
        outlook.state,
        NodeState::Waiting(_) | NodeState::NotMeasured(_) | NodeState::Failed(_)
    );
    let keeps = |change: &Change| !(nothing_begun && matches!(change, Change::CreateCohort { .. }));
    outlook.changes = decision.changes.into_iter().filter(keeps).collect();
    outlook
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
    let placed = |pod: &super::super::view::PodView| pod.placed && !pod.ended();
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

/// Why no further process is begun on the node: it takes none now, or none has ever come to run there.
fn why_not_again(seen: &Seen<'_>, records: &[Record], failures: &[Failure]) -> Option<Why> {
    if let Some(obstacle) = seen.obstacle {
        return Some(obstacle.into());
    }
    let ran = records.iter().any(|record| record.status.environment.is_some());
    let last = failures.last().filter(|_| !ran)?;
    let (_, error) = last.processes.first()?;
    Some(Why::new("NotPlaced", error.message.clone()))
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
