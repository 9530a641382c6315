//! The one fake machine of this process: every test has its own boards on it.

use std::{path::PathBuf, sync::LazyLock, time::Duration};

use lem_fake_nvml::{Board, Machine, Waveform, environment};
use lem_runner::energy::{NvmlMeter, NvmlOptions, OwnProcesses};

/// Power that changes within, at and across updates of the counter.
pub(crate) fn waveforms() -> Vec<(&'static str, Waveform)> {
    vec![
        ("constant", Waveform::Constant { watts: 350.0 }),
        (
            "bursty",
            Waveform::Bursty {
                seed: 11,
                low: 90.0,
                high: 700.0,
                slot_milliseconds: 13.0,
            },
        ),
        (
            "square",
            Waveform::Square {
                low: 100.0,
                high: 700.0,
                period_milliseconds: 170.0,
                duty: 0.4,
            },
        ),
        (
            "ramp",
            Waveform::Ramp {
                from: 100.0,
                to: 700.0,
                seconds: 0.9,
            },
        ),
    ]
}

/// Time between two counter updates, ms.
pub(crate) const TICKS: [f64; 2] = [20.0, 100.0];

static LIBRARY: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = std::env::temp_dir();
    environment::install(&Machine { devices: boards() }, &folder).expect("the fake library is built with this test")
});

fn boards() -> Vec<Board> {
    let mut boards = Vec::new();
    for (name, waveform) in waveforms() {
        for tick in TICKS {
            boards.push(Board {
                tick_phase_milliseconds: 3.7,
                ..Board::new(&accuracy_uuid(name, tick), tick, waveform.clone())
            });
        }
    }
    boards.extend(crate::faults::boards());
    boards
}

/// UUID of the board of one cell of the accuracy matrix.
pub(crate) fn accuracy_uuid(waveform: &str, tick: f64) -> String {
    format!("GPU-{waveform}-{tick}")
}

/// Options for some boards of the machine.
pub(crate) fn options(uuids: &[&str]) -> NvmlOptions {
    NvmlOptions {
        library: Some(LIBRARY.clone()),
        devices: Some(uuids.iter().map(|&uuid| uuid.to_owned()).collect()),
        cuda_visible_devices: None,
        sample_interval: Duration::from_millis(100),
        node: "node-a".to_owned(),
        own_processes: OwnProcesses::Known(vec![std::process::id()]),
    }
}

/// A meter on some boards.
pub(crate) fn meter(uuids: &[&str]) -> NvmlMeter {
    NvmlMeter::open(options(uuids)).expect("the fake boards exist")
}
