//! The measured windows of a result: one per process and cycle, the last attempt only.

use std::collections::BTreeMap;

use lem_crds::{
    runner::{CounterIdentity, EnergyReading, WindowRecord},
    status::{PointResult, Verdict},
};

use crate::{experiment::node_class, report::Report};

/// The windows of one point by process and cycle, the last attempt of each. The hash of the plan tells them, since
/// points move when a sweep changes; of a fleet, whose points are of one class of nodes each, the class too.
pub(super) fn of_point<'a>(report: &Report<'a>, point: &PointResult) -> BTreeMap<(u32, u32), &'a WindowRecord> {
    let mut found: BTreeMap<(u32, u32), &WindowRecord> = BTreeMap::new();
    for (process, record) in report.records {
        let class = || {
            record
                .environment
                .as_ref()
                .map(|environment| node_class(&[environment]))
        };
        if report.status.fleet.is_some() && class().as_ref() != Some(&point.node_class) {
            continue;
        }
        let of_point = |window: &&WindowRecord| window.trial.plan_sha256 == point.plan_sha256;
        for window in record.windows.iter().filter(of_point) {
            let known = found.entry((*process, window.trial.cycle)).or_insert(window);
            if known.trial.attempt < window.trial.attempt {
                *known = window;
            }
        }
    }
    found
}

/// The windows of one point without those of invalid trials, unless no other is left.
pub(super) fn usable<'a>(report: &Report<'a>, point: &PointResult) -> BTreeMap<(u32, u32), &'a WindowRecord> {
    let all = of_point(report, point);
    let invalid = |window: &WindowRecord| {
        report.trials.iter().any(|trial| {
            let result = &trial.result;
            trial.point == point.index
                && trial.node.as_ref().is_none_or(|node| node.name == window.node)
                && (result.cycle, result.attempt) == (window.trial.cycle, window.trial.attempt)
                && result.verdict == Verdict::Invalid
        })
    };
    let usable: BTreeMap<_, _> = all
        .iter()
        .filter(|(_, window)| !invalid(window))
        .map(|(key, window)| (*key, *window))
        .collect();
    if usable.is_empty() { all } else { usable }
}

/// The power series of one point: per counter one reading per cycle. A counter that several processes read is taken
/// once, from the process with most samples.
pub(super) fn power<'a>(
    report: &Report<'a>,
    point: &PointResult,
) -> BTreeMap<&'a CounterIdentity, BTreeMap<u32, &'a EnergyReading>> {
    let mut found: BTreeMap<&CounterIdentity, BTreeMap<u32, &EnergyReading>> = BTreeMap::new();
    for ((_, cycle), window) in of_point(report, point) {
        for reading in window.energy.iter().filter(|reading| !reading.power.is_empty()) {
            let known = found
                .entry(&reading.counter)
                .or_default()
                .entry(cycle)
                .or_insert(reading);
            if known.power.len() < reading.power.len() {
                *known = reading;
            }
        }
    }
    found
}
