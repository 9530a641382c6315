//! Kueue itself: its controller and its webhooks, installed by its own chart into a cluster of their own.

use std::{fs, path::Path};

use k8s_openapi::api::apps::v1::Deployment;
use kube::Api;
use lem_test_cluster::{Binaries, Cluster, Image, Options};
use serde_json::{Value, json};

use super::{is_queued, measured_three_times, priority, recorded};
use crate::{
    experiment::with,
    world::{self, World, binaries, image, kubectl},
};

/// Asks for these tests: building Kueue takes minutes.
const ASKED: &str = "LEM_TEST_KUEUE";
const NAMESPACE: &str = "kueue-system";
const IMAGE: &str = "localhost/kueue";
const QUEUE: &str = "team";

/// Of Kueue's own defaults the Jobs alone.
const CONFIGURATION: &str = "
apiVersion: config.kueue.x-k8s.io/v1beta2
kind: Configuration
health: {healthProbeBindAddress: ':8081'}
metrics: {bindAddress: ':8443'}
webhook: {port: 9443}
leaderElection: {leaderElect: false}
integrations: {frameworks: [batch/job]}
";

/// A cluster with the operator and Kueue.
async fn cluster() -> &'static Cluster {
    let programs = Binaries::ensure().unwrap();
    let program = programs.optional("kueue").unwrap();
    let archive = binaries().join("kueue-test-image.tar");
    let of_kueue = Image::new(&format!("{IMAGE}:test"), &program).unwrap();
    // The chart starts it by this name.
    let of_kueue = of_kueue.with_file("manager", 0o755, fs::read(&program).unwrap());
    of_kueue.write(&archive).unwrap();
    let options = Options {
        images: vec![image("lem-operator"), image("lem-runner"), archive],
        ..Options::default()
    };
    let name = format!("{}-kueue", world::shared_name());
    let cluster: &'static Cluster = Box::leak(Box::new(Cluster::start(&name, options).await.unwrap()));
    world::define(cluster).await;
    world::deploy(cluster);
    install(cluster, &programs);
    world::until_ready(cluster).await;
    let deployments = Api::<Deployment>::namespaced(cluster.client().await.unwrap(), NAMESPACE);
    let ready = || async {
        let found = deployments.get("kueue-controller-manager").await;
        let status = found.map_err(|error| error.to_string())?.status.unwrap_or_default();
        (status.ready_replicas == Some(1))
            .then_some(())
            .ok_or_else(|| format!("{status:?}"))
    };
    cluster.until("Kueue", world::LIMIT, ready).await.unwrap();
    cluster
}

fn install(cluster: &Cluster, programs: &Binaries) {
    let values = json!({
        "controllerManager": {"manager": {
            "image": {"repository": IMAGE, "tag": "test", "pullPolicy": "Never"},
            "resources": {"requests": {"cpu": "100m"}},
        }},
        "managerConfig": {"controllerManagerConfigYaml": CONFIGURATION},
    });
    let file = binaries().join("kueue-test-values.json");
    fs::write(&file, values.to_string()).unwrap();
    let output = std::process::Command::new(programs.path("helm"))
        .args([
            "install",
            "kueue",
            "--namespace",
            NAMESPACE,
            "--create-namespace",
            "--values",
        ])
        .arg(&file)
        .arg(programs.path("kueue-chart"))
        .env("KUBECONFIG", cluster.kubeconfig())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A queue with one GPU for the namespace; work of a lower priority makes room.
async fn queue_of_one_gpu(world: &World) {
    let name = &world.namespace;
    let object = |kind: &str, metadata: Value, spec: Value| json!({"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": kind, "metadata": metadata, "spec": spec});
    let objects = json!({"apiVersion": "v1", "kind": "List", "items": [
        object("ResourceFlavor", json!({"name": name}), json!({})),
        object("ClusterQueue", json!({"name": name}), json!({
            "namespaceSelector": {},
            "preemption": {"withinClusterQueue": "LowerPriority"},
            "resourceGroups": [{"coveredResources": ["nvidia.com/gpu"], "flavors": [
                {"name": name, "resources": [{"name": "nvidia.com/gpu", "nominalQuota": 1}]}]}],
        })),
        object("LocalQueue", json!({"name": QUEUE, "namespace": name}), json!({"clusterQueue": name})),
    ]});
    let file = binaries().join(format!("{name}-queue.json"));
    fs::write(&file, objects.to_string()).unwrap();
    // Its webhooks answer some moments after it is ready.
    world
        .eventually("a queue", || async { applied(world.cluster, &file) })
        .await;
}

fn applied(cluster: &Cluster, file: &Path) -> Result<(), String> {
    let output = cluster.kubectl().args(["apply", "-f"]).arg(file).output();
    let output = output.map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    output.status.success().then_some(()).ok_or(said)
}

/// One process on the queue's GPU, three cycles.
fn in_queue(name: &str, class: Option<&str>) -> lem_crds::EfficiencyExperiment {
    let mut spec = json!({
        "processes": {"gpusPerProcess": 1},
        "placement": {"queueName": QUEUE},
        "protocol": {"retryBudget": 10},
    });
    if let Some(class) = class {
        spec["runner"] = json!({"podPatch": {"priorityClassName": class}});
    }
    with(name, 1, 3, &spec)
}

#[tokio::test]
#[ignore = "starts a cluster, and LEM_TEST_KUEUE asks for it"]
async fn kueue_admits_one_experiment_after_the_other_and_takes_a_place_back_for_what_matters_more() {
    if std::env::var(ASKED).is_err() {
        println!("SKIPPED: building Kueue takes minutes, {ASKED} asks for it");
        return;
    }
    let world = World::on(cluster().await, "kueue").await;
    queue_of_one_gpu(&world).await;
    let (low, high) = (priority(&world, "low", -10).await, priority(&world, "high", -5).await);

    world.apply(&in_queue("first", Some(&low))).await;
    world
        .until("first", "the first result", |status| status.progress.finished >= 1)
        .await;
    // There is no room for another one of the same rank.
    world.apply(&in_queue("second", Some(&low))).await;
    world.until("second", "the wait for the queue", is_queued).await;
    let workloads = kubectl(world.cluster, &["get", "workloads", "--namespace", &world.namespace]);
    assert_eq!(
        workloads.lines().filter(|line| line.contains(QUEUE)).count(),
        2,
        "{workloads}"
    );

    let kept = recorded(&world, "first").await;
    world.apply(&in_queue("urgent", Some(&high))).await;
    measured_three_times(&world, "urgent").await;
    measured_three_times(&world, "first").await;
    let all = recorded(&world, "first").await;
    assert!(kept.iter().all(|trial| all.contains(trial)), "{kept:?} {all:?}");
    measured_three_times(&world, "second").await;
    world.delete_namespace().await;
}
