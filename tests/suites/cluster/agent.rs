//! The node energy agent on real kubelets, against counters that the test moves: the nodes share this machine's files.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams},
};
use lem_crds::{
    agent::{ENERGY_METER, MEASUREMENT_SLOT},
    metrics::Unavailable,
    runner::{Domain, EnergyReading, Source},
    status::ExperimentPhase,
};
use lem_runner::energy::Mark;
use lem_test_cluster::{Cluster, Part};
use lem_tests::powercap::{Powercap, Truth};
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use crate::{
    experiment::with,
    world::{LIMIT, SYSTEM, World, condition, described, kubectl, repository, shared_name, start, until_ready},
};

/// Zones of each node: folder, name, counter, W.
const ZONES: [(&str, &str, f64); 2] = [
    ("intel-rapl/intel-rapl:0", "package-0", 37.0),
    ("intel-rapl/intel-rapl:0/intel-rapl:0:0", "dram", 4.0),
];
const COUNTERS: [&str; 2] = ["package-0", "package-0/dram"];

/// A cluster with the agent on every node, and the counters that it reads.
struct Agents {
    cluster: Cluster,
    folder: TempDir,
    counters: Mutex<BTreeMap<String, Powercap>>,
    /// Held by a test that breaks a node, and by one that needs them all.
    all_nodes: tokio::sync::Mutex<()>,
}

static AGENTS: OnceCell<Agents> = OnceCell::const_new();

impl Agents {
    async fn get() -> &'static Self {
        AGENTS.get_or_init(Self::install).await
    }

    async fn install() -> Self {
        let cluster = start(&format!("{}-agent", shared_name())).await;
        let agents = Self {
            folder: TempDir::new().unwrap(),
            counters: Mutex::default(),
            all_nodes: tokio::sync::Mutex::default(),
            cluster,
        };
        for node in agents.cluster.nodes() {
            agents.move_counters(&node.name);
        }
        let path = agents.folder.path().join("agent.yaml");
        fs::write(&path, agents.manifest()).unwrap();
        kubectl(&agents.cluster, &["apply", "-f", path.to_str().unwrap()]);
        let operator = [
            "-n",
            SYSTEM,
            "set",
            "env",
            "deployment/lem-operator",
            "LEM_NODE_AGENT=true",
        ];
        kubectl(&agents.cluster, &operator);
        let rollout = [
            "-n",
            SYSTEM,
            "rollout",
            "status",
            "deployment/lem-operator",
            "--timeout=240s",
        ];
        kubectl(&agents.cluster, &rollout);
        until_ready(&agents.cluster).await;
        for node in agents.cluster.nodes() {
            agents.until_offered(&node.name, "1", "64").await;
        }
        agents
    }

    /// The example, with each node's own part of the test's folder for the kernel's tree.
    fn manifest(&self) -> String {
        let mut documents = example();
        let pod = &mut documents[1]["spec"]["template"]["spec"];
        let volume = pod["volumes"].as_array_mut().unwrap().iter_mut();
        for powercap in volume.filter(|volume| volume["name"] == "powercap") {
            assert_eq!(powercap["hostPath"]["path"], "/sys/devices/virtual/powercap");
            powercap["hostPath"]["path"] = json!(self.folder.path());
        }
        let mounts = pod["containers"][0]["volumeMounts"].as_array_mut().unwrap().iter_mut();
        for powercap in mounts.filter(|mount| mount["name"] == "powercap") {
            powercap["subPathExpr"] = json!("$(NODE_NAME)");
        }
        let documents = documents
            .iter()
            .map(|document| serde_yaml::to_string(document).unwrap());
        documents.collect::<Vec<_>>().join("---\n")
    }

    fn powercap_of(&self, node: &str) -> PathBuf {
        self.folder.path().join(node)
    }

    fn move_counters(&self, node: &str) {
        let moving = Powercap::new(&self.powercap_of(node), &ZONES);
        self.counters().insert(node.to_owned(), moving);
    }

    fn counters(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Powercap>> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a counter counted while a reading was taken.
    fn truth(&self, reading: &EnergyReading) -> Truth {
        // All nodes are this machine, so they share its clocks.
        let now = Mark::now();
        let boot = now.wall_seconds - now.monotonic_seconds;
        let start = reading.start.as_ref().unwrap().at.as_duration().as_secs_f64() - boot;
        let zone = COUNTERS.iter().position(|id| *id == reading.counter.id).unwrap();
        self.counters()[&reading.counter.node].truth(zone, start, start + reading.duration_seconds)
    }

    /// Waits until a node offers so many slots and meters.
    async fn until_offered(&self, node: &str, slots: &str, meters: &str) {
        let nodes = Api::<Node>::all(self.cluster.client().await.unwrap());
        let offers = || async {
            let found = nodes.get(node).await.map_err(|error| error.to_string())?;
            let allocatable = found.status.and_then(|status| status.allocatable).unwrap_or_default();
            let of = |resource: &str| allocatable.get(resource).map_or("none", |quantity| quantity.0.as_str());
            let offered = (of(MEASUREMENT_SLOT), of(ENERGY_METER));
            (offered == (slots, meters))
                .then_some(())
                .ok_or_else(|| format!("{node} offers {offered:?}"))
        };
        let what = format!("{slots} slots and {meters} meters of {node}");
        self.cluster.until(&what, LIMIT, offers).await.unwrap();
    }
}

