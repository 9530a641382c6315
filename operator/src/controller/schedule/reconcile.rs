//! One look at a schedule: the steps in their order. Client.

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use jiff::Timestamp;
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
    runtime::{
        Controller,
        controller::{self, Action, Config},
        events::{Event, EventType, Recorder},
        reflector::{ObjectRef, Store},
        watcher,
    },
};
use lem_crds::{
    EfficiencyExperiment,
    schedule::{EfficiencySchedule, EfficiencyScheduleStatus},
};
use serde_json::json;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_stream::wrappers::{UnboundedReceiverStream, WatchStream};

use super::{
    super::{
        aggregate,
        apply::FIELD_MANAGER,
        error::{ReconcileError, words},
        leader::Leadership,
        metrics::ControllerMetrics,
        observe::Caches,
        prepare::{self, Prepared},
        watch::Guarded,
    },
    GuardedSchedule,
    decide::{self, Decision, Measured, View},
    experiment, schedule_of,
};
use crate::experiment::{Failure, MeasuredPoint, NodeResult, Record, measured_fleet, measured_points};

/// Events call for a look; what they miss is found by then.
const AGAIN: Duration = Duration::from_mins(5);
/// After an error, which is the API server's.
const RETRY: Duration = Duration::from_secs(5);
/// Longest note of an event.
const NOTE_LENGTH: usize = 1000;

/// Everything that a look needs beside the schedule.
pub(in super::super) struct Context {
    pub(in super::super) client: Client,
    pub(in super::super) leadership: Leadership,
    pub(in super::super) recorder: Recorder,
    pub(in super::super) caches: Caches,
    pub(in super::super) experiments: Store<Guarded>,
    pub(in super::super) metrics: ControllerMetrics,
}

/// The controller of all schedules, which looks at one when it is called, and at all when leadership changes.
pub(in super::super) fn controller(
    schedules: Api<GuardedSchedule>,
    called: UnboundedReceiver<ObjectRef<GuardedSchedule>>,
    leadership: &Leadership,
) -> Controller<GuardedSchedule> {
    Controller::new(schedules, watcher::Config::default().any_semantic())
        .with_config(Config::default().concurrency(1))
        .reconcile_on(UnboundedReceiverStream::new(called))
        .reconcile_all_on(WatchStream::from_changes(leadership.changes()).map(drop))
}

/// Runs that controller.
pub(in super::super) async fn follow(controller: Controller<GuardedSchedule>, context: Arc<Context>) {
    let mut outcomes = std::pin::pin!(controller.run(reconcile, error_policy, context));
    while let Some(outcome) = outcomes.next().await {
        if let Err(controller::Error::QueueError(error)) = outcome {
            tracing::warn!(kind = "EfficiencySchedule", %error, "the watch is interrupted");
        }
    }
}

/// Looks at one schedule and does what is to be done.
#[tracing::instrument(skip_all, fields(namespace = guarded.namespace(), schedule = guarded.name_any()))]
async fn reconcile(guarded: Arc<GuardedSchedule>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let schedule = match &guarded.0 {
        Ok(schedule) => schedule,
        Err(error) => {
            tracing::warn!(%error, "the schedule cannot be read");
            context.metrics.failed("malformed");
            return Ok(Action::await_change());
        }
    };
    if schedule.metadata.deletion_timestamp.is_some() || !context.leadership.is_held() {
        return Ok(Action::await_change());
    }
    // An own write that the cache does not show yet would be decided upon again; it is harmless, for names follow from times.
    let now = Timestamp::now();
    let before = schedule.status.clone().unwrap_or_default();
    let state = context.experiments.state();
    let all = || state.iter().filter_map(|one| one.0.as_ref().ok());
    let namespace = schedule.namespace();
    let name = schedule.name_any();
    let own = |one: &&EfficiencyExperiment| {
        let of = schedule_of(one);
        of.is_some_and(|of| of.name == name && of.namespace == namespace)
    };
    let compared = &schedule.spec.comparison;
    let experiments: Vec<Measured<'_>> = all()
        .filter(own)
        .map(|experiment| {
            let points = if decide::settled(&before.series, experiment) {
                Vec::new()
            } else {
                points(experiment, &compared.metrics, &context.caches)
            };
            Measured { experiment, points }
        })
        .collect();
    let named = decide::to_pin(compared, &before).and_then(|wanted| {
        let mut found = all().filter(|one| one.namespace() == namespace && one.name_any() == wanted);
        let experiment = found.next()?;
        let points = points(experiment, &compared.metrics, &context.caches);
        Some(Measured { experiment, points })
    });
    let refused = refused(schedule);
    let decision = decide::decide(&View {
        generation: schedule.metadata.generation,
        created: schedule.creation_timestamp().map_or(now, |created| created.0),
        spec: &schedule.spec,
        refused: refused.as_deref(),
        before: &before,
        experiments: &experiments,
        named_baseline: named.as_ref(),
        now,
    });
    carry_out(schedule, &before, &decision, &context).await?;
    let ahead = decision
        .wake_at
        .map(|at| Duration::try_from(at.duration_since(now)).unwrap_or_default());
    // A clock that is read slightly early would be asked again at once.
    let pause = ahead.map_or(AGAIN, |ahead| (ahead + Duration::from_millis(50)).min(AGAIN));
    Ok(Action::requeue(pause))
}

