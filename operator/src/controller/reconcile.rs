//! One reconciliation: the steps in their order. Client.

mod fleet;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{FutureExt, StreamExt, stream};
use jiff::Timestamp;
use kube::{
    Client, ResourceExt,
    runtime::{
        Controller,
        controller::{self, Action},
        events::Recorder,
        reflector::{ObjectRef, Store},
    },
};
use lem_crds::{EfficiencyExperiment, EfficiencyExperimentStatus, status::ExperimentPhase};
use tokio::sync::mpsc::UnboundedSender;

use super::{
    aggregate::{self, Aggregated},
    announce,
    apply::Applier,
    build::{Defaults, job_name},
    decide::{self, Change, Decision, Situation},
    error::{ReconcileError, words},
    expectation::{self, Expectations},
    leader::{Leadership, Term},
    memory::{Memories, Memory},
    metrics::ControllerMetrics,
    neighbour::Neighbour,
    observe::{self, Caches},
    prepare::{self, Prepared},
    schedule::{GuardedSchedule, schedule_of},
    stall::Cause,
    update_status,
    view::Observed,
    watch::Guarded,
};
use crate::experiment::Failure;

/// How soon to look again where an own write is not in the caches yet; its event comes first as a rule.
const SOON: Duration = Duration::from_secs(1);
/// Sets of processes that are written at the same time: a fleet of a thousand nodes has that many.
const CONCURRENT_WRITES: usize = 16;
/// Longest pause after errors.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// Everything that a reconciliation needs beside the experiment.
pub(super) struct Context {
    pub(super) client: Client,
    pub(super) leadership: Leadership,
    pub(super) recorder: Recorder,
    pub(super) caches: Caches,
    pub(super) experiments: Store<Guarded>,
    pub(super) schedule_calls: UnboundedSender<ObjectRef<GuardedSchedule>>,
    pub(super) defaults: Defaults,
    pub(super) expectations: Expectations,
    pub(super) memories: Memories,
    pub(super) metrics: ControllerMetrics,
}

/// Runs the controller of experiments until it is shut down.
pub(super) async fn follow(controller: Controller<Guarded>, context: Arc<Context>) {
    let mut outcomes = std::pin::pin!(controller.run(reconcile, error_policy, context));
    while let Some(outcome) = outcomes.next().await {
        match outcome {
            Ok(_) => {}
            // Also where the definition is missing: it is asked for until it is there.
            Err(controller::Error::QueueError(error)) => {
                tracing::warn!(kind = "EfficiencyExperiment", %error, "the watch is interrupted");
            }
            Err(error) => tracing::debug!(%error, "the controller's queue"),
        }
    }
}

/// Looks at one experiment and does what is to be done.
#[tracing::instrument(skip_all, fields(namespace = guarded.namespace(), experiment = guarded.name_any()))]
async fn reconcile(guarded: Arc<Guarded>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let begin = Instant::now();
    let experiment = match &guarded.0 {
        Ok(experiment) => experiment,
        Err(error) => {
            // Only an object that was stored under another schema: nothing can be done but say so.
            tracing::warn!(%error, "the experiment cannot be read");
            context.metrics.failed("malformed");
            return Ok(Action::await_change());
        }
    };
    let uid = experiment.uid().unwrap_or_default();
    let namespace = experiment.namespace().unwrap_or_default();
    context.metrics.begins(&namespace, &experiment.name_any());
    call_schedule(experiment, &context);
    // It holds all that one experiment is made of.
    let outcome = Box::pin(steps(experiment, &uid, &context)).await;
    context.metrics.reconciled(begin.elapsed());
    if outcome.is_ok() {
        context.memories.of(&uid, |memory| memory.errors = 0);
    }
    context
        .memories
        .tidy(|| context.experiments.state().iter().filter_map(|one| one.uid()).collect());
    outcome
}

/// The schedule of an experiment looks at it when it has begun and when it is over.
fn call_schedule(experiment: &EfficiencyExperiment, context: &Context) {
    let phase = experiment
        .status
        .as_ref()
        .map(|status| status.phase)
        .unwrap_or_default();
    let moment = phase == ExperimentPhase::Pending || aggregate::is_over(phase);
    if let Some(schedule) = schedule_of(experiment).filter(|_| moment) {
        // The receiver is gone only when the controller ends.
        drop(context.schedule_calls.send(schedule));
    }
}

