//! CPU package and memory energy from the powercap tree (`intel-rapl*`; AMD processors appear under the same name).

pub(super) mod update;
pub(crate) mod wrap;
pub(crate) mod zones;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use self::{
    update::{LONGEST_READ_INTERVAL_SECONDS, LONGEST_VALUE_SECONDS, Updates, newest, standstill},
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
        Unavailable, UnavailableReason,
    },
    sampler::SampledWindow,
};

/// Environment variable with the root of the powercap tree instead of [`DEFAULT_ROOT`].
pub const ROOT_VARIABLE: &str = "LEM_POWERCAP_ROOT";

/// Where Linux shows it.
pub const DEFAULT_ROOT: &str = "/sys/class/powercap";

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

    /// The configured interval, or less where a counter could wrap unseen, or be renewed less often than it should unseen.
    fn read_interval(&self) -> Duration {
        let longest = self
            .zones
            .iter()
            .map(|zone| longest_read_interval_seconds(zone.range_microjoules));
        let longest = longest.fold(f64::INFINITY, f64::min).clamp(0.001, 3600.0);
        self.sample_interval
            .min(Duration::from_secs_f64(longest.min(LONGEST_READ_INTERVAL_SECONDS)))
    }

    fn reading(&self, zone: &Zone, track: &Track, start: Mark, end: Mark) -> EnergyReading {
        let ends = track.first.as_ref().ok().copied().zip(track.last);
        let seconds = end.monotonic_seconds - start.monotonic_seconds;
        let failure = track.first.as_ref().err().or(track.failure.as_ref()).cloned();
        let failure = failure.or_else(|| {
            let (first, last) = ends?;
            standstill(&track.reads, last.joules - first.joules, seconds)
        });
        let joules = ends
            .filter(|_| failure.is_none())
            .map(|(first, last)| last.joules - first.joules);
        let updates = Updates::of(&track.reads);
        let (power, period) = (power(&updates.fresh), updates.period_seconds);
        // Each edge is up to one update old.
        let watts = power.iter().map(|power| power.watts).reduce(f64::max);
        let mean = joules.map(|joules| joules / seconds.max(LONGEST_VALUE_SECONDS));
        let edge_watts = watts.or(mean).unwrap_or_default();
        EnergyReading {
            counter: self.identity(zone),
            source: EnergySource::Rapl,
            joules,
            unavailable: failure,
            uncertainty_joules: joules.map(|_| 2.0 * edge_watts * period),
            duration_seconds: seconds,
            start,
            end,
            start_raw: ends.map(|(first, _)| first),
            end_raw: ends.map(|(_, last)| last),
            range_joules: Some(zone.range_microjoules as f64 / 1e6),
            update_period_seconds: Some(period),
            integral_joules: None,
            integral_disagreement: None,
            power_is_averaged: false,
            power: thin(&power, start.monotonic_seconds, end.monotonic_seconds),
            cumulative: joules.map_or_else(CumulativeEnergy::default, |_| {
                track.within((start, end), &power, edge_watts, period)
            }),
        }
    }
}

