//! Which nodes a fleet has, and which of them take a process now. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
};

use k8s_openapi::api::core::v1::{Node, Taint};
use kube::ResourceExt;
use lem_crds::{
    experiment::{Placement, Toleration, TolerationOperator},
    status::FleetStatus,
};

use super::devices;

/// Taints that the cluster itself sets, and takes away again.
const OF_THE_CLUSTER: &str = "node.kubernetes.io/";
/// Those of them that say no more than an obstacle with a reason of its own.
const TOLD_OTHERWISE: [&str; 3] = [
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
    "node.kubernetes.io/unschedulable",
];
/// Admission lets every pod with a request put up with it.
const MEMORY_PRESSURE: &str = "node.kubernetes.io/memory-pressure";

/// The reason of a node that is no longer there.
pub const GONE: &str = "Gone";

/// Why a node takes no process now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// Bounded reason.
    pub reason: &'static str,
    /// In one sentence.
    pub message: String,
}

/// The nodes of a fleet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Candidates {
    /// Every node that matches, by name, with what keeps it from taking a process now.
    pub nodes: BTreeMap<String, Option<Obstacle>>,
    /// The obstacle of those that follow: one of them may have been begun before it had the taint.
    pub kept_off: BTreeMap<String, Obstacle>,
    /// Nodes that match but for a taint that the experiment does not put up with, and one such taint: they are no part
    /// of the fleet, as with a `DaemonSet`.
    pub tainted: u32,
    /// The taint of the first of them.
    pub taint: Option<String>,
}

/// The nodes that match: their labels, their GPUs (at least so many of the device plugin) and their taints.
pub fn candidates<'a>(
    nodes: impl IntoIterator<Item = &'a Node>,
    placement: &Placement,
    gpus_of_a_node: u32,
) -> Candidates {
    let uses_gpus = gpus_of_a_node > 0 || !placement.resource_claims.is_empty();
    let mut found = Candidates::default();
    for node in nodes {
        let labels = node.labels();
        let selected = placement
            .node_selector
            .iter()
            .all(|(label, value)| labels.get(label) == Some(value));
        if !selected {
            continue;
        }
        let of_gpus = if uses_gpus {
            devices::obstacle(node, gpus_of_a_node, placement.shared_gpus)
        } else {
            Ok(None)
        };
        let Ok(of_gpus) = of_gpus else {
            continue;
        };
        if let Some(taint) = untolerated(node, &placement.tolerations, lasting) {
            found.tainted += 1;
            found.taint.get_or_insert_with(|| taint.key.clone());
            found.kept_off.insert(node.name_any(), tainted(node, taint));
            continue;
        }
        let under_pressure = || {
            let taint = untolerated(node, &placement.tolerations, passing)?;
            Some(tainted(node, taint))
        };
        let obstacle = obstacle(node).or_else(under_pressure).or(of_gpus);
        found.nodes.insert(node.name_any(), obstacle);
    }
    found
}

/// Nodes that have matched and do so no more: they are told of although nothing was begun on them. `matched` is what was
/// known of before; an operator that has begun anew knows those that the status names.
pub fn departed(matched: &mut BTreeSet<String>, candidates: &Candidates, before: Option<&FleetStatus>) -> Vec<String> {
    let told = before.into_iter().flat_map(|fleet| &fleet.without_result);
    let told = told.filter(|entry| entry.reason == GONE && !entry.failed);
    matched.extend(told.flat_map(|entry| entry.nodes.iter().cloned()));
    for node in candidates.nodes.keys() {
        if !matched.contains(node) {
            matched.insert(node.clone());
        }
    }
    // Those with a taint are no part of the fleet, as they are not where they had it from the beginning.
    let away = |node: &&String| !candidates.nodes.contains_key(*node) && !candidates.kept_off.contains_key(*node);
    matched.iter().filter(away).cloned().collect()
}

/// What of a node decides whether it is measured: another value calls for another look at the fleets.
pub fn digest(node: &Node) -> u64 {
    let mut hasher = DefaultHasher::new();
    node.labels().hash(&mut hasher);
    (
        devices::allocatable(node),
        devices::capacity(node),
        devices::has_slices(node),
    )
        .hash(&mut hasher);
    obstacle(node).map(|obstacle| obstacle.reason).hash(&mut hasher);
    for taint in taints(node) {
        (&taint.key, &taint.value, &taint.effect).hash(&mut hasher);
    }
    hasher.finish()
}

fn obstacle(node: &Node) -> Option<Obstacle> {
    let name = node.name_any();
    let because = |reason, message: String| Some(Obstacle { reason, message });
    if node.metadata.deletion_timestamp.is_some() {
        return because(GONE, format!("{name} is being deleted"));
    }
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        return because(
            "Cordoned",
            format!("{name} is cordoned: `kubectl uncordon {name}`, and the experiment measures it if it still runs"),
        );
    }
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions
        .into_iter()
        .flatten()
        .find(|condition| condition.type_ == "Ready");
    match ready {
        Some(ready) if ready.status == "True" => None,
        Some(ready) => because(
            "NotReady",
            format!("{name} is not ready: {}", ready.message.clone().unwrap_or_default()),
        ),
        None => because("NotReady", format!("the kubelet of {name} has not reported yet")),
    }
}

fn taints(node: &Node) -> impl Iterator<Item = &Taint> {
    node.spec.iter().flat_map(|spec| spec.taints.iter().flatten())
}

/// The first taint of a kind that keeps pods away and is not tolerated.
fn untolerated<'a>(node: &'a Node, tolerations: &[Toleration], kind: fn(&Taint) -> bool) -> Option<&'a Taint> {
    let mut taints =
        taints(node).filter(|taint| kind(taint) && matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"));
    taints.find(|taint| !tolerations.iter().any(|toleration| tolerates(toleration, taint)))
}

/// Somebody has set it to keep pods away.
fn lasting(taint: &Taint) -> bool {
    !taint.key.starts_with(OF_THE_CLUSTER)
}

/// The cluster sets it on a node that lacks something, and takes it away when that is there again.
fn passing(taint: &Taint) -> bool {
    let key = taint.key.as_str();
    key.starts_with(OF_THE_CLUSTER) && key != MEMORY_PRESSURE && !TOLD_OTHERWISE.contains(&key)
}

fn tainted(node: &Node, taint: &Taint) -> Obstacle {
    let name = node.name_any();
    Obstacle {
        reason: "Tainted",
        message: format!(
            "{name} has the taint {}:{}, which spec.placement.tolerations does not put up with: without it, the \
             experiment measures it if it still runs",
            taint.key, taint.effect
        ),
    }
}

/// As the scheduler does: no key means every key, no effect every effect.
fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.is_none_or(|effect| effect.name() == taint.effect);
    let key = toleration
        .key
        .as_deref()
        .is_none_or(|key| key.is_empty() || key == taint.key);
    let value = match toleration.operator {
        TolerationOperator::Exists => true,
        TolerationOperator::Equal => {
            toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default()
        }
    };
    effect && key && value
}
