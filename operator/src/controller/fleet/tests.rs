//! A fleet from its nodes' states to what is done next.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use lem_crds::{EfficiencyExperiment, experiment::Barrier, status::ExperimentPhase};
use serde_json::{Value, json};

use super::{
    decide::{Fleet, FleetDecision, decide},
    look::{NodeState, Outlook, Seen, Why, look},
    nodes::{Candidates, Obstacle, candidates},
    status::{Aggregated, status},
};
use crate::{
    controller::{
        decide::{Change, End, Stage},
        neighbour::Neighbour,
        prepare::{Prepared, prepare},
        view::Observed,
    },
    experiment::tests::fixtures,
};

fn experiment(placement: &Value) -> EfficiencyExperiment {
    experiment_with(placement, &json!({"gpusPerProcess": 0}))
}

fn experiment_with(placement: &Value, processes: &Value) -> EfficiencyExperiment {
    let mut placement = placement.clone();
    placement["strategy"] = json!("EachNode");
    let spec = fixtures::spec(&json!({"placement": placement, "processes": processes}));
    let mut experiment = EfficiencyExperiment::new("fleet", spec);
    experiment.metadata.namespace = Some("lab".to_owned());
    experiment.metadata.uid = Some("experiment-uid".to_owned());
    experiment
}

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn node(name: &str, changes: &Value) -> Node {
    let mut node = json!({
        "metadata": {"name": name, "labels": {"pool": "gpu"}},
        "spec": {},
        "status": {"conditions": [{"type": "Ready", "status": "True"}], "allocatable": {"nvidia.com/gpu": "2"}},
    });
    merge(&mut node, changes);
    serde_json::from_value(node).unwrap()
}

fn merge(into: &mut Value, changes: &Value) {
    for (key, value) in changes.as_object().unwrap() {
        match into.get_mut(key) {
            Some(inner) if inner.is_object() && value.is_object() => merge(inner, value),
            _ => into[key] = value.clone(),
        }
    }
}

/// What a look at a node says on which nothing was begun.
fn first_look(prepared: &Prepared, node: &str, obstacle: Option<&Obstacle>) -> Outlook {
    let this = Neighbour::of(&experiment(&json!({})));
    look(&Seen {
        prepared,
        this: &this,
        node,
        obstacle,
        observed: &Observed::default(),
        over_budget: None,
        now: now(),
    })
}

fn in_state(prepared: &Prepared, node: &str, state: NodeState) -> Outlook {
    Outlook {
        state,
        ..first_look(prepared, node, None)
    }
}

fn failed() -> NodeState {
    NodeState::Failed(Why {
        reason: "exited".to_owned(),
        message: "pod ended: Error".to_owned(),
    })
}

fn decided(prepared: &Prepared, outlooks: &[Outlook], granted: &[&str], now: Timestamp) -> FleetDecision {
    let outlooks: Vec<&Outlook> = outlooks.iter().collect();
    let granted: BTreeSet<String> = granted.iter().map(ToString::to_string).collect();
    decide(&Fleet {
        prepared,
        candidates: &Candidates::default(),
        outlooks: &outlooks,
        over_budget: None,
        granted: &granted,
        created: self::now(),
        now,
    })
}

/// Nodes on which something is begun.
fn begun(decision: &FleetDecision) -> Vec<&str> {
    let changes = decision.decision.changes.iter();
    changes
        .filter_map(|change| match change {
            Change::CreateCohort { node, .. } => node.as_deref(),
            _ => None,
        })
        .collect()
}

