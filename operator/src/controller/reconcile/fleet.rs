//! The same steps for a fleet (`placement.strategy: EachNode`), node by node. Client.
//!
//! A thousand nodes report several times each. So a look takes no copy of the caches but one node's at a time, what a
//! finished node came to is computed once, looks take at most a fifth of the time, and a status that only counts on is
//! written every few seconds.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use futures::FutureExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::{ResourceExt, runtime::controller::Action};
use lem_crds::{EfficiencyExperiment, EfficiencyExperimentStatus};

use super::{
    super::{
        aggregate,
        decide::{Change, Decision, Stage},
        error::ReconcileError,
        expectation,
        fleet::{
            decide::{self, Fleet},
            look::{self, Outlook, Seen},
            nodes::{self, Candidates, Obstacle},
            status::{self, Aggregated},
        },
        leader::Term,
        memory::{BETWEEN_QUESTIONS, Settled},
        neighbour::Neighbour,
        observe::{self, OfNode},
        prepare::Prepared,
        stall::Cause,
        view::{Observed, Unexplained, UnexplainedKind},
    },
    Context, SOON, apply, remember, write_status,
};
use crate::experiment::Account;

/// Between two writes of a status in which nothing but counts and figures have changed.
const STATUS_PAUSE: Duration = Duration::from_secs(5);
/// Looks may take one in so many parts of the time.
const SHARE: u32 = 5;
/// How soon to see whether nodes can be read.
const NODES_AGAIN: Duration = Duration::from_secs(10);

/// Looks at a fleet and does what is to be done.
pub(super) async fn steps(
    experiment: &EfficiencyExperiment,
    prepared: &Prepared,
    before: &EfficiencyExperimentStatus,
    context: &Context,
) -> Result<Action, ReconcileError> {
    let uid = prepared.owner.uid.as_str();
    let term = context.leadership.term();
    let leads = term.is_some();
    if let Some(pause) = context.memories.of(uid, |memory| memory.pace.pause(SHARE, leads)) {
        return Ok(Action::requeue(pause));
    }
    let begin = Instant::now();
    let now = Timestamp::now();
    let mut by_node = context.caches.observe_nodes(uid);
    let mut seen: HashMap<String, u64> = by_node.values().flat_map(OfNode::versions).collect();
    seen.extend(expectation::version(experiment).map(|version| (uid.to_owned(), version)));
    if context.expectations.missing(uid, &seen) {
        return Ok(Action::requeue(SOON));
    }
    let Some(term) = term else {
        if let Ok(candidates) = candidates(prepared, context) {
            // What each node came to is found out by all replicas, so that one that takes over begins at once.
            let this = Neighbour::of(experiment);
            drop(looks(prepared, &this, &candidates, &by_node, (now, None), context));
            context
                .memories
                .of(uid, |memory| memory.pace.looked(begin.elapsed(), leads));
        }
        return Ok(Action::await_change());
    };
    let namespace_ends = context.memories.of(uid, |memory| memory.namespace_ends);
    if namespace_ends || by_node.values().any(OfNode::deletes_pods) {
        let ends = namespace_ends
            || observe::namespace_ends(&context.client, &prepared.owner.namespace)
                .await
                .map_err(ReconcileError::Observe)?;
        context.memories.of(uid, |memory| memory.namespace_ends = ends);
        if ends {
            return let_go(prepared, &by_node, term, context).await;
        }
    }
    let over = aggregate::is_over(before.phase);
    let candidates = match candidates(prepared, context) {
        Ok(candidates) => candidates,
        Err(cause) => return unreadable(experiment, prepared, before, cause, context).await,
    };
    let departed = context.memories.of(uid, |memory| {
        nodes::departed(&mut memory.matched, &candidates, before.fleet.as_ref())
    });
    for node in candidates.nodes.keys().chain(&departed) {
        by_node.entry(node.clone()).or_default();
    }
    let over_budget = over_budget(prepared, &by_node, context);
    let looked = looks(
        prepared,
        &Neighbour::of(experiment),
        &candidates,
        &by_node,
        (now, over_budget.as_deref()),
        context,
    );
    let outlooks: Vec<&Outlook> = looked.iter().map(|settled| &settled.outlook).collect();
    if over {
        return afterwards(prepared, &outlooks, term, context).await;
    }
    carry_out(
        experiment,
        before,
        &Found {
            prepared,
            candidates: &candidates,
            by_node: &by_node,
            outlooks: &outlooks,
            over_budget: over_budget.as_deref(),
            term,
            now,
        },
        context,
        begin,
    )
    .await
}

