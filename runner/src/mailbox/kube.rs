//! The mailbox of a pod: its own `Runner` object. Assignments are watched in its spec, the record is written to its
//! status.
//!
//! All talk with the API server happens on a thread of its own. From the common start to the window's report that
//! thread is silent: no heartbeat, no watch, no request (METHODOLOGY §2: nothing else runs inside a window).
//! A report is kept until it is delivered, however long the API server is away; a newer one takes its place, because
//! each report is the whole record.

mod claim;
mod clock;
mod digest;
mod link;
mod listener;
mod reporter;
mod retry;

use std::{
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use kube::Client;
use lem_crds::{
    RunnerSpec, RunnerStatus,
    experiment::Barrier,
    plan::TrialIdentity,
    runner::{Assignment, RunnerPhase},
};
use tokio::sync::watch;

pub use self::digest::write_digest;
use self::{clock::ClockOffset, link::Link};
use super::{Mailbox, MailboxError, Received};

/// How long a window that waits for nobody else waits for the last report: longer only if the API server is away.
const DELIVERY_BOUND: Duration = Duration::from_secs(10);

/// Which `Runner` is this process's, and who this process is.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Namespace of the `Runner`.
    pub namespace: String,
    /// Name of the `Runner`.
    pub name: String,
    /// UID of this pod: what it writes is fenced by it.
    pub pod_uid: String,
}

/// A report on its way.
#[derive(Debug, Clone, Default)]
pub(super) struct Outgoing {
    /// Counts reports, so that a delivery says which one.
    pub(super) number: u64,
    pub(super) status: RunnerStatus,
    /// The process waits for nobody before its windows.
    pub(super) independent: bool,
}

/// What the thread has come to.
#[derive(Debug, Default)]
pub(super) struct Delivery {
    pub(super) number: u64,
    /// This pod may not write any more: the reason.
    pub(super) fenced: Option<String>,
}

/// Shared by both threads.
#[derive(Debug, Default)]
pub(super) struct Delivered {
    state: Mutex<Delivery>,
    changed: Condvar,
    notify: tokio::sync::Notify,
}

impl Delivered {
    pub(super) fn update(&self, change: impl FnOnce(&mut Delivery)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
        self.notify.notify_one();
    }

    pub(super) async fn notified(&self) {
        self.notify.notified().await;
    }

    pub(super) fn is_fenced(&self) -> bool {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .fenced
            .is_some()
    }

    pub(super) fn number(&self) -> u64 {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).number
    }
}

/// The mailbox of a pod.
#[derive(Debug)]
pub struct KubernetesMailbox {
    incoming: Receiver<Received>,
    outgoing: watch::Sender<Outgoing>,
    quiet: watch::Sender<bool>,
    delivered: Arc<Delivered>,
    offset: ClockOffset,
    /// What the mailbox held last.
    assignment: Option<Assignment>,
    /// The trial that this process has said to be ready for.
    ready: Option<TrialIdentity>,
}

impl KubernetesMailbox {
    /// Starts the thread that talks with the API server.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn open(identity: Identity) -> Result<Self, MailboxError> {
        let offset = ClockOffset::default();
        let dated = offset.clone();
        let mailbox = Self::with_client(identity, move || {
            let dated = dated.clone();
            async move { dated.client().await }
        })?;
        Ok(Self { offset, ..mailbox })
    }

    /// Like [`Self::open`], with a client of the caller's making.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn with_client<F>(identity: Identity, client: F) -> Result<Self, MailboxError>
    where
        F: AsyncFn() -> Result<Client, kube::Error> + Send + 'static,
    {
        let (sender, incoming) = mpsc::channel();
        let (outgoing, reports) = watch::channel(Outgoing::default());
        let (quiet, _) = watch::channel(false);
        let delivered = Arc::new(Delivered::default());
        let link = Link {
            identity,
            incoming: sender,
            reports,
            quiet: quiet.clone(),
            delivered: Arc::clone(&delivered),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(MailboxError::Read)?;
        thread::Builder::new()
            .name("mailbox".into())
            .spawn(move || runtime.block_on(link.run(client)))
            .map_err(MailboxError::Read)?;
        Ok(Self {
            incoming,
            outgoing,
            quiet,
            delivered,
            offset: ClockOffset::default(),
            assignment: None,
            ready: None,
        })
    }

    /// Waits until the last report is delivered, or this pod may not deliver it any more.
    pub fn flush(&self, bound: Duration) -> bool {
        let last = self.outgoing.borrow().number;
        let begin = Instant::now();
        let mut state = self.delivered.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.number < last && state.fenced.is_none() {
            let Some(rest) = bound.checked_sub(begin.elapsed()) else {
                return false;
            };
            state = self
                .delivered
                .changed
                .wait_timeout(state, rest)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        state.fenced.is_none()
    }

    /// From a start on there is silence until the window's report. A start that this process does not wait for brings
    /// none: no report would end it. It may be written again after its window, or be meant for the pod before this one.
    fn keep(&mut self, spec: &RunnerSpec) {
        self.assignment.clone_from(&spec.assignment);
        let begins = |held: &Assignment| held.start_at.is_some() && self.ready.as_ref() == Some(&held.trial);
        if self.assignment.as_ref().is_some_and(begins) {
            self.quiet.send_replace(true);
        }
    }
}

impl Mailbox for KubernetesMailbox {
    fn receive(&mut self, timeout: Duration) -> Result<Received, MailboxError> {
        let mut newest = match self.incoming.recv_timeout(timeout) {
            Ok(received) => received,
            Err(RecvTimeoutError::Timeout) => return Ok(Received::TimedOut),
            Err(RecvTimeoutError::Disconnected) => return Ok(Received::Closed),
        };
        while let Ok(received) = self.incoming.try_recv() {
            newest = received;
        }
        if let Received::Spec(spec) = &newest {
            self.keep(spec);
        }
        Ok(newest)
    }

    fn report(&mut self, status: &RunnerStatus) -> Result<(), MailboxError> {
        self.ready = status.trial.clone().filter(|_| status.phase == RunnerPhase::Ready);
        let independent = self
            .assignment
            .as_ref()
            .is_some_and(|assignment| assignment.window.barrier == Barrier::None);
        if independent && matches!(status.phase, RunnerPhase::WarmingUp | RunnerPhase::Ready) {
            // Nobody waits to hear of these. The window follows Ready at once: a request on its way would be in it.
            if status.phase == RunnerPhase::Ready {
                self.flush(DELIVERY_BOUND);
                self.quiet.send_replace(true);
            }
            return Ok(());
        }
        self.quiet.send_replace(false);
        self.outgoing.send_modify(|outgoing| {
            outgoing.number += 1;
            outgoing.status = status.clone();
            outgoing.independent = independent;
        });
        Ok(())
    }

    fn clock_offset_seconds(&self) -> Option<f64> {
        self.offset.seconds()
    }
}

#[cfg(test)]
mod tests;
