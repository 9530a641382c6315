//! What a node's labels and resources say of its GPUs, where a process needs some. Pure.

use k8s_openapi::{api::core::v1::Node, apimachinery::pkg::api::resource::Quantity};
use kube::ResourceExt;
use lem_crds::experiment::SharedGpus;

use super::{super::build::GPU, nodes::Obstacle};

/// Labels of NVIDIA's GPU feature discovery.
const PRESENT: &str = "nvidia.com/gpu.present";
/// What the GPUs of a node are.
pub const PRODUCT: &str = "nvidia.com/gpu.product";
const REPLICAS: &str = "nvidia.com/gpu.replicas";
/// What it says of a node that offers one GPU to several pods; `none` where it does not.
pub const SHARING_STRATEGY: &str = "nvidia.com/gpu.sharing-strategy";
/// Its values where pods share.
pub const SHARING_STRATEGIES: [&str; 2] = ["time-slicing", "mps"];
/// Slices of GPUs, each profile a resource of its own.
const SLICES: &str = "nvidia.com/mig-";

/// GPUs that the node gives to pods.
pub fn allocatable(node: &Node) -> u32 {
    count(
        node.status
            .as_ref()
            .and_then(|status| status.allocatable.as_ref()?.get(GPU)),
    )
}

/// GPUs that its device plugin has told of, the unhealthy ones included.
pub fn capacity(node: &Node) -> u32 {
    count(
        node.status
            .as_ref()
            .and_then(|status| status.capacity.as_ref()?.get(GPU)),
    )
}

fn count(quantity: Option<&Quantity>) -> u32 {
    quantity.and_then(|quantity| quantity.0.parse().ok()).unwrap_or(0)
}

/// How the node offers one GPU to several pods, if it does: a strategy of the device plugin, or `MIG` where what is
/// offered as a GPU is a slice of one.
pub fn sharing(node: &Node) -> Option<String> {
    let label = |name: &str| node.labels().get(name).map(String::as_str);
    let strategy = label(SHARING_STRATEGY).filter(|strategy| *strategy != "none");
    let replicas = label(REPLICAS).and_then(|count| count.parse::<u32>().ok());
    match (strategy, replicas) {
        (Some(strategy), _) => Some(strategy.to_owned()),
        (None, Some(2..)) => Some("time-slicing".to_owned()),
        _ if label(PRODUCT).is_some_and(|product| product.contains("-MIG-")) => Some("MIG".to_owned()),
        _ => None,
    }
}

/// The same, or `MIG` also where slices are offered beside whole GPUs or in place of them.
pub fn division(node: &Node) -> Option<String> {
    sharing(node).or_else(|| has_slices(node).then(|| "MIG".to_owned()))
}

/// Whether the node offers slices of its GPUs.
pub fn has_slices(node: &Node) -> bool {
    let resources = node
        .status
        .iter()
        .flat_map(|status| status.allocatable.iter().flatten());
    resources
        .into_iter()
        .any(|(name, quantity)| name.starts_with(SLICES) && quantity.0 != "0")
}

/// What keeps a node out of the fleet or from a process now for its GPUs, if it is to give so many of its device plugin; those of
/// claims only the scheduler knows.
pub fn obstacle(node: &Node, needed: u32, shared: SharedGpus) -> Result<Option<Obstacle>, NoGpus> {
    let (there, free) = (capacity(node), allocatable(node));
    let too_few = free < needed;
    // Whole GPUs beside slices of others are as good as any.
    let how = if too_few { division(node) } else { sharing(node) };
    let name = || node.name_any();
    if let Some(how) = how
        && (shared == SharedGpus::Refuse || too_few)
    {
        return Ok(Some(Obstacle {
            reason: "SharedGpu",
            message: format!(
                "{} shares its GPUs ({how}), so that their energy cannot be told to be of one process: offer them whole, \
                 or set spec.placement.sharedGpus to Mark and see them marked",
                name()
            ),
        }));
    }
    if !too_few {
        return Ok(None);
    }
    let why = if there >= needed {
        format!("{free} of its {there} GPUs are healthy")
    } else if there == 0 && node.labels().get(PRESENT).is_some_and(|present| present == "true") {
        "it has GPUs, and no device plugin that offers them".to_owned()
    } else {
        return Err(NoGpus);
    };
    Ok(Some(Obstacle {
        reason: "GpuMissing",
        message: format!(
            "{}: {why}: look at the pod of the device plugin on it; {needed} are asked for",
            name()
        ),
    }))
}

/// The node was not made to give so many GPUs: it is no part of the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoGpus;
