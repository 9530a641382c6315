//! The roles of the installed operator against the API server's audit log, both ways.

use std::{collections::BTreeSet, fs};

use k8s_openapi::api::core::v1::ResourceQuota;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use lem_crds::{EfficiencyExperiment, EfficiencySchedule, Runner, status::ExperimentPhase};
use lem_test_cluster::{AuditLog, Request};
use serde_json::json;

use crate::{
    experiment::{every_minute, tiny},
    helm::{chart, objects},
    installation::{Machine, SYSTEM},
    rights::{Right, of_rules, roles},
    world::{World, described, repository},
};

/// Who the operator is to the API server.
const OPERATOR: &str = "system:serviceaccount:lem-system:lem-operator";

/// A right that the audit log does not show, and the code that needs it.
struct Unseen {
    right: (&'static str, &'static str, &'static str),
    reason: &'static str,
    file: &'static str,
    code: &'static str,
}

const UNSEEN: [Unseen; 6] = [
    Unseen {
        right: ("lem.dev", "efficiencyexperiments/finalizers", "update"),
        reason: "the API server asks for it where a child blocks the deletion of its owner",
        file: "operator/src/controller/build.rs",
        code: "block_owner_deletion: Some(true)",
    },
    Unseen {
        right: ("lem.dev", "runners", "get"),
        reason: "the API server lets nobody grant what they do not hold",
        file: "operator/src/controller/build/access.rs",
        code: r#"rule("runners", &["get", "watch"])"#,
    },
    Unseen {
        right: ("lem.dev", "runners/status", "patch"),
        reason: "the API server lets nobody grant what they do not hold",
        file: "operator/src/controller/build/access.rs",
        code: r#"rule("runners/status", &["patch"])"#,
    },
    Unseen {
        right: ("", "serviceaccounts", "create"),
        reason: "the API server asks for it where a server-side apply makes an object; the log says patch",
        file: "operator/src/controller/apply.rs",
        code: "self.server_side_apply::<ServiceAccount>(&access.service_account)",
    },
    Unseen {
        right: ("rbac.authorization.k8s.io", "roles", "create"),
        reason: "as for serviceaccounts",
        file: "operator/src/controller/apply.rs",
        code: "self.server_side_apply::<Role>(&access.role)",
    },
    Unseen {
        right: ("rbac.authorization.k8s.io", "rolebindings", "create"),
        reason: "as for serviceaccounts",
        file: "operator/src/controller/apply.rs",
        code: "self.server_side_apply::<RoleBinding>(&access.role_binding)",
    },
];

fn right(of: (&str, &str, &str)) -> Right {
    (of.0.to_owned(), of.1.to_owned(), of.2.to_owned())
}

/// Rights that are granted and never used, and those that were used or asked for and are not granted.
fn difference(granted: &BTreeSet<Right>, asked: &[Request]) -> (BTreeSet<Right>, BTreeSet<Right>) {
    let used: BTreeSet<Right> = asked
        .iter()
        .map(|request| right((&request.group, &request.resource, &request.verb)))
        .collect();
    let unused = granted.difference(&used).cloned().collect();
    (unused, used.difference(granted).cloned().collect())
}

/// What the operator asked for, watches that are still open included.
fn asked(audit: &AuditLog) -> Vec<Request> {
    let mut requests = audit.requests().unwrap();
    requests.extend(audit.watches().unwrap());
    // Paths without a resource, such as the version, are open to all who are known.
    requests.retain(|request| request.user == OPERATOR && !request.resource.is_empty());
    requests
}

/// Every right of the operator that the release has made.
fn granted(machine: &Machine) -> BTreeSet<Right> {
    let manifest = objects(&machine.helm(&["get", "manifest", "lem"]));
    let roles = roles(&manifest);
    assert_eq!(roles.len(), 2, "a ClusterRole, and the Role of the Lease");
    roles.iter().flat_map(|role| of_rules(&role["rules"])).collect()
}

async fn measuring(world: &World, name: &str) {
    world
        .until(name, "a finished trial", |status| status.progress.finished >= 1)
        .await;
}

async fn change(world: &World, name: &str, spec: &serde_json::Value) {
    let experiments = world.api::<EfficiencyExperiment>();
    let patch = Patch::Merge(json!({"spec": spec}));
    experiments.patch(name, &PatchParams::default(), &patch).await.unwrap();
}

/// What users do to experiments: completed, suspended and resumed, cancelled, deleted.
async fn lives(world: &World) {
    world.apply(&tiny("suspended", 2, 4)).await;
    measuring(world, "suspended").await;
    change(world, "suspended", &json!({"suspend": true})).await;
    world
        .until("suspended", "the experiment suspended", |status| {
            status.phase == ExperimentPhase::Suspended
        })
        .await;
    change(world, "suspended", &json!({"suspend": false})).await;
    let status = world.ended("suspended").await;
    assert_eq!(status.phase, ExperimentPhase::Complete, "{}", described(&status));

    for name in ["cancelled", "deleted"] {
        world.apply(&tiny(name, 2, 50)).await;
        measuring(world, name).await;
        if name == "cancelled" {
            change(world, name, &json!({"cancel": true})).await;
            world.ended(name).await;
        } else {
            let experiments = world.api::<EfficiencyExperiment>();
            experiments.delete(name, &DeleteParams::default()).await.unwrap();
        }
    }
    world
        .eventually("the end of what was deleted", || async {
            let left: Vec<Runner> = world.runners("deleted").await;
            left.is_empty().then_some(()).ok_or_else(|| format!("{}", left.len()))
        })
        .await;
}

/// A schedule whose experiments replace each other, and of which none is kept.
async fn schedule(world: &World) {
    let history = json!({"concurrencyPolicy": "Replace", "failedExperimentsHistoryLimit": 0});
    let schedule = every_minute("replacing", &tiny("of", 1, 100), &history);
    let schedules = world.api::<EfficiencySchedule>();
    schedules.create(&PostParams::default(), &schedule).await.unwrap();
    let experiments = world.api::<EfficiencyExperiment>();
    world
        .eventually("the deletion of an experiment that was replaced", || async {
            let found = schedules.get("replacing").await.map_err(|error| error.to_string())?;
            let status = found.status.unwrap_or_default();
            let first = status.series.first().ok_or_else(|| format!("{status:#?}"))?;
            match experiments.get_opt(&first.experiment).await.unwrap() {
                None => Ok(()),
                Some(left) => Err(format!("{:?}", left.metadata)),
            }
        })
        .await;
    schedules.delete("replacing", &DeleteParams::default()).await.unwrap();
}

/// A namespace that is deleted under an experiment.
async fn deleted_namespace(world: &World) {
    world.apply(&tiny("doomed", 2, 50)).await;
    measuring(world, "doomed").await;
    world.delete_namespace().await;
    world.until_namespace_is_gone().await;
}

/// Pods that the namespace does not admit: only events say why.
async fn refused_pods(world: &World) {
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"},
        "spec": {"hard": {"pods": "0"}}});
    world.create::<ResourceQuota>(&quota).await;
    world.apply(&tiny("refused", 1, 1)).await;
    let status = world
        .until("refused", "the word of the quota", |status| {
            let mut conditions = status.conditions.iter();
            conditions.any(|condition| condition.message.contains("quota"))
        })
        .await;
    assert_eq!(status.progress.finished, 0, "{}", described(&status));
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn the_operator_holds_the_rights_that_it_uses_and_no_others() {
    let machine = Machine::start("chart-audit").await;
    let world = machine.world("chart_audit").await;
    machine.helm(&["install", "lem-crds", chart("lem-crds").to_str().unwrap()]);
    machine.release("install", &chart("lem"), &[]);

    // The minutes of the schedule pass meanwhile.
    let scheduled = machine.world("chart_audit").await;
    tokio::join!(lives(&world), schedule(&scheduled));
    deleted_namespace(&machine.world("chart_audit").await).await;
    refused_pods(&machine.world("chart_audit").await).await;

    let audit = machine.cluster.audit().unwrap();
    let asked = asked(&audit);
    let forbidden: Vec<&Request> = asked.iter().filter(|request| request.code == 403).collect();
    let of_a_namespace_that_ends = |request: &&&Request| request.verb == "create" || request.verb == "patch";
    // The API server makes nothing new in a namespace that is being deleted, whoever asks.
    let beyond: Vec<_> = forbidden
        .iter()
        .filter(|request| !of_a_namespace_that_ends(request))
        .collect();
    assert!(beyond.is_empty(), "{beyond:#?}");

    let granted = granted(&machine);
    let (mut unused, missing) = difference(&granted, &asked);
    assert!(missing.is_empty(), "used and not granted: {missing:#?}");
    for unseen in &UNSEEN {
        assert!(
            granted.contains(&right(unseen.right)),
            "not granted: {:?}",
            unseen.right
        );
        unused.remove(&right(unseen.right));
    }
    assert!(unused.is_empty(), "granted and not used: {unused:#?}");
    eprintln!(
        "{} rights of {OPERATOR} in {SYSTEM}, {} of them unseen",
        granted.len(),
        UNSEEN.len()
    );
}

#[test]
fn a_right_that_the_log_does_not_show_names_the_code_that_needs_it() {
    for unseen in &UNSEEN {
        let text = fs::read_to_string(repository().join(unseen.file)).unwrap();
        assert!(
            text.contains(unseen.code),
            "{}: {} ({})",
            unseen.file,
            unseen.code,
            unseen.reason
        );
    }
}

#[test]
fn a_right_too_many_and_one_too_few_are_both_found() {
    let request = |verb: &str| Request {
        user: OPERATOR.to_owned(),
        verb: verb.to_owned(),
        group: "batch".to_owned(),
        resource: "jobs".to_owned(),
        namespace: String::new(),
        name: String::new(),
        code: 200,
        user_agent: String::new(),
        received: String::new(),
    };
    let granted = BTreeSet::from([right(("batch", "jobs", "get")), right(("batch", "jobs", "list"))]);
    let (unused, missing) = difference(&granted, &[request("list"), request("delete")]);
    assert_eq!(unused, BTreeSet::from([right(("batch", "jobs", "get"))]));
    assert_eq!(missing, BTreeSet::from([right(("batch", "jobs", "delete"))]));
}
