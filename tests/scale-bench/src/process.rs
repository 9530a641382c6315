//! One simulated process of a node: the real mailbox, and in place of the measurement a pause. Client, clock.
//!
//! It reports what [`lem_runner::protocol`] reports, in the same order, so that it costs the API server as much.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use kube::{Client, Config};
use lem_crds::{
    RunnerSpec, RunnerStatus, SCHEMA_VERSION,
    plan::TrialIdentity,
    runner::{Assignment, IdleState, RunnerPhase},
};
use lem_runner::mailbox::{Identity, KubernetesMailbox, Mailbox, MailboxError, Received};

use crate::figures::Figures;

/// Longest times of the phases; each node takes its own share of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Phases {
    pub(crate) baseline: Duration,
    pub(crate) load: Duration,
    pub(crate) warmup: Duration,
    pub(crate) window: Duration,
}

/// What all processes have measured, and how long they took.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<Written>);

/// What is in the ledger.
#[derive(Debug, Clone, Default)]
pub(crate) struct Written {
    /// Each window that came to its end, by node and trial.
    pub(crate) windows: Vec<(String, TrialIdentity)>,
    /// Pauses in place of measurements, of all processes together.
    pub(crate) simulated: Duration,
    /// Processes that have begun.
    pub(crate) processes: u32,
    /// Of these, those that crashed.
    pub(crate) crashed: u32,
    /// And those that were ended from outside.
    pub(crate) ended: u32,
    /// Processes that could not go on, in words.
    pub(crate) errors: Vec<String>,
}

impl Ledger {
    /// Changes it.
    pub(crate) fn write(&self, change: impl FnOnce(&mut Written)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// What is in it now.
    pub(crate) fn read(&self) -> Written {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// It was told to finish, and did.
    Finished,
    /// As its node's fault demands.
    Crashed,
    /// Its pod was deleted.
    Stopped,
}

/// What a process is given.
pub(crate) struct Process<'a> {
    pub(crate) figures: Figures<'a>,
    pub(crate) phases: Phases,
    /// This is the node's first process: the one that its fault befalls.
    pub(crate) crashes: bool,
    pub(crate) hangs: bool,
    pub(crate) ledger: &'a Ledger,
    /// Its pod is being deleted.
    pub(crate) stop: Arc<AtomicBool>,
}

/// Between two looks at whether the pod still lives.
const LOOK: Duration = Duration::from_millis(200);

impl Process<'_> {
    /// Runs it to its end.
    ///
    /// # Errors
    /// The mailbox cannot be used, or samples cannot be packed.
    pub(crate) fn run(&self, identity: Identity, config: Config) -> anyhow::Result<End> {
        let mut mailbox = KubernetesMailbox::with_client(identity, async move || Client::try_from(config.clone()))?;
        let mut status = RunnerStatus {
            schema_version: SCHEMA_VERSION,
            ..RunnerStatus::default()
        };
        let begun = Instant::now();
        let Some(mut spec) = self.next(&mut mailbox)? else {
            return Ok(End::Stopped);
        };
        enter(RunnerPhase::Loading, &mut status, &mut mailbox)?;
        self.pause(self.phases.baseline);
        self.baseline(&mut status, IdleState::NoContext);
        let load = self.phases.load.mul_f64(self.figures.behaviour.spread("load", 0));
        self.pause(load);
        status.load_seconds = Some(load.as_secs_f64());
        status.held.load = load.as_secs_f64();
        status.environment = Some(self.figures.environment(&spec));
        self.pause(self.phases.baseline);
        self.baseline(&mut status, IdleState::ModelResident);
        enter(RunnerPhase::Idle, &mut status, &mut mailbox)?;
        while !spec.finish {
            if self.stopped() {
                return Ok(End::Stopped);
            }
            let Some(assignment) = open(&spec, &status).cloned() else {
                match self.next(&mut mailbox)? {
                    Some(newer) => spec = newer,
                    None => return Ok(End::Stopped),
                }
                continue;
            };
            let number = status.windows.len();
            status.trial = Some(assignment.trial.clone());
            enter(RunnerPhase::WarmingUp, &mut status, &mut mailbox)?;
            self.pause(self.phases.warmup);
            status.held.warmup += self.phases.warmup.as_secs_f64();
            enter(RunnerPhase::Ready, &mut status, &mut mailbox)?;
            status.phase = RunnerPhase::Measuring;
            if number == 1 && self.crashes {
                return Ok(End::Crashed);
            }
            if number == 1 && self.hangs {
                return Ok(self.hang());
            }
            let spread = self.figures.behaviour.spread("window", number as u64);
            let window = self.phases.window.mul_f64(spread);
            self.pause(window);
            if self.stopped() {
                return Ok(End::Stopped);
            }
            let record = self
                .figures
                .window(&assignment.trial, Timestamp::now(), window.as_secs_f64())?;
            status.held.measured += window.as_secs_f64();
            status.windows.push(record);
            let node = self.figures.behaviour.node.to_owned();
            self.ledger
                .write(|ledger| ledger.windows.push((node, assignment.trial)));
            status.held.total = begun.elapsed().as_secs_f64();
            enter(RunnerPhase::Idle, &mut status, &mut mailbox)?;
        }
        self.pause(self.phases.baseline);
        self.baseline(&mut status, IdleState::ModelResidentAfter);
        status.held.total = begun.elapsed().as_secs_f64();
        enter(RunnerPhase::Finished, &mut status, &mut mailbox)?;
        // What was measured is delivered, however long the API server is away; an end from outside is the only other end.
        while !mailbox.flush(LOOK) {
            if self.stopped() {
                return Ok(End::Stopped);
            }
        }
        Ok(End::Finished)
    }

    /// What a process does that does nothing: until its pod is deleted.
    fn hang(&self) -> End {
        while !self.stopped() {
            thread::sleep(LOOK);
        }
        End::Stopped
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// In place of work.
    fn pause(&self, length: Duration) {
        self.ledger.write(|ledger| ledger.simulated += length);
        thread::sleep(length);
    }

    fn baseline(&self, status: &mut RunnerStatus, state: IdleState) {
        let seconds = self.phases.baseline.as_secs_f64();
        status.held.baseline += seconds;
        let baseline = self.figures.baseline(state, Timestamp::now(), seconds);
        status.baselines.push(baseline);
    }

    /// The newest state of the mailbox; none if the pod is deleted first.
    fn next(&self, mailbox: &mut KubernetesMailbox) -> anyhow::Result<Option<RunnerSpec>> {
        loop {
            if self.stopped() {
                return Ok(None);
            }
            match mailbox.receive(LOOK)? {
                Received::Spec(spec) => return Ok(Some(*spec)),
                Received::TimedOut => {}
                // Its Runner is gone, or another pod's.
                Received::Closed => return Ok(None),
            }
        }
    }
}

/// What is to be measured next, as the runner decides it.
fn open<'a>(spec: &'a RunnerSpec, status: &RunnerStatus) -> Option<&'a Assignment> {
    spec.held().find(|held| {
        let done = status.windows.iter().any(|window| window.trial == held.trial);
        held.start_at.is_none() && !done
    })
}

fn enter(phase: RunnerPhase, status: &mut RunnerStatus, mailbox: &mut KubernetesMailbox) -> Result<(), MailboxError> {
    status.phase = phase;
    mailbox.report(status)
}
