//! What each node of a fleet came to by itself, and how nodes of one class compare. Pure.

mod class;
mod difference;
mod node;

use std::collections::{BTreeMap, BTreeSet};

use lem_crds::{
    experiment::EfficiencyExperimentSpec,
    plan::{Point, TrialIdentity},
    runner::DeviceObservation,
    status::{PointResult, TrialResult, Verdict},
};

use super::{
    comparable::{Prevailing, same_energy},
    compare::FleetMember,
    point::{averaged_trials, cycle_mean},
    record::{Record, find_window},
    summary::MeasuredTrial,
};

pub use self::{
    class::{ClassResult, Most, class_means, classes},
    node::{NodePoint, NodeResult, node_trials},
};

/// Joules per token of each node at one point: the mean over its cycles of the energy of the node's own counters over
/// the tokens of its own processes. Only nodes with a usable cycle, and of each class only those whose energy has the
/// domains and sources of most of it: others would move the median that all are held against.
pub fn fleet_members(spec: &EfficiencyExperimentSpec, point: &Point, records: &[Record]) -> Vec<FleetMember> {
    let mut by_node: BTreeMap<&str, Vec<Record>> = BTreeMap::new();
    for record in records {
        if let Some(environment) = &record.status.environment {
            by_node.entry(&environment.node).or_default().push(record.clone());
        }
    }
    let nodes = by_node.into_iter().map(|(node, records)| {
        let (spec, records) = alone(spec, records);
        let result = NodeResult::new(&spec, std::slice::from_ref(point), node, &records, &[]);
        (result, last_devices(point, &records))
    });
    let nodes: Vec<(NodeResult, Vec<DeviceObservation>)> = nodes.collect();
    let mut classes: BTreeMap<&str, Vec<(&str, &NodePoint)>> = BTreeMap::new();
    for (node, _) in &nodes {
        let usable = node
            .points
            .iter()
            .filter(|point| point.result.verdict != Verdict::Invalid);
        for point in usable {
            let class = classes.entry(&point.result.node_class).or_default();
            class.push((&node.node, point));
        }
    }
    let compared: BTreeSet<&str> = classes
        .into_values()
        .flat_map(|class| same_energy(class, Prevailing::Usual))
        .map(|(node, _)| node)
        .collect();
    let member = |(node, devices): &(NodeResult, Vec<DeviceObservation>)| {
        let result = &node.points.first()?.result;
        Some(FleetMember {
            node: node.node.clone(),
            node_class: result.node_class.clone(),
            joules_per_token: result.metrics.joules_per_token.as_ref()?.mean,
            devices: devices.clone(),
        })
    };
    let members = nodes.iter().filter(|(node, _)| compared.contains(node.node.as_str()));
    members.filter_map(member).collect()
}

/// Mean of a metric over the cycles of each node that a point of a fleet is made of: those of its class whose energy
/// has its domains and sources. `trials` may be of all nodes and points.
pub fn node_means<'a>(trials: &'a [MeasuredTrial], point: &PointResult, metric: &str) -> BTreeMap<&'a str, f64> {
    let mut by_node: BTreeMap<&str, Vec<&TrialResult>> = BTreeMap::new();
    for trial in trials.iter().filter(|trial| trial.point == point.index) {
        if let Some(node) = trial.node.as_ref().filter(|node| node.class == point.node_class) {
            by_node.entry(&node.name).or_default().push(&trial.result);
        }
    }
    let comparable = by_node.into_iter().filter(|(_, cycles)| has_energy_of(cycles, point));
    comparable
        .filter_map(|(node, cycles)| Some((node, cycle_mean(cycles, metric)?)))
        .collect()
}

fn has_energy_of(cycles: &[&TrialResult], point: &PointResult) -> bool {
    averaged_trials(cycles.iter().copied())
        .first()
        .is_some_and(|cycle| cycle.energy_scope == point.energy_scope && cycle.energy_sources == point.energy_sources)
}

/// What the node's devices showed in its last trial at a point.
fn last_devices(point: &Point, records: &[Record]) -> Vec<DeviceObservation> {
    let windows = records.iter().flat_map(|record| &record.status.windows);
    let of_point = windows.filter(|window| window.trial.plan_sha256 == point.plan_sha256);
    let last = of_point.max_by_key(|window| (window.trial.cycle, window.trial.attempt));
    last.map(|window| devices(&window.trial, records)).unwrap_or_default()
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
