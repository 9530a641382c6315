//! CPU package and memory energy from the powercap tree (`intel-rapl*`; AMD processors appear under the same name).

pub(crate) mod wrap;
pub(crate) mod zones;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use self::{
    wrap::{Unwrapped, longest_read_interval_seconds},
    zones::{Zone, discover},
};
use super::{
    Meter, MeterError,
    clock::{Mark, monotonic_seconds},
    cumulative::{CumulativeEnergy, PEAK_OVER_MEAN, Read},
    edge::EdgeEnergy,
    integrate::{Power, thin},
    live::LivePower,
    reading::{
        CounterDescription, CounterDomain, CounterIdentity, EnergyReading, EnergySource, MeterReport, RawCounter,
        Unavailable,
    },
    sampler::SampledWindow,
};

/// Environment variable with the root of the powercap tree instead of [`DEFAULT_ROOT`].
pub const ROOT_VARIABLE: &str = "LEM_POWERCAP_ROOT";

/// Where Linux shows it.
pub const DEFAULT_ROOT: &str = "/sys/class/powercap";

/// RAPL counters are updated about every millisecond (Intel SDM 15.10.1; kernel `amd_energy`).
pub(super) const UPDATE_PERIOD_SECONDS: f64 = 0.001;

/// Meters CPU packages and their memory.
#[derive(Debug)]
pub struct RaplMeter {
    zones: Arc<Vec<Zone>>,
    node: String,
    sample_interval: Duration,
    window: Option<SampledWindow<Vec<Track>>>,
    live: LivePower,
}

/// One zone inside one window.
#[derive(Debug)]
struct Track {
    first: Result<RawCounter, Unavailable>,
    last: Option<RawCounter>,
    counter: Option<Unwrapped>,
    failure: Option<Unavailable>,
    /// All reads since the start edge.
    reads: Vec<Read>,
}

impl RaplMeter {
    /// Finds the zones below `root`. They may still be unreadable: see [`Self::check_readable`].
    pub fn open(root: &Path, sample_interval: Duration, node: &str) -> Result<Self, MeterError> {
        let zones = discover(root).map_err(|unavailable| MeterError::Rapl { unavailable })?;
        Ok(Self {
            zones: Arc::new(zones),
            node: node.to_owned(),
            sample_interval,
            window: None,
            live: LivePower::default(),
        })
    }

    /// Reads every counter once.
    pub fn check_readable(&self) -> Result<(), Unavailable> {
        self.zones.iter().try_for_each(|zone| zone.read().map(drop))
    }

    /// The domains that have a zone.
    pub fn domains(&self) -> Vec<CounterDomain> {
        self.zones.iter().map(|zone| zone.domain).collect()
    }

    fn identity(&self, zone: &Zone) -> CounterIdentity {
        CounterIdentity {
            domain: zone.domain,
            id: zone.id.clone(),
            node: self.node.clone(),
        }
    }

    fn identities(&self) -> Vec<CounterIdentity> {
        self.zones.iter().map(|zone| self.identity(zone)).collect()
    }

    /// The configured interval, or less where a counter could wrap unseen.
    fn read_interval(&self) -> Duration {
        let longest = self
            .zones
            .iter()
            .map(|zone| longest_read_interval_seconds(zone.range_microjoules));
        let longest = longest.fold(f64::INFINITY, f64::min).clamp(0.001, 3600.0);
        self.sample_interval.min(Duration::from_secs_f64(longest))
    }

    fn reading(&self, zone: &Zone, track: &Track, start: Mark, end: Mark) -> EnergyReading {
        let ends = track.first.as_ref().ok().copied().zip(track.last);
        let failure = track.first.as_ref().err().or(track.failure.as_ref()).cloned();
        let joules = ends
            .filter(|_| failure.is_none())
            .map(|(first, last)| last.joules - first.joules);
        let power = power(track);
        // Each edge is up to one update old.
        let edge_watts = power.iter().map(|power| power.watts).fold(0.0, f64::max);
        EnergyReading {
            counter: self.identity(zone),
            source: EnergySource::Rapl,
            joules,
            unavailable: failure,
            uncertainty_joules: joules.map(|_| 2.0 * edge_watts * UPDATE_PERIOD_SECONDS),
            duration_seconds: end.monotonic_seconds - start.monotonic_seconds,
            start,
            end,
            start_raw: ends.map(|(first, _)| first),
            end_raw: ends.map(|(_, last)| last),
            range_joules: Some(zone.range_microjoules as f64 / 1e6),
            update_period_seconds: Some(UPDATE_PERIOD_SECONDS),
            integral_joules: None,
            integral_disagreement: None,
            power_is_averaged: false,
            power: thin(&power, start.monotonic_seconds, end.monotonic_seconds),
            cumulative: joules.map_or_else(CumulativeEnergy::default, |_| {
                track.within(start, end, edge_watts * UPDATE_PERIOD_SECONDS)
            }),
        }
    }
}

