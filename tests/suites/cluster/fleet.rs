//! A fleet: every node measured by itself, compared with the others of its class.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use k8s_openapi::api::{batch::v1::Job, core::v1::Node};
use kube::{
    Api, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use lem_crds::{
    EfficiencyExperiment, EfficiencyExperimentStatus, Runner,
    runner::RunnerPhase,
    status::{Doubt, ExperimentPhase, FleetClass, NodesWithoutResult, OutlierRule, Sign},
};
use lem_fake_nvml::{Board, Waveform};
use lem_test_cluster::{Cluster, NodeOptions, Options};
use serde_json::{Value, json};

use crate::{
    experiment,
    world::{self, World, described, image},
};

const NODES: usize = 3;
const WATTS: f64 = 300.0;
/// Also of another node in the second test: by how much one node draws more.
const MORE: f64 = 1.08;
const WASTEFUL: &str = "node-2";
/// Label by which the nodes with equal boards are told from the last one.
const KIND: &str = "board";
/// How often each fleet is measured; a study sets it, a test needs one.
const REPETITIONS: &str = "LEM_FLEET_REPETITIONS";

/// A cluster whose nodes have one board each, all alike but for the last one.
async fn cluster(name: &str, last: f64) -> &'static Cluster {
    let node = |index: usize| {
        let mut node = NodeOptions::with_index(index);
        node.boards.truncate(1);
        let kind = if node.name == WASTEFUL { "last" } else { "first" };
        node.labels.insert(KIND.to_owned(), kind.to_owned());
        let watts = if node.name == WASTEFUL { last } else { WATTS };
        for board in &mut node.boards {
            *board = Board {
                minor_number: board.minor_number,
                ..Board::new(&board.uuid, 20.0, Waveform::Constant { watts })
            };
        }
        node
    };
    let options = Options {
        nodes: (0..NODES).map(node).collect(),
        images: vec![image("lem-operator"), image("lem-runner")],
        ..Options::default()
    };
    let name = format!("{}-{name}", world::shared_name());
    let cluster: &'static Cluster = Box::leak(Box::new(Cluster::start(&name, options).await.unwrap()));
    world::define(cluster).await;
    world::deploy(cluster);
    world::until_ready(cluster).await;
    cluster
}

/// One process on each node, one node after the other: all nodes are this machine.
fn fleet(name: &str, other: &Value) -> EfficiencyExperiment {
    let mut spec = json!({
        "processes": {"gpusPerProcess": 1},
        "energy": {"gpu": "Required", "cpu": "Disabled"},
        "workload": {"requests": 200},
        "protocol": {"baseline": {"duration": "1s"}, "cooldown": {"duration": "100ms"}},
        "placement": {"strategy": "EachNode", "maxConcurrentNodes": 1},
        "pricing": {"energyPricePerKilowattHour": "0.30"},
    });
    for (key, value) in other.as_object().unwrap() {
        spec[key] = value.clone();
    }
    experiment::with(name, 1, 4, &spec)
}

fn repetitions() -> u32 {
    std::env::var(REPETITIONS)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1)
}

fn class(status: &EfficiencyExperimentStatus) -> &FleetClass {
    let fleet = status.fleet.as_ref().unwrap();
    let [class] = fleet.classes.as_slice() else {
        panic!("{fleet:?}");
    };
    class
}

fn outliers(status: &EfficiencyExperimentStatus) -> Vec<String> {
    class(status)
        .outlier_nodes
        .iter()
        .map(|one| one.figure.node.clone())
        .collect()
}

/// What a study of the same fleet has found.
#[derive(Default)]
struct Study {
    /// How often which nodes were named.
    named: BTreeMap<Vec<String>, u32>,
    /// In words, repetition by repetition.
    figures: String,
    last: EfficiencyExperimentStatus,
}

