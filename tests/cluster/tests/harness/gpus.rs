//! Pods with GPUs: the real runner in the real image meters the boards that the kubelet gave it.

use std::collections::BTreeMap;

use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, LogParams, PostParams},
};
use lem_test_cluster::Cluster;
use serde_json::{Value, json};

use crate::shared::{LIMIT, RUNNER_IMAGE, cluster, namespace};

/// An Indexed Job whose pods, with so many GPUs each, print which boards they see; as strict as a pod can be.
fn listing_job(name: &str, completions: u32, gpus: u32) -> Job {
    serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {
            "completions": completions,
            "parallelism": completions,
            "completionMode": "Indexed",
            "backoffLimit": 0,
            "template": {
                "metadata": {"labels": {"job": name}},
                "spec": {
                    "restartPolicy": "Never",
                    "dnsPolicy": "Default",
                    "automountServiceAccountToken": false,
                    "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
                    "containers": [{
                        "name": "runner",
                        "image": RUNNER_IMAGE,
                        "args": ["gpus"],
                        "resources": {"limits": {"nvidia.com/gpu": gpus.to_string()}},
                        "securityContext": {
                            "allowPrivilegeEscalation": false,
                            "readOnlyRootFilesystem": true,
                            "capabilities": {"drop": ["ALL"]},
                        },
                    }],
                },
            },
        },
    }))
    .unwrap()
}

/// Runs the job and returns what each pod printed, with the node it ran on.
async fn listed(cluster: &Cluster, client: &Client, namespace: &str, job: Job) -> Vec<(String, Vec<String>)> {
    let name = job.name_any();
    let jobs = Api::<Job>::namespaced(client.clone(), namespace);
    jobs.create(&PostParams::default(), &job).await.unwrap();
    let finished = || async {
        let job = jobs.get(&name).await.map_err(|error| error.to_string())?;
        let status = job.status.unwrap_or_default();
        assert_eq!(status.failed.unwrap_or(0), 0, "{status:?}");
        let complete = status
            .conditions
            .iter()
            .flatten()
            .any(|it| it.type_ == "Complete" && it.status == "True");
        complete.then_some(()).ok_or_else(|| format!("{status:?}"))
    };
    cluster.until("completion of the job", LIMIT, finished).await.unwrap();
    let pods = Api::<Pod>::namespaced(client.clone(), namespace);
    let selected = pods
        .list(&ListParams::default().labels(&format!("job={name}")))
        .await
        .unwrap();
    let mut listed = Vec::new();
    for pod in selected {
        let log = pods.logs(&pod.name_any(), &LogParams::default()).await.unwrap();
        let boards: Vec<Value> = serde_json::from_str(&log).expect(&log);
        let uuids = boards.iter().map(|board| board["uuid"].as_str().unwrap().to_owned());
        listed.push((pod.spec.unwrap().node_name.unwrap(), uuids.collect()));
    }
    listed
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_restricted_pod_on_each_node_meters_the_two_boards_of_its_node() {
    let cluster = cluster().await;
    let _guard = cluster.on_failure("two_boards");
    let client = cluster.client().await.unwrap();
    let namespace = namespace(&client).await;
    let listed = listed(cluster, &client, &namespace, listing_job("all", 3, 2)).await;
    let found: BTreeMap<String, Vec<String>> = listed.into_iter().collect();
    let expected: BTreeMap<String, Vec<String>> = cluster
        .nodes()
        .iter()
        .map(|node| {
            (
                node.name.clone(),
                node.boards.iter().map(|board| board.uuid.clone()).collect(),
            )
        })
        .collect();
    assert_eq!(found, expected);
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_pod_with_one_gpu_sees_that_one_alone() {
    let cluster = cluster().await;
    let _guard = cluster.on_failure("one_board");
    let client = cluster.client().await.unwrap();
    let namespace = namespace(&client).await;
    let listed = listed(cluster, &client, &namespace, listing_job("one", 1, 1)).await;
    assert_eq!(listed.len(), 1);
    let (node, uuids) = &listed[0];
    assert_eq!(uuids.len(), 1, "{uuids:?}");
    assert!(uuids[0].starts_with(&format!("GPU-{node}-")), "{uuids:?} on {node}");
}
