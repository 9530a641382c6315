//! Energy of one physical counter, counted once however many processes read it (METHODOLOGY §4, attribution). Pure.
//!
//! Readings whose times overlap or touch form one stretch. The energy of a stretch is exact where every reader gives
//! the cumulative counter: last end − first start, wraps undone. Elsewhere it is the mean power of the readers over
//! each part of the stretch, with a wider error bound. Disjoint stretches are added.

use lem_crds::{metrics::Unavailable, runner::EnergyReading};

/// A stretch of wall-clock time, in seconds since any one origin.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Interval {
    pub(super) start: f64,
    pub(super) end: f64,
}

impl Interval {
    pub(super) fn length(self) -> f64 {
        (self.end - self.start).max(0.0)
    }
}

/// One process's reading of the counter.
#[derive(Debug, Clone, Copy)]
pub(super) struct CounterReader<'a> {
    pub(super) reading: &'a EnergyReading,
    /// When it was read: the cumulative counter's own times, else the window's.
    pub(super) interval: Interval,
}

/// Energy of one counter over one trial.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct CounterEnergy {
    pub(super) joules: f64,
    /// Bound of the error of `joules`.
    pub(super) uncertainty: f64,
    /// Seconds over which the energy was taken; shorter than the trial where windows are disjoint.
    pub(super) covered_seconds: f64,
}

/// The energy of one counter over the union of all readers' times and of `unread`: times at which a process of the
/// counter's node measured without reading it. Those take the readers' mean power and widen the error by all of it.
///
/// A reading without energy makes the whole counter unavailable: a smaller total would look like a better result.
pub(super) fn counter_energy(readers: &[CounterReader<'_>], unread: &[Interval]) -> Result<CounterEnergy, Unavailable> {
    for reader in readers {
        if reader.reading.joules.is_none() {
            return Err(reader.reading.unavailable.unwrap_or(Unavailable::CounterFailed));
        }
    }
    if readers.is_empty() {
        return Err(Unavailable::NoEnergyReading);
    }
    let mut ordered = readers.to_vec();
    ordered.sort_by(|a, b| {
        (a.interval.start.total_cmp(&b.interval.start))
            .then(a.interval.end.total_cmp(&b.interval.end))
            .then(joules(a).total_cmp(&joules(b)))
    });
    let mut total = CounterEnergy {
        joules: 0.0,
        uncertainty: 0.0,
        covered_seconds: 0.0,
    };
    for stretch in stretches(&ordered) {
        let part = stretch_energy(stretch)?;
        total.joules += part.joules;
        total.uncertainty += part.uncertainty;
        total.covered_seconds += part.covered_seconds;
    }
    let read: Vec<Interval> = ordered.iter().map(|reader| reader.interval).collect();
    let all: Vec<Interval> = read.iter().chain(unread).copied().collect();
    let uncovered = (union_length(&all) - union_length(&read)).max(0.0);
    if uncovered > 0.0 && total.covered_seconds > 0.0 {
        let assumed = total.joules / total.covered_seconds * uncovered;
        total.joules += assumed;
        total.uncertainty += assumed;
        total.covered_seconds += uncovered;
    }
    Ok(total)
}

fn joules(reader: &CounterReader<'_>) -> f64 {
    reader.reading.joules.unwrap_or_default()
}

/// Readers in order of start, cut where no reader covers the time between.
fn stretches<'a, 'b>(ordered: &'b [CounterReader<'a>]) -> Vec<&'b [CounterReader<'a>]> {
    let mut found = Vec::new();
    let mut first = 0;
    let mut end = f64::NEG_INFINITY;
    for (index, reader) in ordered.iter().enumerate() {
        if index > first && reader.interval.start > end {
            found.push(&ordered[first..index]);
            first = index;
        }
        end = end.max(reader.interval.end);
    }
    found.push(&ordered[first..]);
    found
}

