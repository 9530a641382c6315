//! A powercap tree that moves as the kernel's does, and what its counters have really counted.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use lem_runner::energy::Mark;

/// Range of Intel's server parts, µJ.
pub const RANGE: u64 = 262_143_328_850;

/// Time between two steps of a counter. The kernel's take 1 ms; this leaves the machine to the test.
const STEP: Duration = Duration::from_millis(2);

/// A zone of the tree.
struct Zone {
    folder: PathBuf,
    /// W, as bits.
    watts: AtomicU64,
    counted: Mutex<Counted>,
}

/// What a counter has shown since it was made.
#[derive(Default)]
struct Counted {
    raw: u64,
    microjoules: f64,
    steps: Vec<Step>,
}

/// The counter shows a value from some moment between the two on.
#[derive(Clone, Copy)]
struct Step {
    begun: f64,
    done: f64,
    joules: f64,
}

/// Bounds of an energy in J, as sharp as the counter's steps.
#[derive(Debug, Clone, Copy)]
pub struct Truth {
    /// At least.
    pub lowest: f64,
    /// At most.
    pub highest: f64,
}

impl Truth {
    /// How far a value is from it.
    pub fn error(self, joules: f64) -> f64 {
        (self.lowest - joules).max(joules - self.highest).max(0.0)
    }

    /// The middle of the bounds.
    pub fn middle(self) -> f64 {
        f64::midpoint(self.lowest, self.highest)
    }
}

/// A tree as in `/sys/devices/virtual/powercap`, whose counters move until it is dropped.
pub struct Powercap {
    zones: Arc<Vec<Zone>>,
    is_over: Arc<AtomicBool>,
    mover: Option<JoinHandle<()>>,
}

impl Powercap {
    /// Makes the zones `(folder below the root, name, W)`, their counters just before a wrap.
    pub fn new(root: &Path, zones: &[(&str, &str, f64)]) -> Self {
        let zones = zones
            .iter()
            .map(|(folder, name, watts)| Zone::new(&root.join(folder), name, *watts));
        let zones = Arc::new(zones.collect::<Vec<_>>());
        let is_over = Arc::new(AtomicBool::new(false));
        let (shown, ended) = (Arc::clone(&zones), Arc::clone(&is_over));
        let mover = thread::spawn(move || {
            let mut last = Mark::now().monotonic_seconds;
            while !ended.load(Ordering::Relaxed) {
                thread::sleep(STEP);
                let now = Mark::now().monotonic_seconds;
                for zone in shown.iter() {
                    zone.consume(now - last);
                }
                last = now;
            }
        });
        Self {
            zones,
            is_over,
            mover: Some(mover),
        }
    }

    /// The power of a zone from now on, W.
    pub fn draw(&self, zone: usize, watts: f64) {
        self.zones[zone].watts.store(watts.to_bits(), Ordering::Relaxed);
    }

    /// What a zone counted between two instants on the monotonic clock.
    pub fn truth(&self, zone: usize, from: f64, to: f64) -> Truth {
        let counted = self.zones[zone].counted();
        let at = |instant: f64| {
            let shown = counted.steps.partition_point(|step| step.done <= instant);
            let coming = counted.steps.partition_point(|step| step.begun <= instant);
            let joules = |count: usize| count.checked_sub(1).map_or(0.0, |last| counted.steps[last].joules);
            (joules(shown), joules(coming))
        };
        let (start, end) = (at(from), at(to));
        Truth {
            lowest: end.0 - start.1,
            highest: end.1 - start.0,
        }
    }

    /// As a driver that is loaded anew: the counter starts from zero, which is no wrap.
    pub fn reset(&self, zone: usize) {
        self.zones[zone].counted().raw = 0;
    }
}

impl Drop for Powercap {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(mover) = self.mover.take() {
            drop(mover.join());
        }
    }
}

impl Zone {
    fn new(folder: &Path, name: &str, watts: f64) -> Self {
        fs::create_dir_all(folder).expect("a zone");
        fs::write(folder.join("name"), format!("{name}\n")).expect("its name");
        fs::write(folder.join("max_energy_range_uj"), format!("{RANGE}\n")).expect("its range");
        let zone = Self {
            folder: folder.to_owned(),
            watts: AtomicU64::new(watts.to_bits()),
            counted: Mutex::new(Counted {
                raw: RANGE - 3_000_000,
                ..Counted::default()
            }),
        };
        zone.consume(0.0);
        zone
    }

    fn counted(&self) -> std::sync::MutexGuard<'_, Counted> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn consume(&self, seconds: f64) {
        let mut counted = self.counted();
        let before = counted.microjoules as u64;
        counted.microjoules += f64::from_bits(self.watts.load(Ordering::Relaxed)) * seconds * 1e6;
        let step = counted.microjoules as u64 - before;
        counted.raw = (counted.raw + step) % RANGE;
        // Replaced at once, as a read of the kernel's file is never half a number.
        let next = self.folder.join("next");
        fs::write(&next, format!("{}\n", counted.raw)).expect("a value");
        let begun = Mark::now().monotonic_seconds;
        fs::rename(next, self.folder.join("energy_uj")).expect("a value");
        let joules = counted.microjoules.trunc() / 1e6;
        counted.steps.push(Step {
            begun,
            done: Mark::now().monotonic_seconds,
            joules,
        });
    }
}
