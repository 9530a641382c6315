//! Series that never go back: wraps undone, and a new series whenever continuity is lost. Pure.

use std::collections::VecDeque;

use lem_crds::agent::{CounterValue, NodeCounter};

use crate::energy::rapl::wrap::{Discontinuity, Unwrapped};

/// Readings kept for whoever asks: 25 s of them.
const KEPT: usize = 256;

/// One read of a zone: the clock before and after it in ns, and its raw counter in µJ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RawValue {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) microjoules: u64,
}

/// An unbroken series of readings of all counters of a node.
#[derive(Debug)]
pub(super) struct Series {
    pub(super) counters: Vec<NodeCounter>,
    tracks: Vec<Track>,
    readings: VecDeque<Vec<CounterValue>>,
}

#[derive(Debug)]
struct Track {
    unwrapped: Unwrapped,
    total: u64,
    last: RawValue,
}

impl Series {
    /// Begins a series with a first reading of each counter, in their order.
    pub(super) fn begin(counters: Vec<NodeCounter>, first: &[RawValue]) -> Self {
        let tracks = counters.iter().zip(first).map(|(counter, &last)| Track {
            unwrapped: Unwrapped::new(counter.range_microjoules, last.microjoules),
            total: 0,
            last,
        });
        let mut series = Self {
            tracks: tracks.collect(),
            counters,
            readings: VecDeque::with_capacity(KEPT),
        };
        series.keep();
        series
    }

    /// The next reading of each counter. After an error the series is over.
    pub(super) fn advance(&mut self, raw: &[RawValue]) -> Result<(), Discontinuity> {
        for ((counter, track), &now) in self.counters.iter().zip(&mut self.tracks).zip(raw) {
            track.advance(counter, now)?;
        }
        self.keep();
        Ok(())
    }

    fn keep(&mut self) {
        if self.readings.len() == KEPT {
            self.readings.pop_front();
        }
        let values = self.tracks.iter().map(|track| CounterValue {
            from: track.last.from,
            to: track.last.to,
            microjoules: track.total,
        });
        self.readings.push_back(values.collect());
    }

    /// The kept readings that began after an instant, ns.
    pub(super) fn after(&self, instant: u64) -> Vec<Vec<CounterValue>> {
        let began = |reading: &[CounterValue]| reading.first().map_or(0, |value| value.from);
        let skipped = self.readings.partition_point(|reading| began(reading) <= instant);
        self.readings.range(skipped..).cloned().collect()
    }

    /// When the last reading ended, ns.
    pub(super) fn last_read(&self) -> u64 {
        self.tracks.last().map_or(0, |track| track.last.to)
    }
}

impl Track {
    fn advance(&mut self, counter: &NodeCounter, now: RawValue) -> Result<(), Discontinuity> {
        let nanoseconds = now.to.saturating_sub(self.last.from);
        self.total = self.unwrapped.follow(&counter.id, now.microjoules, nanoseconds)?;
        self.last = now;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
