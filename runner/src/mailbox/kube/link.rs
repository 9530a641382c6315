//! The thread's life: connect, read the `Runner`, then listen and report at the same time until fenced or told to stop.

use std::{
    sync::{Arc, mpsc::Sender},
    time::Duration,
};

use kube::{Api, Client, ResourceExt};
use lem_crds::Runner;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    Delivered, Identity, Outgoing, Received,
    claim::Claim,
    listener::{self, Listener},
    reporter,
    retry::Backoff,
};

/// Longest time that one request may take.
pub(super) const REQUEST_BOUND: Duration = Duration::from_secs(30);
/// From SIGTERM to the end: what the last report may take. Pods have 30 s by default.
const TERMINATION_BOUND: Duration = Duration::from_secs(20);
/// 128 + SIGTERM, as a shell says it.
const TERMINATED: i32 = 143;

/// Everything that the thread needs.
pub(super) struct Link {
    pub(super) identity: Identity,
    pub(super) incoming: Sender<Received>,
    pub(super) reports: watch::Receiver<Outgoing>,
    pub(super) quiet: watch::Sender<bool>,
    pub(super) delivered: Arc<Delivered>,
}

impl Link {
    pub(super) async fn run<F>(self, client: F)
    where
        F: AsyncFn() -> Result<Client, kube::Error>,
    {
        let terminated = terminated(Arc::clone(&self.delivered), self.reports.clone(), self.quiet.clone());
        let mut reports = self.reports.clone();
        // A pod that has lost its Runner says no more, and still ends by SIGTERM as long as it measures.
        let over = async {
            self.talk(client).await;
            while reports.changed().await.is_ok() {}
        };
        tokio::select! {
            () = over => {}
            () = terminated => {}
        }
    }

    async fn talk<F>(self, client: F)
    where
        F: AsyncFn() -> Result<Client, kube::Error>,
    {
        let mut backoff = Backoff::new(&self.identity.name);
        let client = loop {
            match client().await {
                Ok(client) => break client,
                Err(error) => {
                    tracing::warn!(%error, "no way to the API server yet");
                    sleep(backoff.pause()).await;
                }
            }
        };
        let runners: Api<Runner> = Api::namespaced(client, &self.identity.namespace);
        let runner = match first_read(&runners, &self.identity.name, backoff).await {
            Ok(runner) => runner,
            Err(reason) => return fence(&self.delivered, &reason),
        };
        let claim = Claim {
            runner_uid: runner.uid().unwrap_or_default(),
            pod_uid: self.identity.pod_uid.clone(),
            unclaimed: runner.resource_version(),
            earlier: runner
                .status
                .clone()
                .unwrap_or_default()
                .succeeded_by(&self.identity.pod_uid)
                .earlier,
        };
        let listener = Listener {
            runners: runners.clone(),
            name: self.identity.name.clone(),
            uid: claim.runner_uid.clone(),
            pod_uid: self.identity.pod_uid.clone(),
            incoming: self.incoming,
        };
        let reporter = reporter::Reporter {
            runners,
            name: self.identity.name,
            claim,
            delivered: Arc::clone(&self.delivered),
        };
        let silence = self.quiet.subscribe();
        let reason = tokio::select! {
            reason = listener::listen(listener, runner, silence.clone()) => reason,
            reason = reporter::report(reporter, self.reports, silence) => reason,
        };
        if reason != ENDED {
            fence(&self.delivered, &reason);
        }
    }
}

/// Why a link ends whose process has nothing more to say.
pub(super) const ENDED: &str = "the measuring thread is gone";

fn fence(delivered: &Delivered, reason: &str) {
    tracing::warn!(reason, "this pod has lost its Runner");
    delivered.update(|state| state.fenced = Some(reason.to_owned()));
}

/// The `Runner` as it is before this pod writes anything. The operator makes it before the Job, so one that is absent
/// was deleted.
async fn first_read(runners: &Api<Runner>, name: &str, mut backoff: Backoff) -> Result<Runner, String> {
    loop {
        match timeout(REQUEST_BOUND, runners.get(name)).await {
            Ok(Ok(runner)) => return Ok(runner),
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => {
                return Err("the Runner does not exist".to_owned());
            }
            Ok(Err(error)) => tracing::warn!(%error, "the Runner could not be read"),
            Err(_) => tracing::warn!("reading the Runner took too long"),
        }
        sleep(backoff.pause()).await;
    }
}

/// Waits for SIGTERM, then for what is on its way to be delivered, and ends the process: the measuring thread may be in
/// a step that nothing can interrupt.
async fn terminated(delivered: Arc<Delivered>, reports: watch::Receiver<Outgoing>, quiet: watch::Sender<bool>) {
    match signal(SignalKind::terminate()) {
        Ok(mut signal) => {
            signal.recv().await;
        }
        Err(error) => {
            tracing::warn!(%error, "SIGTERM cannot be waited for");
            return std::future::pending().await;
        }
    }
    // The window that it may be in is lost, and what was measured before is not.
    quiet.send_replace(false);
    let last = reports.borrow().number;
    let drained = timeout(TERMINATION_BOUND, async {
        while delivered.number() < last && !delivered.is_fenced() {
            delivered.notified().await;
        }
    });
    tracing::warn!(lost = drained.await.is_err(), "ended by SIGTERM");
    std::process::exit(TERMINATED);
}
