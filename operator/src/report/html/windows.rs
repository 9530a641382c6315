//! The measured windows of a result: one per process and cycle, the last attempt only.

use std::collections::{BTreeMap, HashMap, HashSet};

use lem_crds::{
    runner::{CounterIdentity, EnergyReading, WindowRecord},
    status::{PointResult, Verdict},
};

use crate::report::Report;

/// The windows of one point by process and cycle, the last attempt of each. The hash of the plan tells them, since
/// points move when a sweep changes; of a fleet, whose points are of one class of nodes each, the class too.
pub(super) fn of_point<'a>(report: &Report<'a>, point: &PointResult) -> BTreeMap<(u32, u32), &'a WindowRecord> {
    let mut found: BTreeMap<(u32, u32), &WindowRecord> = BTreeMap::new();
    let classes = report.status.fleet.as_ref().map(|_| classes(report));
    let of_class = |window: &WindowRecord| {
        let classes = classes.as_ref();
        classes.is_none_or(|classes| classes.get(window.node.as_str()) == Some(&point.node_class.as_str()))
    };
    for (process, record) in report.records {
        let of_point = |window: &&WindowRecord| window.trial.plan_sha256 == point.plan_sha256 && of_class(window);
        for window in record.windows.iter().filter(of_point) {
            let known = found.entry((*process, window.trial.cycle)).or_insert(window);
            if known.trial.attempt < window.trial.attempt {
                *known = window;
            }
        }
    }
    found
}

/// The class of each node of a fleet, by name.
fn classes<'a>(report: &Report<'a>) -> HashMap<&'a str, &'a str> {
    let nodes = report.trials.iter().filter_map(|trial| trial.node.as_ref());
    nodes.map(|node| (node.name.as_str(), node.class.as_str())).collect()
}

/// The windows of one point without those of invalid trials, unless no other is left.
pub(super) fn usable<'a>(report: &Report<'a>, point: &PointResult) -> BTreeMap<(u32, u32), &'a WindowRecord> {
    let all = of_point(report, point);
    let refused = report.trials.iter().filter(|trial| {
        let of_point = trial.point == point.index;
        of_point && trial.result.verdict == Verdict::Invalid
    });
    // A trial of no node is one of all of them.
    let refused: HashSet<(Option<&str>, u32, u32)> = refused
        .map(|trial| {
            let node = trial.node.as_ref().map(|node| node.name.as_str());
            (node, trial.result.cycle, trial.result.attempt)
        })
        .collect();
    let invalid = |window: &WindowRecord| {
        let (cycle, attempt) = (window.trial.cycle, window.trial.attempt);
        let of = |node| refused.contains(&(node, cycle, attempt));
        of(None) || of(Some(window.node.as_str()))
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
