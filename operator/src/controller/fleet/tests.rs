//! A fleet from its nodes' states to what is done next.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Node, Pod},
};
use kube::ResourceExt;
use lem_crds::{
    EfficiencyExperiment, EfficiencyExperimentStatus, Runner, RunnerStatus, SCHEMA_VERSION,
    experiment::Barrier,
    plan::TrialIdentity,
    runner::RunnerPhase,
    status::{
        ExperimentPhase, FleetStatus, NodeFigure, NodeSign, OutlierNode, ProcessFailure, Sign, TrialFailure, Verdict,
    },
};
use serde_json::{Value, json};

use super::{
    decide::{Fleet, FleetDecision, decide},
    look::{NodeState, Outlook, Seen, Why, look},
    nodes::{Candidates, GONE, Obstacle, candidates, departed, digest},
    status::{Aggregated, MOST, status},
};
use crate::{
    controller::{
        build::{self, CohortPlan, Defaults, fleet_access, runner_name},
        decide::{Change, End, Stage},
        neighbour::Neighbour,
        prepare::{Prepared, prepare},
        stall::Cause,
        view::{JOB_NAME_LABEL, Observed, Unexplained, UnexplainedKind},
    },
    experiment::{MAXIMUM_POINTS, NodeResult, Record, tests::fixtures},
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
    look_at(prepared, node, obstacle, &Observed::default())
}

fn look_at(prepared: &Prepared, node: &str, obstacle: Option<&Obstacle>, observed: &Observed) -> Outlook {
    let this = Neighbour::of(&experiment(&json!({})));
    look(&Seen {
        prepared,
        this: &this,
        node,
        obstacle,
        observed,
        unexplained: None,
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

/// The mailbox and the Job of the first process of a node, as they are made.
fn made(prepared: &Prepared, node: &str) -> (Runner, Job) {
    let outlook = first_look(prepared, node, None);
    let NodeState::Waiting(changes) = &outlook.state else {
        panic!("{:?}", outlook.state);
    };
    let [Change::CreateCohort { cohort, assignment, .. }] = changes.as_slice() else {
        panic!("{changes:?}");
    };
    let of_plan = prepared.cohorts.iter().find(|one| one.key == *cohort).unwrap();
    let objects = build::cohort(&CohortPlan {
        owner: &prepared.owner,
        spec: &prepared.spec,
        pod_patch: &prepared.pod_patch,
        defaults: &Defaults {
            runner_image: "lem-runner".to_owned(),
            runner_image_gpu: None,
            node_agent: false,
        },
        key: cohort,
        incarnation: 0,
        node: Some(node),
        gpu_sharing: None,
        load: &of_plan.load,
        trials: 1,
        assignment,
        upcoming: &[],
    });
    let mut runners = objects.runners;
    let mut job = objects.job;
    job.metadata.creation_timestamp = serde_json::from_value(json!(now())).unwrap();
    (runners.remove(0), job)
}

/// The mailbox of a process that has loaded, measured so many cycles and ended, or was ended.
fn ended_after(prepared: &Prepared, node: &str, cycles: u32) -> Observed {
    let (mut runner, _) = made(prepared, node);
    runner.spec.finish = true;
    let point = &prepared.points[0];
    let mut status = RunnerStatus {
        schema_version: SCHEMA_VERSION,
        pod_uid: "pod".to_owned(),
        phase: RunnerPhase::Idle,
        ..RunnerStatus::default()
    };
    for cycle in 0..cycles {
        let identity = TrialIdentity {
            plan_sha256: point.plan_sha256.clone(),
            point: point.index,
            cycle,
            attempt: 0,
        };
        let begin = f64::from(cycle) * 20.0;
        let process = fixtures::process(0, &identity, begin, begin + 10.0);
        status.environment = Some(process.environment);
        status.windows.extend(process.window);
    }
    runner.status = Some(status);
    Observed {
        runners: vec![runner],
        ..Observed::default()
    }
}

/// The mailbox of a process that was given up without a window, for this reason.
fn given_up(prepared: &Prepared, node: &str, came_to_run: bool, category: &str, message: &str) -> Observed {
    let (mut runner, _) = made(prepared, node);
    runner.spec.finish = true;
    runner.spec.failures = vec![TrialFailure {
        trial: runner.spec.assignment.as_ref().unwrap().trial.clone(),
        processes: vec![ProcessFailure {
            process: 0,
            category: category.to_owned(),
            message: message.to_owned(),
        }],
    }];
    runner.status = came_to_run.then(|| RunnerStatus {
        pod_uid: "pod".to_owned(),
        phase: RunnerPhase::Loading,
        ..RunnerStatus::default()
    });
    Observed {
        runners: vec![runner],
        ..Observed::default()
    }
}

/// Mailbox, Job and a pod that the scheduler has refused for so many seconds, for want of a GPU.
fn without_room(prepared: &Prepared, node: &str, seconds: i64) -> Observed {
    let words = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.";
    refused(prepared, node, seconds, words)
}

/// Mailbox, Job and a pod that the scheduler has refused for so many seconds, in these words.
fn refused(prepared: &Prepared, node: &str, seconds: i64, words: &str) -> Observed {
    let (runner, job) = made(prepared, node);
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "pod", "uid": "pod", "creationTimestamp": now() - jiff::SignedDuration::from_secs(seconds),
            "labels": {JOB_NAME_LABEL: job.name_any(), "batch.kubernetes.io/job-completion-index": "0"}},
        "spec": {"containers": []},
        "status": {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False",
            "reason": "Unschedulable", "message": words}]},
    }))
    .unwrap();
    Observed {
        runners: vec![runner],
        jobs: vec![job],
        pods: vec![pod],
        ..Observed::default()
    }
}

