//! What an experiment refers to is not there: Secret, `ConfigMap`, claim, model.

use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Secret};
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use serde_json::{Value, json};

use super::{fails, says, stalled};
use crate::{experiment::with, world::World};

/// A model from another source than the tiny one's, and no second try.
fn source(source: &Value) -> Value {
    let mut spec = json!({"model": {"source": source}, "protocol": {"retryBudget": 0, "deadlines": {"load": "45s"}}});
    spec["model"]["source"]["synthetic"] = Value::Null;
    spec
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn an_absent_secret_is_named_and_its_creation_starts_the_process() {
    let world = World::of("secret").await;
    let hub = json!({"huggingFace": {"tokenSecretRef": {"name": "hub", "key": "token"}}});
    world.apply(&with("secretless", 1, 1, &source(&hub))).await;
    let message = stalled(&world, "secretless", "ContainerConfiguration").await;
    says(&message, &["secret \"hub\" not found", "create what it names"]);
    let secret = json!({"metadata": {"name": "hub"}, "stringData": {"token": "hf_not_a_token"}});
    world.create::<Secret>(&secret).await;
    // The process starts, and finds no way out of this cluster.
    let message = fails(&world, "secretless").await;
    says(&message, &["tiny-test"]);
    assert!(!message.contains("hub\" not found"), "{message}");
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn an_absent_config_map_is_named_and_its_creation_starts_the_process() {
    let world = World::of("config_map").await;
    let mut spec = source(&json!({"directory": {"path": "/absent/model.gguf"}}));
    spec["workload"] = json!({"prompts": {"configMapRef": {"name": "questions", "key": "easy.jsonl"}}});
    world.apply(&with("speechless", 1, 1, &spec)).await;
    let message = stalled(&world, "speechless", "VolumeMissing").await;
    says(
        &message,
        &["configmap \"questions\" not found", "spec.workload.prompts"],
    );
    let prompts = json!({"metadata": {"name": "questions"}, "data": {"easy.jsonl": "{\"prompt\": \"Why?\"}\n"}});
    world.create::<ConfigMap>(&prompts).await;
    // The process starts, and finds that the model is not there either: that is said at once.
    says(&fails(&world, "speechless").await, &["/absent/model.gguf"]);
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn an_absent_claim_is_named_and_a_path_that_is_not_in_its_volume_fails_at_once() {
    let world = World::of("claim").await;
    let claim = json!({"persistentVolumeClaim": {"claimName": "models", "path": "no/such.gguf"}});
    world.apply(&with("modelless", 1, 1, &source(&claim))).await;
    let message = stalled(&world, "modelless", "VolumeMissing").await;
    says(
        &message,
        &["persistentvolumeclaim \"models\" not found", "spec.model.source"],
    );
    let name = world.namespace.clone();
    let spec = json!({"accessModes": ["ReadOnlyMany"], "storageClassName": "", "volumeName": name});
    let mut volume = spec.clone();
    volume["volumeName"].take();
    volume["capacity"] = json!({"storage": "1Gi"});
    // Of a node's own: it goes with the node.
    volume["hostPath"] = json!({"path": format!("/run/{name}"), "type": "DirectoryOrCreate"});
    let volume: PersistentVolume = serde_json::from_value(json!({"metadata": {"name": name}, "spec": volume})).unwrap();
    let volumes: Api<PersistentVolume> = Api::all(world.client.clone());
    volumes.create(&PostParams::default(), &volume).await.unwrap();
    let mut claim = spec;
    claim["resources"] = json!({"requests": {"storage": "1Gi"}});
    world
        .create::<PersistentVolumeClaim>(&json!({"metadata": {"name": "models"}, "spec": claim}))
        .await;
    says(&fails(&world, "modelless").await, &["no/such.gguf"]);
    volumes.delete(&name, &DeleteParams::default()).await.unwrap();
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_shape_that_no_runner_knows_fails_at_once_and_names_those_that_there_are() {
    let world = World::of("preset").await;
    let preset = json!({"model": {"source": {"synthetic": {"preset": "gpt-17"}}}});
    world.apply(&with("shapeless", 1, 1, &preset)).await;
    let message = fails(&world, "shapeless").await;
    says(&message, &["gpt-17", "tiny-test"]);
    let runners = world.runners("shapeless").await;
    assert_eq!(runners.len(), 1, "a mistake was tried again");
}
