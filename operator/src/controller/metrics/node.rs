//! Nodes that leave the range of their class (METHODOLOGY §11), of experiments that are over. Evaluating every node is
//! work, so what was found is kept until the experiment changes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use kube::ResourceExt;
use lem_crds::{
    EfficiencyExperiment, Runner, plan,
    status::{FleetClass, OutlierNode, OutlierRule},
};
use prometheus_client::encoding::DescriptorEncoder;

use super::{
    experiment::with,
    family::{Description, Labels, gauges},
    point,
};
use crate::{
    controller::{aggregate, prepare},
    experiment::{FleetMember, MINIMUM_FLEET, Record, fleet_members, fleet_outliers},
};

/// What was found of one point and node class.
#[derive(Debug, Clone, PartialEq)]
struct Found {
    labels: Labels,
    count: u32,
    /// Names of the nodes and their joules per token; of a large fleet those that are farthest from the others.
    outliers: Vec<(String, f64)>,
}

/// What was found of one experiment.
#[derive(Debug, Clone)]
struct Known {
    /// Version of the experiment that it was found in.
    version: String,
    found: Arc<Vec<Found>>,
}

/// What was found of experiments, by UID.
#[derive(Debug, Default)]
pub(super) struct Outliers {
    by_experiment: Mutex<HashMap<String, Known>>,
}

impl Outliers {
    /// Writes the outliers of every experiment that is over and has measured enough nodes.
    pub(super) fn encode(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        experiments: &[&EfficiencyExperiment],
        runners: &[&Runner],
    ) -> fmt::Result {
        let found: Vec<Arc<Vec<Found>>> = self.of_all(experiments, runners);
        let all = || found.iter().flat_map(|found| found.iter());
        let description = Description::new(
            "point_node_outliers",
            "Nodes that leave the others of their class in joules per token; of fewer than 5 nodes also in watts",
        );
        let counts = all().map(|found| (found.labels.clone(), f64::from(found.count)));
        gauges(encoder, &description, counts)?;
        let description = Description::new(
            "node_outlier_joules_per_token",
            "Joules per token of a node that is an outlier",
        );
        let figures = all().flat_map(|found| {
            let figure = |(node, joules): &(String, f64)| (with(found.labels.clone(), "node", node.clone()), *joules);
            found.outliers.iter().map(figure)
        });
        gauges(encoder, &description, figures)
    }

    fn of_all(&self, experiments: &[&EfficiencyExperiment], runners: &[&Runner]) -> Vec<Arc<Vec<Found>>> {
        let mut by_experiment = self.by_experiment.lock().unwrap_or_else(PoisonError::into_inner);
        let mut kept = HashMap::new();
        let mut found = Vec::new();
        for experiment in experiments {
            let phase = experiment.status.as_ref().map(|status| status.phase);
            let Some(uid) = experiment.uid().filter(|_| phase.is_some_and(aggregate::is_over)) else {
                continue;
            };
            let version = experiment.resource_version().unwrap_or_default();
            let known = by_experiment.remove(&uid).filter(|known| known.version == version);
            let known = known.unwrap_or_else(|| Known {
                version,
                found: Arc::new(find(experiment, runners)),
            });
            found.push(Arc::clone(&known.found));
            kept.insert(uid, known);
        }
        *by_experiment = kept;
        found
    }
}

fn find(experiment: &EfficiencyExperiment, runners: &[&Runner]) -> Vec<Found> {
    if let Some(fleet) = experiment.status.as_ref().and_then(|status| status.fleet.as_ref()) {
        return fleet
            .classes
            .iter()
            .filter_map(|class| of_class(experiment, class))
            .collect();
    }
    let (name, namespace) = (experiment.name_any(), experiment.namespace());
    let ours = runners
        .iter()
        .filter(|runner| runner.spec.experiment == name && runner.namespace() == namespace);
    let records: Vec<Record> = ours
        .filter_map(|runner| Some(Record::of_runner(runner.spec.process, runner.status.as_ref()?)))
        .flatten()
        .collect();
    let nodes: BTreeSet<&str> = records
        .iter()
        .filter_map(|record| Some(record.status.environment.as_ref()?.node.as_str()))
        .collect();
    if nodes.len() < MINIMUM_FLEET {
        return Vec::new();
    }
    let Ok(prepared) = prepare::prepare(experiment) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for planned in &prepared.points {
        let members = fleet_members(&prepared.spec, planned, &records);
        let mut classes: BTreeMap<&str, usize> = BTreeMap::new();
        for member in &members {
            *classes.entry(&member.node_class).or_default() += 1;
        }
        let outliers = fleet_outliers(&members);
        for (class, _) in classes.into_iter().filter(|(_, nodes)| *nodes >= MINIMUM_FLEET) {
            let figure = |member: &FleetMember| (member.node.clone(), member.joules_per_token);
            let of_class = outliers.iter().filter(|outlier| outlier.member.node_class == class);
            let outliers: Vec<_> = of_class.map(|outlier| figure(outlier.member)).collect();
            found.push(Found {
                labels: point::labels(experiment, &planned.label(), class),
                count: outliers.len() as u32,
                outliers,
            });
        }
    }
    found
}

/// What the status of a fleet says already; nothing of a class whose nodes could not be compared.
fn of_class(experiment: &EfficiencyExperiment, class: &FleetClass) -> Option<Found> {
    let figure = |one: &OutlierNode| Some((one.figure.node.clone(), one.figure.joules_per_token?));
    (class.outlier_rule != OutlierRule::None).then(|| Found {
        labels: point::labels(experiment, &plan::label(&class.values), &class.node_class),
        count: class.outliers,
        outliers: class.outlier_nodes.iter().filter_map(figure).collect(),
    })
}