fn example() -> Vec<Value> {
    let text = fs::read_to_string(repository().join("examples/cluster/agent.yaml")).unwrap();
    serde_yaml::Deserializer::from_str(&text)
        .map(|document| Value::deserialize(document).unwrap())
        .collect()
}

fn on_node(node: &str, other: &Value) -> Value {
    let mut spec = json!({"energy": {"cpu": "Rapl"}, "placement": {"nodeSelector": {"kubernetes.io/hostname": node}}});
    for (field, value) in other.as_object().unwrap() {
        spec[field] = value.clone();
    }
    spec
}

/// CPU and DRAM readings of an experiment's windows.
async fn readings(world: &World, experiment: &str) -> Vec<EnergyReading> {
    let runners = world.runners(experiment).await.into_iter();
    let windows = runners.flat_map(|runner| runner.status.unwrap().windows);
    let readings = windows.flat_map(|window| window.energy);
    readings
        .filter(|reading| reading.counter.domain != Domain::Gpu)
        .collect()
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_restricted_runner_reads_through_the_agent_what_the_counters_counted() {
    let agents = Agents::get().await;
    let world = World::on(&agents.cluster, "agent_energy").await;
    let _whole = agents.all_nodes.lock().await;
    let other = json!({"energy": {"cpu": "Rapl"}, "workload": {"requests": 2000}});
    world.apply(&with("metered", 3, 2, &other)).await;
    let status = world.ended("metered").await;
    assert_eq!(status.phase, ExperimentPhase::Complete, "{}", described(&status));

    let readings = readings(&world, "metered").await;
    assert_eq!(
        readings.len(),
        3 * 2 * COUNTERS.len(),
        "each process, cycle and counter"
    );
    let (mut truths, mut bars) = ([0.0; 2], [0.0; 2]);
    for reading in &readings {
        assert_eq!(reading.source, Source::Rapl);
        let truth = agents.truth(reading);
        let joules = reading.joules.unwrap();
        println!(
            "{} {} {:.2} s: {joules:.3} ± {:.3} J, truth {:.3} J",
            reading.counter.node,
            reading.counter.id,
            reading.duration_seconds,
            reading.uncertainty_joules,
            truth.middle()
        );
        assert!(
            truth.error(joules) <= reading.uncertainty_joules,
            "{reading:?}, truth {truth:?}"
        );
        let domain = usize::from(reading.counter.domain == Domain::Dram);
        truths[domain] += truth.middle();
        bars[domain] += reading.uncertainty_joules;
    }
    let metrics = &status.points[0].metrics;
    for (domain, metric) in [(0, &metrics.cpu_energy_j), (1, &metrics.dram_energy_j)] {
        let metric = metric.as_ref().unwrap();
        let in_status = metric.mean * f64::from(metric.count);
        println!(
            "{}: in status {in_status:.3} J, truth {:.3} J: error {:+.3} %, stated {:.3} %",
            ["cpu", "dram"][domain],
            truths[domain],
            100.0 * (in_status / truths[domain] - 1.0),
            100.0 * bars[domain] / truths[domain]
        );
        assert!((in_status - truths[domain]).abs() <= bars[domain] + 0.001 * truths[domain]);
    }
    world.delete_namespace().await;
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn without_the_agent_cpu_energy_is_null_with_its_reason() {
    let world = World::of("agent_absent").await;
    world
        .apply(&with("unmetered", 1, 1, &json!({"energy": {"cpu": "Rapl"}})))
        .await;
    let status = world.ended("unmetered").await;
    assert_eq!(status.phase, ExperimentPhase::Complete, "{}", described(&status));
    let point = &status.points[0];
    assert!(point.metrics.cpu_energy_j.is_none());
    let why = point.not_available.get("cpuEnergyJ");
    assert!(
        matches!(why, Some(Unavailable::NoCounter | Unavailable::PermissionDenied)),
        "{why:?}"
    );
    world.delete_namespace().await;
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn experiments_of_two_namespaces_take_a_nodes_slot_in_turn_and_the_one_that_waits_says_so() {
    let agents = Agents::get().await;
    let first = World::on(&agents.cluster, "agent_slot_first").await;
    let second = World::on(&agents.cluster, "agent_slot_second").await;
    first.apply(&with("first", 1, 8, &on_node("node-0", &json!({})))).await;
    first
        .until("first", "a placed pod", |status| {
            status.phase == ExperimentPhase::Measuring
        })
        .await;
    second
        .apply(&with("second", 1, 1, &on_node("node-0", &json!({}))))
        .await;
    let status = second
        .until("second", "a wait for the slot", |status| {
            condition(status, "Stalled").is_some_and(|stalled| stalled.reason == "MeasurementSlotTaken")
        })
        .await;
    let message = &condition(&status, "Stalled").unwrap().message;
    assert!(message.contains("Insufficient lem.dev/measurement-slot"), "{message}");
    let mut windows = Vec::new();
    for (world, name) in [(&first, "first"), (&second, "second")] {
        let status = world.ended(name).await;
        assert_eq!(status.phase, ExperimentPhase::Complete, "{}", described(&status));
        for runner in world.runners(name).await {
            let measured = runner.status.unwrap().windows.into_iter();
            windows.extend(measured.map(|window| (window.started_at, window.ended_at, window.node, name)));
        }
    }
    windows.sort();
    assert!(windows.iter().all(|(_, _, node, _)| node == "node-0"), "{windows:?}");
    assert!(windows.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{windows:?}");
    first.delete_namespace().await;
    second.delete_namespace().await;
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn an_agent_that_is_replaced_in_a_window_never_gives_a_wrong_number() {
    let agents = Agents::get().await;
    let world = World::on(&agents.cluster, "agent_replaced").await;
    let long = on_node("node-1", &json!({"workload": {"requests": 4000}}));
    world.apply(&with("replaced", 1, 2, &long)).await;
    world
        .eventually("a window", || async {
            // A runner reports nothing from within a window, but all know when it begins.
            let runners = world.runners("replaced").await;
            let starts = runners
                .iter()
                .filter_map(|runner| runner.spec.assignment.as_ref()?.start_at);
            let starts: Vec<Timestamp> = starts.collect();
            let now = Timestamp::now();
            (starts.iter().any(|start| *start < now))
                .then_some(())
                .ok_or_else(|| format!("{starts:?}"))
        })
        .await;
    let pods = Api::<Pod>::namespaced(world.client.clone(), "lem-agent");
    let on_node = ListParams::default().fields("spec.nodeName=node-1");
    let agent = pods.list(&on_node).await.unwrap().items.remove(0);
    pods.delete(&agent.name_any(), &DeleteParams::default().grace_period(0))
        .await
        .unwrap();
    let status = world.ended("replaced").await;
    assert_eq!(status.phase, ExperimentPhase::Complete, "{}", described(&status));
    let readings = readings(&world, "replaced").await;
    let mut lost = 0;
    for reading in &readings {
        if let Some(joules) = reading.joules {
            let truth = agents.truth(reading);
            assert!(
                truth.error(joules) <= reading.uncertainty_joules,
                "{reading:?}, truth {truth:?}"
            );
        } else {
            lost += 1;
            assert!(
                reading.unavailable.is_some() && !reading.message.is_empty(),
                "{reading:?}"
            );
        }
    }
    println!("{lost} of {} readings were lost with the agent", readings.len());
    assert!(
        lost >= COUNTERS.len(),
        "the window in which it was replaced has no energy"
    );
    assert!(lost < readings.len(), "the next agent is read again");
    agents.until_offered("node-1", "1", "64").await;
    world.delete_namespace().await;
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_kubelet_that_starts_again_and_counters_that_come_back_are_offered_again() {
    let agents = Agents::get().await;
    let world = World::on(&agents.cluster, "agent_kubelet").await;
    let _broken = agents.all_nodes.lock().await;
    let node = "node-2";
    // A counter that is there and cannot be read.
    agents.counters().remove(node);
    fs::remove_file(agents.powercap_of(node).join(ZONES[0].0).join("energy_uj")).unwrap();
    agents.until_offered(node, "0", "0").await;
    agents.move_counters(node);
    agents.until_offered(node, "1", "64").await;

    let kubelet = Part::Kubelet(node.to_owned());
    agents.cluster.kill(&kubelet).unwrap();
    agents.cluster.start_part(&kubelet).await.unwrap();
    world.apply(&with("afterwards", 1, 1, &on_node(node, &json!({})))).await;
    let status = world.ended("afterwards").await;
    assert_eq!(status.phase, ExperimentPhase::Complete, "{}", described(&status));
    for reading in readings(&world, "afterwards").await {
        assert!(agents.truth(&reading).error(reading.joules.unwrap()) <= reading.uncertainty_joules);
    }
    world.delete_namespace().await;
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn the_agent_needs_a_namespace_of_its_own_for_its_paths_of_the_node_and_nothing_else() {
    let agents = Agents::get().await;
    // The namespaces of runners are restricted.
    let world = World::on(&agents.cluster, "agent_security").await;
    let documents = example();
    let labels = &documents[0]["metadata"]["labels"];
    assert_eq!(labels["pod-security.kubernetes.io/enforce"], "privileged");
    let mut pod = documents[1]["spec"]["template"].clone();
    pod["apiVersion"] = json!("v1");
    pod["kind"] = json!("Pod");
    pod["metadata"] = json!({"name": "agent", "namespace": world.namespace});
    let pods: Api<Pod> = world.api();
    let refused = pods
        .create(&kube::api::PostParams::default(), &serde_json::from_value(pod).unwrap())
        .await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("violates PodSecurity"), "{refused}");
    assert!(refused.contains("restricted volume types"), "{refused}");
    for other in [
        "privileged (",
        "host namespaces",
        "allowPrivilegeEscalation",
        "unrestricted capabilities",
        "seccomp",
    ] {
        assert!(!refused.contains(other), "{other}: {refused}");
    }
    world.delete_namespace().await;
}
