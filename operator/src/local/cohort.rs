//! The processes that share one load: started, led through one trial after another, and replaced when they are lost.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    time::{Duration, Instant},
};

use jiff::{Timestamp, ToSpan};
use lem_crds::{
    RunnerSpec, RunnerStatus,
    experiment::Barrier,
    plan::{LoadPlan, Point, TrialIdentity},
    runner::{Assignment, RunnerError, RunnerPhase},
};

use super::{
    child::{self, ChildError, Event, Message},
    results::{Results, ResultsError},
};
use crate::experiment::Record;

/// How often an interrupt is looked for while waiting.
const TICK: Duration = Duration::from_millis(100);
/// From the last Ready to the common start: a local pipe delivers within a millisecond, arming a meter takes up to 0.35 s.
const START_DELAY_MILLISECONDS: i64 = 500;

/// What ends a cohort for good.
#[derive(Debug, thiserror::Error)]
pub enum CohortError {
    /// A runner could not be started.
    #[error("failed to start a runner")]
    Child(#[source] ChildError),
    /// A runner says that the experiment cannot run as written; trying again would not help.
    #[error("process {process}: {message}")]
    Runner {
        /// The process.
        process: u32,
        /// Bounded category.
        category: String,
        /// What is wrong.
        message: String,
    },
    /// Results could not be kept.
    #[error("failed to keep results")]
    Results(#[source] ResultsError),
}

/// How a trial ended.
#[derive(Debug)]
pub enum TrialEnd {
    /// Every process has reported its window.
    Reported,
    /// Some processes have not, each with the reason.
    Failed(Vec<(u32, RunnerError)>),
    /// Ctrl-C.
    Interrupted,
}

/// What does not change over the life of a cohort.
#[derive(Debug, Clone)]
pub struct Setting {
    /// Name of the experiment.
    pub experiment: String,
    /// Name of the cohort.
    pub cohort: String,
    /// What is loaded.
    pub load: LoadPlan,
    /// Processes.
    pub processes: u32,
    /// UUIDs of this machine's GPUs, in order.
    pub gpus: Vec<String>,
    /// Threads of each process's engine.
    pub threads: usize,
    /// The runner's program.
    pub program: PathBuf,
    /// Distinguishes the files of this run from those of earlier ones in the same folder.
    pub session: String,
}

struct Seat {
    runner: Option<child::Runner>,
    status: RunnerStatus,
    failure: Option<RunnerError>,
    kept_windows: usize,
    generation: u32,
}

/// A running cohort. Dropping it ends its processes.
pub struct Cohort<'a> {
    setting: Setting,
    results: &'a Results,
    interrupted: Arc<AtomicBool>,
    seats: Vec<Seat>,
    sender: Sender<Event>,
    events: Receiver<Event>,
}

enum Wait {
    Over,
    Interrupted,
}

impl<'a> Cohort<'a> {
    /// A cohort without processes yet.
    pub fn new(setting: Setting, results: &'a Results, interrupted: Arc<AtomicBool>) -> Self {
        let (sender, events) = mpsc::channel();
        let seat = || Seat {
            runner: None,
            status: RunnerStatus::default(),
            failure: None,
            kept_windows: 0,
            generation: 0,
        };
        let seats = (0..setting.processes).map(|_| seat()).collect();
        Self {
            setting,
            results,
            interrupted,
            seats,
            sender,
            events,
        }
    }

    /// Starts the processes that are missing and waits until every model is resident.
    ///
    /// # Errors
    /// A runner cannot be started, or reports that the model cannot be loaded.
    pub fn ensure_loaded(&mut self, deadline: Duration) -> Result<TrialEnd, CohortError> {
        for process in 0..self.setting.processes {
            if self.seats[process as usize].runner.is_none() {
                self.start(process)?;
            }
        }
        let loaded = |status: &RunnerStatus| {
            !matches!(
                status.phase,
                RunnerPhase::Starting | RunnerPhase::Loading | RunnerPhase::Failed
            )
        };
        if let Wait::Interrupted = self.wait(deadline, "load the model", "load", loaded)? {
            return Ok(TrialEnd::Interrupted);
        }
        for (process, seat) in (0_u32..).zip(&self.seats) {
            // Said by the runner itself before anything was measured: a wrong plan, not weather.
            if let Some(error) = &seat.status.error
                && seat.status.windows.is_empty()
            {
                return Err(CohortError::Runner {
                    process,
                    category: error.category.clone(),
                    message: error.message.clone(),
                });
            }
        }
        Ok(self.end_of_step())
    }

