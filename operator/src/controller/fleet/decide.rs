//! All nodes: how many may be measured at the same time, and whether the fleet is done. Pure.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use lem_crds::status::{FleetNodes, NodesWithoutResult};

use super::{
    super::{
        build::{node_cohort_name, runner_name},
        decide::{Change, Decision, End, Stage},
        prepare::Prepared,
        stall::Cause,
        view::{Unexplained, UnexplainedKind},
    },
    look::{NodeState, Outlook, Why},
    nodes::Candidates,
};

/// Names of nodes that a status gives for one reason.
const NAMED: usize = 10;
/// Reasons that a status gives.
const REASONS: usize = 20;
/// Mailboxes that the fleet's Role names unless more are in use: each of them twice, with up to 60 bytes, and etcd
/// takes objects of 1.5 MiB.
const MOST_GRANTED: usize = 10_000;

/// Everything that was seen of the fleet.
#[derive(Debug)]
pub struct Fleet<'a> {
    /// The experiment and its plan.
    pub prepared: &'a Prepared,
    /// Its nodes.
    pub candidates: &'a Candidates,
    /// Each node, in order of name.
    pub outlooks: &'a [&'a Outlook],
    /// Why the budget has no room for another trial.
    pub over_budget: Option<&'a str>,
    /// Mailboxes that the fleet's account is known to have rights on.
    pub granted: &'a BTreeSet<String>,
    /// When the experiment was made.
    pub created: Timestamp,
    /// Now.
    pub now: Timestamp,
}

/// What to do, and how the fleet stands.
#[derive(Debug, Clone, PartialEq)]
pub struct FleetDecision {
    /// As of any experiment.
    pub decision: Decision,
    /// How many nodes are how far.
    pub nodes: FleetNodes,
    /// Nodes without a result, by reason.
    pub without_result: Vec<NodesWithoutResult>,
    /// So many nodes have failed that no further one is begun.
    pub exhausted: bool,
}

/// Decides.
pub fn decide(fleet: &Fleet<'_>) -> FleetDecision {
    let spec = &fleet.prepared.spec;
    let placement = spec.placement.clone().unwrap_or_default();
    let count = |is: fn(&NodeState) -> bool| fleet.outlooks.iter().filter(|one| is(&one.state)).count() as u32;
    let mut nodes = FleetNodes {
        matching: fleet.outlooks.len() as u32,
        waiting: count(|state| {
            matches!(
                state,
                NodeState::Waiting(_) | NodeState::Between { .. } | NodeState::Paused
            )
        }),
        measuring: count(|state| matches!(state, NodeState::Measuring)),
        measured: count(|state| matches!(state, NodeState::Measured)),
        failed: count(|state| matches!(state, NodeState::Away(_) | NodeState::Failed(_))),
        not_measured: count(|state| matches!(state, NodeState::NotMeasured(_))),
    };
    let budget = placement.max_failed_nodes.map(|most| most.of(nodes.matching));
    let exhausted = budget.is_some_and(|budget| nodes.failed > budget);
    let slots = placement
        .concurrent_nodes(nodes.matching)
        .saturating_sub(nodes.measuring);
    let begun = begun(fleet, slots as usize, exhausted);
    let started = begun
        .iter()
        .filter(|change| matches!(change, Change::CreateCohort { .. }))
        .count() as u32;
    let mut changes: Vec<Change> = fleet
        .outlooks
        .iter()
        .flat_map(|one| one.changes.iter().cloned())
        .collect();
    changes.extend(give_way(fleet, slots as usize, exhausted).cloned());
    changes.extend(begun.into_iter().cloned());
    let all_wait_for_the_user = spec.suspend && nodes.measuring == 0 && nodes.waiting > 0;
    let mut decision = Decision::at(Stage::Fleet(nodes));
    if let Some(grant) = grant(fleet, &changes) {
        changes.insert(0, grant);
    }
    decision.changes = changes;
    decision.stall = stall(fleet, nodes);
    decision.wake_at = fleet.outlooks.iter().filter_map(|one| one.wake_at).min();
    let idle = nodes.measuring == 0 && started == 0;
    let patience = patience(fleet, &placement);
    if all_wait_for_the_user {
        decision.stage = Stage::Suspended;
    } else if idle && spec.cancel {
        decision.stage = Stage::Over(End::Cancelled);
    } else if idle && (exhausted || nodes.waiting == 0) {
        let nothing_began = nodes.measured + nodes.failed == 0;
        if nothing_began && fleet.now < patience {
            // Nodes may still come, or come back.
            decision.wake_at = decision.wake_at.into_iter().chain([patience]).min();
        } else {
            let budget = fleet.over_budget.filter(|_| nodes.measured < nodes.matching);
            decision.stage = Stage::Over(budget.map_or(End::Done, |words| End::Budget(words.to_owned())));
        }
    }
    nodes.waiting -= started;
    nodes.measuring += started;
    let over = matches!(decision.stage, Stage::Over(_));
    if over {
        nodes.not_measured += nodes.waiting;
        nodes.waiting = 0;
    } else if let Stage::Fleet(counts) = &mut decision.stage {
        *counts = nodes;
    }
    FleetDecision {
        without_result: without_result(fleet, over, budget),
        decision,
        nodes,
        exhausted,
    }
}

