//! Killing and starting parts: each test in a cluster of its own, since it breaks what others rely on.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Node};
use kube::{Api, Client, api::PostParams};
use lem_test_cluster::{Cluster, NodeOptions, Options, Part};

use crate::shared::LIMIT;

async fn small(name: &str) -> (Cluster, Client) {
    let options = Options {
        nodes: vec![NodeOptions::with_index(0)],
        node_grace_period: Duration::from_secs(6),
        ..Options::default()
    };
    let cluster = Cluster::start(name, options).await.unwrap();
    let client = cluster.client().await.unwrap();
    (cluster, client)
}

/// Status of a node's condition `Ready`, and how many GPUs can be had on it.
async fn node(client: &Client) -> Result<(String, String), String> {
    let node = Api::<Node>::all(client.clone())
        .get("node-0")
        .await
        .map_err(|error| error.to_string())?;
    let status = node.status.unwrap_or_default();
    let ready = status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "Ready");
    let gpus = status
        .allocatable
        .and_then(|resources| Some(resources.get("nvidia.com/gpu")?.0.clone()));
    Ok((
        ready.map(|condition| condition.status.clone()).unwrap_or_default(),
        gpus.unwrap_or_default(),
    ))
}

async fn until_node(cluster: &Cluster, client: &Client, condition: &str, wanted: impl Fn(&str, &str) -> bool) {
    let wanted = &wanted;
    let look = || async move {
        let (ready, gpus) = node(client).await?;
        wanted(&ready, &gpus)
            .then_some(())
            .ok_or_else(|| format!("Ready={ready}, {gpus} GPUs"))
    };
    cluster.until(condition, LIMIT, look).await.unwrap();
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn objects_outlive_a_killed_api_server_and_a_killed_store() {
    let (cluster, client) = small("restart").await;
    let api = Api::<ConfigMap>::namespaced(client, "default");
    let mut object = ConfigMap::default();
    object.metadata.name = Some("kept".to_owned());
    api.create(&PostParams::default(), &object).await.unwrap();
    cluster.kill(&Part::ApiServer).unwrap();
    assert!(api.get("kept").await.is_err(), "nobody is there to answer");
    cluster.start_part(&Part::ApiServer).await.unwrap();
    api.get("kept").await.unwrap();
    for part in [Part::Etcd, Part::Forwarder, Part::ControllerManager, Part::Scheduler] {
        cluster.restart(&part).await.unwrap();
        api.get("kept").await.unwrap_or_else(|error| panic!("{part}: {error}"));
    }
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_killed_node_is_noticed_and_comes_back_with_its_gpus() {
    let (cluster, client) = small("node-loss").await;
    cluster.kill(&Part::Node("node-0".to_owned())).unwrap();
    until_node(&cluster, &client, "loss of the node", |ready, _| ready == "Unknown").await;
    let whole = |ready: &str, gpus: &str| ready == "True" && gpus == "2";
    cluster.start_part(&Part::Node("node-0".to_owned())).await.unwrap();
    until_node(&cluster, &client, "return of the node", whole).await;
    for part in [Part::Kubelet, Part::Containerd, Part::KubeProxy, Part::DevicePlugin] {
        cluster.restart(&part("node-0".to_owned())).await.unwrap();
        until_node(&cluster, &client, "a whole node", whole).await;
    }
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_sick_board_is_taken_out_and_put_back() {
    let (cluster, client) = small("sick-board").await;
    cluster.set_board_health("node-0", "GPU-node-0-1", false).unwrap();
    until_node(&cluster, &client, "one GPU", |_, gpus| gpus == "1").await;
    cluster.set_board_health("node-0", "GPU-node-0-1", true).unwrap();
    until_node(&cluster, &client, "two GPUs", |_, gpus| gpus == "2").await;
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn clusters_side_by_side_do_not_meet() {
    let (first, first_client) = small("side-a").await;
    let (second, second_client) = small("side-b").await;
    assert_ne!(first.kubeconfig(), second.kubeconfig());
    let mut object = ConfigMap::default();
    object.metadata.name = Some("only-in-the-first".to_owned());
    let api = |client| Api::<ConfigMap>::namespaced(client, "default");
    api(first_client).create(&PostParams::default(), &object).await.unwrap();
    assert_eq!(
        api(second_client.clone()).get_opt("only-in-the-first").await.unwrap(),
        None
    );
    drop(first);
    api(second_client).get_opt("x").await.unwrap();
    drop(second);
}
