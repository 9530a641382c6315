//! One instant on both clocks: the monotonic one for durations, the wall clock for comparing processes.

use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, Timespec, clock_gettime};
use serde::{Deserialize, Serialize};

/// An instant, in seconds on `CLOCK_MONOTONIC` (the same for all processes of a node) and as Unix time.
#[derive(Debug, Clone, Copy, Default, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mark {
    /// Seconds on `CLOCK_MONOTONIC`.
    pub monotonic_seconds: f64,
    /// Seconds since the Unix epoch.
    pub wall_seconds: f64,
}

impl Mark {
    /// This instant.
    pub fn now() -> Self {
        Self {
            monotonic_seconds: monotonic_seconds(),
            wall_seconds: wall_seconds(),
        }
    }

    /// The same instant moved by some seconds.
    #[must_use]
    pub fn shifted(self, seconds: f64) -> Self {
        Self {
            monotonic_seconds: self.monotonic_seconds + seconds,
            wall_seconds: self.wall_seconds + seconds,
        }
    }

    /// An instant by the wall clock as it was at this one: a step of that clock between the two moves nothing.
    #[must_use]
    pub fn at(self, monotonic_seconds: f64) -> Self {
        self.shifted(monotonic_seconds - self.monotonic_seconds)
    }
}

/// Seconds on `CLOCK_MONOTONIC`.
pub fn monotonic_seconds() -> f64 {
    seconds(clock_gettime(ClockId::Monotonic))
}

/// The standard library's way, so that this and the waiting for a start read one clock even where a test replaces it.
fn wall_seconds() -> f64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    since_epoch.map_or(0.0, |since| since.as_secs_f64())
}

fn seconds(time: Timespec) -> f64 {
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}