/// What would begin nodes on which nothing was begun; nothing does when too many have failed.
fn fresh<'a>(fleet: &Fleet<'a>, exhausted: bool) -> impl Iterator<Item = &'a Vec<Change>> {
    fleet.outlooks.iter().filter_map(move |one| match &one.state {
        NodeState::Waiting(changes) if !exhausted && !changes.is_empty() => Some(changes),
        _ => None,
    })
}

/// What is begun in so many free places: first what is half done, and last what found no room before.
fn begun<'a>(fleet: &Fleet<'a>, slots: usize, exhausted: bool) -> Vec<&'a Change> {
    let outlooks = fleet.outlooks;
    let between = |wanted: bool| {
        outlooks.iter().filter_map(move |one| match &one.state {
            NodeState::Between { changes, busy } if *busy == wanted => Some(changes),
            _ => None,
        })
    };
    let in_order = between(false).chain(fresh(fleet, exhausted)).chain(between(true));
    in_order.take(slots).flatten().collect()
}

/// Where every place is taken, nodes that have no room give theirs to as many on which nothing was begun. They come
/// again after all of those, so each node gives way once. As long as a place is being freed, no other is freed for the
/// same node.
fn give_way<'a>(fleet: &Fleet<'a>, slots: usize, exhausted: bool) -> impl Iterator<Item = &'a Change> {
    let freed = |one: &&&Outlook| one.frees_place && one.state == NodeState::Measuring;
    let freed = fleet.outlooks.iter().filter(freed).count();
    let waiting = fresh(fleet, exhausted).count().saturating_sub(slots + freed);
    let busy = fleet.outlooks.iter().filter(|one| !one.gives_way.is_empty());
    busy.take(waiting).flat_map(|one| &one.gives_way)
}

/// How long a fleet waits for its first node.
fn patience(fleet: &Fleet<'_>, placement: &lem_crds::experiment::Placement) -> Timestamp {
    let deadline = SignedDuration::try_from(placement.schedule_deadline.get()).unwrap_or(SignedDuration::MAX);
    fleet.created.saturating_add(deadline).unwrap_or(Timestamp::MAX)
}

/// The rights of the fleet's account, if a mailbox is about to be made that it has none on. The mailboxes that are to
/// come are granted with it: one write for a whole fleet, and a few for one whose mailboxes one Role cannot name.
fn grant(fleet: &Fleet<'_>, changes: &[Change]) -> Option<Change> {
    let prepared = fleet.prepared;
    let created: BTreeSet<String> = changes
        .iter()
        .filter_map(|change| match change {
            Change::CreateCohort {
                cohort,
                incarnation,
                node: Some(node),
                ..
            } => Some(mailboxes(prepared, cohort, node, *incarnation)),
            _ => None,
        })
        .flatten()
        .collect();
    if created.is_subset(fleet.granted) {
        return None;
    }
    let runners = all_mailboxes(fleet, &created).unwrap_or_else(|| next_mailboxes(fleet, created));
    Some(Change::Grant {
        runners: runners.into_iter().collect(),
    })
}

/// The mailboxes that are about to be made, all that there are, and the first ones of all that are to come; none if one
/// Role cannot name them.
fn all_mailboxes(fleet: &Fleet<'_>, created: &BTreeSet<String>) -> Option<BTreeSet<String>> {
    let prepared = fleet.prepared;
    let there = fleet.outlooks.iter().flat_map(|one| one.runners.iter().cloned());
    let to_come = fleet
        .outlooks
        .iter()
        .flat_map(|one| first_mailboxes(prepared, &one.node));
    let mut all = created.clone();
    for name in there.chain(to_come) {
        all.insert(name);
        if all.len() > MOST_GRANTED {
            return None;
        }
    }
    Some(all)
}

/// The mailboxes that are about to be made, those in use, and as many of those to come as there is room for. The first
/// two are named even where they alone are too many: a process without rights on its mailbox fails.
fn next_mailboxes(fleet: &Fleet<'_>, created: BTreeSet<String>) -> BTreeSet<String> {
    let mut next = created;
    next.extend(fleet.outlooks.iter().flat_map(|one| one.in_use.iter().cloned()));
    let room = MOST_GRANTED.saturating_sub(next.len());
    next.extend(ahead(fleet).take(room));
    next
}