/// Everything that a look has found.
#[derive(Clone, Copy)]
struct Found<'a> {
    prepared: &'a Prepared,
    candidates: &'a Candidates,
    by_node: &'a BTreeMap<String, OfNode>,
    outlooks: &'a [&'a Outlook],
    over_budget: Option<&'a str>,
    term: Term,
    now: Timestamp,
}

/// Jobs that have failed stay longer than the others.
async fn afterwards(
    prepared: &Prepared,
    outlooks: &[&Outlook],
    term: Term,
    context: &Context,
) -> Result<Action, ReconcileError> {
    let changes = outlooks.iter().flat_map(|one| one.changes.iter());
    let rest = changes.filter(|change| matches!(change, Change::SetTimeToLive { .. }));
    let decision = only(rest.cloned().collect());
    apply(&decision, term, prepared, &Observed::default(), context).await?;
    Ok(Action::await_change())
}

/// Decides for all nodes, writes the status, and does what is to be done.
async fn carry_out(
    experiment: &EfficiencyExperiment,
    before: &EfficiencyExperimentStatus,
    found: &Found<'_>,
    context: &Context,
    begin: Instant,
) -> Result<Action, ReconcileError> {
    let Found {
        prepared,
        candidates,
        by_node,
        outlooks,
        over_budget,
        term,
        now,
    } = *found;
    let uid = prepared.owner.uid.as_str();
    let granted = context.memories.of(uid, |memory| memory.granted.known(term));
    let decided = decide::decide(&Fleet {
        prepared,
        candidates,
        outlooks,
        over_budget,
        granted: &granted,
        created: experiment.creation_timestamp().map_or(now, |created| created.0),
        now,
    });
    let mut wanted = status::status(&Aggregated {
        prepared,
        generation: experiment.metadata.generation,
        before,
        candidates,
        outlooks,
        decided: &decided,
        now,
    });
    // What the API server takes for the writes below is not this process's time.
    let took = begin.elapsed();
    let obstacle = context.memories.of(uid, |memory| memory.obstacle.clone());
    if let (Some(cause), None) = (obstacle, &decided.decision.stall) {
        aggregate::stalled(&mut wanted, before, &cause, now);
    }
    let write_in = pause_of_status(uid, before, &wanted, context);
    if write_in.is_none() {
        write_status(experiment, before, &wanted, context).await?;
        context
            .memories
            .of(uid, |memory| memory.status_written = Some(Instant::now()));
    }
    let touched = touched(&decided.decision, by_node);
    let applied = apply(&decided.decision, term, prepared, &touched, context).await;
    context.memories.of(uid, |memory| {
        remember(memory, applied.as_ref().err());
        memory.pace.looked(took, true);
    });
    if applied.as_ref().is_err_and(|error| error.category() == "terminating") {
        return Ok(Action::requeue(SOON));
    }
    applied?;
    let explained_in = explain(prepared, outlooks, now, context).await;
    let deadline = decided.decision.wake_at.map(|at| {
        let ahead = Duration::try_from(at.duration_since(now)).unwrap_or_default();
        ahead + Duration::from_millis(100)
    });
    Ok(match write_in.into_iter().chain(deadline).chain(explained_in).min() {
        Some(pause) => Action::requeue(pause),
        None => Action::await_change(),
    })
}