/// Why the template cannot run.
fn refused(schedule: &EfficiencySchedule) -> Option<String> {
    let mut probe = experiment(schedule, Timestamp::UNIX_EPOCH);
    probe.metadata.uid = Some(String::new());
    let error = prepare::prepare(&probe).err()?;
    Some(format!("spec.experimentTemplate: {error}"))
}

/// What an experiment that is over is compared by, from the records of its processes.
fn points(experiment: &EfficiencyExperiment, metrics: &[String], caches: &Caches) -> Vec<MeasuredPoint> {
    let status = experiment.status.clone().unwrap_or_default();
    let (true, Ok(prepared)) = (aggregate::is_over(status.phase), prepare::prepare(experiment)) else {
        return Vec::new();
    };
    let uid = experiment.uid().unwrap_or_default();
    if prepared.each_node() {
        let nodes = of_nodes(&prepared, &uid, caches);
        return measured_fleet(&prepared.spec, &nodes.iter().collect::<Vec<_>>(), metrics);
    }
    let records = caches.observe(&uid).records();
    let failures: Vec<Failure> = status.failures.iter().map(Failure::from).collect();
    measured_points(&prepared.spec, &prepared.points, &records, &failures, metrics)
}

fn of_nodes(prepared: &Prepared, uid: &str, caches: &Caches) -> Vec<NodeResult> {
    let by_node = caches.observe_nodes(uid);
    let with_windows = by_node.iter().filter_map(|(node, of_node)| {
        let records = of_node.observed().records();
        let measured = records.iter().any(Record::has_windows);
        measured.then(|| NodeResult::new(&prepared.spec, &prepared.points, node, &records, &[]))
    });
    with_windows.collect()
}

/// Does what was decided. An experiment that cannot be created is due again at the next look; meanwhile results are kept and
/// room is made, without which a quota would refuse it for good.
pub(super) async fn carry_out(
    schedule: &EfficiencySchedule,
    before: &EfficiencyScheduleStatus,
    decision: &Decision,
    context: &Context,
) -> Result<(), ReconcileError> {
    let namespace = schedule.namespace().unwrap_or_default();
    let experiments: Api<EfficiencyExperiment> = Api::namespaced(context.client.clone(), &namespace);
    let begun = begin(&experiments, schedule, decision).await;
    let mut status = decision.status.clone();
    if begun.is_err() {
        status.last_schedule_time = before.last_schedule_time;
    }
    let finished = finish(&experiments, schedule, before, &status, &decision.delete, context).await;
    begun.and(finished)
}

/// Writes the status, then deletes what is beyond the history.
async fn finish(
    experiments: &Api<EfficiencyExperiment>,
    schedule: &EfficiencySchedule,
    before: &EfficiencyScheduleStatus,
    after: &EfficiencyScheduleStatus,
    delete: &[String],
    context: &Context,
) -> Result<(), ReconcileError> {
    write_status(schedule, before, after, context).await?;
    let namespace = schedule.namespace().unwrap_or_default();
    let uids = context.experiments.state();
    for name in delete {
        let uid = uids
            .iter()
            .find(|one| one.name_any() == *name && one.namespace().as_ref() == Some(&namespace))
            .and_then(|one| one.uid());
        tracing::info!(experiment = name, "deleting, for it is beyond the history");
        let parameters = DeleteParams {
            preconditions: Some(Preconditions {
                uid,
                resource_version: None,
            }),
            ..DeleteParams::background()
        };
        let done = experiments.delete(name, &parameters).await.map(drop);
        gone_is_fine(done).map_err(|source| failed(name, source))?;
    }
    Ok(())
}

