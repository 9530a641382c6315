//! Each finding from the objects that lead to it.

use serde_json::json;

use super::*;
use crate::command::cluster::doctor::{Level, examine::Operator};

fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn node(name: &str, gpus: &str, labels: &Value) -> k8s_openapi::api::core::v1::Node {
    object(json!({"metadata": {"name": name, "labels": labels},
        "status": {"allocatable": {"nvidia.com/gpu": gpus, "lem.dev/measurement-slot": "1"},
            "conditions": [{"type": "Ready", "status": "True"}]}}))
}

fn labels() -> Value {
    json!({"nvidia.com/gpu.product": "H100", "nvidia.com/cuda.driver-version.full": "580.1"})
}

fn operator(image: &str, variables: &[(&str, &str)], renewed: &str) -> Operator {
    let variables: Vec<Value> = variables
        .iter()
        .map(|(name, value)| json!({"name": name, "value": value}))
        .collect();
    Operator {
        deployment: object(json!({"metadata": {"name": "lem-operator", "namespace": "lem-system"},
            "spec": {"replicas": 2, "selector": {}, "template": {"spec": {"containers": [
                {"name": "operator", "image": image, "env": variables}]}}},
            "status": {"readyReplicas": 2}})),
        lease: Seen::Yes(Some(object(
            json!({"spec": {"holderIdentity": "lem-operator-a", "leaseDurationSeconds": 15,
            "renewTime": renewed}}),
        ))),
    }
}

/// Our definitions with their numbers as the API server writes them.
fn as_served() -> Vec<CustomResourceDefinition> {
    let text = serde_json::to_string(&lem_crds::definitions()).unwrap();
    let whole = text.replace(":0.0", ":0");
    assert_ne!(text, whole);
    serde_json::from_str(&whole).unwrap()
}

/// A cluster without a fault.
fn healthy() -> Facts {
    let right = |verb, resource| Right {
        verb,
        group: lem_crds::GROUP,
        resource,
        subresource: "",
        allowed: true,
    };
    Facts {
        version: object(
            json!({"major": "1", "minor": "37", "gitVersion": "v1.37.2", "gitCommit": "", "gitTreeState": "",
            "buildDate": "", "goVersion": "", "compiler": "", "platform": ""}),
        ),
        now: "2026-01-01T00:01:00Z".parse().unwrap(),
        namespace: "lab".to_owned(),
        definitions: Seen::Yes(as_served()),
        served: ["efficiencyexperiments", "runners"].map(ToOwned::to_owned).into(),
        operators: Seen::Yes(vec![operator(
            "localhost/lem-operator:dev",
            &[],
            "2026-01-01T00:00:55.000000Z",
        )]),
        rights: vec![right("create", "efficiencyexperiments"), right("list", "runners")],
        nodes: Seen::Yes(vec![node("a", "8", &labels()), node("b", "8", &labels())]),
        namespace_object: Seen::Yes(Some(object(json!({"metadata": {"name": "lab"}})))),
        monitoring: ["servicemonitors", "podmonitors", "prometheusrules"]
            .map(ToOwned::to_owned)
            .into(),
    }
}

/// The finding of a check.
fn of(facts: &Facts, check: &str) -> (Level, String) {
    let findings = judge(facts);
    let finding = findings.iter().find(|finding| finding.check == check).unwrap();
    assert_eq!(finding.fix.is_none(), finding.level == Level::Ok, "{finding:?}");
    (finding.level, finding.found.clone())
}

#[track_caller]
fn expect(facts: &Facts, check: &str, level: Level, words: &str) {
    let (found, text) = of(facts, check);
    assert!(found == level && text.contains(words), "{check}: {found:?} {text}");
}

#[test]
fn a_healthy_cluster_has_no_fault() {
    for finding in judge(&healthy()) {
        assert_eq!(finding.level, Level::Ok, "{finding:?}");
    }
}

#[test]
fn an_api_server_that_is_too_old_fails_and_a_vendors_suffix_does_not_matter() {
    let mut facts = healthy();
    facts.version.minor = "33+".to_owned();
    expect(&facts, "API server", Level::Ok, "");
    facts.version.minor = "32".to_owned();
    expect(&facts, "API server", Level::Fail, "older than v1.33");
}

#[test]
fn missing_definitions_fail_and_those_of_another_version_are_told() {
    let mut facts = healthy();
    let mut other = as_served();
    other[2].spec.versions[0].schema = None;
    facts.definitions = Seen::Yes(other);
    expect(&facts, "definitions", Level::Warn, "than 0.1.0: runners.lem.dev");
    facts.definitions = Seen::Hidden("get customresourcedefinitions".to_owned());
    expect(&facts, "definitions", Level::Warn, "get customresourcedefinitions");
    facts.served.clear();
    expect(&facts, "definitions", Level::Fail, "lem.dev/v1alpha1 is not served");
}

#[test]
fn an_operator_must_be_there_ready_leading_and_look_at_the_namespace() {
    let renewed = "2026-01-01T00:00:55.000000Z";
    let with = |operators: Vec<Operator>| Facts {
        operators: Seen::Yes(operators),
        ..healthy()
    };
    expect(&with(vec![]), "operator", Level::Fail, "there is none");
    let image = "localhost/lem-operator:dev";
    let elsewhere = operator(image, &[("LEM_WATCH_NAMESPACE", "other")], renewed);
    expect(
        &with(vec![elsewhere.clone()]),
        "operator",
        Level::Fail,
        "none looks at namespace lab",
    );
    let here = operator(image, &[("LEM_WATCH_NAMESPACE", "lab")], renewed);
    expect(
        &with(vec![elsewhere, here.clone()]),
        "operator",
        Level::Ok,
        "lem-operator-a leads",
    );
    expect(
        &with(vec![here.clone(), operator(image, &[], renewed)]),
        "operator",
        Level::Fail,
        "several",
    );
    let late = operator(image, &[], "2026-01-01T00:00:40.000000Z");
    expect(&with(vec![late]), "operator", Level::Fail, "run out 20 s");
    let mut nobody = here.clone();
    nobody.lease = Seen::Yes(None);
    expect(&with(vec![nobody]), "operator", Level::Fail, "none leads");
    let mut broken = here;
    broken.deployment.status = None;
    expect(&with(vec![broken]), "operator", Level::Fail, "0 of 2 replicas");
    let old = operator("registry:5000/lem-operator:v0.0.1", &[], renewed);
    expect(&with(vec![old]), "operator", Level::Warn, "it is lem 0.0.1");
}

