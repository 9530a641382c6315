//! The thread that reads all counters at a fixed pace, and the series that it shares with the server.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use lem_crds::{
    agent::{CounterAnswer, CountersUnavailable, NodeCounter, PROTOCOL},
    metrics,
    runner::Domain,
};
use rustix::time::{ClockId, clock_gettime};

use super::counters::{RawValue, Series};
use crate::energy::{
    CounterDomain, Unavailable, UnavailableReason,
    rapl::zones::{Zone, discover},
};

/// Pause before a tree that could not be read is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Readings that may be missed before the counters count as unreadable.
const MISSED_READINGS: u32 = 20;

/// What the reader has and the others look at.
#[derive(Debug)]
pub(super) struct Shared {
    node: String,
    boot: String,
    pub(super) interval: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Reading {
        name: String,
        began: String,
        series: Series,
    },
    Unreadable(Unavailable),
}

/// Whether counters can be had on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Health {
    Readable,
    /// The node has none, which is no fault: virtual machines are like that.
    None,
    /// There are some, and they cannot be read.
    Unreadable,
}

impl Shared {
    pub(super) fn new(node: &str, interval: Duration) -> Arc<Self> {
        let starting = Unavailable::new(UnavailableReason::NotStarted, "the agent has only just started");
        Arc::new(Self {
            node: node.to_owned(),
            boot: kernel_identity("boot_id"),
            interval,
            state: Mutex::new(State::Unreadable(starting)),
        })
    }

    /// What is known of the counters, with the kept readings that began after an instant, ns.
    pub(super) fn answer(&self, after: u64) -> CounterAnswer {
        let mut answer = CounterAnswer {
            protocol: PROTOCOL,
            node: self.node.clone(),
            boot: self.boot.clone(),
            series: String::new(),
            began: String::new(),
            interval: nanoseconds(self.interval),
            counters: Vec::new(),
            readings: Vec::new(),
            unavailable: None,
        };
        match &*self.state() {
            State::Reading { name, began, series } => {
                answer.series.clone_from(name);
                answer.began.clone_from(began);
                answer.counters.clone_from(&series.counters);
                answer.readings = series.after(after);
            }
            State::Unreadable(why) => {
                answer.unavailable = Some(CountersUnavailable {
                    reason: reason(why.reason),
                    message: why.message.clone(),
                });
            }
        }
        answer
    }

    pub(super) fn health(&self) -> Health {
        match &*self.state() {
            State::Reading { series, .. } => {
                let silent = now().saturating_sub(series.last_read());
                if silent > nanoseconds(self.interval * MISSED_READINGS) {
                    Health::Unreadable
                } else {
                    Health::Readable
                }
            }
            State::Unreadable(why) if why.reason == UnavailableReason::NoPowercap => Health::None,
            State::Unreadable(_) => Health::Unreadable,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, zones: &[Zone], first: &[RawValue], because: String) {
        tracing::info!(because, "a series begins");
        *self.state() = State::Reading {
            name: kernel_identity("uuid"),
            began: because,
            series: Series::begin(zones.iter().map(counter).collect(), first),
        };
    }

    fn fail(&self, why: Unavailable) {
        let mut state = self.state();
        if !matches!(&*state, State::Unreadable(known) if *known == why) {
            tracing::warn!(why = why.message, "no counters");
        }
        *state = State::Unreadable(why);
    }
}

/// Reads as long as someone else has the series too.
pub(super) fn spawn(root: PathBuf, shared: Arc<Shared>) -> io::Result<()> {
    thread::Builder::new()
        .name("read-counters".to_owned())
        .spawn(move || read_on(&root, &shared))
        .map(drop)
}

fn read_on(root: &Path, shared: &Arc<Shared>) {
    let mut because = "the agent started".to_owned();
    while let Err(why) = follow(root, shared, because) {
        because = format!("the counters could not be read: {}", why.message);
        shared.fail(why);
        thread::sleep(RETRY);
    }
}

/// Reads the tree as it is now until something cannot be read.
fn follow(root: &Path, shared: &Arc<Shared>, because: String) -> Result<(), Unavailable> {
    let zones = discover(root)?;
    shared.begin(&zones, &read(&zones)?, because);
    let mut next = Instant::now();
    while Arc::strong_count(shared) > 1 {
        // Never two readings in a row to catch up: the pace is a promise.
        next = (next + shared.interval).max(Instant::now());
        thread::sleep(next.saturating_duration_since(Instant::now()));
        let raw = read(&zones)?;
        let lost = match &mut *shared.state() {
            State::Reading { series, .. } => series.advance(&raw).err(),
            State::Unreadable(_) => None,
        };
        if let Some(lost) = lost {
            shared.begin(&zones, &raw, lost.to_string());
        }
    }
    Ok(())
}

fn read(zones: &[Zone]) -> Result<Vec<RawValue>, Unavailable> {
    let read_one = |zone: &Zone| {
        let from = now();
        let microjoules = zone.read()?;
        let to = now();
        Ok(RawValue { from, to, microjoules })
    };
    zones.iter().map(read_one).collect()
}

fn counter(zone: &Zone) -> NodeCounter {
    let digits = zone.id.trim_start_matches("package-");
    let end = digits.find(|character: char| !character.is_ascii_digit());
    NodeCounter {
        domain: match zone.domain {
            CounterDomain::Gpu => Domain::Gpu,
            CounterDomain::Cpu => Domain::Cpu,
            CounterDomain::Dram => Domain::Dram,
        },
        id: zone.id.clone(),
        socket: digits[..end.unwrap_or(digits.len())].parse().ok(),
        range_microjoules: zone.range_microjoules,
    }
}

/// The bounded reason in the contract's terms.
fn reason(reason: UnavailableReason) -> metrics::Unavailable {
    match reason {
        UnavailableReason::NoPowercap => metrics::Unavailable::NoCounter,
        UnavailableReason::PermissionDenied => metrics::Unavailable::PermissionDenied,
        _ => metrics::Unavailable::CounterFailed,
    }
}

/// The kernel's random names: `boot_id` is that of this boot, `uuid` is another one each time.
fn kernel_identity(file: &str) -> String {
    let path = Path::new("/proc/sys/kernel/random").join(file);
    fs::read_to_string(path).map_or_else(|_| format!("{}", now()), |text| text.trim().to_owned())
}

/// `CLOCK_MONOTONIC`, ns.
fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
