//! From the `Runner`'s spec to the measuring thread. Silent while a window is measured.

use std::{
    ops::ControlFlow,
    sync::mpsc::Sender,
    time::{Duration, Instant},
};

use futures::{StreamExt, TryStreamExt};
use kube::{
    Api, ResourceExt,
    api::{WatchEvent, WatchParams},
};
use lem_crds::{Runner, RunnerSpec};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    Received,
    link::{ENDED, REQUEST_BOUND},
    retry::Backoff,
};

/// Seconds after which the API server ends a watch, so that a connection that died unnoticed costs no more.
const WATCH_SECONDS: u32 = 290;

/// A watch of that length was a good one.
const LASTED: Duration = Duration::from_secs(5);

/// What listening needs.
pub(super) struct Listener {
    pub(super) runners: Api<Runner>,
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) pod_uid: String,
    pub(super) incoming: Sender<Received>,
}

/// The state of one conversation.
struct Conversation {
    listener: Listener,
    told: Option<RunnerSpec>,
    /// Where to go on watching; none where everything must be read again.
    version: Option<String>,
}

/// Tells the measuring thread every new spec; gives the reason for which it ended.
pub(super) async fn listen(listener: Listener, first: Runner, mut silence: watch::Receiver<bool>) -> String {
    let mut backoff = Backoff::new(&listener.name);
    let mut conversation = Conversation {
        listener,
        told: None,
        version: None,
    };
    if let ControlFlow::Break(reason) = conversation.tell(first) {
        return reason;
    }
    loop {
        if silence.wait_for(|silent| !silent).await.is_err() {
            return ENDED.to_owned();
        }
        let begin = Instant::now();
        let heard = tokio::select! {
            heard = conversation.hear() => heard,
            Ok(_) = silence.wait_for(|silent| *silent) => continue,
        };
        match heard {
            Ok(ControlFlow::Break(reason)) => return reason,
            Ok(ControlFlow::Continue(())) if begin.elapsed() > LASTED => {
                backoff = Backoff::new(&conversation.listener.name);
            }
            // It ended as soon as it began: not to be asked for in a hurry.
            Ok(ControlFlow::Continue(())) => sleep(backoff.pause()).await,
            Err(error) => {
                tracing::warn!(%error, "the Runner cannot be watched");
                conversation.version = None;
                sleep(backoff.pause()).await;
            }
        }
    }
}