/// Measures the fleet again and again.
async fn measured(world: &World) -> Study {
    let mut study = Study::default();
    for repetition in 0..repetitions() {
        let name = format!("fleet-{repetition}");
        world.apply(&fleet(&name, &json!({}))).await;
        let status = world.ended(&name).await;
        assert_eq!(status.phase, ExperimentPhase::Complete, "{}", described(&status));
        let nodes = status.fleet.as_ref().unwrap().nodes;
        assert_eq!((nodes.matching, nodes.measured), (NODES as u32, NODES as u32));
        let class = class(&status);
        assert_eq!(class.outlier_rule, OutlierRule::PairwiseRatio);
        let of = |spread: Option<lem_crds::status::Spread>| spread.map(|one| one.maximum / one.minimum - 1.0);
        let _ = write!(
            study.figures,
            "\n{repetition}: named {:?}, spread of J/token {:.4?}, of watts {:.4?}",
            outliers(&status),
            of(class.joules_per_token),
            of(class.watts)
        );
        *study.named.entry(outliers(&status)).or_default() += 1;
        study.last = status;
    }
    study
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn the_node_that_draws_eight_per_cent_more_is_named_with_the_reason_and_the_cost() {
    let cluster = cluster("wasteful", WATTS * MORE).await;
    let world = World::on(cluster, "fleet_wasteful").await;
    let Study { named, figures, last } = measured(&world).await;
    println!("{} repetitions of 4 cycles: {named:?}{figures}", repetitions());
    let hits = named.get(&vec![WASTEFUL.to_owned()]).copied().unwrap_or_default();
    assert!(f64::from(hits) >= 0.9 * f64::from(repetitions()), "{named:?}");
    if let Some(found) = class(&last)
        .outlier_nodes
        .iter()
        .find(|one| one.figure.node == WASTEFUL)
    {
        let watts = found.signs.iter().find(|sign| sign.sign == Sign::Watts).unwrap();
        assert!(watts.conspicuous, "{found:?}");
        assert!(found.excess_cost_per_day.is_some(), "{found:?}");
    }
    two_equal_nodes_have_no_outlier(&world).await;
    println!("{}", the_cost_is_bounded(&world).await);
    a_cordoned_node_is_reported_and_measured_as_soon_as_it_takes_pods(&world).await;
    a_node_that_shares_its_gpus_is_not_measured_or_marked(&world).await;
    world.delete_namespace().await;
}

#[tokio::test]
#[ignore = "a study, which LEM_FLEET_REPETITIONS asks for"]
async fn of_equal_nodes_none_is_named() {
    if std::env::var(REPETITIONS).is_err() {
        println!("SKIPPED: a study of equal nodes takes a cluster of its own, {REPETITIONS} asks for it");
        return;
    }
    let cluster = cluster("equal", WATTS).await;
    let world = World::on(cluster, "fleet_equal").await;
    let Study { named, figures, .. } = measured(&world).await;
    println!("{} repetitions of 4 cycles: {named:?}{figures}", repetitions());
    let quiet = named.get(&Vec::new()).copied().unwrap_or_default();
    assert!(f64::from(quiet) >= 0.9 * f64::from(repetitions()), "{named:?}");
    world.delete_namespace().await;
}

async fn two_equal_nodes_have_no_outlier(world: &World) {
    let equal =
        json!({"placement": {"strategy": "EachNode", "maxConcurrentNodes": 1, "nodeSelector": {KIND: "first"}}});
    world.apply(&fleet("equal", &equal)).await;
    let status = world.ended("equal").await;
    assert_eq!(class(&status).nodes, 2);
    assert_eq!(outliers(&status), [] as [String; 0]);
}

/// Letters of the operator and reports of the pods, and one account for all nodes.
async fn the_cost_is_bounded(world: &World) -> String {
    let before = world.cluster.audit().unwrap().from_now().unwrap();
    let one_window = json!({"protocol": {"cycles": 1, "baseline": {"duration": "1s"}, "cooldown": {"duration": "0s"}},
        "placement": {"strategy": "EachNode", "maxConcurrentNodes": "100%"}});
    world.apply(&fleet("cost", &one_window)).await;
    world.ended("cost").await;
    world
        .eventually("the last report of each node", || async {
            let runners = world.runners("cost").await;
            let phase = |runner: &Runner| runner.status.as_ref().map(|status| status.phase);
            let phases: Vec<_> = runners.iter().map(phase).collect();
            let all = phases.iter().all(|phase| *phase == Some(RunnerPhase::Finished));
            (all && phases.len() == NODES)
                .then_some(())
                .ok_or_else(|| format!("{phases:?}"))
        })
        .await;
    let names: BTreeSet<String> = world.runners("cost").await.iter().map(ResourceExt::name_any).collect();
    let requests = before.requests().unwrap();
    let writes: Vec<_> = requests
        .iter()
        .filter(|request| ["create", "patch", "update", "delete"].contains(&request.verb.as_str()))
        .collect();
    let of = |resource: &str| writes.iter().filter(|request| request.resource == resource).count();
    // A create has no name in the log.
    let ours = writes
        .iter()
        .filter(|request| request.resource.starts_with("runners"))
        .filter(|request| request.verb == "create" || names.contains(&request.name))
        .count();
    let accounts = (of("serviceaccounts"), of("roles"), of("rolebindings"));
    assert!(ours <= 7 * NODES, "{writes:#?}");
    assert!(accounts.1 <= 2, "{accounts:?}");
    format!("writes of {NODES} nodes with one window each: {ours} of mailboxes and records, accounts {accounts:?}")
}

/// Two windows, and little beside them.
fn short() -> Value {
    json!({"cycles": 2, "baseline": {"duration": "1s"}, "cooldown": {"duration": "0s"}})
}

/// The node that something befalls.
const AFFECTED: &str = "node-1";

async fn change_affected(world: &World, change: Value) {
    let nodes = Api::<Node>::all(world.client.clone());
    let patch = Patch::Merge(change);
    nodes.patch(AFFECTED, &PatchParams::default(), &patch).await.unwrap();
}

/// Measures a fleet in which that node, and it alone, has no result, and gives what is said of it.
async fn all_but_the_affected(world: &World, fleet: &EfficiencyExperiment) -> NodesWithoutResult {
    world.apply(fleet).await;
    let status = world.ended(&fleet.name_any()).await;
    assert_eq!(status.phase, ExperimentPhase::Partial, "{}", described(&status));
    let of_fleet = status.fleet.unwrap();
    let [entry] = of_fleet.without_result.as_slice() else {
        panic!("{of_fleet:?}");
    };
    assert_eq!(entry.nodes, [AFFECTED]);
    entry.clone()
}

async fn a_cordoned_node_is_reported_and_measured_as_soon_as_it_takes_pods(world: &World) {
    let cordon = |on: bool| change_affected(world, json!({"spec": {"unschedulable": on}}));
    cordon(true).await;
    let short = json!({"protocol": short()});
    let entry = all_but_the_affected(world, &fleet("cordoned", &short)).await;
    assert_eq!((entry.reason.as_str(), entry.failed), ("Cordoned", false));
    assert!(entry.message.contains("kubectl uncordon node-1"), "{entry:?}");

    world.apply(&fleet("uncordoned", &short)).await;
    world
        .until("uncordoned", "the first node under way", |status| {
            status.fleet.as_ref().is_some_and(|fleet| fleet.nodes.measuring > 0)
        })
        .await;
    cordon(false).await;
    let status = world.ended("uncordoned").await;
    assert_eq!(status.phase, ExperimentPhase::Complete, "{}", described(&status));
    let jobs: Api<Job> = world.api();
    let all = jobs.list(&ListParams::default()).await.unwrap();
    let of_node: BTreeSet<String> = world
        .runners("uncordoned")
        .await
        .iter()
        .filter_map(|runner| runner.spec.node.clone())
        .collect();
    assert_eq!(of_node.len(), NODES, "{} Jobs", all.items.len());
}

async fn a_node_that_shares_its_gpus_is_not_measured_or_marked(world: &World) {
    let share = |strategy: &str| {
        let labels = json!({"nvidia.com/gpu.sharing-strategy": strategy});
        change_affected(world, json!({"metadata": {"labels": labels}}))
    };
    let of = |name: &str, shared_gpus: &str| {
        let placement = json!({"strategy": "EachNode", "maxConcurrentNodes": 1, "sharedGpus": shared_gpus,
            "nodeSelector": {KIND: "first"}});
        fleet(name, &json!({"protocol": short(), "placement": placement}))
    };
    share("time-slicing").await;
    let entry = all_but_the_affected(world, &of("refused", "Refuse")).await;
    assert_eq!((entry.reason.as_str(), entry.failed), ("SharedGpu", false));

    world.apply(&of("marked", "Mark")).await;
    let status = world.ended("marked").await;
    share("none").await;
    assert_eq!(status.phase, ExperimentPhase::Complete, "{}", described(&status));
    let [point] = status.points.as_slice() else {
        panic!("{:?}", status.points);
    };
    let doubts: Vec<_> = point
        .reasons
        .iter()
        .filter(|one| one.doubt == Doubt::ForeignProcesses)
        .collect();
    assert!(
        !doubts.is_empty() && doubts.iter().all(|one| one.message.contains("time-slicing")),
        "{:?}",
        point.reasons
    );
    let told: BTreeSet<(String, Option<String>)> = world
        .runners("marked")
        .await
        .into_iter()
        .filter_map(|runner| Some((runner.spec.node?, runner.status?.environment?.gpu_sharing)))
        .collect();
    let expected = [("node-0", None), ("node-1", Some("time-slicing"))];
    assert_eq!(
        told,
        expected
            .map(|(node, how)| (node.to_owned(), how.map(ToOwned::to_owned)))
            .into()
    );
}
