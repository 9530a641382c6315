//! Every request of an operator, and every fault that it can meet.
//!
//! The steps of an undisturbed experiment are counted first. Then each step meets each fault: several far-apart steps
//! share one experiment, so that the sweep stays short, and what an experiment did not come to is tried again in another.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;
use lem_test_cluster::{Cluster, NodeOptions, Options};
use serde_json::json;
use tokio::sync::{OnceCell, Semaphore};

use super::{
    experiment,
    fault::{Fault, Script, Step},
    invariants::{self, Asked},
    operator::Operator,
    world::{World, define, image, shared_name},
};

/// A node takes one experiment at a time.
const NODES: usize = 6;
/// Steps of an experiment that share a fault lie so far apart.
const STRIDE: usize = 6;
/// An experiment may come to fewer steps than another one: two states can fall into one look.
const ROUNDS: usize = 3;

const ASKED: Asked = Asked {
    processes: 1,
    trials: 2,
};

static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();
static STEPS: OnceCell<Vec<Step>> = OnceCell::const_new();
static LANES: Semaphore = Semaphore::const_new(NODES);

async fn cluster() -> &'static Cluster {
    let start = || async {
        let options = Options {
            nodes: (0..NODES).map(NodeOptions::with_index).collect(),
            images: vec![image("lem-runner")],
            ..Options::default()
        };
        let cluster = Cluster::start(&format!("{}-requests", shared_name()), options)
            .await
            .unwrap();
        define(&cluster).await;
        cluster
    };
    CLUSTER.get_or_init(start).await
}

/// One experiment under an operator of its own; gives the operator's requests and the steps that met their fault.
async fn experiment(test: &str, planned: Vec<(Step, Fault)>) -> (Vec<Step>, BTreeSet<Step>) {
    let _lane = LANES.acquire().await.unwrap();
    let world = World::on(cluster().await, test).await;
    let operator = Operator::start(world.cluster, &world.namespace, Script::of(planned)).await;
    let asked = json!({"protocol": {"baseline": {"duration": "0s"}, "cooldown": {"duration": "0s"}}});
    world
        .apply(&experiment::with("small", ASKED.processes, ASKED.trials, &asked))
        .await;
    let die = async {
        loop {
            operator.killed().await;
            operator.restart();
        }
    };
    tokio::select! {
        () = invariants::hold(&world, "small", ASKED) => {}
        () = die => {}
    }
    let requests = operator.script.requests();
    // Once more without memory, then with it.
    operator.restart();
    invariants::a_second_look_changes_nothing(&world, "small", &operator).await;
    let happened = operator.script.happened();
    drop(operator);
    world.delete_namespace().await;
    (requests, happened)
}

/// The steps that every undisturbed experiment takes, in order.
async fn steps() -> &'static [Step] {
    let count = || async {
        let runs = join_all((0..NODES).map(|_| experiment("undisturbed", Vec::new()))).await;
        let mut common: Vec<Step> = runs[0].0.clone();
        common.retain(|step| runs.iter().all(|(requests, _)| requests.contains(step)));
        eprintln!("{} steps: {}", common.len(), listed(&common));
        common
    };
    STEPS.get_or_init(count).await
}

fn listed<'a>(steps: impl IntoIterator<Item = &'a Step>) -> String {
    let steps: Vec<String> = steps.into_iter().map(ToString::to_string).collect();
    steps.join(", ")
}

/// Lets each step meet the fault.
async fn every_step_meets(test: &str, fault: Fault) {
    let steps = steps().await;
    let mut left: Vec<Step> = steps.to_vec();
    for _ in 0..ROUNDS {
        let mut shares: BTreeMap<usize, Vec<(Step, Fault)>> = BTreeMap::new();
        for (index, step) in left.iter().enumerate() {
            let shares_of_round = STRIDE.min(left.len());
            shares
                .entry(index % shares_of_round)
                .or_default()
                .push((step.clone(), fault));
        }
        let met = join_all(shares.into_values().map(|planned| experiment(test, planned))).await;
        for (_, happened) in met {
            left.retain(|step| !happened.contains(step));
        }
        if left.is_empty() {
            return;
        }
    }
    panic!("steps that never met {fault:?}: {}", listed(&left));
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_connection_that_breaks_before_any_request_is_sent_costs_nothing() {
    every_step_meets("not_sent", Fault::NotSent).await;
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn an_internal_error_instead_of_any_answer_costs_nothing() {
    every_step_meets("internal_error", Fault::Answered(500)).await;
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_conflict_instead_of_any_answer_costs_nothing() {
    every_step_meets("conflict", Fault::Answered(409)).await;
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_throttled_request_costs_nothing() {
    every_step_meets("throttled", Fault::Answered(429)).await;
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_request_that_took_effect_without_an_answer_does_so_once() {
    every_step_meets("answer_lost", Fault::AnswerLost).await;
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_request_that_arrives_twice_has_its_effect_once() {
    every_step_meets("duplicated", Fault::Duplicated).await;
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_request_that_arrives_late_costs_no_trial() {
    every_step_meets("delayed", Fault::Delayed).await;
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn an_operator_that_dies_before_any_request_is_succeeded_by_one_that_goes_on() {
    every_step_meets("killed_before", Fault::KilledBefore).await;
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn an_operator_that_dies_before_any_answer_is_succeeded_by_one_that_goes_on() {
    every_step_meets("killed_after", Fault::KilledAfter).await;
}
