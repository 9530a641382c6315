//! The controller: `kubectl apply` of an experiment to a finished status.
//!
//! One reconciliation, step by step: [`observe`] (caches; client only for a Job's events) → [`prepare`] (pure) →
//! [`decide`] (pure) → [`aggregate`] (pure) → `update_status` (client) → [`build`] (pure) → [`apply`] (client).
//! Everything that matters lies in the cluster: experiments, mailboxes with their records, Jobs and pods. A controller
//! that starts in the middle decides as one that was there from the beginning.

pub mod aggregate;
mod announce;
pub mod apply;
pub mod build;
pub mod condition;
pub mod decide;
pub mod error;
pub mod expectation;
pub mod fleet;
pub mod leader;
mod memory;
pub mod metrics;
pub mod neighbour;
pub mod observe;
pub mod prepare;
mod reconcile;
pub mod schedule;
pub mod server;
pub mod stall;
pub mod trial;
mod update_status;
pub mod view;
pub mod watch;

use std::{
    future,
    sync::{Arc, atomic::Ordering},
};

use futures::{StreamExt, future::OptionFuture};
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Node, Pod},
};
use kube::{
    Client,
    runtime::{
        Controller,
        controller::Config,
        events::{Recorder, Reporter},
        reflector::{self, ObjectRef},
        watcher,
    },
};
use lem_crds::Runner;
use tokio_stream::wrappers::{UnboundedReceiverStream, WatchStream};

use self::{
    apply::FIELD_MANAGER,
    build::Defaults,
    expectation::Expectations,
    leader::Leadership,
    memory::Memories,
    metrics::{ApiMetrics, ControllerMetrics},
    observe::Caches,
    reconcile::Context,
    server::Health,
    watch::Guarded,
};

/// Reconciliations at the same time; one experiment is never reconciled twice at once.
const CONCURRENCY: u16 = 4;

/// What the operator is told from outside.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What it brings to every pod.
    pub defaults: Defaults,
    /// Its own name in events.
    pub instance: String,
    /// The only namespace that it looks at; all of them without one.
    pub watch_namespace: Option<String>,
}

/// A controller that is set up: its parts run until the shutdown resolves.
///
/// `api` are the counters of the client. `serve` is handed them with the metrics of the controller and of its results once
/// the caches exist.
pub async fn run(
    client: Client,
    settings: Settings,
    leadership: Leadership,
    health: Health,
    shutdown: impl Future<Output = ()> + Send + Sync + 'static,
    api: ApiMetrics,
    serve: impl FnOnce(prometheus_client::registry::Registry),
) {
    let (calls, called) = tokio::sync::mpsc::unbounded_channel();
    let namespace = settings.watch_namespace.as_deref();
    let (runners, follow_runners) = watch::children::<Runner>(watch::scope(&client, namespace), calls.clone());
    let (jobs, follow_jobs) = watch::children::<Job>(watch::scope(&client, namespace), calls.clone());
    let (pods, follow_pods) = watch::children::<Pod>(watch::scope(&client, namespace), calls.clone());
    let (nodes, node_writer) = reflector::store::<Node>();
    let caches = Caches {
        runners,
        jobs,
        pods,
        nodes: namespace.is_none().then_some(nodes),
    };
    let metrics = ControllerMetrics::default();
    let called = UnboundedReceiverStream::new(called).inspect({
        let metrics = metrics.clone();
        move |experiment: &ObjectRef<Guarded>| {
            metrics.called(experiment.namespace.as_deref().unwrap_or_default(), &experiment.name);
        }
    });
    let controller = Controller::new(
        watch::scope::<Guarded>(&client, namespace),
        watcher::Config::default().any_semantic(),
    )
    .with_config(Config::default().concurrency(CONCURRENCY))
    .reconcile_on(called)
    .reconcile_all_on(WatchStream::from_changes(leadership.changes()).map(drop))
    .graceful_shutdown_on(shutdown);

    let experiments = controller.store();
    let (schedule_calls, schedules_called) = tokio::sync::mpsc::unbounded_channel();
    let schedules = schedule::reconcile::controller(watch::scope(&client, namespace), schedules_called, &leadership);
    let follow_nodes = {
        let nodes = watch::nodes(client.clone(), node_writer, experiments.clone(), calls);
        unending(OptionFuture::from(namespace.is_none().then_some(nodes)))
    };
    // Also where there is nothing to reconcile.
    let (leading, held) = (metrics.leading.clone(), WatchStream::new(leadership.changes()));
    let show_leadership = unending(held.for_each(move |held| {
        leading.set(i64::from(held));
        future::ready(())
    }));
    serve(metrics::registry(
        &metrics,
        &api,
        experiments.clone(),
        caches.runners.clone(),
        schedules.store(),
    ));
    let recorder = Recorder::new(
        client.clone(),
        Reporter {
            controller: FIELD_MANAGER.to_owned(),
            instance: Some(settings.instance),
        },
    );
    let of_schedules = Arc::new(schedule::reconcile::Context {
        client: client.clone(),
        leadership: leadership.clone(),
        recorder: recorder.clone(),
        caches: caches.clone(),
        experiments: experiments.clone(),
        metrics: metrics.clone(),
    });
    let follow_schedules = schedule::reconcile::follow(schedules, of_schedules);
    let context = Arc::new(Context {
        client,
        schedule_calls,
        experiments: experiments.clone(),
        leadership: leadership.clone(),
        recorder,
        caches: caches.clone(),
        defaults: settings.defaults,
        expectations: Expectations::default(),
        memories: Memories::default(),
        metrics,
    });
    let work = reconcile::follow(controller, context);
    let ready = unending(async {
        caches.filled().await;
        drop(experiments.wait_until_ready().await);
        health.ready.store(true, Ordering::Relaxed);
        tracing::info!("caches are filled");
        // Nodes are not waited for: an operator that may not read them says so of fleets and measures the rest. Each
        // controller waits for the objects that it reconciles.
        leadership.stand();
    });
    // The watches have no end of their own: the controller's end is the end of all.
    tokio::select! {
        () = work => {}
        () = follow_runners => {}
        () = follow_jobs => {}
        () = follow_pods => {}
        () = follow_nodes => {}
        () = ready => {}
        () = show_leadership => {}
        () = unending(follow_schedules) => {}
    }
}

/// Work that may end before the controller does.
async fn unending<T>(work: impl Future<Output = T>) {
    work.await;
    future::pending::<()>().await;
}
