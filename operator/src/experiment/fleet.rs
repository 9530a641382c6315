//! What each node of a fleet came to by itself, and how nodes of one class compare. Pure.

mod class;
mod difference;
mod node;

use std::collections::{BTreeMap, BTreeSet};

use lem_crds::{
    experiment::EfficiencyExperimentSpec,
    plan::{Point, TrialIdentity},
    runner::DeviceObservation,
};

use super::{
    compare::FleetMember,
    point::node_class,
    record::{Record, find_window},
    statistics::mean,
    summary,
};

pub use self::{
    class::{ClassResult, Most, classes},
    node::{NodePoint, NodeResult, node_trials},
};

/// Joules per token of each node at one point: the mean over its cycles of the energy of the node's own counters over
/// the tokens of its own processes. Of a cycle that was repeated the last attempt counts.
pub fn fleet_members(spec: &EfficiencyExperimentSpec, point: &Point, records: &[Record]) -> Vec<FleetMember> {
    let mut by_node: BTreeMap<&str, Vec<Record>> = BTreeMap::new();
    for record in records {
        if let Some(environment) = &record.status.environment {
            by_node.entry(&environment.node).or_default().push(record.clone());
        }
    }
    by_node
        .into_iter()
        .filter_map(|(node, records)| member(spec, point, node, records))
        .collect()
}

fn member(spec: &EfficiencyExperimentSpec, point: &Point, node: &str, records: Vec<Record>) -> Option<FleetMember> {
    let (spec, records) = &alone(spec, records);
    let windows = || records.iter().flat_map(|record| &record.status.windows);
    let of_point = windows().filter(|window| window.trial.plan_sha256 == point.plan_sha256);
    let mut last_attempts: BTreeMap<u32, &TrialIdentity> = BTreeMap::new();
    for window in of_point {
        let last = last_attempts.entry(window.trial.cycle).or_insert(&window.trial);
        if last.attempt < window.trial.attempt {
            *last = &window.trial;
        }
    }
    let figures: Vec<f64> = last_attempts
        .values()
        .filter_map(|trial| {
            summary::evaluate(spec, point, trial, records, &[])
                .metrics
                .joules_per_token
        })
        .collect();
    if figures.is_empty() {
        return None;
    }
    let environments: Vec<_> = records
        .iter()
        .filter_map(|record| record.status.environment.as_ref())
        .collect();
    Some(FleetMember {
        node: node.to_owned(),
        node_class: node_class(&environments),
        joules_per_token: mean(&figures),
        devices: last_attempts
            .values()
            .next_back()
            .map(|trial| devices(trial, records))
            .unwrap_or_default(),
    })
}

/// The node's processes as if there were no others: a set that is not complete has no figures.
fn alone(spec: &EfficiencyExperimentSpec, mut records: Vec<Record>) -> (EfficiencyExperimentSpec, Vec<Record>) {
    let processes: BTreeSet<u32> = records.iter().map(|record| record.process).collect();
    for record in &mut records {
        record.process = processes.range(..record.process).count() as u32;
    }
    let mut spec = spec.clone();
    spec.processes.count = processes.len() as u32;
    (spec, records)
}

/// What the node's devices showed in one trial, each once.
fn devices(trial: &TrialIdentity, records: &[Record]) -> Vec<DeviceObservation> {
    let mut seen = BTreeSet::new();
    let processes: BTreeSet<u32> = records.iter().map(|record| record.process).collect();
    let windows = processes
        .into_iter()
        .filter_map(|process| find_window(records, trial, process));
    windows
        .flat_map(|(_, window)| &window.devices)
        .filter(|device| seen.insert(device.uuid.clone()))
        .cloned()
        .collect()
}
