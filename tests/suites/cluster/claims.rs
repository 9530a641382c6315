//! GPUs by claim: dynamic resource allocation in place of a device plugin, on real `DeviceClass`es, slices and claims; and
//! several processes on every node.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams, PostParams},
    core::GroupVersionKind,
};
use lem_crds::{
    runner::Domain,
    status::{ExperimentPhase, Verdict},
};
use lem_test_cluster::RESOURCE_DRIVER;
use serde_json::{Value, json};

use crate::{
    experiment::with,
    world::{World, condition, described},
};

/// Boards of each node of the shared cluster.
const BOARDS: usize = 2;

fn resource(kind: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("resource.k8s.io", "v1", kind))
}

fn of_claims(template: &str) -> Value {
    json!({"resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": template}]})
}

/// A class of the fake GPUs, named like the namespace, and a template that asks for one of them.
async fn offer_one_gpu(world: &World) -> Api<DynamicObject> {
    let classes = Api::<DynamicObject>::all_with(world.client.clone(), &resource("DeviceClass"));
    let class: DynamicObject = serde_json::from_value(json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass",
        "metadata": {"name": world.namespace},
        "spec": {"selectors": [{"cel": {"expression": format!("device.driver == '{RESOURCE_DRIVER}'")}}]},
    }))
    .unwrap();
    classes.create(&PostParams::default(), &class).await.unwrap();
    let templates = Api::<DynamicObject>::namespaced_with(
        world.client.clone(),
        &world.namespace,
        &resource("ResourceClaimTemplate"),
    );
    let template: DynamicObject = serde_json::from_value(json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaimTemplate",
        "metadata": {"name": "one-gpu"},
        "spec": {"spec": {"devices": {"requests": [
            {"name": "gpu", "exactly": {"deviceClassName": world.namespace}}]}}},
    }))
    .unwrap();
    templates.create(&PostParams::default(), &template).await.unwrap();
    classes
}

/// Boards that the windows of an experiment have metered, by node.
async fn boards(world: &World, experiment: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for runner in world.runners(experiment).await {
        let status = runner.status.unwrap_or_default();
        for reading in status.windows.iter().flat_map(|window| &window.energy) {
            assert_eq!(reading.counter.domain, Domain::Gpu);
            assert!(reading.joules.is_some_and(|joules| joules > 0.0), "{reading:?}");
            let of_node = found.entry(reading.counter.node.clone()).or_default();
            of_node.insert(reading.counter.id.clone());
        }
    }
    found
}

fn on_gpus(placement: &Value) -> Value {
    json!({
        "processes": {"gpusPerProcess": 1},
        "energy": {"gpu": "Required", "cpu": "Disabled"},
        "workload": {"requests": 200},
        "placement": placement,
    })
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn processes_get_their_gpus_by_claims_of_their_own_and_meter_those_alone() {
    let world = World::of("claims").await;
    let classes = offer_one_gpu(&world).await;
    world
        .apply(&with("claimed", 3, 1, &on_gpus(&of_claims("one-gpu"))))
        .await;
    let pods = world
        .eventually("pods with claims", || async {
            let pods = world.api::<Pod>().list(&ListParams::default()).await.unwrap().items;
            let status = |pod: &Pod| pod.status.clone().unwrap_or_default();
            let claims = |pod: &Pod| status(pod).resource_claim_statuses.map_or(0, |claims| claims.len());
            (pods.len() == 3 && pods.iter().all(|pod| claims(pod) == 1))
                .then_some(pods.clone())
                .ok_or_else(|| format!("{:?}", pods.iter().map(claims).collect::<Vec<_>>()))
        })
        .await;
    for pod in pods {
        let container = &pod.spec.unwrap().containers[0];
        let limits = container
            .resources
            .clone()
            .unwrap_or_default()
            .limits
            .unwrap_or_default();
        assert!(!limits.contains_key("nvidia.com/gpu"), "{limits:?}");
    }
    let status = world.ended("claimed").await;
    assert_eq!(status.phase, ExperimentPhase::Complete, "{}", described(&status));
    assert_ne!(
        status.points[0].verdict,
        Verdict::Invalid,
        "{:?}",
        status.points[0].reasons
    );
    let boards = boards(&world, "claimed").await;
    assert_eq!(boards.values().map(BTreeSet::len).sum::<usize>(), 3, "{boards:?}");

    // A template that is not there is said in the words of the controller of claims.
    world
        .apply(&with("unclaimed", 1, 1, &on_gpus(&of_claims("absent"))))
        .await;
    let stalled = world
        .until("unclaimed", "the reason why it does not start", |status| {
            condition(status, "Stalled").is_some_and(|stalled| stalled.reason == "ClaimNotAllocated")
        })
        .await;
    let stalled = condition(&stalled, "Stalled").unwrap();
    assert!(stalled.message.contains("spec.placement.resourceClaims"), "{stalled:?}");
    classes
        .delete(&world.namespace, &DeleteParams::default())
        .await
        .unwrap();
    world.delete_namespace().await;
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_fleet_measures_every_gpu_of_every_node_at_the_same_time_by_plugin_and_by_claim() {
    let world = World::of("gpu_sets").await;
    let classes = offer_one_gpu(&world).await;
    for (name, claims) in [("plugin", json!({})), ("claims", of_claims("one-gpu"))] {
        let mut placement = json!({"strategy": "EachNode", "maxConcurrentNodes": 1});
        for (key, value) in claims.as_object().unwrap() {
            placement[key] = value.clone();
        }
        world.apply(&with(name, BOARDS as u32, 1, &on_gpus(&placement))).await;
        let status = world.ended(name).await;
        assert_eq!(
            status.phase,
            ExperimentPhase::Complete,
            "{name}: {}",
            described(&status)
        );
        let plan = status.plan.as_ref().unwrap();
        let fleet = status.fleet.as_ref().unwrap();
        let nodes = world.cluster.nodes();
        assert_eq!(fleet.nodes.measured as usize, nodes.len(), "{name}: {fleet:?}");
        assert_eq!(plan.processes as usize, nodes.len() * BOARDS, "{name}: {plan:?}");
        let expected: BTreeMap<String, BTreeSet<String>> = nodes
            .iter()
            .map(|node| {
                (
                    node.name.clone(),
                    node.boards.iter().map(|board| board.uuid.clone()).collect(),
                )
            })
            .collect();
        assert_eq!(boards(&world, name).await, expected, "{name}");
        // One start for the processes of a node.
        for node in nodes {
            let runners = world.runners(name).await;
            let of_node = runners.iter().filter(|one| one.spec.node.as_ref() == Some(&node.name));
            let starts: BTreeSet<String> = of_node
                .filter_map(|runner| runner.spec.assignment.as_ref()?.start_at.map(|at| at.to_string()))
                .collect();
            assert_eq!(starts.len(), 1, "{name}, {}: {starts:?}", node.name);
        }
    }
    classes
        .delete(&world.namespace, &DeleteParams::default())
        .await
        .unwrap();
    world.delete_namespace().await;
}
