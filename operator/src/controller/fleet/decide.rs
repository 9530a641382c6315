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
    },
    look::{NodeState, Outlook, Why},
    nodes::Candidates,
};

/// Names of nodes that a status gives for one reason.
const NAMED: usize = 10;
/// Reasons that a status gives.
const REASONS: usize = 20;

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
        waiting: count(|state| matches!(state, NodeState::Waiting(_) | NodeState::Paused)),
        measuring: count(|state| matches!(state, NodeState::Measuring)),
        measured: count(|state| matches!(state, NodeState::Measured)),
        failed: count(|state| matches!(state, NodeState::Failed(_))),
        not_measured: count(|state| matches!(state, NodeState::NotMeasured(_))),
    };
    let budget = placement.max_failed_nodes.map(|most| most.of(nodes.matching));
    let exhausted = budget.is_some_and(|budget| nodes.failed > budget);
    let slots = placement
        .concurrent_nodes(nodes.matching)
        .saturating_sub(nodes.measuring);
    let begins = if exhausted { 0 } else { slots as usize };
    let begun: Vec<&Change> = fleet
        .outlooks
        .iter()
        .filter_map(|one| match &one.state {
            NodeState::Waiting(changes) if !changes.is_empty() => Some(changes),
            _ => None,
        })
        .take(begins)
        .flatten()
        .collect();
    let mut changes: Vec<Change> = fleet
        .outlooks
        .iter()
        .flat_map(|one| one.changes.iter().cloned())
        .collect();
    changes.extend(begun.iter().map(|change| (*change).clone()));
    let started = begun
        .iter()
        .filter(|change| matches!(change, Change::CreateCohort { .. }))
        .count() as u32;
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

/// How long a fleet waits for its first node.
fn patience(fleet: &Fleet<'_>, placement: &lem_crds::experiment::Placement) -> Timestamp {
    let deadline = SignedDuration::try_from(placement.schedule_deadline.get()).unwrap_or(SignedDuration::MAX);
    fleet.created.saturating_add(deadline).unwrap_or(Timestamp::MAX)
}

/// The rights of the fleet's account, if a mailbox is about to be made that it has none on. The mailboxes of nodes that
/// are still to come are granted with it: one write for a whole fleet.
fn grant(fleet: &Fleet<'_>, changes: &[Change]) -> Option<Change> {
    let owner = &fleet.prepared.owner;
    let processes = 0..fleet.prepared.spec.processes.count;
    let of_set = |cohort: &str, node: &str, incarnation: u32| {
        let name = node_cohort_name(owner, cohort, node, incarnation);
        processes.clone().map(move |process| runner_name(&name, process))
    };
    let created: BTreeSet<String> = changes
        .iter()
        .filter_map(|change| match change {
            Change::CreateCohort {
                cohort,
                incarnation,
                node: Some(node),
                ..
            } => Some(of_set(cohort, node, *incarnation)),
            _ => None,
        })
        .flatten()
        .collect();
    if created.is_subset(fleet.granted) {
        return None;
    }
    let first_of_each = fleet.outlooks.iter().flat_map(|one| {
        let cohorts = fleet.prepared.cohorts.iter();
        cohorts.flat_map(|cohort| of_set(&cohort.key, &one.node, 0))
    });
    let there = fleet.outlooks.iter().flat_map(|one| one.runners.iter().cloned());
    let runners: BTreeSet<String> = first_of_each.chain(there).chain(created).collect();
    Some(Change::Grant {
        runners: runners.into_iter().collect(),
    })
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
    let measuring = fleet.outlooks.iter().filter(|one| one.state == NodeState::Measuring);
    let stalled: Vec<(&str, &Cause)> = measuring
        .filter_map(|one| Some((one.node.as_str(), one.stall.as_ref()?)))
        .collect();
    // What holds one node up is no concern of the others.
    let (node, cause) = stalled.first().filter(|_| stalled.len() as u32 == nodes.measuring)?;
    Some(Cause::new(
        cause.reason,
        format!("{} nodes, such as {node}: {}", stalled.len(), cause.message),
    ))
}

fn without_result(fleet: &Fleet<'_>, over: bool, budget: Option<u32>) -> Vec<NodesWithoutResult> {
    let mut grouped: BTreeMap<(String, bool), NodesWithoutResult> = BTreeMap::new();
    for one in fleet.outlooks {
        let (why, failed) = match &one.state {
            NodeState::Failed(why) => (why.clone(), true),
            NodeState::NotMeasured(why) => (why.clone(), false),
            NodeState::Waiting(_) | NodeState::Paused if over => (not_begun(budget), false),
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