impl Track {
    /// Begins with what was read of a zone at the start edge.
    fn begin(zone: &Zone, (at, over, value): Timed) -> Self {
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

    /// The counter between the edges. Its values are up to one period old, with so much power at an edge.
    fn within(&self, (start, end): (Mark, Mark), power: &[Power], edge_watts: f64, period: f64) -> CumulativeEnergy {
        let edge = |at: Mark, read: Option<&Read>| {
            let joules = read.map_or(0.0, |read| read.joules);
            let edge = EdgeEnergy {
                joules,
                uncertainty_joules: edge_watts * period,
            };
            (at.monotonic_seconds, edge)
        };
        let watts = power.iter().map(|power| PEAK_OVER_MEAN * power.watts);
        CumulativeEnergy::new(
            edge(start, self.reads.first()),
            self.reads.iter().copied(),
            edge(end, self.reads.last()),
            period,
            watts,
        )
    }

    /// Mean power between the last two values, W.
    fn last_power(&self) -> Option<f64> {
        let (before, last) = newest(&self.reads)?;
        mean_power(before, last).map(|power| power.watts)
    }

    fn advance(&mut self, zone: &Zone) {
        if self.counter.is_some() {
            self.add(zone, timed(zone));
        }
    }

    /// Adds what was read of the zone next.
    fn add(&mut self, zone: &Zone, (at, over, value): Timed) {
        let (Some(counter), Ok(first)) = (&mut self.counter, &self.first) else {
            return;
        };
        let microjoules = match value {
            Ok(microjoules) => microjoules,
            Err(failure) => {
                self.failure.get_or_insert(failure);
                return;
            }
        };
        let since = self.reads.last().map_or(at.monotonic_seconds, |last| last.from);
        match counter.follow(&zone.id, microjoules, ((over - since) * 1e9) as u64) {
            Ok(total) => {
                let joules = first.joules + total as f64 / 1e6;
                let value = RawCounter { at, joules };
                self.last = Some(value);
                self.reads.push(read(value, over));
            }
            Err(lost) => {
                // What is read from here on has nothing in common with what was read before.
                self.counter = None;
                let reset = Unavailable::new(UnavailableReason::CounterReset, lost.to_string());
                self.failure.get_or_insert(reset);
            }
        }
    }
}

/// A read of a zone: when that began, when it was over, monotonic seconds, and the counter in µJ.
type Timed = (Mark, f64, Result<u64, Unavailable>);

fn timed(zone: &Zone) -> Timed {
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
fn power(reads: &[Read]) -> Vec<Power> {
    let between = |pair: &[Read]| mean_power(pair[0], pair[1]);
    reads.windows(2).filter_map(between).collect()
}

fn mean_power(a: Read, b: Read) -> Option<Power> {
    let seconds = b.from - a.from;
    // The read at the end edge may follow a sample at once.
    (seconds > LONGEST_VALUE_SECONDS).then(|| Power {
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
        let tracks: Vec<Track> = self.zones.iter().map(|zone| Track::begin(zone, timed(zone))).collect();
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The reading of a window from one value in µJ to the next, each read so many seconds after the one before.
    fn reading(interval: f64, values: &[u64]) -> EnergyReading {
        let zone = Zone {
            domain: CounterDomain::Cpu,
            id: "package-0".to_owned(),
            folder: PathBuf::new(),
            range_microjoules: 262_143_328_850,
        };
        let at = |index: usize| {
            let seconds = 100.0 + interval * index as f64;
            Mark {
                monotonic_seconds: seconds,
                wall_seconds: seconds,
            }
        };
        let timed = |index: usize| (at(index), at(index).monotonic_seconds + 0.000_05, Ok(values[index]));
        let mut track = Track::begin(&zone, timed(0));
        for index in 1..values.len() {
            track.add(&zone, timed(index));
        }
        let meter = RaplMeter {
            zones: Arc::default(),
            node: "node-a".to_owned(),
            sample_interval: Duration::from_millis(100),
            window: None,
            live: LivePower::default(),
        };
        meter.reading(&zone, &track, at(0), at(values.len() - 1))
    }

    fn reason(reading: &EnergyReading) -> Option<UnavailableReason> {
        reading.unavailable.as_ref().map(|why| why.reason)
    }

    #[test]
    fn a_counter_that_was_reset_within_a_window_has_no_energy_and_is_no_wrap() {
        // 150 kJ, and after a reset 1 kJ: as a wrap that would be 113 kJ.
        let reset = reading(0.1, &[150_000_000_000, 150_020_000_000, 1_000_000_000, 1_020_000_000]);
        assert_eq!(
            (reset.joules, reason(&reset)),
            (None, Some(UnavailableReason::CounterReset)),
            "{reset:?}"
        );
        let wrapped = reading(0.1, &[262_133_328_850, 10_000_000, 30_000_000]);
        assert!((wrapped.joules.unwrap() - 40.0).abs() < 1e-6, "{wrapped:?}");
    }

    #[test]
    fn a_counter_that_was_not_read_for_so_long_that_it_may_have_wrapped_has_no_energy() {
        let late = reading(300.0, &[1_000_000, 2_000_000]);
        assert_eq!(
            (late.joules, reason(&late)),
            (None, Some(UnavailableReason::CounterReset)),
            "{late:?}"
        );
    }

    #[test]
    fn a_zone_that_shows_one_value_throughout_a_window_is_no_energy_of_zero() {
        let frozen = reading(0.5, &[7_000_000; 5]);
        assert_eq!(
            (frozen.joules, reason(&frozen)),
            (None, Some(UnavailableReason::DeviceFailed)),
            "{frozen:?}"
        );
        let stopped = reading(
            0.5,
            &[
                1_000_000, 9_000_000, 17_000_000, 17_000_000, 17_000_000, 17_000_000, 17_000_000, 17_000_000,
                17_000_000, 17_000_000,
            ],
        );
        assert_eq!(
            (stopped.joules, reason(&stopped)),
            (None, Some(UnavailableReason::DeviceFailed)),
            "it stops within the window: {stopped:?}"
        );
        // So short that nothing need have been drawn.
        let short = reading(0.000_2, &[7_000_000; 3]);
        assert_eq!((short.joules, reason(&short)), (Some(0.0), None), "{short:?}");
    }

    /// What a virtual machine shows of 40 W, renewed once a second and read ten times as often, so many seconds after an update.
    fn renewed_each_second(since_update: f64, seconds: f64) -> EnergyReading {
        let value = |index: usize| (40e6 * (50.0 + since_update + 0.1 * index as f64).floor()) as u64;
        let values: Vec<u64> = (0..=(10.0 * seconds) as usize).map(value).collect();
        reading(0.1, &values)
    }

    #[test]
    fn a_counter_that_a_virtual_machine_renews_once_a_second_is_known_to_within_that() {
        for phase in 0..10 {
            let reading = renewed_each_second(0.05 + 0.1 * f64::from(phase), 20.0);
            let period = reading.update_period_seconds.unwrap();
            assert!((1.0..1.3).contains(&period), "{period} s");
            let (joules, error) = (reading.joules.unwrap(), reading.uncertainty_joules.unwrap());
            assert!((joules - 800.0).abs() <= error && error < 110.0, "{joules} ± {error} J");
            assert!(
                !reading.power.is_empty() && reading.power.iter().all(|power| (power.watts - 40.0).abs() < 5.0),
                "no spikes where it is renewed: {:?}",
                reading.power
            );
            let part = reading.cumulative.between(105.0, 110.0).unwrap();
            assert!((part.joules - 200.0).abs() <= part.uncertainty_joules, "{part:?}");
        }
    }

    #[test]
    fn a_window_of_a_second_on_such_a_counter_is_bounded_by_what_it_may_have_missed_or_has_no_energy() {
        for (phase, length) in (0..10).flat_map(|phase| (3..=14).map(move |length| (phase, length))) {
            let seconds = 0.1 * f64::from(length);
            let reading = renewed_each_second(0.05 + 0.1 * f64::from(phase), seconds);
            let Some(joules) = reading.joules else {
                assert_eq!(reason(&reading), Some(UnavailableReason::DeviceFailed), "{reading:?}");
                continue;
            };
            let error = reading.uncertainty_joules.unwrap();
            assert!(
                (joules - 40.0 * seconds).abs() <= error,
                "{joules} ± {error} J in {seconds:.1} s, {phase} tenths after an update"
            );
            let period = reading.update_period_seconds.unwrap();
            assert!(period > 0.1, "{period} s in {seconds:.1} s");
        }
    }

    #[test]
    fn a_counter_that_each_read_finds_renewed_has_the_period_of_a_processor() {
        let steady = reading(0.1, &[1_000_000, 5_000_000, 9_000_000, 13_000_000]);
        assert!(steady.update_period_seconds.unwrap() < 0.002, "{steady:?}");
        assert!(steady.uncertainty_joules.unwrap() < 0.1, "{steady:?}");
        let paused = [
            1_000_000, 5_000_000, 5_000_000, 5_000_000, 17_000_000, 21_000_000, 25_000_000,
        ];
        let paused = reading(0.1, &paused);
        assert!(
            paused.update_period_seconds.unwrap() < 0.002,
            "one pause is no pace: {paused:?}"
        );
    }
}