/// Looks at every node; at one on which nothing can have changed only once.
fn looks(
    prepared: &Prepared,
    this: &Neighbour,
    candidates: &Candidates,
    by_node: &BTreeMap<String, OfNode>,
    (now, over_budget): (Timestamp, Option<&str>),
    context: &Context,
) -> Vec<Arc<Settled>> {
    let uid = prepared.owner.uid.as_str();
    let gone = Obstacle {
        reason: nodes::GONE,
        message: "the node has left the cluster, or no longer matches spec.placement".to_owned(),
    };
    let mut outlooks: Vec<Arc<Settled>> = Vec::with_capacity(by_node.len());
    for (node, of_node) in by_node {
        let versions = of_node.fingerprint();
        let known = context.memories.of(uid, |memory| memory.settled.get(node).cloned());
        if let Some(known) = known.filter(|known| known.versions == versions) {
            outlooks.push(known);
            continue;
        }
        let mut observed = of_node.observed();
        let obstacle = match candidates.nodes.get(node) {
            Some(obstacle) => obstacle.as_ref(),
            None => Some(candidates.kept_off.get(node).unwrap_or(&gone)),
        };
        let unexplained = of_node.unexplained();
        if let Some(what) = &unexplained {
            let words = context.memories.of(uid, |memory| memory.explanations.words(what));
            tell(&mut observed, what, words);
        }
        let outlook = look::look(&Seen {
            prepared,
            this,
            node,
            obstacle,
            observed: &observed,
            unexplained: unexplained.as_ref(),
            over_budget,
            now,
        });
        let settled = Arc::new(Settled { versions, outlook });
        if settled.outlook.is_settled() {
            let kept = Arc::clone(&settled);
            context
                .memories
                .of(uid, |memory| memory.settled.insert(node.clone(), kept));
        }
        outlooks.push(settled);
    }
    outlooks
}

fn only(changes: Vec<Change>) -> Decision {
    Decision {
        changes,
        ..Decision::at(Stage::Closing)
    }
}

/// Puts what the events have said into what was seen of a node.
fn tell(observed: &mut Observed, what: &Unexplained, words: Option<String>) {
    match what.kind {
        UnexplainedKind::Job => observed.job_warning = words,
        UnexplainedKind::Pod => observed
            .pod_warnings
            .extend(words.map(|words| (what.name.clone(), words))),
    }
}

/// Asks why one of all processes that do not start does not: the next look knows the answer. Gives when that is due.
async fn explain(prepared: &Prepared, outlooks: &[&Outlook], now: Timestamp, context: &Context) -> Option<Duration> {
    let unexplained: Vec<&Unexplained> = outlooks.iter().filter_map(|one| one.unexplained.as_ref()).collect();
    let (late, early): (Vec<&Unexplained>, Vec<&Unexplained>) =
        unexplained.into_iter().partition(|what| what.late_at() <= now);
    let uid = prepared.owner.uid.as_str();
    let next = context
        .memories
        .of(uid, |memory| memory.explanations.next(&late, Instant::now()));
    if let Some(what) = next {
        let found = observe::explain(&context.client, &prepared.owner.namespace, what).await;
        let words = found.unwrap_or_else(|error| {
            // An explanation is no reason to stop.
            tracing::debug!(%error, name = what.name, "events cannot be read");
            None
        });
        context
            .memories
            .of(uid, |memory| memory.explanations.learn(what, words, Instant::now()));
    }
    let due = early
        .iter()
        .filter_map(|what| Duration::try_from(what.late_at().duration_since(now)).ok());
    let answer = (!late.is_empty()).then_some(BETWEEN_QUESTIONS);
    due.chain(answer).min()
}

/// Why the budget has no room for one more window on each node that is being measured. What each node has spent is read
/// only where there is a budget.
fn over_budget(prepared: &Prepared, by_node: &BTreeMap<String, OfNode>, context: &Context) -> Option<String> {
    prepared.spec.budget.as_ref()?;
    let settled = context
        .memories
        .of(&prepared.owner.uid, |memory| memory.settled.clone());
    let mut account = Account::default();
    let mut under_way = 0;
    for (node, of_node) in by_node {
        let known = settled
            .get(node)
            .filter(|known| known.versions == of_node.fingerprint());
        if let Some(known) = known {
            account = account.and(known.outlook.account);
            continue;
        }
        let observed = of_node.observed();
        under_way += u32::from(observed.incarnations().iter().any(|one| !one.closed()));
        account = account.and(Account::of(&observed.records()));
    }
    account.over_budget(&prepared.spec, under_way.max(1) * prepared.spec.processes.count)
}

