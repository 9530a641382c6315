//! Acting as a runner pod, with the token that its kubelet asks for.

use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{Pod, ServiceAccount},
};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};

use crate::{experiment::tiny, helm::chart, installation::Machine, world::World};

/// The two experiments that run at once, of 2 processes and of 1.
pub(super) const EXPERIMENTS: [(&str, u32); 2] = [("watched", 2), ("other", 1)];

/// An installed release with experiments that measure for the rest of the test.
pub(super) async fn measuring(cluster: &str, test: &str) -> (Machine, World) {
    let machine = Machine::start(cluster).await;
    let world = machine.world(test).await;
    machine.helm(&["install", "lem-crds", chart("lem-crds").to_str().unwrap()]);
    machine.release("install", &chart("lem"), &[]);
    for (name, processes) in EXPERIMENTS {
        // The other one waits until the first has its nodes.
        world.apply(&tiny(name, processes, 60)).await;
        world
            .until(name, "a finished trial", |status| status.progress.finished >= 1)
            .await;
    }
    (machine, world)
}

/// Name of the mailbox of a process.
pub(super) async fn mailbox(world: &World, experiment: &str, process: u32) -> String {
    let runners = world.runners(experiment).await;
    let found = runners.iter().find(|runner| runner.spec.process == process);
    found.unwrap().name_any()
}

/// The living pod of a process.
pub(super) async fn pod(world: &World, mailbox: &str) -> Pod {
    let pods = world.api::<Pod>().list(&ListParams::default()).await.unwrap();
    let of_process = |pod: &Pod| pod.name_any().starts_with(&format!("{mailbox}-"));
    let living = |pod: &Pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        phase == Some("Running") && pod.metadata.deletion_timestamp.is_none()
    };
    let mut found = pods.into_iter().filter(|pod| of_process(pod) && living(pod));
    found.next().unwrap_or_else(|| panic!("no pod of {mailbox} runs"))
}

/// A client with the token of an account: bound to a pod as its kubelet has it bound, or to none.
pub(super) async fn as_account(machine: &Machine, world: &World, account: &str, pod: Option<&Pod>) -> Client {
    let request = TokenRequest {
        spec: TokenRequestSpec {
            bound_object_ref: pod.map(|pod| BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: Some(pod.name_any()),
                uid: pod.uid(),
            }),
            ..TokenRequestSpec::default()
        },
        ..TokenRequest::default()
    };
    let namespace = pod
        .and_then(ResourceExt::namespace)
        .unwrap_or_else(|| world.namespace.clone());
    let accounts = Api::<ServiceAccount>::namespaced(world.client.clone(), &namespace);
    let answer = accounts
        .create_token_request(account, &PostParams::default(), &request)
        .await;
    with_token(machine, &answer.unwrap().status.unwrap().token).await
}

async fn with_token(machine: &Machine, token: &str) -> Client {
    let text = std::fs::read_to_string(machine.cluster.kubeconfig()).unwrap();
    let mut config: Value = serde_yaml::from_str(&text).unwrap();
    for user in config["users"].as_array_mut().unwrap() {
        user["user"] = json!({"token": token});
    }
    let config: Kubeconfig = serde_json::from_value(config).unwrap();
    let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await;
    Client::try_from(config.unwrap()).unwrap()
}

/// The client of the pod of a process.
pub(super) async fn as_process(machine: &Machine, world: &World, mailbox: &str) -> Client {
    let pod = pod(world, mailbox).await;
    let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone());
    as_account(machine, world, &account.unwrap(), Some(&pod)).await
}

/// One request; gives the status and the message of a refusal.
pub(super) async fn ask(client: &Client, method: &str, path: &str, body: &Value) -> Result<Value, (u16, String)> {
    let content = if method == "PATCH" {
        "application/json-patch+json"
    } else {
        "application/json"
    };
    let body = if body.is_null() {
        Vec::new()
    } else {
        serde_json::to_vec(body).unwrap()
    };
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("Content-Type", content)
        .body(body)
        .unwrap();
    match client.request::<Value>(request).await {
        Ok(answer) => Ok(answer),
        Err(kube::Error::Api(status)) => Err((status.code, status.message.clone())),
        Err(error) => panic!("{method} {path}: {error}"),
    }
}

/// Path of a mailbox.
pub(super) fn path_of(namespace: &str, mailbox: &str) -> String {
    format!("/apis/lem.dev/v1alpha1/namespaces/{namespace}/runners/{mailbox}")
}

/// A patch of a record that changes nothing which anybody relies on.
pub(super) fn heartbeat() -> Value {
    json!([{"op": "add", "path": "/status/heartbeat", "value": jiff::Timestamp::now().to_string()}])
}
