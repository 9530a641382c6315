//! How often a counter is renewed, from reads of it. Pure.
//!
//! A processor renews its counters about every millisecond, so that each read shows a new value. A hypervisor that shows
//! them to a virtual machine does so about once a second: several reads in turn show one value, and each of them, at the
//! edges of a window too, may be as old as that.

use super::super::{cumulative::Read, reading::Unavailable};

/// RAPL counters are updated about every millisecond (Intel SDM 15.10.1; kernel `amd_energy`).
const UPDATE_PERIOD_SECONDS: f64 = 0.001;

/// For how long a processor may show one value, s, and be read twice in it. Reads that are no farther apart tell no power.
pub(in crate::energy) const LONGEST_VALUE_SECONDS: f64 = 10.0 * UPDATE_PERIOD_SECONDS;

/// Longest time in which a counter may gain nothing, s: several updates of a virtual machine.
pub(crate) const LONGEST_PAUSE_SECONDS: f64 = 3.0;

/// Longest time between two reads, s: each value of a virtual machine's counter is to be read more than once, or it would be
/// taken for a processor's.
pub(in crate::energy) const LONGEST_READ_INTERVAL_SECONDS: f64 = 0.25;

/// Newest reads in which [`newest`] looks, so that it costs the same in every window.
const NEWEST_READS: usize = 256;

/// What the reads of a counter tell of its updates.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::energy) struct Updates {
    /// Longest time between two of them, s: of a processor, or, of a slow counter, so long that no value can have been shown
    /// for longer. A value that stands at an edge of the reads counts for the time in which it was seen.
    pub(in crate::energy) period_seconds: f64,
    /// The counter is renewed less often than it is read.
    pub(in crate::energy) is_slow: bool,
    /// The reads between which power can be told: all of them, or, of a slow counter, those at which its value was new.
    pub(in crate::energy) fresh: Vec<Read>,
}

impl Updates {
    /// Of reads in their order.
    pub(in crate::energy) fn of(reads: &[Read]) -> Self {
        let runs: Vec<&[Read]> = runs(reads).collect();
        if !is_slow(&runs) {
            return Self {
                period_seconds: UPDATE_PERIOD_SECONDS,
                is_slow: false,
                fresh: reads.to_vec(),
            };
        }
        let shown = runs.iter().enumerate().filter_map(|(index, run)| {
            let before = index.checked_sub(1).and_then(|before| runs[before].last());
            let after = runs.get(index + 1).and_then(|after| after.first());
            Some(after.or(run.last())?.to - before.or(run.first())?.from)
        });
        Self {
            period_seconds: shown.fold(UPDATE_PERIOD_SECONDS, f64::max),
            is_slow: true,
            fresh: runs.iter().skip(1).filter_map(|run| run.first().copied()).collect(),
        }
    }
}

/// Whether most values were shown for longer than a processor shows one: a single pause is no pace. The values at the edges
/// of the reads may have been shown before and after them too; where there is no other, one that is old is enough.
fn is_slow(runs: &[&[Read]]) -> bool {
    match runs {
        [_, whole @ .., _] if !whole.is_empty() => 2 * whole.iter().filter(|run| is_old(run)).count() > whole.len(),
        edges => edges.iter().any(|run| is_old(run)),
    }
}

/// The last two fresh ones of the newest reads.
pub(in crate::energy) fn newest(reads: &[Read]) -> Option<(Read, Read)> {
    let newest = Updates::of(&reads[reads.len().saturating_sub(NEWEST_READS)..]);
    newest.fresh.last_chunk().map(|[before, last]| (*before, *last))
}

/// Why a counter has no energy that gained so much in a window of so many seconds: it was not renewed in it, or stood still
/// within it for longer than it can.
pub(in crate::energy) fn standstill(reads: &[Read], joules: f64, seconds: f64) -> Option<Unavailable> {
    let longest = runs(reads).filter_map(seen_for).fold(0.0, f64::max);
    Unavailable::standstill(joules, seconds.min(longest), LONGEST_VALUE_SECONDS)
        .or_else(|| Unavailable::standstill(0.0, longest, LONGEST_PAUSE_SECONDS))
}

/// The reads by the value they show: it never falls.
fn runs(reads: &[Read]) -> impl Iterator<Item = &[Read]> {
    reads.chunk_by(|one, next| next.joules <= one.joules)
}

/// How long a value was surely shown, s.
fn seen_for(run: &[Read]) -> Option<f64> {
    Some(run.last()?.from - run.first()?.to)
}

/// Whether a value was shown for longer than a processor shows one. Two reads may follow each other at once.
fn is_old(run: &[Read]) -> bool {
    seen_for(run).is_some_and(|seconds| seconds > LONGEST_VALUE_SECONDS)
}
