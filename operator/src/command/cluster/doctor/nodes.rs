//! What nodes offer to experiments. Pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{api::core::v1::Node, apimachinery::pkg::api::resource::Quantity};
use kube::ResourceExt;

use super::{
    Finding,
    examine::{Facts, Seen},
};
use crate::{
    controller::{
        build::GPU,
        fleet::devices::{self, PRODUCT},
    },
    report::number::counted,
};

const SLOT: &str = "lem.dev/measurement-slot";
/// Nodes that are named in a finding.
const NAMED: usize = 3;

/// Findings about nodes, and about GPUs if there are some.
pub(super) fn findings(facts: &Facts, uses_node_agent: bool) -> Vec<Finding> {
    let nodes = match &facts.nodes {
        Seen::Yes(nodes) => nodes,
        Seen::Hidden(what) => {
            return vec![Finding::warn(
                "nodes",
                format!("what they offer is hidden (no right to {what})"),
                "kubectl lem doctor, as somebody who may",
            )];
        }
    };
    let usable: Vec<&Node> = nodes.iter().filter(|node| is_usable(node)).collect();
    let mut findings = vec![count(nodes, &usable)];
    let with_gpus: Vec<&Node> = usable
        .iter()
        .copied()
        .filter(|node| amount(node, GPU) > 0 || devices::has_slices(node))
        .collect();
    findings.push(gpus(&with_gpus));
    if !with_gpus.is_empty() {
        findings.extend([labels(&with_gpus), drivers(&with_gpus), sharing(&with_gpus)]);
        findings.extend(taints(&with_gpus));
    }
    findings.push(agent(&usable, uses_node_agent));
    findings
}

fn is_usable(node: &Node) -> bool {
    let cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions
        .into_iter()
        .flatten()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    ready && !cordoned
}

fn allocatable(node: &Node) -> impl Iterator<Item = (&String, &Quantity)> {
    let status = node.status.as_ref();
    status
        .and_then(|status| status.allocatable.as_ref())
        .into_iter()
        .flatten()
}

fn amount(node: &Node, resource: &str) -> u64 {
    let found = allocatable(node).find(|(name, _)| *name == resource);
    found.and_then(|(_, quantity)| quantity.0.parse().ok()).unwrap_or(0)
}

fn names(nodes: &[&Node]) -> String {
    let mut names: Vec<String> = nodes.iter().take(NAMED).map(|node| node.name_any()).collect();
    if nodes.len() > NAMED {
        names.push(format!("and {} more", nodes.len() - NAMED));
    }
    names.join(", ")
}

fn count(nodes: &[Node], usable: &[&Node]) -> Finding {
    let of = counted(nodes.len(), "node", "nodes");
    if usable.is_empty() {
        return Finding::fail(
            "nodes",
            format!("none of {of} is ready and takes pods"),
            "kubectl get nodes",
        );
    }
    if usable.len() < nodes.len() {
        let others: Vec<&Node> = nodes.iter().filter(|node| !is_usable(node)).collect();
        return Finding::warn(
            "nodes",
            format!(
                "{} of {of} ready; not ready or cordoned: {}",
                usable.len(),
                names(&others)
            ),
            format!("kubectl describe node {}", others[0].name_any()),
        );
    }
    Finding::ok("nodes", format!("{of} ready"))
}

fn gpus(nodes: &[&Node]) -> Finding {
    let whole: u64 = nodes.iter().map(|node| amount(node, GPU)).sum();
    if whole == 0 && nodes.is_empty() {
        return Finding::warn(
            "GPUs",
            format!("no node offers {GPU}: only experiments with processes.gpusPerProcess 0 run"),
            "helm upgrade --install gpu-operator --repo https://helm.ngc.nvidia.com/nvidia gpu-operator -n gpu-operator --create-namespace",
        );
    }
    Finding::ok(
        "GPUs",
        format!("{whole} {GPU} on {}", counted(nodes.len(), "node", "nodes")),
    )
}

fn labels(nodes: &[&Node]) -> Finding {
    let without: Vec<&Node> = nodes
        .iter()
        .copied()
        .filter(|node| !node.labels().contains_key(PRODUCT))
        .collect();
    if !without.is_empty() {
        return Finding::warn(
            "GPU labels",
            format!(
                "{} without {PRODUCT}: placement.nodeSelector cannot choose a kind of GPU ({})",
                counted(without.len(), "node", "nodes"),
                names(&without)
            ),
            "helm upgrade --install nvidia-device-plugin --repo https://nvidia.github.io/k8s-device-plugin nvidia-device-plugin -n kube-system --set gfd.enabled=true",
        );
    }
    let mut products: BTreeMap<&str, usize> = BTreeMap::new();
    for node in nodes {
        *products.entry(node.labels()[PRODUCT].as_str()).or_default() += 1;
    }
    let products: Vec<String> = products
        .into_iter()
        .map(|(product, count)| format!("{product} on {}", counted(count, "node", "nodes")))
        .collect();
    Finding::ok("GPU labels", products.join(", "))
}