/// Cancels what is replaced, then creates what replaces it. The status that takes the time as done is written after both.
pub(super) async fn begin(
    experiments: &Api<EfficiencyExperiment>,
    schedule: &EfficiencySchedule,
    decision: &Decision,
) -> Result<(), ReconcileError> {
    for name in &decision.cancel {
        tracing::info!(experiment = name, "cancelling");
        let patch = Patch::Merge(json!({"spec": {"cancel": true}}));
        match experiments.patch(name, &PatchParams::default(), &patch).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(source) => return Err(failed(name, source)),
        }
    }
    match decision.create {
        Some(at) => create(experiments, schedule, at).await,
        None => Ok(()),
    }
}

async fn create(
    experiments: &Api<EfficiencyExperiment>,
    schedule: &EfficiencySchedule,
    at: Timestamp,
) -> Result<(), ReconcileError> {
    let made = experiment(schedule, at);
    let name = made.name_any();
    let parameters = PostParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    };
    match experiments.create(&parameters, &made).await {
        Ok(_) => {
            tracing::info!(experiment = name, "created");
            Ok(())
        }
        // By the leader before this one, or by this one whose cache is behind.
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(source) => Err(failed(&name, source)),
    }
}

fn failed(name: &str, source: kube::Error) -> ReconcileError {
    ReconcileError::Apply {
        kind: "EfficiencyExperiment",
        name: name.to_owned(),
        source,
    }
}

fn gone_is_fine(done: Result<(), kube::Error>) -> Result<(), kube::Error> {
    match done {
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        done => done,
    }
}

async fn write_status(
    schedule: &EfficiencySchedule,
    before: &EfficiencyScheduleStatus,
    after: &EfficiencyScheduleStatus,
    context: &Context,
) -> Result<(), ReconcileError> {
    if schedule.status.as_ref() == Some(after) {
        return Ok(());
    }
    let patch = json!({
        "apiVersion": format!("{}/{}", lem_crds::GROUP, lem_crds::VERSION),
        "kind": "EfficiencySchedule",
        "metadata": {"uid": schedule.uid()},
        "status": after,
    });
    let schedules: Api<EfficiencySchedule> =
        Api::namespaced(context.client.clone(), &schedule.namespace().unwrap_or_default());
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    let written = schedules
        .patch_status(&schedule.name_any(), &parameters, &Patch::Apply(patch))
        .await;
    match written {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
        Err(error) => return Err(ReconcileError::UpdateStatus(error)),
    }
    for event in news(before, after) {
        if let Err(error) = context.recorder.publish(&event, &schedule.object_ref(&())).await {
            tracing::warn!(%error, reason = event.reason, "an event is lost");
        }
    }
    Ok(())
}

/// The events that lead from one status to the next. Pure.
pub(super) fn news(before: &EfficiencyScheduleStatus, after: &EfficiencyScheduleStatus) -> Vec<Event> {
    let changed = after.conditions.iter().filter_map(|condition| {
        let old = before.conditions.iter().find(|old| old.type_ == condition.type_);
        let was = old.map(|old| old.status.as_str());
        let (type_, reason) = match (condition.type_.as_str(), was, condition.status.as_str()) {
            ("Accepted", Some("True") | None, "False") => (EventType::Warning, "Refused"),
            ("Regressed", Some("False" | "Unknown") | None, "True") => (EventType::Warning, "Regressed"),
            ("Regressed", Some("True"), "False") => (EventType::Normal, "Recovered"),
            ("Regressed", Some("Unknown"), "False") if decide::last_known(&before.series) == Some(true) => {
                (EventType::Normal, "Recovered")
            }
            _ => return None,
        };
        Some(Event {
            type_,
            reason: reason.to_owned(),
            note: Some(condition.message.chars().take(NOTE_LENGTH).collect()),
            action: "Reconcile".to_owned(),
            secondary: None,
        })
    });
    changed.collect()
}

/// Weather is tried again.
#[expect(clippy::needless_pass_by_value, reason = "the signature is the controller's")]
fn error_policy(guarded: Arc<GuardedSchedule>, error: &ReconcileError, context: Arc<Context>) -> Action {
    context.metrics.failed(error.category());
    tracing::warn!(
        namespace = guarded.namespace(),
        schedule = guarded.name_any(),
        category = error.category(),
        error = format!("{error}: {}", words(error.cause())),
        "the reconciliation of a schedule failed"
    );
    Action::requeue(RETRY)
}
