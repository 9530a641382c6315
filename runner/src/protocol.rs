//! The measurement of one process (METHODOLOGY §2):
//! `baseline → load → baseline → [ cool-down → warm-up → ready → start → window → report ]* → baseline → finish`.

mod baseline;
mod facts;
mod load;
mod phases;
mod requests;
mod wait;
mod warmup;
mod window;

use std::time::{Duration, Instant};

use lem_crds::{
    RunnerSpec, RunnerStatus, SCHEMA_VERSION,
    experiment::Barrier,
    plan::WindowPlan,
    runner::{Assignment, IdleState, RunnerError, RunnerPhase, WindowRecord},
};

use crate::{
    energy::{Meter, MeterError},
    engine::{Engine, EngineConfiguration, EngineError},
    mailbox::{Mailbox, MailboxError, Received},
    metrics::{Introduction, LiveMetrics},
    workload::{Requests, WorkloadError},
};

/// What ended a process.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    /// No energy meter as the plan demands it.
    #[error("failed to open the energy meters")]
    Meter(#[source] MeterError),
    /// The model could not be loaded.
    #[error("failed to load the model of {origin}")]
    Load {
        /// Field of the experiment, and where this process finds what it names.
        origin: &'static str,
        /// Why.
        #[source]
        source: Box<EngineError>,
    },
    /// The plan names something that this process cannot do.
    #[error("{field}: {message}")]
    Unsupported {
        /// Field of the experiment.
        field: &'static str,
        /// Why, and what to do.
        message: String,
    },
    /// The requests could not be made.
    #[error("failed to prepare the workload")]
    Workload(#[source] WorkloadError),
    /// The engine failed while it ran.
    #[error("failed to run the model")]
    Engine(#[source] EngineError),
    /// Latency samples could not be packed.
    #[error("failed to pack the latency samples")]
    Samples(#[source] lem_crds::samples::SamplesError),
    /// The mailbox failed.
    #[error("failed to exchange assignments and reports")]
    Mailbox(#[source] MailboxError),
    /// No assignment came within the bound: a runner never idles on a device.
    #[error("no assignment within {0:?}")]
    Idle(Duration),
    /// The other side is gone.
    #[error("the mailbox was closed before the experiment was finished")]
    Abandoned,
}

impl ProtocolError {
    /// Bounded category for reports and metrics.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Meter(_) => "meter",
            Self::Load { source, .. } => source.category(),
            Self::Engine(error) => error.category(),
            Self::Unsupported { .. } => "unsupported",
            Self::Workload(_) => "workload",
            Self::Samples(_) => "samples",
            Self::Mailbox(_) => "mailbox",
            Self::Idle(_) => "idle",
            Self::Abandoned => "abandoned",
        }
    }
}

/// How a process ended: its last record, and the error if one ended it.
#[derive(Debug)]
pub struct Ended {
    /// The last record.
    pub status: RunnerStatus,
    /// What ended the process before it was told to finish.
    pub outcome: Result<(), ProtocolError>,
}

/// Runs one process from its first assignment to its last report. The error, if one ends it, is in the last report too.
pub fn run(mailbox: &mut dyn Mailbox, metrics: &LiveMetrics, idle_bound: Duration) -> Ended {
    let mut process = Process {
        mailbox,
        metrics,
        idle_bound,
        started: Instant::now(),
        status: RunnerStatus {
            schema_version: SCHEMA_VERSION,
            ..RunnerStatus::default()
        },
    };
    let mut outcome = process.run();
    process.status.phase = if outcome.is_ok() {
        RunnerPhase::Finished
    } else {
        RunnerPhase::Failed
    };
    metrics.enter(process.status.phase);
    process.status.error = outcome.as_ref().err().map(|error| RunnerError {
        category: error.category().to_owned(),
        message: with_causes(error),
    });
    if !matches!(outcome, Err(ProtocolError::Abandoned | ProtocolError::Mailbox(_))) {
        outcome = process.report().and(outcome);
    }
    Ended {
        status: process.status,
        outcome,
    }
}

fn introduction(spec: &RunnerSpec) -> Introduction {
    Introduction {
        namespace: std::env::var("LEM_RUNNER_NAMESPACE").ok(),
        experiment: spec.experiment.clone(),
        model: spec.load.model.name.clone(),
        engine: spec.load.engine.name().to_owned(),
    }
}

/// What the requests of a window ask of the engine.
fn engine_configuration(plan: &WindowPlan, requests: &Requests) -> EngineConfiguration {
    let longest = requests.prompts.iter().map(Vec::len).max().unwrap_or_default();
    EngineConfiguration {
        batching: plan.batching.clone(),
        sequence_positions: longest + requests.max_output_tokens as usize - 1,
    }
}

/// An error and everything behind it, in one line.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

struct Process<'a> {
    mailbox: &'a mut dyn Mailbox,
    metrics: &'a LiveMetrics,
    idle_bound: Duration,
    started: Instant,
    status: RunnerStatus,
}

/// What stays for the life of the process once the model is resident.
struct Loaded {
    engine: Box<dyn Engine>,
    meter: Box<dyn Meter>,
    node: String,
    /// Plan of the window before, for the shorter warm-up.
    previous_plan: Option<String>,
}

impl Process<'_> {
    fn run(&mut self) -> Result<(), ProtocolError> {
        let mut spec = self.next_spec()?;
        self.metrics.introduce(introduction(&spec));
        let mut loaded = self.load(&spec)?;
        self.enter(RunnerPhase::Idle)?;
        while !spec.finish {
            match self.open(&spec).cloned() {
                Some(assignment) => spec = self.measure(&mut loaded, spec, &assignment)?,
                None => spec = self.next_spec()?,
            }
        }
        self.baseline(
            loaded.meter.as_mut(),
            spec.load.baseline.duration,
            IdleState::ModelResidentAfter,
        )
    }

    /// Cool-down, warm-up, barrier and window of one assignment; gives the newest state of the mailbox.
    fn measure(
        &mut self,
        loaded: &mut Loaded,
        mut spec: RunnerSpec,
        assignment: &Assignment,
    ) -> Result<RunnerSpec, ProtocolError> {
        let Assignment {
            trial,
            window: plan,
            assigned_at: _,
            start_at: _,
        } = assignment;
        self.status.trial = Some(trial.clone());
        self.enter(RunnerPhase::WarmingUp)?;
        let requests =
            Requests::build(&plan.workload, &plan.decoder, loaded.engine.as_ref()).map_err(ProtocolError::Workload)?;
        loaded
            .engine
            .configure(&engine_configuration(plan, &requests))
            .map_err(ProtocolError::Engine)?;
        self.status.held.cooldown += wait::cool_down(&plan.cooldown, loaded.meter.as_mut());
        let repeats = loaded.previous_plan.as_deref() == Some(trial.plan_sha256.as_str());
        loaded.engine.begin_window(window::salt(&plan.batching, trial, true));
        let warmup = warmup::run(&plan.warmup, &requests, loaded.engine.as_mut(), repeats)
            .inspect(|record| self.status.held.warmup += record.seconds)?;
        loaded.previous_plan = Some(trial.plan_sha256.clone());

        let waiting = Instant::now();
        let execution = requests::Execution::new(&requests);
        self.enter(RunnerPhase::Ready)?;
        let start_at = match plan.barrier {
            Barrier::None => None,
            Barrier::Trial => {
                spec = match self.await_start(spec, assignment)? {
                    Start::At(spec) => spec,
                    Start::Superseded(spec) => return Ok(spec),
                };
                spec.assignment.as_ref().and_then(|assignment| assignment.start_at)
            }
        };
        loaded.meter.arm().map_err(ProtocolError::Meter)?;
        if let Some(start_at) = start_at {
            wait::until(start_at);
        }
        self.status.held.wait += waiting.elapsed().as_secs_f64();

        // Nothing is reported or logged from here to the end of the window.
        self.status.phase = RunnerPhase::Measuring;
        self.metrics.enter(RunnerPhase::Measuring);
        let live = &self.metrics.requests;
        let record = window::measure(loaded, execution, assignment, start_at, warmup, live);
        let ended = record.as_ref().ok();
        let ended = ended.map(|record| (record.duration_seconds, record.energy.as_slice()));
        self.metrics.window_ended(ended);
        let mut record = record?;
        record.clock.api_server_offset_seconds = self.mailbox.clock_offset_seconds();
        self.status.held.measured += record.duration_seconds;
        self.status.windows.push(record);
        self.enter(RunnerPhase::Idle)?;
        Ok(spec)
    }

    /// Waits for the start time of an assignment, or for a newer assignment that takes its place.
    fn await_start(&mut self, mut spec: RunnerSpec, assignment: &Assignment) -> Result<Start, ProtocolError> {
        loop {
            let this_one = |held: &Assignment| held.trial == assignment.trial;
            let started = spec.assignment.as_ref().filter(|held| held.start_at.is_some());
            if started.is_some_and(this_one) && !spec.finish {
                return Ok(Start::At(spec));
            }
            if spec.finish || !self.open(&spec).is_some_and(this_one) {
                return Ok(Start::Superseded(spec));
            }
            spec = self.next_spec()?;
        }
    }

    fn next_spec(&mut self) -> Result<RunnerSpec, ProtocolError> {
        let waiting = Instant::now();
        let received = self.mailbox.receive(self.idle_bound).map_err(ProtocolError::Mailbox)?;
        if self.status.phase == RunnerPhase::Idle {
            self.status.held.wait += waiting.elapsed().as_secs_f64();
        }
        match received {
            Received::Spec(spec) => Ok(*spec),
            Received::TimedOut => Err(ProtocolError::Idle(self.idle_bound)),
            Received::Closed => Err(ProtocolError::Abandoned),
        }
    }

    /// What is to be measured next: the assignment, or once that is done what was announced with it.
    fn open<'a>(&self, spec: &'a RunnerSpec) -> Option<&'a Assignment> {
        spec.held().find(|held| self.is_open(held))
    }

    /// Not measured yet, and not under way without this process: a start time that is there before this process was
    /// ready was agreed with the one whose place it has taken.
    fn is_open(&self, assignment: &Assignment) -> bool {
        let done = |window: &WindowRecord| window.trial == assignment.trial;
        assignment.start_at.is_none() && !self.status.windows.iter().any(done)
    }

    fn enter(&mut self, phase: RunnerPhase) -> Result<(), ProtocolError> {
        self.status.phase = phase;
        self.metrics.enter(phase);
        self.report()
    }

    fn report(&mut self) -> Result<(), ProtocolError> {
        self.status.held.total = self.started.elapsed().as_secs_f64();
        self.mailbox.report(&self.status).map_err(ProtocolError::Mailbox)
    }
}

/// What came of waiting for the start.
enum Start {
    /// The mailbox names the start time.
    At(RunnerSpec),
    /// Another assignment took its place, or the experiment is over.
    Superseded(RunnerSpec),
}
