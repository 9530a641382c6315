//! From the measuring thread to the `Runner`'s status: each report until it is delivered, or a newer one takes its place.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use lem_crds::{Runner, RunnerStatus, runner::RunnerPhase};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    Delivered, Outgoing,
    claim::Claim,
    link::{ENDED, REQUEST_BOUND},
    retry::Backoff,
};

/// A report that only says how far the process is may wait so long for one that says more: it saves writes.
const PHASE_ONLY_DELAY: Duration = Duration::from_secs(10);
/// A process that has nothing to report says so often that it lives, outside of windows.
const HEARTBEAT: Duration = Duration::from_mins(1);

/// What reporting needs.
pub(super) struct Reporter {
    pub(super) runners: Api<Runner>,
    pub(super) name: String,
    pub(super) claim: Claim,
    pub(super) delivered: Arc<Delivered>,
}

/// How a write ended.
enum Written {
    Delivered,
    Fenced(String),
    Again,
}

/// Delivers every report; gives the reason for which it ended.
pub(super) async fn report(
    mut reporter: Reporter,
    mut reports: watch::Receiver<Outgoing>,
    silence: watch::Receiver<bool>,
) -> String {
    let mut sent = RunnerStatus::default();
    loop {
        tokio::select! {
            changed = reports.changed() => {
                if changed.is_err() {
                    return ENDED.to_owned();
                }
            }
            () = sleep(HEARTBEAT) => {
                let alive = reporter.claim.unclaimed.is_none() && !*silence.borrow();
                if alive && let Some(reason) = reporter.heartbeat().await {
                    return reason;
                }
                continue;
            }
        }
        let until = Instant::now() + PHASE_ONLY_DELAY;
        while may_wait(&sent, &reports.borrow_and_update()) {
            tokio::select! {
                changed = reports.changed() => {
                    if changed.is_err() {
                        break;
                    }
                }
                () = sleep_until(until) => break,
            }
        }
        match reporter.deliver(&mut reports, silence.clone()).await {
            Ok(status) => sent = status,
            Err(reason) => return reason,
        }
    }
}

/// A report is worth a write of its own if something waits for it: a window, an error, readiness, or the end. A process
/// that never says that it is ready says that it has loaded.
fn may_wait(sent: &RunnerStatus, newest: &Outgoing) -> bool {
    let Outgoing {
        status: newest,
        independent,
        ..
    } = newest;
    if *independent && sent.environment.is_none() && newest.environment.is_some() {
        return false;
    }
    let awaited = matches!(
        newest.phase,
        RunnerPhase::Ready | RunnerPhase::Finished | RunnerPhase::Failed
    );
    !awaited && newest.error.is_none() && newest.windows.len() == sent.windows.len()
}

impl Reporter {
    /// Writes the newest report, retrying without end; each try takes whatever is newest then. None is made in a window.
    async fn deliver(
        &mut self,
        reports: &mut watch::Receiver<Outgoing>,
        mut silence: watch::Receiver<bool>,
    ) -> Result<RunnerStatus, String> {
        let mut backoff = Backoff::new(&self.name);
        loop {
            let outgoing = reports.borrow_and_update().clone();
            let patch = self.claim.report(&outgoing.status, Timestamp::now());
            match self.write(patch).await {
                Written::Delivered => {
                    self.claim.unclaimed = None;
                    self.delivered.update(|state| state.number = outgoing.number);
                    return Ok(outgoing.status);
                }
                Written::Fenced(reason) => return Err(reason),
                Written::Again => {
                    sleep(backoff.pause()).await;
                    // An error means that the measuring thread has ended, and with it its windows.
                    let _ = silence.wait_for(|silent| !silent).await;
                }
            }
        }
    }

    /// Says that the process lives. A lost heartbeat is not worth a retry.
    async fn heartbeat(&mut self) -> Option<String> {
        match self.write(self.claim.heartbeat(Timestamp::now())).await {
            Written::Fenced(reason) => Some(reason),
            Written::Delivered | Written::Again => None,
        }
    }

    async fn write(&mut self, patch: json_patch::Patch) -> Written {
        let parameters = PatchParams::default();
        let patch = Patch::Json::<()>(patch);
        let answer = timeout(
            REQUEST_BOUND,
            self.runners.patch_status(&self.name, &parameters, &patch),
        );
        match answer.await {
            Ok(Ok(_)) => Written::Delivered,
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => {
                Written::Fenced("the Runner was deleted".to_owned())
            }
            // A failed test of the patch is one of these: something has changed, and it is worth knowing what.
            Ok(Err(kube::Error::Api(status))) if [400, 409, 422].contains(&status.code) => {
                tracing::warn!(
                    reason = status.reason,
                    message = status.message,
                    "the report was refused"
                );
                self.look_again().await
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "the report is not delivered yet");
                Written::Again
            }
            Err(_) => {
                tracing::warn!("the report is not delivered yet: the request took too long");
                Written::Again
            }
        }
    }

    /// Reads the `Runner` to find out whether it is still this pod's.
    async fn look_again(&mut self) -> Written {
        let Ok(Ok(runner)) = timeout(REQUEST_BOUND, self.runners.get(&self.name)).await else {
            return Written::Again;
        };
        if runner.uid().as_deref() != Some(self.claim.runner_uid.as_str()) {
            return Written::Fenced("another Runner has taken the name".to_owned());
        }
        let status = runner.status.clone().unwrap_or_default();
        if status.pod_uid == self.claim.pod_uid {
            // The claim had arrived, and only its answer was lost.
            self.claim.unclaimed = None;
            return Written::Again;
        }
        if self.claim.unclaimed.is_none() {
            return Written::Fenced("another pod has taken this process's place".to_owned());
        }
        self.claim.unclaimed = runner.resource_version();
        self.claim.earlier = status.succeeded_by(&self.claim.pod_uid).earlier;
        Written::Again
    }
}
