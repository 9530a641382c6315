//! The operator comes before its definitions.

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt,
    api::{ListParams, LogParams},
};
use lem_crds::status::ExperimentPhase;
use lem_test_cluster::{Cluster, Options};

use crate::{
    experiment::tiny,
    world::{LIMIT, SYSTEM, World, define, deploy, described, image, shared_name, until_ready},
};

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn an_operator_without_definitions_says_so_and_works_once_they_are_there() {
    let options = Options {
        images: vec![image("lem-operator"), image("lem-runner")],
        ..Options::default()
    };
    let name = format!("{}-crds", shared_name());
    // It ends with this process.
    let cluster: &'static Cluster = Box::leak(Box::new(Cluster::start(&name, options).await.unwrap()));
    deploy(cluster);
    let client = cluster.client().await.unwrap();
    let pods = &Api::<Pod>::namespaced(client, SYSTEM);
    let waits = || async move {
        let found = pods
            .list(&ListParams::default())
            .await
            .map_err(|error| error.to_string())?;
        if found.items.len() != 2 {
            return Err(format!("{} pods", found.items.len()));
        }
        for pod in found.items {
            let log = pods.logs(&pod.name_any(), &LogParams::default()).await;
            let log = log.map_err(|error| error.to_string())?;
            let said = ["EfficiencyExperiment", "Runner"].iter().all(|kind| {
                let of_kind = log
                    .lines()
                    .filter(|line| line.contains(&format!("\"kind\":\"{kind}\"")));
                of_kind.into_iter().any(|line| line.contains("404"))
            });
            if !said {
                return Err(log);
            }
        }
        Ok(())
    };
    cluster
        .until("replicas that miss their definitions", LIMIT, waits)
        .await
        .unwrap();
    for pod in pods.list(&ListParams::default()).await.unwrap() {
        let ready = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
        let ready = ready.and_then(|all| all.iter().find(|condition| condition.type_ == "Ready"));
        assert_eq!(ready.unwrap().status, "False", "{} cannot work yet", pod.name_any());
    }

    define(cluster).await;
    until_ready(cluster).await;
    let world = World::on(cluster, "definitions").await;
    world.apply(&tiny("first", 1, 1)).await;
    let status = world.ended("first").await;
    assert_eq!(status.phase, ExperimentPhase::Complete, "{}", described(&status));
    for pod in pods.list(&ListParams::default()).await.unwrap() {
        let status = pod.status.clone().unwrap();
        let restarts = status
            .container_statuses
            .iter()
            .flatten()
            .map(|container| container.restart_count);
        assert_eq!(restarts.sum::<i32>(), 0, "{}", pod.name_any());
    }
}
