//! What a user adds to the runner's pod, and what they cannot take from it.

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams},
};
use lem_crds::{EfficiencyExperiment, status::ExperimentPhase};
use serde_json::json;

use crate::{
    experiment::with,
    world::{World, condition, described},
};

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_patched_pod_measures_and_its_patch_cannot_be_changed_afterwards() {
    let world = World::of("patched").await;
    let patch = json!({
        "terminationGracePeriodSeconds": 45,
        "volumes": [{"name": "scratch", "emptyDir": {"medium": "Memory"}}],
        "containers": [{
            "name": "runner",
            "env": [{"name": "NODE_ADDRESS", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}}],
        }],
    });
    world
        .apply(&with("patched", 1, 1, &json!({"runner": {"podPatch": patch}})))
        .await;
    let status = world.ended("patched").await;
    assert_eq!(status.phase, ExperimentPhase::Complete, "{}", described(&status));
    let pods = Api::<Pod>::namespaced(world.client.clone(), &world.namespace);
    let pods = pods.list(&ListParams::default()).await.unwrap().items;
    assert_eq!(pods.len(), 1);
    let spec = json!(pods[0].spec);
    assert_eq!(spec["terminationGracePeriodSeconds"], 45);
    assert_eq!(spec["containers"].as_array().unwrap().len(), 1);
    let variables = spec["containers"][0]["env"].as_array().unwrap();
    for name in ["NODE_ADDRESS", "LEM_RUNNER_NAME"] {
        assert!(
            variables.iter().any(|variable| variable["name"] == name),
            "{variables:?}"
        );
    }
    let scratch = spec["volumes"]
        .as_array()
        .unwrap()
        .iter()
        .find(|volume| volume["name"] == "scratch");
    assert_eq!(scratch.unwrap()["emptyDir"]["medium"], "Memory");

    // Another field under another name: as many fields as before.
    let changed = json!({"spec": {"runner": {"podPatch": {"terminationGracePeriodSeconds": null, "priority": 1}}}});
    let refused = world
        .api::<EfficiencyExperiment>()
        .patch("patched", &PatchParams::default(), &Patch::Merge(changed))
        .await
        .expect_err("a started experiment was changed");
    assert!(refused.to_string().contains("immutable"), "{refused}");
    world.delete_namespace().await;
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_patch_of_what_the_operator_relies_on_is_refused_before_anything_is_made() {
    let world = World::of("refused").await;
    let patch = json!({"serviceAccountName": "default", "containers": [{"name": "runner", "args": ["gpus"]}]});
    world
        .apply(&with("refused", 1, 1, &json!({"runner": {"podPatch": patch}})))
        .await;
    let status = world
        .until("refused", "the verdict on the patch", |status| {
            !status.conditions.is_empty()
        })
        .await;
    let validated = condition(&status, "Validated").unwrap();
    assert_eq!(validated.status, "False", "{}", described(&status));
    for words in [
        "spec.runner.podPatch.serviceAccountName: cannot be patched",
        "spec.runner.podPatch.containers[0].args: cannot be patched",
    ] {
        assert!(validated.message.contains(words), "{}", validated.message);
    }
    assert!(world.runners("refused").await.is_empty());
    world.delete_namespace().await;
}