async fn steps(experiment: &EfficiencyExperiment, uid: &str, context: &Context) -> Result<Action, ReconcileError> {
    if experiment.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let now = Timestamp::now();
    let before = experiment.status.clone().unwrap_or_default();
    let prepared = match prepare::prepare(experiment) {
        Ok(prepared) => prepared,
        Err(error) => {
            let status = aggregate::refused(&before, experiment.metadata.generation, error.to_string(), now);
            write_status(experiment, &before, &status, context).await?;
            return Ok(Action::await_change());
        }
    };
    if prepared.each_node() {
        return fleet::steps(experiment, &prepared, &before, context).await;
    }
    let mut observed = context.caches.observe(uid);
    let mut seen = observe::versions(&observed);
    seen.extend(expectation::version(experiment).map(|version| (uid.to_owned(), version)));
    if context.expectations.missing(uid, &seen) {
        return Ok(Action::requeue(SOON));
    }
    let Some(term) = context.leadership.term() else {
        return Ok(Action::await_change());
    };
    observed.namespace_ends = context.memories.of(uid, |memory| memory.namespace_ends);
    let again = observe::ask(&context.client, &prepared.owner.namespace, &mut observed, now).await;
    let again = again.map_err(ReconcileError::Observe)?;
    context
        .memories
        .of(uid, |memory| memory.namespace_ends = observed.namespace_ends);
    observed.api_refusal = context.memories.of(uid, |memory| memory.obstacle.clone());
    let records = observed.records();
    let failures: Vec<Failure> = before.failures.iter().map(Failure::from).collect();
    let this = Neighbour::of(experiment);
    let over = aggregate::is_over(before.phase);
    // Every pod of all experiments is looked at for this: only for what may still want nodes.
    let wants_nodes = !over && !observed.namespace_ends;
    let neighbours = wants_nodes.then(|| context.caches.partly_placed(&context.experiments));
    let neighbours = neighbours.unwrap_or_default();
    let situation = Situation {
        prepared: &prepared,
        node: None,
        observed: &observed,
        records: &records,
        failures: &failures,
        this: &this,
        neighbours: &neighbours,
        over_budget: None,
        now,
    };
    if observed.namespace_ends {
        apply(&decide::let_go(&situation), term, &prepared, &observed, context).await?;
        return Ok(Action::await_change());
    }
    if over {
        let decision = decide::afterwards(&situation);
        apply(&decision, term, &prepared, &observed, context).await?;
        return Ok(Action::await_change());
    }
    let mut decision = decide::decide(&situation);
    decision.stall = decision.stall.or_else(|| observed.api_refusal.clone());
    let wanted = aggregate::status(&Aggregated {
        prepared: &prepared,
        generation: experiment.metadata.generation,
        before: &before,
        records: &records,
        decision: &decision,
        now,
    });
    write_status(experiment, &before, &wanted, context).await?;
    if !decision.failures.is_empty() {
        // The next look rests on them; the write's own event calls for it.
        return Ok(Action::requeue(SOON));
    }
    let applied = apply(&decision, term, &prepared, &observed, context).await;
    context
        .memories
        .of(uid, |memory| remember(memory, applied.as_ref().err()));
    if applied.as_ref().is_err_and(|error| error.category() == "terminating") {
        return Ok(Action::requeue(SOON));
    }
    applied?;
    let deadline = decision.wake_at.map(|at| {
        let ahead = Duration::try_from(at.duration_since(now)).unwrap_or_default();
        ahead + Duration::from_millis(100)
    });
    Ok(match again.into_iter().chain(deadline).min() {
        Some(pause) => Action::requeue(pause),
        None => Action::await_change(),
    })
}

/// What an attempt to change the cluster says about the next one.
fn remember(memory: &mut Memory, error: Option<&ReconcileError>) {
    match error {
        None => memory.obstacle = None,
        Some(error) if error.category() == "terminating" => memory.namespace_ends = true,
        Some(error @ ReconcileError::Apply { source, .. }) if matches!(error.category(), "forbidden" | "refused") => {
            memory.obstacle = Some(Cause::new("ApiRefused", format!("{error}: {}", words(source))));
        }
        Some(_) => {}
    }
}

/// Makes changes, as long as the term lasts in which they were decided.
async fn apply(
    decision: &Decision,
    term: Term,
    prepared: &Prepared,
    observed: &Observed,
    context: &Context,
) -> Result<(), ReconcileError> {
    let applier = Applier {
        client: &context.client,
        prepared,
        observed,
        defaults: &context.defaults,
        expectations: &context.expectations,
        nodes: context.caches.nodes.as_ref(),
    };
    let begins = decision
        .changes
        .iter()
        .take_while(|change| job_of(change, prepared).is_none());
    let (first, rest) = decision.changes.split_at(begins.count());
    if !apply_in_order(first, term, &applier, context).await? {
        return Ok(());
    }
    let mut by_job: BTreeMap<String, Vec<&Change>> = BTreeMap::new();
    for change in rest {
        by_job
            .entry(job_of(change, prepared).unwrap_or_default())
            .or_default()
            .push(change);
    }
    // What one node refuses does not hold up the others.
    let writes: Vec<_> = by_job
        .into_values()
        .map(|changes| apply_in_order(changes, term, &applier, context).boxed())
        .collect();
    let outcomes: Vec<Result<bool, ReconcileError>> =
        stream::iter(writes).buffer_unordered(CONCURRENT_WRITES).collect().await;
    for outcome in outcomes {
        outcome?;
    }
    Ok(())
}