fn stretch_energy(stretch: &[CounterReader<'_>]) -> Result<CounterEnergy, Unavailable> {
    if let [only] = stretch {
        return Ok(CounterEnergy {
            joules: joules(only),
            uncertainty: only.reading.uncertainty_joules,
            covered_seconds: only.reading.duration_seconds,
        });
    }
    match cumulative(stretch) {
        Some(energy) => energy,
        None => Ok(by_mean_power(stretch)),
    }
}

/// Last end − first start of the cumulative counter; `None` where a reader does not give it.
fn cumulative(stretch: &[CounterReader<'_>]) -> Option<Result<CounterEnergy, Unavailable>> {
    let first = stretch.first()?;
    let origin = first.reading.start.as_ref()?.joules;
    let mut previous: Option<(Interval, f64, f64)> = None;
    let mut last = (first.interval.end, f64::NEG_INFINITY);
    for reader in stretch {
        let start = reader.reading.start.as_ref()?.joules;
        let counted = reader.reading.end.as_ref()?.joules - start;
        // The reader before overlaps, so its mean power tells how often the counter has wrapped since its start.
        let unwrapped = previous.map_or(start, |(interval, its_start, its_counted)| {
            let share = (reader.interval.start - interval.start) / interval.length().max(f64::MIN_POSITIVE);
            nearest_wrap(
                start,
                reader.reading.range_joules,
                its_start + its_counted * share.min(1.0),
            )
        });
        let end = unwrapped + counted;
        if reader.interval.end > last.0 || (reader.interval.end >= last.0 && end > last.1) {
            last = (reader.interval.end, end);
        }
        if previous.is_none_or(|(interval, ..)| reader.interval.end >= interval.end) {
            previous = Some((reader.interval, unwrapped, counted));
        }
    }
    let energy = last.1 - origin;
    let (largest, uncertainty) = largest_and_uncertainty(stretch, energy);
    if energy + uncertainty < largest {
        return Some(Err(Unavailable::CounterReset)); // the readers do not share an origin
    }
    Some(Ok(CounterEnergy {
        joules: energy,
        uncertainty,
        covered_seconds: covered(stretch),
    }))
}

/// `reading` plus the whole number of ranges that brings it nearest to `expected`.
fn nearest_wrap(reading: f64, range: Option<f64>, expected: f64) -> f64 {
    match range {
        Some(range) if range > 0.0 => reading + ((expected - reading) / range).round().max(0.0) * range,
        _ => reading,
    }
}

/// Largest energy of one reader, and the readers' error bound, absolute or in proportion, applied to `energy`.
fn largest_and_uncertainty(stretch: &[CounterReader<'_>], energy: f64) -> (f64, f64) {
    stretch
        .iter()
        .fold((0.0_f64, 0.0_f64), |(largest, uncertainty), reader| {
            let own = reader.reading.uncertainty_joules;
            let scaled = if joules(reader) > 0.0 {
                own / joules(reader) * energy
            } else {
                own
            };
            (largest.max(joules(reader)), uncertainty.max(own).max(scaled))
        })
}

/// Mean power of the readers that cover each part of the stretch, times the part. The energy beyond the largest single
/// reading rests on the assumption of constant power, so all of it is added to the error bound.
fn by_mean_power(stretch: &[CounterReader<'_>]) -> CounterEnergy {
    let mut edges: Vec<f64> = stretch
        .iter()
        .flat_map(|reader| [reader.interval.start, reader.interval.end])
        .collect();
    edges.sort_by(f64::total_cmp);
    let mut energy = 0.0;
    for edge in edges.windows(2) {
        let (start, end) = (edge[0], edge[1]);
        let powers: Vec<f64> = stretch
            .iter()
            .filter(|reader| reader.interval.start <= start && reader.interval.end >= end)
            .filter(|reader| reader.interval.length() > 0.0)
            .map(|reader| joules(reader) / reader.interval.length())
            .collect();
        if !powers.is_empty() {
            energy += powers.iter().sum::<f64>() / powers.len() as f64 * (end - start);
        }
    }
    let (largest, uncertainty) = largest_and_uncertainty(stretch, energy);
    CounterEnergy {
        joules: energy,
        uncertainty: uncertainty + (energy - largest).abs(),
        covered_seconds: covered(stretch),
    }
}

fn covered(stretch: &[CounterReader<'_>]) -> f64 {
    let intervals: Vec<Interval> = stretch.iter().map(|reader| reader.interval).collect();
    union_length(&intervals)
}

/// Length of the time that at least one interval covers.
pub(super) fn union_length(intervals: &[Interval]) -> f64 {
    let mut ordered = intervals.to_vec();
    ordered.sort_by(|a, b| a.start.total_cmp(&b.start));
    let mut length = 0.0;
    let mut end = f64::NEG_INFINITY;
    for interval in ordered {
        length += (interval.end - interval.start.max(end)).max(0.0);
        end = end.max(interval.end);
    }
    length
}
