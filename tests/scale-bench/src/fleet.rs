//! The fleet and the experiment on it. Pure.

use k8s_openapi::api::core::v1::Node;
use lem_crds::EfficiencyExperiment;
use serde_json::json;

/// Label of the simulated nodes.
const LABEL: &str = "lem.dev/simulated";
/// Name of the experiment.
pub(crate) const EXPERIMENT: &str = "fleet";
const GPUS: &str = "8";

/// One node: eight GPUs, and nothing else on it.
///
/// # Errors
/// None that its tests do not exclude.
pub(crate) fn node(index: u32) -> serde_json::Result<Node> {
    let name = format!("node-{index}");
    let resources = json!({"cpu": "128", "memory": "1Ti", "pods": "110", "nvidia.com/gpu": GPUS});
    serde_json::from_value(json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {LABEL: "true", "kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}},
        "status": {"allocatable": resources, "capacity": resources},
    }))
}

/// Every node measured by itself, a share of them at the same time.
///
/// # Errors
/// None that its tests do not exclude.
pub(crate) fn experiment(concurrent: &str, cycles: u32) -> serde_json::Result<EfficiencyExperiment> {
    let concurrent = concurrent
        .parse::<u32>()
        .map_or_else(|_| json!(concurrent), |number| json!(number));
    serde_json::from_value(json!({
        "apiVersion": "lem.dev/v1alpha1",
        "kind": "EfficiencyExperiment",
        "metadata": {"name": EXPERIMENT},
        "spec": {
            "model": {"name": "simulated", "source": {"synthetic": {"preset": "tiny-test"}}},
            "workload": {"requests": 64, "maxInputTokens": 128, "maxOutputTokens": 64},
            "processes": {"gpusPerProcess": 1},
            "energy": {"gpu": "Required", "cpu": "Disabled"},
            "placement": {
                "strategy": "EachNode",
                "maxConcurrentNodes": concurrent,
                "nodeSelector": {LABEL: "true"},
            },
            "protocol": {
                "cycles": cycles,
                "retryBudget": 3,
                "deadlines": {"load": "60s", "ready": "20s", "window": "20s"},
            },
            "pricing": {"energyPricePerKilowattHour": "0.30"},
        },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_experiment_is_one_that_the_cluster_takes() {
        for concurrent in ["10", "20%"] {
            let manifest = serde_json::to_value(experiment(concurrent, 3).unwrap()).unwrap();
            let read = lem_crds::validate::experiment(&manifest);
            assert!(read.is_ok(), "{:?}", read.err());
        }
    }

    #[test]
    fn nodes_have_gpus_and_names_that_tell_their_class() {
        let node = node(12).unwrap();
        let name = node.metadata.name.unwrap();
        assert_eq!(crate::kubelets::class_index(&name), 2);
        let allocatable = node.status.unwrap().allocatable.unwrap();
        assert_eq!(allocatable["nvidia.com/gpu"].0, GPUS);
    }
}
