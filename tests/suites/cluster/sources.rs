//! Where pods take models and prompts from: a claim, an image, a hub; a ConfigMap. All with real weights.

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::{Api, api::ListParams};
use lem_crds::{EfficiencyExperimentStatus, Runner, status::ExperimentPhase};
use serde_json::json;

use crate::{
    hub, model,
    world::{SYSTEM, World, condition, described},
};

/// The record of the only process of a finished experiment: it has loaded the very weights.
async fn measured(world: &World, experiment: &str) -> Runner {
    let status = world.ended(experiment).await;
    assert_eq!(status.phase, ExperimentPhase::Complete, "{}", described(&status));
    let mut runners = world.runners(experiment).await;
    assert_eq!(runners.len(), 1);
    let runner = runners.remove(0);
    let record = runner.status.clone().unwrap();
    let environment = record.environment.unwrap();
    assert!(
        environment.model.weights_digest.contains(model::SHA256),
        "{:?}",
        environment.model
    );
    let window = &record.windows[0];
    assert_eq!((window.requests_completed, window.output_tokens), (2, 16));
    runner
}

/// The one sentence in which the end of an experiment is explained.
fn explanation(status: &EfficiencyExperimentStatus) -> &str {
    assert_eq!(status.phase, ExperimentPhase::Failed, "{}", described(status));
    &condition(status, "Failed").unwrap().message
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_model_in_a_claim_answers_prompts_of_a_config_map() {
    let world = World::of("claim").await;
    model::claim(&world).await;
    let lines = "{\"prompt\": \"Why is the sky blue?\"}\n{\"prompt\": \"List three colours of a cat.\"}\n";
    let questions = json!({"metadata": {"name": "questions"}, "data": {"easy.jsonl": lines}});
    world.create::<ConfigMap>(&questions).await;
    let source = json!({"persistentVolumeClaim": {"claimName": "models", "path": model::FILE}});
    let workload = json!({
        "requests": 2, "maxInputTokens": 64, "maxOutputTokens": 8,
        "prompts": {"configMapRef": {"name": "questions", "key": "easy.jsonl"}},
    });
    let experiment = model::smollm2("claim", &source, &json!({"workload": workload}));
    world.apply(&experiment).await;
    let runner = measured(&world, "claim").await;
    let window = &runner.status.unwrap().windows[0];
    // Synthetic prompts would have 64 tokens each.
    assert!((10..64).contains(&window.input_tokens), "{}", window.input_tokens);
    let pods = Api::<Pod>::namespaced(world.client.clone(), &world.namespace);
    for pod in pods.list(&ListParams::default()).await.unwrap() {
        let container = &pod.spec.unwrap().containers[0];
        let mounts = container.volume_mounts.iter().flatten();
        let writable: Vec<_> = mounts
            .filter(|mount| mount.read_only != Some(true))
            .map(|mount| mount.mount_path.as_str())
            .collect();
        assert_eq!(writable, ["/tmp"], "a model that measuring can change");
    }
    world.delete_namespace().await;
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_model_in_an_image_is_measured() {
    let world = World::of("image").await;
    model::load_image(&world).await;
    let source = json!({"image": {"reference": model::IMAGE}});
    world.apply(&model::smollm2("image", &source, &json!({}))).await;
    measured(&world, "image").await;
    world.delete_namespace().await;
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_gated_model_of_a_hub_is_measured_and_the_operator_reads_no_secret() {
    let world = World::of("hub").await;
    let audit = world.cluster.audit().unwrap().from_now().unwrap();
    let address = hub::start(&world).await;
    hub::secret(&world, None).await;
    let source = json!({"huggingFace": {
        "revision": hub::REVISION, "file": model::FILE,
        "tokenSecretRef": {"name": "hub", "key": "token"},
    }});
    // The cluster has no DNS: only the patch makes the name one of the pod's.
    let runner = json!({
        "env": [{"name": "HF_ENDPOINT", "value": hub::endpoint("hub.test")}],
        "podPatch": {"hostAliases": [{"ip": address, "hostnames": ["hub.test"]}]},
    });
    world
        .apply(&model::smollm2("hub", &source, &json!({"runner": runner})))
        .await;
    let runner = measured(&world, "hub").await;
    let revision = runner.status.unwrap().environment.unwrap().model.revision;
    assert_eq!(revision.as_deref(), Some(hub::REVISION));

    let requests = audit.requests().unwrap();
    let watches = audit.watches().unwrap();
    let of_secrets: Vec<&str> = requests
        .iter()
        .chain(&watches)
        .filter(|request| request.resource == "secrets" && request.verb != "create")
        .map(|request| request.user.as_str())
        .collect();
    assert!(
        of_secrets.iter().any(|user| user.starts_with("system:node:")),
        "the kubelet gives the pod its token: {of_secrets:?}"
    );
    let operator = format!("system:serviceaccount:{SYSTEM}:");
    assert!(
        !of_secrets.iter().any(|user| user.starts_with(&operator)),
        "{of_secrets:?}"
    );
    world.delete_namespace().await;
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_token_that_the_hub_refuses_ends_the_experiment_with_what_to_do() {
    let world = World::of("token").await;
    let address = hub::start(&world).await;
    hub::secret(&world, Some("hf_of_another_account")).await;
    let source = json!({"huggingFace": {
        "revision": hub::REVISION, "file": model::FILE,
        "tokenSecretRef": {"name": "hub", "key": "token"},
    }});
    let runner = json!({"env": [{"name": "HF_ENDPOINT", "value": hub::endpoint(&address)}]});
    world
        .apply(&model::smollm2("token", &source, &json!({"runner": runner})))
        .await;
    let status = world.ended("token").await;
    let text = explanation(&status);
    for words in [
        model::NAME,
        hub::REVISION,
        "the hub refuses this token",
        "tokenSecretRef",
    ] {
        assert!(text.contains(words), "{words} in {text}");
    }
    assert!(!text.contains("hf_of_another_account"), "{text}");
    world.delete_namespace().await;
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_file_that_is_not_in_the_claim_ends_the_experiment_with_its_path() {
    let world = World::of("absent").await;
    model::claim(&world).await;
    let source = json!({"persistentVolumeClaim": {"claimName": "models", "path": "absent.gguf"}});
    world.apply(&model::smollm2("absent", &source, &json!({}))).await;
    let status = world.ended("absent").await;
    let text = explanation(&status);
    assert!(text.contains(&model::in_pod("absent.gguf")), "{text}");
    assert!(text.contains("persistentVolumeClaim"), "what to correct, in {text}");
    world.delete_namespace().await;
}