    /// Leads all processes through one trial.
    ///
    /// # Errors
    /// A runner cannot be started, says that the plan is wrong, or results cannot be kept.
    pub fn measure(&mut self, point: &Point, trial: &TrialIdentity) -> Result<TrialEnd, CohortError> {
        let deadlines = &point.window.deadlines;
        match self.ensure_loaded(deadlines.load.get())? {
            TrialEnd::Reported => {}
            end => return Ok(end),
        }
        let mut assignment = Assignment {
            trial: trial.clone(),
            window: point.window.clone(),
            assigned_at: None,
            start_at: None,
        };
        self.tell(Some(&assignment));
        let ready = |status: &RunnerStatus| {
            status.trial.as_ref() == Some(trial)
                && matches!(
                    status.phase,
                    RunnerPhase::Ready | RunnerPhase::Measuring | RunnerPhase::Idle
                )
        };
        if let Wait::Interrupted = self.wait(deadlines.ready.get(), "become ready", "ready", ready)? {
            return Ok(TrialEnd::Interrupted);
        }
        self.refuse_wrong_plans()?;
        match self.end_of_step() {
            TrialEnd::Reported => {}
            end => return Ok(end),
        }
        if point.window.barrier == Barrier::Trial {
            let start = Timestamp::now().checked_add(START_DELAY_MILLISECONDS.milliseconds());
            assignment.start_at = start.ok();
            self.tell(Some(&assignment));
        }
        let reported = |status: &RunnerStatus| status.windows.iter().any(|window| window.trial == *trial);
        if let Wait::Interrupted = self.wait(deadlines.window.get(), "report its window", "window", reported)? {
            return Ok(TrialEnd::Interrupted);
        }
        Ok(self.end_of_step())
    }

    /// Lets the processes take their last baseline and end.
    ///
    /// # Errors
    /// The last records cannot be kept.
    pub fn finish(&mut self, deadline: Duration) -> Result<(), CohortError> {
        if self.seats.iter().all(|seat| seat.runner.is_none()) {
            return Ok(());
        }
        self.tell(None);
        let finished = |status: &RunnerStatus| status.phase == RunnerPhase::Finished;
        self.wait(deadline, "finish", "load", finished)?;
        for process in 0..self.setting.processes {
            self.keep(process)?;
            self.seats[process as usize].runner = None;
        }
        Ok(())
    }

    fn start(&mut self, process: u32) -> Result<(), CohortError> {
        let setting = &self.setting;
        let per_process = setting.load.gpus_per_process;
        let first = (process * per_process) as usize;
        let gpus: Vec<String> = setting
            .gpus
            .iter()
            .skip(first)
            .take(per_process as usize)
            .cloned()
            .collect();
        let threads = setting.threads.to_string();
        let mut environment = vec![("RAYON_NUM_THREADS", threads.clone()), ("CANDLE_NUM_THREADS", threads)];
        if !setting.gpus.is_empty() {
            environment.push(("CUDA_VISIBLE_DEVICES", gpus.join(",")));
        }
        if let Some(address) = metrics_address(std::env::var("LEM_METRICS_ADDRESS").ok(), process) {
            environment.push(("LEM_METRICS_ADDRESS", address));
        }
        let seat = &mut self.seats[process as usize];
        seat.generation += 1;
        let runner = child::Runner::start(
            &setting.program,
            process,
            seat.generation,
            &environment,
            self.sender.clone(),
        )
        .map_err(CohortError::Child)?;
        seat.runner = Some(runner);
        seat.status = RunnerStatus::default();
        seat.failure = None;
        seat.kept_windows = 0;
        let spec = self.mailbox(process, None, false);
        self.tell_one(process, &spec);
        Ok(())
    }

    fn mailbox(&self, process: u32, assignment: Option<&Assignment>, finish: bool) -> RunnerSpec {
        let setting = &self.setting;
        let per_process = setting.load.gpus_per_process as usize;
        let gpus = (!setting.gpus.is_empty()).then(|| {
            setting
                .gpus
                .iter()
                .skip(process as usize * per_process)
                .take(per_process)
                .cloned()
                .collect()
        });
        RunnerSpec {
            node: None,
            service_account_name: None,
            failures: Vec::new(),
            experiment: setting.experiment.clone(),
            cohort: setting.cohort.clone(),
            process,
            processes: setting.processes,
            load: LoadPlan {
                gpus,
                ..setting.load.clone()
            },
            incarnation: 0,
            assignment: assignment.cloned(),
            upcoming: Vec::new(),
            finish,
        }
    }

    /// Gives every process the assignment; none means that nothing more comes.
    fn tell(&mut self, assignment: Option<&Assignment>) {
        for process in 0..self.setting.processes {
            let spec = self.mailbox(process, assignment, assignment.is_none());
            self.tell_one(process, &spec);
        }
    }

    fn tell_one(&mut self, process: u32, spec: &RunnerSpec) {
        if let Some(runner) = &mut self.seats[process as usize].runner {
            runner.tell(spec);
        }
    }