#[test]
fn without_the_right_to_create_nothing_runs_and_other_missing_rights_are_named() {
    let mut facts = healthy();
    facts.rights[1].allowed = false;
    expect(&facts, "your rights", Level::Warn, "list runners.lem.dev");
    facts.rights[0].allowed = false;
    expect(
        &facts,
        "your rights",
        Level::Fail,
        "create efficiencyexperiments.lem.dev",
    );
}

#[test]
fn the_level_of_pod_security_is_said_and_a_missing_namespace_fails() {
    let mut facts = healthy();
    let strict = json!({"metadata": {"name": "lab", "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}});
    facts.namespace_object = Seen::Yes(Some(object(strict)));
    expect(&facts, "namespace", Level::Ok, "restricted");
    facts.namespace_object = Seen::Yes(None);
    expect(&facts, "namespace", Level::Fail, "does not exist");
}

#[test]
fn what_nodes_lack_is_named_with_the_nodes() {
    let with = |nodes: Vec<k8s_openapi::api::core::v1::Node>| Facts {
        nodes: Seen::Yes(nodes),
        ..healthy()
    };
    let none = with(vec![node("a", "0", &json!({}))]);
    expect(&none, "GPUs", Level::Warn, "gpusPerProcess 0");
    assert!(!judge(&none).iter().any(|finding| finding.check == "GPU labels"));
    let bare = with(vec![node("a", "8", &labels()), node("b", "8", &json!({}))]);
    expect(&bare, "GPU labels", Level::Warn, "(b)");
    let mut newer = labels();
    newer["nvidia.com/cuda.driver-version.full"] = json!("590.2");
    let mixed = with(vec![node("a", "8", &labels()), node("b", "8", &newer)]);
    expect(&mixed, "GPU drivers", Level::Warn, "580.1, 590.2");
    let mut cordoned = node("b", "8", &labels());
    cordoned.spec = object(json!({"unschedulable": true}));
    expect(
        &with(vec![node("a", "8", &labels()), cordoned.clone()]),
        "nodes",
        Level::Warn,
        "cordoned: b",
    );
    expect(&with(vec![cordoned]), "nodes", Level::Fail, "none of 1 node");
    let mut tainted = node("a", "8", &labels());
    tainted.spec = object(json!({"taints": [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}]}));
    expect(
        &with(vec![tainted]),
        "GPU taints",
        Level::Warn,
        "nvidia.com/gpu:NoSchedule on a",
    );
}

#[test]
fn each_way_to_share_a_gpu_is_told() {
    let shared = |label: &str, value: &str| {
        let mut labels = labels();
        labels[label] = json!(value);
        Facts {
            nodes: Seen::Yes(vec![node("a", "8", &labels)]),
            ..healthy()
        }
    };
    expect(
        &shared("nvidia.com/gpu.sharing-strategy", "mps"),
        "GPU sharing",
        Level::Warn,
        "mps on a",
    );
    expect(
        &shared("nvidia.com/gpu.sharing-strategy", "none"),
        "GPU sharing",
        Level::Ok,
        "",
    );
    expect(
        &shared("nvidia.com/gpu.replicas", "4"),
        "GPU sharing",
        Level::Warn,
        "time-slicing on a",
    );
    expect(&shared("nvidia.com/gpu.replicas", "1"), "GPU sharing", Level::Ok, "");
    let mut sliced = node("a", "0", &labels());
    let allocatable = sliced.status.as_mut().unwrap().allocatable.as_mut().unwrap();
    allocatable.insert("nvidia.com/mig-1g.10gb".to_owned(), object(json!("7")));
    let facts = Facts {
        nodes: Seen::Yes(vec![sliced]),
        ..healthy()
    };
    expect(&facts, "GPU sharing", Level::Warn, "MIG on a");
}

#[test]
fn an_operator_that_asks_for_agents_that_no_node_has_fails() {
    let mut facts = healthy();
    let mut bare = node("a", "8", &labels());
    let allocatable = bare.status.as_mut().unwrap().allocatable.as_mut().unwrap();
    allocatable.remove("lem.dev/measurement-slot");
    facts.nodes = Seen::Yes(vec![bare.clone(), node("b", "8", &labels())]);
    expect(&facts, "node agent", Level::Warn, "on a");
    facts.nodes = Seen::Yes(vec![bare]);
    expect(&facts, "node agent", Level::Warn, "CPU energy");
    let asks = operator(
        "lem-operator:dev",
        &[("LEM_NODE_AGENT", "true")],
        "2026-01-01T00:00:55.000000Z",
    );
    facts.operators = Seen::Yes(vec![asks]);
    expect(&facts, "node agent", Level::Fail, "no runner pod finds a node");
}

#[test]
fn a_cluster_without_the_prometheus_operator_lacks_monitoring() {
    let mut facts = healthy();
    facts.monitoring.retain(|name| name != "podmonitors");
    expect(&facts, "monitoring", Level::Warn, "podmonitors");
}