#[test]
fn a_node_matches_by_its_labels_its_gpus_and_its_taints() {
    let nodes = [
        node("a", &json!({})),
        node("b", &json!({"metadata": {"labels": {"pool": "cpu"}}})),
        node("c", &json!({"status": {"allocatable": {"nvidia.com/gpu": "1"}}})),
        node(
            "d",
            &json!({"spec": {"taints": [{"key": "dedicated", "value": "team", "effect": "NoSchedule"}]}}),
        ),
        node(
            "e",
            &json!({"spec": {"taints": [{"key": "soft", "effect": "PreferNoSchedule"}]}}),
        ),
    ];
    let find = |placement: &Value| {
        let placement = serde_json::from_value(placement.clone()).unwrap();
        candidates(&nodes, &placement, 2)
    };
    let found = find(&json!({"nodeSelector": {"pool": "gpu"}}));
    let names: Vec<&String> = found.nodes.keys().collect();
    assert_eq!(names, ["a", "e"]);
    assert_eq!((found.tainted, found.taint.as_deref()), (1, Some("dedicated")));
    for toleration in [
        json!({"key": "dedicated", "value": "team"}),
        json!({"key": "dedicated", "operator": "Exists", "effect": "NoSchedule"}),
        json!({"operator": "Exists"}),
    ] {
        let found = find(&json!({"nodeSelector": {"pool": "gpu"}, "tolerations": [toleration]}));
        assert!(found.nodes.contains_key("d") && found.taint.is_none(), "{toleration}");
    }
    let other = json!({"nodeSelector": {"pool": "gpu"}, "tolerations": [{"key": "dedicated", "value": "other"}]});
    assert!(!find(&other).nodes.contains_key("d"));
}

#[test]
fn a_node_that_takes_nothing_now_is_part_of_the_fleet_and_says_why() {
    let nodes = [
        node(
            "cordoned",
            &json!({"spec": {"unschedulable": true,
            "taints": [{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]}}),
        ),
        node(
            "silent",
            &json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown",
            "message": "Kubelet stopped posting node status."}]}}),
        ),
        node("new", &json!({"status": {"conditions": []}})),
    ];
    let found = candidates(&nodes, &serde_json::from_value(json!({})).unwrap(), 0);
    let reason = |name: &str| found.nodes[name].as_ref().unwrap().reason;
    assert_eq!(
        (reason("cordoned"), reason("silent"), reason("new")),
        ("Cordoned", "NotReady", "NotReady")
    );
    let prepared = prepare(&experiment(&json!({}))).unwrap();
    let outlook = first_look(&prepared, "cordoned", found.nodes["cordoned"].as_ref());
    let NodeState::NotMeasured(why) = outlook.state else {
        panic!("{:?}", outlook.state);
    };
    assert!(why.message.contains("kubectl uncordon cordoned"), "{}", why.message);
    assert_eq!(outlook.changes, []);
}

#[test]
fn as_many_nodes_are_begun_as_may_be_measured_at_the_same_time() {
    for (most, measuring, expected) in [
        (json!(2), 0, 2),
        (json!(2), 1, 1),
        (json!(2), 2, 0),
        (json!("25%"), 1, 1),
        (json!(100), 0, 6),
    ] {
        let prepared = prepare(&experiment(&json!({"maxConcurrentNodes": most}))).unwrap();
        let mut outlooks: Vec<Outlook> = (0..6)
            .map(|index| first_look(&prepared, &format!("n{index}"), None))
            .collect();
        for outlook in &mut outlooks[..measuring] {
            outlook.state = NodeState::Measuring;
        }
        let decision = decided(&prepared, &outlooks, &[], now());
        assert_eq!(begun(&decision).len(), expected, "{most} with {measuring}");
        let Stage::Fleet(nodes) = decision.decision.stage else {
            panic!("{:?}", decision.decision.stage);
        };
        assert_eq!(nodes.measuring as usize, measuring + expected);
        assert_eq!((nodes.matching, nodes.waiting), (6, 6 - nodes.measuring));
    }
}

#[test]
fn rights_are_granted_once_for_all_nodes_and_again_only_for_a_new_mailbox() {
    let prepared = prepare(&experiment(&json!({"maxConcurrentNodes": 1}))).unwrap();
    let outlooks = ["a", "b"].map(|name| first_look(&prepared, name, None));
    let first = decided(&prepared, &outlooks, &[], now());
    let [Change::Grant { runners }, Change::CreateCohort { .. }] = first.decision.changes.as_slice() else {
        panic!("{:?}", first.decision.changes);
    };
    assert_eq!(runners.len(), 2, "one mailbox on each node");
    let granted: Vec<&str> = runners.iter().map(String::as_str).collect();
    let again = decided(&prepared, &outlooks, &granted, now());
    assert!(matches!(
        again.decision.changes.as_slice(),
        [Change::CreateCohort { .. }]
    ));
    let joined = ["a", "b", "aa"].map(|name| first_look(&prepared, name, None));
    let joined = [
        in_state(&prepared, "a", NodeState::Measured),
        joined[2].clone(),
        joined[1].clone(),
    ];
    let third = decided(&prepared, &joined, &granted, now());
    assert_eq!(begun(&third), ["aa"]);
    assert!(matches!(&third.decision.changes[0], Change::Grant { runners } if runners.len() == 3));
}

