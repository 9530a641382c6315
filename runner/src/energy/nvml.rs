//! GPU energy through NVML, from the board's own counter.
//!
//! ```text
//! arm ── dense polls ──┐ start edge        end edge ┌── dense polls ── report
//!                      │◄─ coarse samples, 100 ms ─►│
//! ```
//!
//! Dense polls (1 ms) run only outside the window, see [`super::edge`]; inside, a background thread samples power,
//! utilisation, memory, temperature and clocks at the configured interval. The edges themselves are read by the caller.

mod board;
mod observe;
mod recording;
mod sampler;
mod select;

use std::{
    path::PathBuf,
    sync::{Arc, Condvar, Mutex},
    thread::JoinHandle,
    time::Duration,
};

use nvml_wrapper::{Nvml, error::NvmlError};

pub use self::board::DeviceProvenance;
use self::{
    board::{Board, Poll},
    observe::Observer,
    recording::{Place, Recording},
    sampler::{
        ALIGNING_INTERVAL, DENSE_INTERVAL, LONGEST_WAIT_SECONDS, Phase, SHORTEST_ARMING_SECONDS, Shared, State,
        UPDATES_BEFORE, sample,
    },
};
use super::{
    Meter, MeterError,
    clock::{Mark, monotonic_seconds},
    live::LivePower,
    reading::{CounterDescription, CounterDomain, CounterIdentity, EnergySource, MeterReport},
};

/// Environment variable with the path of the library to load instead of `libnvidia-ml.so.1`.
pub const LIBRARY_VARIABLE: &str = "LEM_NVML_LIBRARY";

/// Which processes on the device are ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OwnProcesses {
    /// These PIDs and the members of this process's group.
    Known(Vec<u32>),
    /// NVML's PIDs cannot be compared with ours.
    Hidden,
}

impl OwnProcesses {
    /// This process, if it lives in the host's PID namespace, whose PIDs NVML reports.
    pub fn detect() -> Self {
        // PROC_PID_INIT_INO of the kernel's proc_ns.h.
        let host = std::fs::read_link("/proc/self/ns/pid").is_ok_and(|link| link.as_os_str() == "pid:[4026531836]");
        if host {
            Self::Known(vec![std::process::id()])
        } else {
            Self::Hidden
        }
    }
}

/// How to open the GPU meter.
#[derive(Debug, Clone)]
pub struct NvmlOptions {
    /// Library to load; the system's if none.
    pub library: Option<PathBuf>,
    /// UUIDs to meter; else those in `cuda_visible_devices`; else all.
    pub devices: Option<Vec<String>>,
    /// Content of `CUDA_VISIBLE_DEVICES`: NVML indices or UUIDs.
    pub cuda_visible_devices: Option<String>,
    /// Time between two samples inside the window.
    pub sample_interval: Duration,
    /// Node name.
    pub node: String,
    /// Processes that are not foreign.
    pub own_processes: OwnProcesses,
}

/// Meters the energy of GPU boards.
pub struct NvmlMeter {
    nvml: &'static Nvml,
    boards: Arc<Vec<Board>>,
    options: NvmlOptions,
    shared: Arc<Shared>,
    sampler: Option<JoinHandle<()>>,
    start: Option<Mark>,
    end: Option<Mark>,
    live: LivePower,
}

impl NvmlMeter {
    /// Loads NVML and selects the devices.
    pub fn open(options: NvmlOptions) -> Result<Self, MeterError> {
        let library = |source: NvmlError| MeterError::NvmlLibrary {
            path: options.library.clone().unwrap_or_else(|| "libnvidia-ml.so.1".into()),
            source,
        };
        let nvml = board::load(options.library.as_deref()).map_err(library)?;
        let boards = select::boards(
            nvml,
            options.devices.as_deref(),
            options.cuda_visible_devices.as_deref(),
        )?;
        Ok(Self {
            nvml,
            boards: Arc::new(boards),
            options,
            shared: Arc::new(Shared {
                state: Mutex::new(State {
                    phase: Phase::Finished,
                    recordings: Vec::new(),
                    observers: Vec::new(),
                }),
                changed: Condvar::new(),
            }),
            sampler: None,
            start: None,
            end: None,
            live: LivePower::default(),
        })
    }

    /// Identity and settings of each board.
    pub fn provenance(&self) -> Vec<DeviceProvenance> {
        self.boards.iter().map(|board| board.provenance(self.nvml)).collect()
    }

    fn identity(&self, board: &Board) -> CounterIdentity {
        CounterIdentity {
            domain: CounterDomain::Gpu,
            id: board.uuid.clone(),
            node: self.options.node.clone(),
        }
    }

    fn identities(&self) -> Vec<CounterIdentity> {
        self.boards.iter().map(|board| self.identity(board)).collect()
    }