/// The driver that feature discovery has seen, under its present or its former labels.
fn driver(node: &Node) -> Option<String> {
    let label = |name: &str| node.labels().get(name).cloned();
    label("nvidia.com/cuda.driver-version.full").or_else(|| {
        let parts = ["major", "minor", "rev"].map(|part| label(&format!("nvidia.com/cuda.driver.{part}")));
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        (!parts.is_empty()).then(|| parts.join("."))
    })
}

fn drivers(nodes: &[&Node]) -> Finding {
    let known: BTreeSet<String> = nodes.iter().filter_map(|node| driver(node)).collect();
    let list = known.iter().cloned().collect::<Vec<_>>().join(", ");
    let look = "kubectl get nodes -L nvidia.com/cuda.driver-version.full";
    match known.len() {
        0 => Finding::warn(
            "GPU drivers",
            "no node says which it has; each runner reports its own",
            look,
        ),
        1 => Finding::ok("GPU drivers", list),
        _ => Finding::warn(
            "GPU drivers",
            format!("several ({list}): nodes of different drivers are different node classes, and are not compared"),
            look,
        ),
    }
}

fn sharing(nodes: &[&Node]) -> Finding {
    let mut divided: BTreeMap<String, Vec<&Node>> = BTreeMap::new();
    for node in nodes {
        if let Some(how) = devices::division(node) {
            divided.entry(how).or_default().push(node);
        }
    }
    let Some((how, some)) = divided.first_key_value() else {
        return Finding::ok("GPU sharing", "no node shares its GPUs");
    };
    let found: Vec<String> = divided
        .iter()
        .map(|(how, nodes)| format!("{how} on {}", names(nodes)))
        .collect();
    let fix = if how == "MIG" {
        format!(
            "kubectl label node {} nvidia.com/mig.config=all-disabled --overwrite",
            some[0].name_any()
        )
    } else {
        "kubectl patch clusterpolicies.nvidia.com/cluster-policy --type merge -p '{\"spec\":{\"devicePlugin\":{\"config\":{\"name\":\"\",\"default\":\"\"}}}}'".to_owned()
    };
    Finding::warn(
        "GPU sharing",
        format!(
            "{}: energy of a shared GPU cannot be attributed, so it is not measured (placement.sharedGpus)",
            found.join("; ")
        ),
        fix,
    )
}

/// Taints that keep runner pods off all nodes with GPUs, unless tolerated.
fn taints(nodes: &[&Node]) -> Option<Finding> {
    let of = |node: &Node| -> BTreeSet<String> {
        let taints = node
            .spec
            .as_ref()
            .and_then(|spec| spec.taints.clone())
            .unwrap_or_default();
        let hard = taints.into_iter().filter(|taint| taint.effect != "PreferNoSchedule");
        hard.map(|taint| format!("{}:{}", taint.key, taint.effect)).collect()
    };
    let tainted: Vec<&Node> = nodes.iter().copied().filter(|node| !of(node).is_empty()).collect();
    let keys: BTreeSet<String> = tainted.iter().flat_map(|node| of(node)).collect();
    let first = keys.first()?;
    let key = first.split(':').next().unwrap_or_default();
    Some(Finding::warn(
        "GPU taints",
        format!(
            "{} on {}: experiments need placement.tolerations there",
            keys.iter().cloned().collect::<Vec<_>>().join(", "),
            names(&tainted)
        ),
        format!("kubectl lem run FILE --set 'placement.tolerations=[{{key: {key}, operator: Exists}}]'"),
    ))
}

fn agent(nodes: &[&Node], is_used: bool) -> Finding {
    let check = "node agent";
    let without: Vec<&Node> = nodes.iter().copied().filter(|node| amount(node, SLOT) == 0).collect();
    // In a namespace of its own: the release's may enforce Pod Security.
    let install = "helm upgrade lem charts/lem -n lem-system --reuse-values --set agent.enabled=true \
                   --set agent.namespace.name=lem-agent --set agent.namespace.create=true";
    if without.is_empty() && !nodes.is_empty() {
        return Finding::ok(
            check,
            format!("{SLOT} on all {}", counted(nodes.len(), "node", "nodes")),
        );
    }
    if without.len() == nodes.len() {
        let found = format!("no node offers {SLOT}");
        return if is_used {
            Finding::fail(
                check,
                format!("{found}, and the operator asks for it (LEM_NODE_AGENT): no runner pod finds a node"),
                install,
            )
        } else {
            Finding::warn(check, format!("{found}: pods cannot read CPU energy"), install)
        };
    }
    Finding::warn(
        check,
        format!("no {SLOT} on {}: no CPU energy there", names(&without)),
        "kubectl get pods -A -l app.kubernetes.io/part-of=lem,app.kubernetes.io/component=agent -o wide",
    )
}