/// Gives whether all of them were made: none is once the term has ended.
async fn apply_in_order<'a>(
    changes: impl IntoIterator<Item = &'a Change>,
    term: Term,
    applier: &Applier<'_>,
    context: &Context,
) -> Result<bool, ReconcileError> {
    let uid = applier.prepared.owner.uid.as_str();
    for change in changes {
        if context.leadership.term() != Some(term) {
            return Ok(false);
        }
        tracing::info!(change = decide::name(change), "applying");
        let Change::Grant { runners } = change else {
            applier.apply(change).await?;
            continue;
        };
        context.memories.of(uid, |memory| memory.granted.forget());
        applier.apply(change).await?;
        context.memories.of(uid, |memory| memory.granted.learn(term, runners));
    }
    Ok(true)
}

/// Name of the Job of the set of processes that a change is about: changes of different ones may be made in any order.
/// None if it is about all of them.
fn job_of(change: &Change, prepared: &Prepared) -> Option<String> {
    match change {
        Change::Grant { .. } => None,
        Change::CreateCohort {
            cohort,
            incarnation,
            node,
            ..
        } => Some(job_name(&prepared.owner, cohort, node.as_deref(), *incarnation)),
        // A mailbox has the name of its Job and the number of the process.
        Change::Tell { runner, .. } | Change::Remember { runner, .. } => {
            let job = runner.rsplit_once('-').map_or(runner.as_str(), |(job, _)| job);
            Some(job.to_owned())
        }
        Change::DeleteJob { name } | Change::SetTimeToLive { name, .. } => Some(name.clone()),
    }
}

async fn write_status(
    experiment: &EfficiencyExperiment,
    before: &EfficiencyExperimentStatus,
    wanted: &EfficiencyExperimentStatus,
    context: &Context,
) -> Result<(), ReconcileError> {
    if !context.leadership.is_held() {
        return Ok(());
    }
    if let Some(written) = update_status::update(&context.client, experiment, wanted).await? {
        let uid = experiment.uid().unwrap_or_default();
        context.expectations.expect(&uid, &written);
        count(experiment, before, wanted, context);
        announce::announce(&context.recorder, experiment, &announce::news(before, wanted)).await;
    }
    Ok(())
}

/// What a written status adds to the operator's own counters.
fn count(
    experiment: &EfficiencyExperiment,
    before: &EfficiencyExperimentStatus,
    written: &EfficiencyExperimentStatus,
    context: &Context,
) {
    let verdicts = (before.progress.verdicts, written.progress.verdicts);
    context.metrics.evaluated(verdicts.0, verdicts.1);
    if before.phase == written.phase {
        return;
    }
    let uid = experiment.uid().unwrap_or_default();
    let since = context
        .memories
        .of(&uid, |memory| memory.phase_since.replace(Instant::now()));
    let created = || {
        let created = experiment.creation_timestamp()?.0;
        Duration::try_from(Timestamp::now().duration_since(created)).ok()
    };
    // How long an operator before this one has seen a phase is not known, but for the first.
    let after = match before.phase {
        ExperimentPhase::Pending => created(),
        _ => since.map(|since| since.elapsed()),
    };
    if let Some(after) = after {
        context.metrics.left(before.phase, after);
    }
}

/// Weather is tried again, ever more slowly; a user's mistake never comes here.
#[expect(clippy::needless_pass_by_value, reason = "the signature is the controller's")]
fn error_policy(guarded: Arc<Guarded>, error: &ReconcileError, context: Arc<Context>) -> Action {
    let category = error.category();
    context.metrics.failed(category);
    let uid = guarded.uid().unwrap_or_default();
    let count = context.memories.of(&uid, |memory| {
        memory.errors += 1;
        memory.errors
    });
    let causes = with_causes(error);
    tracing::warn!(
        namespace = guarded.namespace(),
        experiment = guarded.name_any(),
        category,
        error = causes,
        count,
        "the reconciliation failed"
    );
    let pause = Duration::from_millis(250).saturating_mul(1 << count.min(10));
    Action::requeue(pause.min(LONGEST_PAUSE))
}

/// The step, and the API server's own words without the wrapping.
fn with_causes(error: &ReconcileError) -> String {
    format!("{error}: {}", words(error.cause()))
}