    fn finish(&mut self) {
        self.shared.enter(Phase::Finished);
        if let Some(sampler) = self.sampler.take() {
            drop(sampler.join());
        }
    }
}

impl Meter for NvmlMeter {
    fn describe(&self) -> Vec<CounterDescription> {
        let describe = |board: &Board| CounterDescription {
            counter: self.identity(board),
            source: match board.device.total_energy_consumption() {
                Ok(_) => EnergySource::NvmlCounter,
                Err(_) => EnergySource::NvmlPowerIntegral,
            },
            detail: board.name.clone(),
        };
        self.boards.iter().map(describe).collect()
    }

    fn show(&mut self, live: &LivePower) {
        self.live = live.clone();
    }

    fn arm(&mut self) -> Result<(), MeterError> {
        self.finish();
        (self.start, self.end) = (None, None);
        {
            let mut state = self.shared.lock();
            state.phase = Phase::Armed;
            state.recordings = self.boards.iter().map(|_| Recording::default()).collect();
            state.observers = Vec::new();
        }
        let (shared, boards) = (Arc::clone(&self.shared), Arc::clone(&self.boards));
        let interval = self.options.sample_interval;
        let (live, counters) = (self.live.clone(), self.identities());
        let sampler = std::thread::Builder::new()
            .name("gpu-energy".to_owned())
            .spawn(move || sample(&shared, &boards, interval, (&live, &counters)))
            .map_err(|source| MeterError::Thread { source })?;
        self.sampler = Some(sampler);
        std::thread::sleep(Duration::from_secs_f64(SHORTEST_ARMING_SECONDS));
        let deadline = monotonic_seconds() + LONGEST_WAIT_SECONDS - SHORTEST_ARMING_SECONDS;
        while monotonic_seconds() < deadline && !self.shared.lock().is_phased(Place::Before, UPDATES_BEFORE) {
            std::thread::sleep(DENSE_INTERVAL);
        }
        Ok(())
    }

    fn await_update(&mut self) {
        let Some(first) = self.boards.first() else {
            return;
        };
        let deadline = monotonic_seconds() + LONGEST_WAIT_SECONDS;
        let counter = || first.device.total_energy_consumption().ok();
        let before = counter();
        while before.is_some() && counter() == before && monotonic_seconds() < deadline {
            std::thread::sleep(ALIGNING_INTERVAL);
        }
    }

    fn start(&mut self) -> Result<Mark, MeterError> {
        if self.sampler.is_none() || self.start.is_some() {
            self.arm()?;
        }
        let observers = self.boards.iter().map(Observer::before_window).collect();
        let start = Mark::now();
        let polls: Vec<Poll> = self.boards.iter().map(Board::poll).collect();
        let mut state = self.shared.lock();
        state.observers = observers;
        state.add(&self.boards, Place::Inside, polls);
        state.phase = Phase::Measuring;
        drop(state);
        self.shared.changed.notify_all();
        self.start = Some(start);
        Ok(start)
    }

    fn mark_end(&mut self) -> Mark {
        if let Some(end) = self.end {
            return end;
        }
        let end = Mark::now();
        let polls: Vec<Poll> = self.boards.iter().map(Board::poll).collect();
        let mut state = self.shared.lock();
        state.add(&self.boards, Place::After, polls);
        state.phase = Phase::Settling;
        let mut observers = std::mem::take(&mut state.observers);
        drop(state);
        self.shared.changed.notify_all();
        for (observer, board) in observers.iter_mut().zip(self.boards.iter()) {
            observer.at_end(board);
        }
        self.shared.lock().observers = observers;
        self.end = Some(end);
        end
    }

    fn stop(&mut self) -> MeterReport {
        let Some(start) = self.start else {
            self.finish();
            return MeterReport::not_started(CounterDomain::Gpu);
        };
        let end = self.mark_end();
        if let Some(sampler) = self.sampler.take() {
            // It ends by itself once each board has been updated often enough after the end edge.
            drop(sampler.join());
        }
        self.start = None;
        self.live.forget(&self.identities());
        let mut state = self.shared.lock();
        let observers = std::mem::take(&mut state.observers);
        let readings = self
            .boards
            .iter()
            .zip(&state.recordings)
            .map(|(board, recording)| recording.reading(self.identity(board), start, end, board.averages_power));
        let readings = readings.collect();
        let own = &self.options.own_processes;
        let devices = observers
            .into_iter()
            .zip(self.boards.iter())
            .map(|(observer, board)| observer.after_window(board, own));
        MeterReport {
            readings,
            devices: devices.collect(),
            absent: Vec::new(),
        }
    }
}

impl Drop for NvmlMeter {
    fn drop(&mut self) {
        self.finish();
    }
}
