//! Energy of one window: what each physical counter of this node saw between two edges.
//!
//! [`open()`] selects the meters from a [`MeterConfig`]; all of them are one [`Meter`]. Pure arithmetic is in
//! [`integrate`] (power to energy), [`tick`] and [`edge`] (a stepping counter, read at an instant) and [`cumulative`] (a part of
//! a window); everything else reads devices.

pub mod agent;
pub mod clock;
pub mod combined;
pub mod cumulative;
pub mod edge;
pub mod estimate;
pub mod integrate;
mod live;
pub mod nvml;
mod open;
pub mod rapl;
pub mod reading;
mod sampler;
pub mod tick;

use std::{io, path::PathBuf};

use nvml_wrapper::error::NvmlError;

pub use self::{
    agent::AgentMeter,
    clock::Mark,
    combined::CombinedMeter,
    cumulative::CumulativeEnergy,
    estimate::{EstimateMeter, EstimateOptions},
    live::LivePower,
    nvml::{DeviceProvenance, NvmlMeter, NvmlOptions, OwnProcesses},
    open::{CpuMetering, GpuMetering, MeterConfig, OpenedMeter, open},
    rapl::RaplMeter,
    reading::{
        Absent, CounterDescription, CounterDomain, CounterIdentity, DeviceObservation, EnergyReading, EnergySource,
        MeterReport, PowerSample, RawCounter, SampleSum, Unavailable, UnavailableReason,
    },
};

/// Why there is no meter.
#[derive(Debug, thiserror::Error)]
pub enum MeterError {
    /// The library is missing or does not initialise.
    #[error("failed to load NVML from {}", path.display())]
    NvmlLibrary {
        /// Library.
        path: PathBuf,
        /// What NVML said.
        #[source]
        source: NvmlError,
    },
    /// A selected device cannot be opened.
    #[error("failed to open GPU {device}")]
    Device {
        /// Index or UUID.
        device: String,
        /// What NVML said.
        #[source]
        source: NvmlError,
    },
    /// A partition was selected, but energy is counted per board.
    #[error("GPU {uuid} is a MIG partition, whose energy no counter tells from its neighbours'")]
    MigDevice {
        /// The partition.
        uuid: String,
    },
    /// The selection is empty.
    #[error("no GPU is visible to this process")]
    NoDevices,
    /// The powercap tree has nothing to count, or hides it.
    #[error("failed to open RAPL: {}", unavailable.message)]
    Rapl {
        /// Why.
        unavailable: Unavailable,
    },
    /// The sampler could not be started.
    #[error("failed to start the sampler thread")]
    Thread {
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl MeterError {
    /// The same as a reason in a report, for meters that are optional.
    pub fn unavailable(&self) -> Unavailable {
        match self {
            Self::NvmlLibrary { source, .. } => {
                Unavailable::new(UnavailableReason::NoNvmlLibrary, format!("{self}: {source}"))
            }
            Self::Device { source, .. } => Unavailable::new(UnavailableReason::NoDevices, format!("{self}: {source}")),
            Self::Thread { source } => Unavailable::new(UnavailableReason::DeviceFailed, format!("{self}: {source}")),
            Self::MigDevice { .. } => Unavailable::new(UnavailableReason::SharedDevice, self.to_string()),
            Self::NoDevices => Unavailable::new(UnavailableReason::NoDevices, self.to_string()),
            Self::Rapl { unavailable } => unavailable.clone(),
        }
    }
}

/// Measures windows, one after another: `arm`, (`await_update`,) `start`, (the work), `mark_end`, `stop`.
///
/// `start` … sleep … `stop` on an idle node gives a baseline.
pub trait Meter: Send {
    /// The counters, before anything is measured.
    fn describe(&self) -> Vec<CounterDescription>;

    /// Shows the samples of the windows that follow.
    fn show(&mut self, live: &LivePower);

    /// Gets ready for a start edge within the next seconds: finds the phase of stepping counters, which takes up to
    /// 0.35 s and then goes on in the background. `start` does it if it was left out.
    fn arm(&mut self) -> Result<(), MeterError> {
        Ok(())
    }

    /// Optional, between `arm` and `start`: returns right after the next update of the first stepping counter (at most
    /// 0.35 s later). A start edge there needs no power sensor; worth it where nothing else dictates the start.
    fn await_update(&mut self) {}

    /// The start edge: reads the counters and returns within a millisecond, if armed.
    fn start(&mut self) -> Result<Mark, MeterError>;

    /// The end edge: reads the counters and returns within a millisecond. Later calls return the same edge.
    fn mark_end(&mut self) -> Mark;

    /// Marks the end, if that was not done, waits for stepping counters (up to 0.35 s), and reports.
    fn stop(&mut self) -> MeterReport;
}
