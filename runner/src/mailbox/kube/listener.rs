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
        if self.told.as_ref() != Some(&runner.spec) {
            self.told = Some(runner.spec.clone());
            if self
                .listener
                .incoming
                .send(Received::Spec(Box::new(runner.spec)))
                .is_err()
            {
                return ControlFlow::Break(ENDED.to_owned());
            }
        }
        ControlFlow::Continue(())
    }
}