    /// Waits until every process has done something or is lost. A process past the deadline is ended.
    fn wait(
        &mut self,
        deadline: Duration,
        what: &str,
        field: &str,
        done: impl Fn(&RunnerStatus) -> bool,
    ) -> Result<Wait, CohortError> {
        let begin = Instant::now();
        loop {
            if self
                .seats
                .iter()
                .all(|seat| seat.runner.is_none() || done(&seat.status))
            {
                return Ok(Wait::Over);
            }
            if self.interrupted.load(Ordering::Relaxed) {
                return Ok(Wait::Interrupted);
            }
            if begin.elapsed() >= deadline {
                for seat in self
                    .seats
                    .iter_mut()
                    .filter(|seat| seat.runner.is_some() && !done(&seat.status))
                {
                    seat.runner = None;
                    seat.failure = Some(RunnerError {
                        category: "deadline".to_owned(),
                        message: format!(
                            "did not {what} within {deadline:?} (spec.protocol.deadlines.{field}) and was ended"
                        ),
                    });
                }
                return Ok(Wait::Over);
            }
            match self
                .events
                .recv_timeout(TICK.min(deadline.saturating_sub(begin.elapsed())))
            {
                Ok(event) => self.hear(event)?,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
        }
    }

    fn hear(&mut self, event: Event) -> Result<(), CohortError> {
        let Event {
            process,
            generation,
            message,
        } = event;
        let seat = &mut self.seats[process as usize];
        if seat.generation != generation {
            return Ok(());
        }
        match message {
            Message::Status(status) => {
                seat.status = *status;
                self.keep(process)
            }
            Message::Malformed(line) => {
                tracing::warn!(process, line, "a runner wrote a line that is no record");
                Ok(())
            }
            Message::Ended => {
                if let Some(mut runner) = seat.runner.take()
                    && seat.status.phase != RunnerPhase::Finished
                {
                    let outcome = runner.outcome();
                    seat.failure = Some(seat.status.error.clone().unwrap_or_else(|| RunnerError {
                        category: "exited".to_owned(),
                        message: format!("ended while {}: {outcome}", describe(seat.status.phase)),
                    }));
                }
                Ok(())
            }
        }
    }

    /// Keeps a record on disk as soon as it has a new window, and at its end.
    fn keep(&mut self, process: u32) -> Result<(), CohortError> {
        let seat = &mut self.seats[process as usize];
        let windows = seat.status.windows.len();
        let last = matches!(seat.status.phase, RunnerPhase::Finished | RunnerPhase::Failed);
        if windows > seat.kept_windows || (last && windows > 0) {
            seat.kept_windows = windows;
            let record = Record {
                process,
                status: seat.status.clone(),
            };
            let session = format!("{}-{}", self.setting.session, self.setting.cohort);
            self.results
                .keep(&record, &session, seat.generation)
                .map_err(CohortError::Results)?;
        }
        Ok(())
    }

    /// A runner that reported an error of the plan itself would fail again.
    fn refuse_wrong_plans(&self) -> Result<(), CohortError> {
        for (process, seat) in (0_u32..).zip(&self.seats) {
            if let Some(error) = &seat.status.error
                && ["workload", "unsupported", "context_exceeded"].contains(&error.category.as_str())
            {
                return Err(CohortError::Runner {
                    process,
                    category: error.category.clone(),
                    message: error.message.clone(),
                });
            }
        }
        Ok(())
    }

    fn end_of_step(&self) -> TrialEnd {
        let failures: Vec<_> = (0_u32..)
            .zip(&self.seats)
            .filter_map(|(process, seat)| Some((process, seat.failure.clone()?)))
            .collect();
        if failures.is_empty() {
            TrialEnd::Reported
        } else {
            TrialEnd::Failed(failures)
        }
    }
}

/// Each process serves its counters on a port of its own, counting up from the one that the user gave. What is no
/// address is left to the runner to refuse.
fn metrics_address(given: Option<String>, process: u32) -> Option<String> {
    let mut address: std::net::SocketAddr = given?.parse().ok()?;
    let port = u16::try_from(process)
        .ok()
        .filter(|_| address.port() > 0)
        .and_then(|process| address.port().checked_add(process))?;
    address.set_port(port);
    Some(address.to_string())
}

fn describe(phase: RunnerPhase) -> &'static str {
    match phase {
        RunnerPhase::Starting => "starting",
        RunnerPhase::Loading => "loading the model",
        RunnerPhase::Idle => "idle",
        RunnerPhase::WarmingUp => "warming up",
        RunnerPhase::Ready => "ready for or in the window",
        RunnerPhase::Measuring => "measuring",
        RunnerPhase::Finished => "finished",
        RunnerPhase::Failed => "failing",
    }
}