fn cordoned(name: &str) -> Obstacle {
    Obstacle {
        reason: "Cordoned",
        message: format!("{name} is cordoned"),
    }
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

fn with_labels(name: &str, labels: &Value) -> Node {
    node(name, &json!({"metadata": {"labels": labels}}))
}

#[test]
fn a_node_that_offers_one_gpu_to_several_pods_is_not_measured_unless_it_may_be_and_is_marked() {
    let nodes = [
        with_labels(
            "whole",
            &json!({"nvidia.com/gpu.sharing-strategy": "none", "nvidia.com/gpu.replicas": "1"}),
        ),
        with_labels("in-turns", &json!({"nvidia.com/gpu.sharing-strategy": "time-slicing"})),
        with_labels("at-once", &json!({"nvidia.com/gpu.sharing-strategy": "mps"})),
        with_labels("replicated", &json!({"nvidia.com/gpu.replicas": "4"})),
        with_labels(
            "sliced",
            &json!({"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3-MIG-1g.10gb"}),
        ),
        node(
            "sliced-apart",
            &json!({"status": {"allocatable": {"nvidia.com/gpu": "0", "nvidia.com/mig-1g.10gb": "7"}}}),
        ),
    ];
    let find = |placement: &Value, gpus| {
        let placement = serde_json::from_value(placement.clone()).unwrap();
        let found = candidates(&nodes, &placement, gpus);
        let refused = found.nodes.iter().filter(|(_, obstacle)| obstacle.is_some());
        refused
            .map(|(name, obstacle)| format!("{name} {}", obstacle.as_ref().unwrap().reason))
            .collect::<Vec<_>>()
    };
    let all = ["at-once", "in-turns", "replicated", "sliced", "sliced-apart"];
    assert_eq!(find(&json!({}), 1), all.map(|name| format!("{name} SharedGpu")));
    assert_eq!(
        find(&json!({"sharedGpus": "Mark"}), 1),
        ["sliced-apart SharedGpu"],
        "what asks for a GPU does not fit there"
    );
    assert_eq!(find(&json!({}), 0), [""; 0], "processes on CPUs");
    let claims = json!([{"name": "gpu", "resourceClaimTemplateName": "one"}]);
    assert_eq!(find(&json!({"resourceClaims": claims}), 0).len(), 4);
}

#[test]
fn a_node_whose_gpus_are_gone_is_told_of_and_one_that_never_had_them_is_not() {
    let nodes = [
        node("sound", &json!({"status": {"capacity": {"nvidia.com/gpu": "2"}}})),
        node(
            "sick",
            &json!({"status": {"capacity": {"nvidia.com/gpu": "2"}, "allocatable": {"nvidia.com/gpu": "1"}}}),
        ),
        node(
            "without-plugin",
            &json!({"metadata": {"labels": {"nvidia.com/gpu.present": "true"}},
                "status": {"allocatable": {"nvidia.com/gpu": "0"}}}),
        ),
        node(
            "small",
            &json!({"status": {"capacity": {"nvidia.com/gpu": "1"}, "allocatable": {"nvidia.com/gpu": "1"}}}),
        ),
        node("cpu", &json!({"status": {"allocatable": {"nvidia.com/gpu": "0"}}})),
    ];
    let found = candidates(&nodes, &serde_json::from_value(json!({})).unwrap(), 2).nodes;
    let told = |name: &str| found[name].as_ref().map(|obstacle| obstacle.reason);
    assert_eq!(
        (told("sound"), told("sick"), told("without-plugin")),
        (None, Some("GpuMissing"), Some("GpuMissing"))
    );
    assert_eq!(found.len(), 3, "{found:?}");
    let digests = [&nodes[0], &nodes[1]].map(digest);
    assert_ne!(digests[0], digests[1], "a GPU that fails calls for another look");
}

#[test]
fn a_node_that_leaves_before_it_was_begun_is_told_of_also_by_an_operator_that_has_begun_anew() {
    let of = |names: &[&str]| {
        let nodes: Vec<Node> = names.iter().map(|name| node(name, &json!({}))).collect();
        candidates(&nodes, &serde_json::from_value(json!({})).unwrap(), 0)
    };
    let mut matched = BTreeSet::new();
    assert_eq!(departed(&mut matched, &of(&["a", "b"]), None), [""; 0]);
    assert_eq!(departed(&mut matched, &of(&["a", "c"]), None), ["b"], "c has joined");
    let prepared = prepare(&experiment(&json!({}))).unwrap();
    let gone = Obstacle {
        reason: GONE,
        message: "the node has left the cluster".to_owned(),
    };
    let outlooks = [
        first_look(&prepared, "b", Some(&gone)),
        in_state(&prepared, "a", NodeState::Measured),
    ];
    let decision = decided(&prepared, &outlooks, &[], now());
    assert_eq!((decision.nodes.matching, decision.nodes.not_measured), (2, 1));
    let before = FleetStatus {
        without_result: decision.without_result.clone(),
        ..FleetStatus::default()
    };
    assert_eq!(departed(&mut BTreeSet::new(), &of(&["a"]), Some(&before)), ["b"]);
    assert_eq!(
        departed(&mut matched, &of(&["a", "b"]), Some(&before)),
        ["c"],
        "b is back"
    );
    let tainted = [node(
        "c",
        &json!({"spec": {"taints": [{"key": "dedicated", "effect": "NoSchedule"}]}}),
    )];
    let tainted = candidates(&tainted, &serde_json::from_value(json!({})).unwrap(), 0);
    assert!(
        !departed(&mut matched, &tainted, None).contains(&"c".to_owned()),
        "it is there"
    );
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

#[test]
fn a_node_that_was_drained_after_a_window_counts_as_failed_until_it_is_back_and_then_goes_on() {
    let prepared = prepare(&experiment(&json!({"maxConcurrentNodes": 1}))).unwrap();
    let observed = ended_after(&prepared, "a", 1);
    let away = look_at(&prepared, "a", Some(&cordoned("a")), &observed);
    let NodeState::Away(why) = &away.state else {
        panic!("{:?}", away.state);
    };
    assert_eq!(why.reason, "Cordoned");
    assert!(!away.is_settled(), "it is looked at again");
    let decision = decided(&prepared, std::slice::from_ref(&away), &[], now());
    assert_eq!((decision.nodes.failed, decision.without_result[0].failed), (1, true));

    let back = look_at(&prepared, "a", None, &observed);
    assert!(matches!(back.state, NodeState::Between { busy: false, .. }));
    let decision = decided(&prepared, &[first_look(&prepared, "b", None), back.clone()], &[], now());
    assert_eq!(begun(&decision), ["a"], "what is half done comes first");
    assert_eq!((decision.nodes.measuring, decision.nodes.failed), (1, 0));
    let other = in_state(&prepared, "c", NodeState::Measuring);
    let decision = decided(&prepared, &[other, back], &[], now());
    assert_eq!(begun(&decision), [] as [&str; 0], "it waits for its place");
    assert_eq!((decision.nodes.waiting, decision.nodes.measuring), (1, 1));
}

#[test]
fn a_node_that_goes_on_does_so_when_too_many_others_have_failed() {
    let prepared = prepare(&experiment(&json!({"maxFailedNodes": 0}))).unwrap();
    let observed = ended_after(&prepared, "a", 1);
    let outlooks = [
        look_at(&prepared, "a", None, &observed),
        first_look(&prepared, "b", None),
        in_state(&prepared, "c", failed()),
    ];
    let decision = decided(&prepared, &outlooks, &[], now());
    assert_eq!(begun(&decision), ["a"]);
    assert!(matches!(decision.decision.stage, Stage::Fleet(_)));
}

#[test]
fn a_process_that_crashed_while_it_loaded_has_failed_and_one_that_found_no_room_was_not_placed() {
    let prepared = prepare(&experiment(&json!({}))).unwrap();
    let state = |came_to_run: bool, category: &str, message: &str| {
        let observed = given_up(&prepared, "a", came_to_run, category, message);
        match look_at(&prepared, "a", None, &observed).state {
            NodeState::Failed(why) => (true, why.reason),
            NodeState::NotMeasured(why) => (false, why.reason),
            other => panic!("{other:?}"),
        }
    };
    let deadline = |what: &str| format!("did not {what} within its deadline");
    let of_reason = |failed: bool, reason: &str| (failed, reason.to_owned());
    assert_eq!(
        state(true, "exited", "pod p ended: OOMKilled, exit code 137"),
        of_reason(true, "exited")
    );
    assert_eq!(
        state(false, "exited", "pod p ended: OOMKilled, exit code 137"),
        of_reason(true, "exited"),
        "before its first word"
    );
    assert_eq!(
        state(true, "deadline", &deadline("load the model")),
        of_reason(true, "deadline")
    );
    assert_eq!(
        state(false, "deadline", &deadline("start its pod: no node has the GPUs free")),
        of_reason(false, "NotPlaced")
    );
    assert_eq!(
        state(true, "deadline", &deadline("start its pod")),
        of_reason(true, "deadline"),
        "a pod before it ran"
    );
}

#[test]
fn a_node_without_room_gives_its_place_to_one_that_was_not_begun_and_comes_again_after_it() {
    let prepared = prepare(&experiment(&json!({"maxConcurrentNodes": 1}))).unwrap();
    let soon = look_at(&prepared, "a", None, &without_room(&prepared, "a", 30));
    assert_eq!((soon.gives_way.len(), soon.state == NodeState::Measuring), (0, true));
    assert_eq!(soon.wake_at, Some(now() + jiff::SignedDuration::from_secs(90)));
    let observed = without_room(&prepared, "a", 120);
    let busy = look_at(&prepared, "a", None, &observed);
    let fresh = first_look(&prepared, "b", None);
    let decision = decided(&prepared, &[busy.clone(), fresh.clone()], &[], now());
    assert_eq!(begun(&decision), [] as [&str; 0], "its place is not free yet");
    let job = observed.jobs[0].name_any();
    let deleted = |change: &Change| matches!(change, Change::DeleteJob { name } if *name == job);
    assert!(
        decision.decision.changes.iter().any(deleted),
        "{:?}",
        decision.decision.changes
    );
    let alone = decided(&prepared, &[busy], &[], now());
    assert_eq!(alone.decision.changes, [], "nobody wants its place");

    let mut closed = observed.runners.clone();
    closed[0].spec.finish = true;
    let closed = Observed {
        runners: closed,
        ..Observed::default()
    };
    let again = look_at(&prepared, "a", None, &closed);
    assert!(matches!(again.state, NodeState::Between { busy: true, .. }));
    assert_eq!(begun(&decided(&prepared, &[again.clone(), fresh], &[], now())), ["b"]);
    assert_eq!(begun(&decided(&prepared, &[again], &[], now())), ["a"]);
}

#[test]
fn a_node_keeps_its_place_when_what_it_lacks_is_missing_everywhere() {
    let prepared = prepare(&experiment(&json!({"maxConcurrentNodes": 1}))).unwrap();
    let gives_way = |words: &str| {
        let observed = refused(&prepared, "a", 120, words);
        !look_at(&prepared, "a", None, &observed).gives_way.is_empty()
    };
    for words in [
        "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.",
        "0/1 nodes are available: 1 Insufficient lem.dev/measurement-slot.",
        "0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules.",
        "0/1 nodes are available: 1 Insufficient cpu.",
        "0/1 nodes are available: 1 cannot allocate all claims.",
    ] {
        assert!(gives_way(words), "{words}");
    }
    for words in [
        "0/1 nodes are available: persistentvolumeclaim \"model\" not found.",
        "waiting for resource claim controller: resourceclaim \"x\" not found",
    ] {
        assert!(!gives_way(words), "{words}");
    }
}

#[test]
fn no_further_node_gives_way_for_one_whose_place_is_being_freed() {
    let prepared = prepare(&experiment(&json!({"maxConcurrentNodes": 2}))).unwrap();
    let mut closed = without_room(&prepared, "a", 120);
    closed.runners[0].spec.finish = true;
    let closed = look_at(&prepared, "a", None, &closed);
    assert!(closed.frees_place && closed.state == NodeState::Measuring);
    let busy = without_room(&prepared, "b", 120);
    let job = busy.jobs[0].name_any();
    let busy = look_at(&prepared, "b", None, &busy);
    let fresh = |name: &str| first_look(&prepared, name, None);
    let gives_way = |outlooks: &[Outlook]| {
        let changes = decided(&prepared, outlooks, &[], now()).decision.changes;
        let deleted = |change: &Change| matches!(change, Change::DeleteJob { name } if *name == job);
        changes.iter().any(deleted)
    };
    assert!(!gives_way(&[closed.clone(), busy.clone(), fresh("c")]));
    assert!(gives_way(&[closed, busy, fresh("c"), fresh("d")]), "for the second");
}

#[test]
fn a_fleet_is_stalled_when_none_of_its_processes_starts_and_one_reason_is_known() {
    let prepared = prepare(&experiment(&json!({}))).unwrap();
    let waiting = |node: &str, cause: Option<Cause>, since: Timestamp| Outlook {
        stall: cause,
        unexplained: Some(Unexplained {
            kind: UnexplainedKind::Job,
            name: format!("job-{node}"),
            since,
        }),
        ..in_state(&prepared, node, NodeState::Measuring)
    };
    let quota = Cause::new("QuotaExceeded", "a ResourceQuota refuses the pods");
    let long_ago = now() - jiff::SignedDuration::from_secs(60);
    let stall = |outlooks: &[Outlook]| {
        let decision = decided(&prepared, outlooks, &[], now()).decision;
        decision.stall.map(|cause| cause.reason)
    };
    let known = waiting("a", Some(quota), long_ago);
    let mut pulls = waiting("b", None, long_ago);
    pulls.unexplained.as_mut().unwrap().kind = UnexplainedKind::Pod;
    assert_eq!(stall(&[known.clone(), pulls]), None, "its image may be large");
    assert_eq!(
        stall(&[known.clone(), waiting("b", None, long_ago)]),
        Some("QuotaExceeded")
    );
    assert_eq!(stall(&[known.clone(), waiting("b", None, now())]), None, "it may start");
    assert_eq!(
        stall(&[known, in_state(&prepared, "b", NodeState::Measuring)]),
        None,
        "it has started"
    );
}

#[test]
fn the_rights_of_a_fleet_that_no_role_can_name_are_granted_for_what_is_under_way_and_comes_next() {
    let mut experiment = experiment(&json!({"maxConcurrentNodes": 2}));
    experiment.spec.processes.restart = lem_crds::experiment::Restart::PerPoint;
    experiment.spec.sweep = serde_json::from_value(
        json!([{"field": "workload.maxOutputTokens", "values": (33..=56).collect::<Vec<u32>>()}]),
    )
    .unwrap();
    let prepared = prepare(&experiment).unwrap();
    assert_eq!(prepared.cohorts.len(), 24);
    let outlooks: Vec<Outlook> = (0..500)
        .map(|index| first_look(&prepared, &format!("node-{index:04}"), None))
        .collect();
    let first = decided(&prepared, &outlooks, &[], now());
    let Change::Grant { runners } = &first.decision.changes[0] else {
        panic!("{:?}", first.decision.changes[0]);
    };
    assert!(runners.len() <= 10_000, "{}", runners.len());
    let role = fleet_access(&prepared.owner, runners).role;
    let bytes = serde_json::to_vec(&role).unwrap().len();
    assert!(bytes < 1024 * 1024, "{bytes} bytes");
    let of = |cohort: usize, node: &str| {
        let key = &prepared.cohorts[cohort].key;
        runner_name(&build::node_cohort_name(&prepared.owner, key, node, 0), 0)
    };
    for node in ["node-0000", "node-0001"] {
        assert!((0..24).all(|cohort| runners.contains(&of(cohort, node))), "{node}");
    }
    assert!(!runners.contains(&of(0, "node-0499")), "it is far from its turn");
}

#[test]
fn the_mailboxes_of_earlier_processes_do_not_make_a_role_larger_than_may_be() {
    let prepared = prepare(&experiment(&json!({}))).unwrap();
    let mailbox = |number: usize| format!("earlier-{number:05}");
    let mut began_often = in_state(&prepared, "a", NodeState::Measuring);
    began_often.runners = (0..10_000).map(mailbox).collect();
    began_often.in_use = vec![mailbox(3)];
    let decision = decided(&prepared, &[began_often, first_look(&prepared, "b", None)], &[], now());
    let Change::Grant { runners } = &decision.decision.changes[0] else {
        panic!("{:?}", decision.decision.changes[0]);
    };
    let first = made(&prepared, "b").0.name_any();
    assert!(runners.contains(&first) && runners.contains(&mailbox(3)));
    assert!(runners.len() <= 10_000, "{}", runners.len());
    assert!(!runners.contains(&mailbox(4)), "nobody writes into it any more");
}

/// With as many nodes in the lists of each class as there may be where there are many classes.
fn fits_into_the_store(status: &EfficiencyExperimentStatus) {
    let mut status = status.clone();
    let figure = NodeFigure {
        node: "node-".repeat(12),
        joules_per_token: Some(12.345_678_901_234_567),
        tokens_per_second: Some(1_234.567_890_123_456_7),
        watts: Some(345.678_901_234_567_8),
        verdict: Verdict::Suspect,
    };
    let sign = |sign| NodeSign {
        sign,
        node: 1_234.567_890_123_456_7,
        class: 1_234.567_890_123_456_7,
        conspicuous: false,
    };
    let signs = [
        Sign::Watts,
        Sign::TokensPerSecond,
        Sign::TemperatureCelsius,
        Sign::SmClockMegahertz,
        Sign::PowerLimitWatts,
        Sign::PowerLimitOverDefault,
        Sign::ThrottledSeconds,
        Sign::ForeignProcesses,
        Sign::ErrorCorrection,
    ];
    let outlier = OutlierNode {
        figure: figure.clone(),
        ratio: 1.123_456_789_012_345_6,
        signs: signs.map(sign).to_vec(),
        excess_kilowatt_hours_per_day: Some(12.345_678_901_234_567),
        excess_cost_per_day: Some(12.345_678_901_234_567),
    };
    let fleet = status.fleet.as_mut().unwrap();
    assert_eq!(fleet.classes.len(), MAXIMUM_POINTS);
    for class in &mut fleet.classes {
        for list in [&mut class.best, &mut class.worst, &mut class.slowest] {
            *list = vec![figure.clone(); MOST.extremes];
        }
        class.outlier_nodes = vec![outlier.clone(); MOST.outliers];
    }
    let bytes = serde_json::to_vec(&status).unwrap().len();
    assert!(
        bytes < 1_200_000,
        "{bytes} bytes, and etcd takes 1.5 MiB with all that is around it"
    );
}

#[test]
fn the_best_point_is_looked_for_among_all_and_is_listed_though_the_status_has_no_room_for_all() {
    let count = 60_u32;
    let mut experiment = experiment(&json!({}));
    experiment.spec.protocol.cycles = 1;
    experiment.spec.objective = serde_json::from_value(json!({"minimise": "joulesPerToken"})).unwrap();
    experiment.spec.sweep = serde_json::from_value(json!([
        {"field": "workload.maxOutputTokens", "values": (33..=32 + count).collect::<Vec<u32>>()},
    ]))
    .unwrap();
    let prepared = prepare(&experiment).unwrap();
    let outlooks = ["a", "b"].map(|node| {
        let mut status = RunnerStatus {
            schema_version: SCHEMA_VERSION,
            ..RunnerStatus::default()
        };
        for point in &prepared.points {
            let identity = TrialIdentity {
                plan_sha256: point.plan_sha256.clone(),
                point: point.index,
                cycle: 0,
                attempt: 0,
            };
            let begin = f64::from(point.index) * 20.0;
            let mut process = fixtures::process(0, &identity, begin, begin + 10.0);
            // A class of its own for each node.
            process.environment.gpus[0].product = Some(format!("board {node}"));
            let mut window = process.window.unwrap();
            // The further, the more tokens for the same energy.
            window.output_tokens = 50 + u64::from(point.index);
            status.environment = Some(process.environment);
            status.windows.push(window);
        }
        let record = Record { process: 0, status };
        Outlook {
            result: Some(NodeResult::new(&prepared.spec, &prepared.points, node, &[record], &[])),
            ..in_state(&prepared, node, NodeState::Measured)
        }
    });
    let decision = decided(&prepared, &outlooks, &[], now());
    let outlooks: Vec<&Outlook> = outlooks.iter().collect();
    let status = status(&Aggregated {
        prepared: &prepared,
        generation: Some(1),
        before: &lem_crds::EfficiencyExperimentStatus::default(),
        candidates: &Candidates::default(),
        outlooks: &outlooks,
        decided: &decision,
        now: now(),
    });
    fits_into_the_store(&status);
    let objective = status.objective.unwrap();
    let best: Vec<u32> = objective
        .classes
        .iter()
        .map(|class| class.best.as_ref().unwrap().point)
        .collect();
    assert_eq!(best, [count - 1, count - 1]);
    let fleet = status.fleet.unwrap();
    assert_eq!(
        (status.points.len(), fleet.classes.len()),
        (MAXIMUM_POINTS, MAXIMUM_POINTS)
    );
    assert_eq!(fleet.classes_left_out, 20);
    for class in &objective.classes {
        let listed = |index: u32, of: &str| index == count - 1 && *of == class.node_class;
        assert!(status.points.iter().any(|point| listed(point.index, &point.node_class)));
        assert!(fleet.classes.iter().any(|one| listed(one.point, &one.node_class)));
    }
    assert!(status.pareto_front.iter().any(|point| point.point == count - 1));
}

#[test]
fn a_node_with_a_taint_says_so_whether_it_was_begun_before_or_the_cluster_set_it() {
    let nodes = [
        node(
            "dedicated",
            &json!({"spec": {"taints": [{"key": "dedicated", "effect": "NoExecute"}]}}),
        ),
        node(
            "full",
            &json!({"spec": {"taints": [{"key": "node.kubernetes.io/disk-pressure", "effect": "NoSchedule"}]}}),
        ),
        node(
            "busy",
            &json!({"spec": {"taints": [{"key": "node.kubernetes.io/memory-pressure", "effect": "NoSchedule"}]}}),
        ),
    ];
    let placement = serde_json::from_value(json!({})).unwrap();
    let found = candidates(&nodes, &placement, 0);
    assert!(!found.nodes.contains_key("dedicated"), "it is no part of the fleet");
    let prepared = prepare(&experiment(&json!({}))).unwrap();
    let begun = ended_after(&prepared, "dedicated", 1);
    let outlook = look_at(&prepared, "dedicated", found.kept_off.get("dedicated"), &begun);
    assert!(matches!(&outlook.state, NodeState::Away(why) if why.reason == "Tainted"));
    let full = found.nodes["full"].as_ref().unwrap();
    assert_eq!(full.reason, "Tainted");
    assert!(full.message.contains("disk-pressure:NoSchedule"), "{}", full.message);
    assert_eq!(found.nodes["busy"], None);
    let tolerant = serde_json::from_value(json!({"tolerations": [{"operator": "Exists"}]})).unwrap();
    assert_eq!(candidates(&nodes, &tolerant, 0).nodes["full"], None);
}