/// The nodes that match, or why they cannot be read.
fn candidates(prepared: &Prepared, context: &Context) -> Result<Candidates, Cause> {
    let unreadable = |why: &str| Cause::new("NodesUnreadable", format!("placement.strategy EachNode: {why}"));
    let Some(store) = &context.caches.nodes else {
        return Err(unreadable(
            "this operator watches one namespace and may not read nodes: use an operator of the whole cluster",
        ));
    };
    if store.wait_until_ready().now_or_never().is_none() {
        return Err(unreadable(
            "the operator cannot read nodes: its ClusterRole must allow list and watch of nodes (upgrade the chart lem)",
        ));
    }
    let nodes: Vec<Arc<Node>> = store.state();
    let placement = prepared.spec.placement.clone().unwrap_or_default();
    let processes = &prepared.spec.processes;
    // Which nodes have what a claim asks for only the scheduler knows.
    let of_plugin = placement.resource_claims.is_empty();
    let gpus = if of_plugin {
        processes.gpus_per_process * processes.count
    } else {
        0
    };
    Ok(nodes::candidates(nodes.iter().map(AsRef::as_ref), &placement, gpus))
}

async fn unreadable(
    experiment: &EfficiencyExperiment,
    prepared: &Prepared,
    before: &EfficiencyExperimentStatus,
    cause: Cause,
    context: &Context,
) -> Result<Action, ReconcileError> {
    let now = Timestamp::now();
    let mut wanted = before.clone();
    wanted.observed_generation = experiment.metadata.generation;
    if wanted.conditions.is_empty() {
        let wishes = aggregate::conditions(prepared, &only(Vec::new()), &wanted);
        wanted.conditions = super::super::condition::merge(&[], wishes, experiment.metadata.generation, now);
    }
    aggregate::stalled(&mut wanted, before, &cause, now);
    write_status(experiment, before, &wanted, context).await?;
    Ok(Action::requeue(NODES_AGAIN))
}

/// How long a status that differs only in counts and figures waits for its turn; `None`: it is written now.
fn pause_of_status(
    uid: &str,
    before: &EfficiencyExperimentStatus,
    wanted: &EfficiencyExperimentStatus,
    context: &Context,
) -> Option<Duration> {
    let conditions = |status: &EfficiencyExperimentStatus| -> Vec<(String, String, String)> {
        let each = status.conditions.iter();
        each.map(|one| (one.type_.clone(), one.status.clone(), one.reason.clone()))
            .collect()
    };
    if before.phase != wanted.phase || conditions(before) != conditions(wanted) || before == wanted {
        return None;
    }
    let written = context.memories.of(uid, |memory| memory.status_written)?;
    STATUS_PAUSE.checked_sub(written.elapsed())
}

/// The objects of the nodes that a decision changes: what letters are fenced by, and what is there already.
fn touched(decision: &Decision, by_node: &BTreeMap<String, OfNode>) -> Observed {
    let mut of: BTreeSet<&str> = BTreeSet::new();
    let mut by_runner: HashMap<String, &str> = HashMap::new();
    for (node, of_node) in by_node {
        by_runner.extend(of_node.runners.iter().map(|runner| (runner.name_any(), node.as_str())));
    }
    for change in &decision.changes {
        match change {
            Change::CreateCohort { node: Some(node), .. } => {
                of.insert(node);
            }
            Change::Tell { runner, .. } | Change::Remember { runner, .. } => {
                of.extend(by_runner.get(runner.as_str()));
            }
            _ => {}
        }
    }
    let mut touched = Observed::default();
    for node in of {
        if let Some(of_node) = by_node.get(node) {
            let observed = of_node.observed();
            touched.runners.extend(observed.runners);
            touched.jobs.extend(observed.jobs);
        }
    }
    touched
}

/// The namespace is being deleted: see [`super::super::decide::let_go`].
async fn let_go(
    prepared: &Prepared,
    by_node: &BTreeMap<String, OfNode>,
    term: Term,
    context: &Context,
) -> Result<Action, ReconcileError> {
    let incarnations = by_node.values().flat_map(|of_node| of_node.observed().incarnations());
    let changes = incarnations
        .filter_map(|one| super::super::decide::delete_job(&one))
        .collect();
    apply(&only(changes), term, prepared, &Observed::default(), context).await?;
    Ok(Action::await_change())
}