impl Conversation {
    /// One watch from its beginning to its end.
    async fn hear(&mut self) -> Result<ControlFlow<String>, kube::Error> {
        let version = match self.version.clone() {
            Some(version) => version,
            None => match self.read().await? {
                ControlFlow::Break(reason) => return Ok(ControlFlow::Break(reason)),
                ControlFlow::Continue(version) => version,
            },
        };
        let parameters = WatchParams::default()
            .fields(&format!("metadata.name={}", self.listener.name))
            .timeout(WATCH_SECONDS);
        let events = self.listener.runners.watch(&parameters, &version).await?;
        let mut events = events.boxed();
        while let Some(event) = events.try_next().await? {
            match event {
                WatchEvent::Added(runner) | WatchEvent::Modified(runner) => {
                    if let ControlFlow::Break(reason) = self.tell(runner) {
                        return Ok(ControlFlow::Break(reason));
                    }
                }
                WatchEvent::Deleted(_) => return Ok(ControlFlow::Break("the Runner was deleted".to_owned())),
                WatchEvent::Bookmark(bookmark) => self.version = Some(bookmark.metadata.resource_version),
                WatchEvent::Error(status) if status.code == 410 => {
                    self.version = None;
                    return Ok(ControlFlow::Continue(()));
                }
                WatchEvent::Error(status) => return Err(kube::Error::Api(status)),
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    async fn read(&mut self) -> Result<ControlFlow<String, String>, kube::Error> {
        let runner = match timeout(REQUEST_BOUND, self.listener.runners.get(&self.listener.name)).await {
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => {
                return Ok(ControlFlow::Break("the Runner was deleted".to_owned()));
            }
            Ok(found) => found?,
            Err(_) => return Err(kube::Error::Service("reading the Runner took too long".into())),
        };
        let version = runner.resource_version().unwrap_or_default();
        Ok(match self.tell(runner) {
            ControlFlow::Break(reason) => ControlFlow::Break(reason),
            ControlFlow::Continue(()) => ControlFlow::Continue(version),
        })
    }

    /// Passes on a spec that is new.
    fn tell(&mut self, runner: Runner) -> ControlFlow<String> {
        if runner.uid().as_deref() != Some(self.listener.uid.as_str()) {
            return ControlFlow::Break("another Runner has taken the name".to_owned());
        }
        self.version = runner.resource_version();
        let spec = left_to_do(runner, &self.listener.pod_uid);
        if self.told.as_ref() != Some(&spec) {
            self.told = Some(spec.clone());
            if self.listener.incoming.send(Received::Spec(Box::new(spec))).is_err() {
                return ControlFlow::Break(ENDED.to_owned());
            }
        }
        ControlFlow::Continue(())
    }
}

/// The spec without the windows that pods before this one have measured: one that goes on by itself would measure them
/// again. Pure.
fn left_to_do(runner: Runner, pod_uid: &str) -> RunnerSpec {
    let Runner { mut spec, status, .. } = runner;
    let Some(status) = status else {
        return spec;
    };
    let before = (status.pod_uid != pod_uid).then_some(&status.windows);
    let of_others: Vec<_> = status
        .earlier
        .iter()
        .map(|record| &record.windows)
        .chain(before)
        .flatten()
        .map(|window| &window.trial)
        .collect();
    let mut left = spec.held().filter(|held| !of_others.contains(&&held.trial)).cloned();
    let (assignment, upcoming) = (left.next(), left.collect());
    spec.assignment = assignment;
    spec.upcoming = upcoming;
    spec
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn runner(status: &Value) -> Runner {
        let assignment = |cycle: u32| {
            json!({"trial": {"planSha256": "p", "point": 0, "cycle": cycle, "attempt": 0}, "window": {"workload": {},
                "decoder": {}, "warmup": {"converged": {}}, "cooldown": {}, "barrier": "None", "deadlines": {}}})
        };
        let object = json!({"apiVersion": "lem.dev/v1alpha1", "kind": "Runner", "metadata": {"name": "a"},
            "spec": {"experiment": "quick", "cohort": "c", "process": 0, "processes": 1, "load": {
                "model": {"name": "m", "source": {"synthetic": {"preset": "tiny-test"}}},
                "engine": {"candle": {}}, "energy": {}, "baseline": {}, "gpusPerProcess": 0},
                "assignment": assignment(0), "upcoming": [assignment(1), assignment(2)]},
            "status": status});
        serde_json::from_value(object).unwrap()
    }

    fn cycles(status: &Value) -> Vec<u32> {
        let spec = left_to_do(runner(status), "pod-b");
        spec.held().map(|held| held.trial.cycle).collect()
    }

    fn window(cycle: u32) -> Value {
        let samples = json!({"encoding": "Exact", "count": 0, "sumSeconds": 0.0, "data": ""});
        json!({"trial": {"planSha256": "p", "point": 0, "cycle": cycle, "attempt": 0}, "node": "n", "startAt": null,
            "startedAt": "2026-01-01T00:00:00Z", "endedAt": "2026-01-01T00:00:01Z", "durationSeconds": 1.0, "clock": {},
            "warmup": {"iterations": 1, "seconds": 0.1}, "inputTokens": 1, "outputTokens": 1, "requestsCompleted": 1,
            "requestsFailed": 0, "streaming": false, "endToEnd": samples, "timeToFirstToken": samples,
            "interToken": samples, "prefillSeconds": null, "decodeSeconds": null, "flops": null,
            "computePrecision": "fp32", "weightBytes": 1, "staticBatch": null, "kvCache": null, "energy": [],
            "devices": [], "residentPeakBytes": null})
    }

    #[test]
    fn a_pod_measures_nothing_that_a_pod_before_it_has_measured() {
        let of = |pod: &str, windows: Value, earlier: Value| json!({"schemaVersion": 1, "podUid": pod, "phase": "Idle", "windows": windows, "earlier": earlier});
        assert_eq!(cycles(&Value::Null), [0, 1, 2]);
        assert_eq!(cycles(&of("pod-a", json!([window(0)]), json!([]))), [1, 2]);
        let earlier = json!([{"schemaVersion": 1, "podUid": "pod-a", "windows": [window(0)]}]);
        assert_eq!(cycles(&of("pod-b", json!([]), earlier.clone())), [1, 2]);
        // Its own are its own business: it knows them, and the mailbox goes on to name them.
        assert_eq!(cycles(&of("pod-b", json!([window(1)]), earlier)), [1, 2]);
    }
}