impl Track {
    fn begin(zone: &Zone) -> Self {
        let (at, over, value) = timed(zone);
        let first = value.clone().map(|microjoules| RawCounter {
            at,
            joules: microjoules as f64 / 1e6,
        });
        Self {
            reads: first.iter().map(|first| read(*first, over)).collect(),
            counter: value
                .ok()
                .map(|microjoules| Unwrapped::new(zone.range_microjoules, microjoules)),
            first,
            last: None,
            failure: None,
        }
    }

    /// The counter between the edges, at which it is known to within some joules.
    fn within(&self, start: Mark, end: Mark, uncertainty_joules: f64) -> CumulativeEnergy {
        let edge = |at: Mark, read: Option<&Read>| {
            let joules = read.map_or(0.0, |read| read.joules);
            let edge = EdgeEnergy {
                joules,
                uncertainty_joules,
            };
            (at.monotonic_seconds, edge)
        };
        let watts = power(self).into_iter().map(|power| PEAK_OVER_MEAN * power.watts);
        CumulativeEnergy::new(
            edge(start, self.reads.first()),
            self.reads.iter().copied(),
            edge(end, self.reads.last()),
            UPDATE_PERIOD_SECONDS,
            watts,
        )
    }

    /// Mean power since the read before the last, W.
    fn last_power(&self) -> Option<f64> {
        let (before, last) = self.reads.last_chunk().map(|[before, last]| (*before, *last))?;
        mean_power(before, last).map(|power| power.watts)
    }

    fn advance(&mut self, zone: &Zone) {
        let (Some(counter), Ok(first)) = (&mut self.counter, &self.first) else {
            return;
        };
        let (at, over, value) = timed(zone);
        match value {
            Ok(microjoules) => {
                let joules = first.joules + counter.advance(microjoules);
                let value = RawCounter { at, joules };
                self.last = Some(value);
                self.reads.push(read(value, over));
            }
            Err(failure) => drop(self.failure.get_or_insert(failure)),
        }
    }
}

/// Reads a zone: when that began, when it was over, monotonic seconds, and the counter in µJ.
fn timed(zone: &Zone) -> (Mark, f64, Result<u64, Unavailable>) {
    let at = Mark::now();
    let value = zone.read();
    (at, monotonic_seconds(), value)
}

fn read(value: RawCounter, over: f64) -> Read {
    Read {
        from: value.at.monotonic_seconds,
        to: over,
        joules: value.joules,
    }
}

/// Mean power between the reads, each at its middle.
fn power(track: &Track) -> Vec<Power> {
    let between = |pair: &[Read]| mean_power(pair[0], pair[1]);
    track.reads.windows(2).filter_map(between).collect()
}

fn mean_power(a: Read, b: Read) -> Option<Power> {
    let seconds = b.from - a.from;
    // The read at the end edge may follow a sample at once: no power can be told from less than ten updates.
    (seconds > 10.0 * UPDATE_PERIOD_SECONDS).then(|| Power {
        at: f64::midpoint(a.from, b.from),
        watts: (b.joules - a.joules) / seconds,
    })
}

fn advance_all(tracks: &mut [Track], zones: &[Zone]) {
    for (track, zone) in tracks.iter_mut().zip(zones) {
        track.advance(zone);
    }
}

impl Meter for RaplMeter {
    fn describe(&self) -> Vec<CounterDescription> {
        let describe = |zone: &Zone| CounterDescription {
            counter: self.identity(zone),
            source: EnergySource::Rapl,
            detail: zone.folder.display().to_string(),
        };
        self.zones.iter().map(describe).collect()
    }

    fn show(&mut self, live: &LivePower) {
        self.live = live.clone();
    }

    fn start(&mut self) -> Result<Mark, MeterError> {
        self.window = None;
        let start = Mark::now();
        let tracks: Vec<Track> = self.zones.iter().map(Track::begin).collect();
        let zones = Arc::clone(&self.zones);
        let (live, counters) = (self.live.clone(), self.identities());
        let window = SampledWindow::follow("cpu-energy", self.read_interval(), start, tracks, move |tracks| {
            advance_all(tracks, &zones);
            for (track, counter) in tracks.iter().zip(&counters) {
                if let Some(watts) = track.last_power() {
                    live.set(counter, watts);
                }
            }
        })?;
        self.window = Some(window);
        Ok(start)
    }

    fn mark_end(&mut self) -> Mark {
        match &mut self.window {
            Some(window) => window.mark_end(|tracks| advance_all(tracks, &self.zones)),
            None => Mark::now(),
        }
    }

    fn stop(&mut self) -> MeterReport {
        let end = self.mark_end();
        let Some(window) = self.window.take() else {
            return MeterReport::not_started(CounterDomain::Cpu);
        };
        self.live.forget(&self.identities());
        let tracks = window.seen();
        let readings = self.zones.iter().zip(tracks.iter());
        MeterReport {
            readings: readings
                .map(|(zone, track)| self.reading(zone, track, window.start, end))
                .collect(),
            ..MeterReport::default()
        }
    }
}

/// The root of the powercap tree: `LEM_POWERCAP_ROOT`, else [`DEFAULT_ROOT`].
pub fn root_from_environment() -> PathBuf {
    std::env::var_os(ROOT_VARIABLE).map_or_else(|| DEFAULT_ROOT.into(), PathBuf::from)
}