#[test]
fn the_processes_of_a_node_begin_together_and_each_has_a_mailbox() {
    let two = experiment_with(&json!({}), &json!({"count": 2, "gpusPerProcess": 1}));
    let prepared = prepare(&two).unwrap();
    assert_eq!(prepared.points[0].window.barrier, Barrier::Trial);
    let outlooks = ["a", "b"].map(|name| first_look(&prepared, name, None));
    let decision = decided(&prepared, &outlooks, &[], now());
    let Change::Grant { runners } = &decision.decision.changes[0] else {
        panic!("{:?}", decision.decision.changes);
    };
    assert_eq!(runners.len(), 4, "two on each node: {runners:?}");
    let alone = prepare(&experiment(&json!({}))).unwrap();
    assert_eq!(alone.points[0].window.barrier, Barrier::None);
}

#[test]
fn no_further_node_is_begun_when_more_have_failed_than_may() {
    let prepared = prepare(&experiment(&json!({"maxFailedNodes": 1}))).unwrap();
    let mut outlooks = vec![
        in_state(&prepared, "a", failed()),
        in_state(&prepared, "b", NodeState::Measured),
        first_look(&prepared, "c", None),
    ];
    assert_eq!(begun(&decided(&prepared, &outlooks, &[], now())), ["c"]);
    outlooks.push(in_state(&prepared, "d", failed()));
    let decision = decided(&prepared, &outlooks, &[], now());
    assert_eq!(decision.decision.stage, Stage::Over(End::Done));
    let reasons: Vec<(&str, u32, bool)> = decision
        .without_result
        .iter()
        .map(|entry| (entry.reason.as_str(), entry.count, entry.failed))
        .collect();
    assert_eq!(reasons, [("exited", 2, true), ("MaxFailedNodes", 1, false)]);
    assert_eq!(
        (
            decision.nodes.failed,
            decision.nodes.not_measured,
            decision.nodes.waiting
        ),
        (2, 1, 0)
    );
}

#[test]
fn a_fleet_waits_for_its_first_node_as_long_as_the_deadline_and_then_says_that_there_was_none() {
    let experiment = experiment(&json!({"scheduleDeadline": "60s"}));
    let prepared = prepare(&experiment).unwrap();
    let early = decided(&prepared, &[], &[], now());
    assert!(matches!(early.decision.stage, Stage::Fleet(_)));
    assert_eq!(early.decision.stall.as_ref().unwrap().reason, "NoNodes");
    assert_eq!(
        early.decision.wake_at,
        Some(Timestamp::from_second(1_800_000_060).unwrap())
    );
    let late = decided(&prepared, &[], &[], Timestamp::from_second(1_800_000_061).unwrap());
    assert_eq!(late.decision.stage, Stage::Over(End::Done));
    let status = status(&Aggregated {
        prepared: &prepared,
        generation: Some(1),
        before: &lem_crds::EfficiencyExperimentStatus::default(),
        candidates: &Candidates::default(),
        outlooks: &[],
        decided: &late,
        now: now(),
    });
    assert_eq!(status.phase, ExperimentPhase::Failed);
}

#[test]
fn a_suspended_fleet_begins_nothing_and_a_cancelled_one_ends() {
    let mut suspended = experiment(&json!({}));
    suspended.spec.suspend = true;
    let prepared = prepare(&suspended).unwrap();
    let outlooks = ["a", "b"].map(|name| first_look(&prepared, name, None));
    let decision = decided(&prepared, &outlooks, &[], now());
    assert_eq!(
        (begun(&decision).len(), &decision.decision.stage),
        (0, &Stage::Suspended)
    );
    suspended.spec.cancel = true;
    let prepared = prepare(&suspended).unwrap();
    let outlooks = ["a", "b"].map(|name| first_look(&prepared, name, None));
    let decision = decided(&prepared, &outlooks, &[], now());
    assert_eq!(decision.decision.stage, Stage::Over(End::Cancelled));
    assert_eq!(decision.without_result[0].count, 2);
}