/// Names of the mailboxes of a set of processes.
fn mailboxes(prepared: &Prepared, cohort: &str, node: &str, incarnation: u32) -> impl Iterator<Item = String> + use<> {
    let name = node_cohort_name(&prepared.owner, cohort, node, incarnation);
    (0..prepared.spec.processes.count).map(move |process| runner_name(&name, process))
}

/// Those of the first set of each cohort on a node.
fn first_mailboxes<'a>(prepared: &'a Prepared, node: &'a str) -> impl Iterator<Item = String> {
    let cohorts = prepared.cohorts.iter();
    cohorts.flat_map(move |cohort| mailboxes(prepared, &cohort.key, node, 0))
}

/// Mailboxes that are still to come, the next ones first: of nodes under way cohort by cohort, then of the others node
/// by node.
fn ahead(fleet: &Fleet<'_>) -> impl Iterator<Item = String> {
    let prepared = fleet.prepared;
    let under_way = fleet.outlooks.iter().filter(|one| {
        matches!(
            one.state,
            NodeState::Measuring | NodeState::Between { .. } | NodeState::Paused
        )
    });
    let under_way: Vec<&Outlook> = under_way.copied().collect();
    let next = prepared.cohorts.iter().flat_map(move |cohort| {
        let sets = under_way.iter().flat_map(|one| {
            let names = mailboxes(prepared, &cohort.key, &one.node, 0);
            names.filter(|name| !one.runners.contains(name)).collect::<Vec<_>>()
        });
        sets.collect::<Vec<_>>()
    });
    let waiting = fleet
        .outlooks
        .iter()
        .filter(|one| matches!(one.state, NodeState::Waiting(_)));
    let later = waiting.flat_map(move |one| first_mailboxes(prepared, &one.node));
    next.chain(later)
}

fn stall(fleet: &Fleet<'_>, nodes: FleetNodes) -> Option<Cause> {
    if nodes.matching == 0 {
        let taint = fleet.candidates.taint.as_ref().map(|taint| {
            let tainted = fleet.candidates.tainted;
            format!("; {tainted} would, but have taints such as {taint}: put up with it in spec.placement.tolerations")
        });
        return Some(Cause::new(
            "NoNodes",
            format!(
                "no node has the labels of spec.placement.nodeSelector and the GPUs that spec.processes asks for{}",
                taint.unwrap_or_default()
            ),
        ));
    }
    let measuring = || fleet.outlooks.iter().filter(|one| one.state == NodeState::Measuring);
    // A pod without a word may be pulling a large image.
    let late = |what: &Unexplained| what.kind == UnexplainedKind::Job && what.late_at() <= fleet.now;
    let stands = |one: &&&Outlook| one.stall.is_some() || one.unexplained.as_ref().is_some_and(late);
    let standing = measuring().filter(stands).count() as u32;
    let stalled: Vec<(&str, &Cause)> = measuring()
        .filter_map(|one| Some((one.node.as_str(), one.stall.as_ref()?)))
        .collect();
    // What holds one node up is no concern of the others.
    let (node, cause) = stalled.first().filter(|_| standing == nodes.measuring)?;
    Some(Cause::new(
        cause.reason,
        format!("{} nodes, such as {node}: {}", stalled.len(), cause.message),
    ))
}

fn without_result(fleet: &Fleet<'_>, over: bool, budget: Option<u32>) -> Vec<NodesWithoutResult> {
    let mut grouped: BTreeMap<(String, bool), NodesWithoutResult> = BTreeMap::new();
    for one in fleet.outlooks {
        let (why, failed) = match &one.state {
            NodeState::Away(why) | NodeState::Failed(why) => (why.clone(), true),
            NodeState::NotMeasured(why) => (why.clone(), false),
            NodeState::Waiting(_) | NodeState::Between { .. } | NodeState::Paused if over => (not_begun(budget), false),
            _ => continue,
        };
        let entry = grouped
            .entry((why.reason.clone(), failed))
            .or_insert_with(|| NodesWithoutResult {
                reason: why.reason,
                failed,
                count: 0,
                nodes: Vec::new(),
                message: why.message,
            });
        entry.count += 1;
        if entry.nodes.len() < NAMED {
            entry.nodes.push(one.node.clone());
        }
    }
    let mut found: Vec<NodesWithoutResult> = grouped.into_values().collect();
    found.sort_by_key(|entry| std::cmp::Reverse(entry.count));
    found.truncate(REASONS);
    found
}

fn not_begun(budget: Option<u32>) -> Why {
    match budget {
        Some(budget) => Why::new(
            "MaxFailedNodes",
            format!(
                "more than {budget} nodes have failed, so no further one was begun (spec.placement.maxFailedNodes)"
            ),
        ),
        None => Why::new("Cancelled", "cancelled by spec.cancel"),
    }
}
