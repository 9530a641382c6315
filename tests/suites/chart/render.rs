//! What the charts render.

use std::collections::BTreeSet;

use serde_yaml::Value;

use crate::helm::{self, CASES, chart, helm, identity, objects, printed, rendered, template};

#[test]
#[ignore = "needs Helm, which is among the programs of the test cluster"]
fn the_charts_have_nothing_that_helm_objects_to() {
    for name in lem_tests::chart::CHARTS {
        let output = helm([
            "lint",
            "--strict",
            chart(name).to_str().unwrap(),
            "--kube-version",
            helm::NEWEST,
        ]);
        printed(&output);
    }
}

/// Rules and dashboards have a file and tests of their own.
fn without_files(objects: Vec<Value>) -> String {
    let kept = objects.into_iter().filter(|object| {
        let kind = object["kind"].as_str().unwrap_or_default();
        !["ConfigMap", "PrometheusRule"].contains(&kind)
    });
    let documents: Vec<String> = kept.map(|object| serde_yaml::to_string(&object).unwrap()).collect();
    documents.join("---\n")
}

#[test]
#[ignore = "needs Helm, which is among the programs of the test cluster"]
fn the_default_release_is_as_reviewed() {
    insta::assert_snapshot!(without_files(rendered("default")));
}

#[test]
#[ignore = "needs Helm, which is among the programs of the test cluster"]
fn a_hardened_release_is_as_reviewed() {
    insta::assert_snapshot!(without_files(rendered("hardened")));
}

#[test]
#[ignore = "needs Helm, which is among the programs of the test cluster"]
fn a_release_of_one_namespace_is_as_reviewed() {
    insta::assert_snapshot!(without_files(rendered("namespaced")));
}

#[test]
#[ignore = "needs Helm, which is among the programs of the test cluster"]
fn a_release_with_everything_on_is_as_reviewed() {
    insta::assert_snapshot!(without_files(rendered("everything")));
}

#[test]
#[ignore = "needs Helm, which is among the programs of the test cluster"]
fn the_roles_of_users_are_as_reviewed() {
    let all = objects(&printed(&template(&chart("lem-crds"), &[])));
    let roles = all.into_iter().filter(|object| object["kind"] == "ClusterRole");
    insta::assert_snapshot!(without_files(roles.collect()));
}

#[test]
#[ignore = "needs Helm, which is among the programs of the test cluster"]
fn monitoring_comes_with_its_definitions_or_when_it_is_forced() {
    let kinds = |more: &[&str]| -> BTreeSet<String> {
        let all = objects(&printed(&template(&chart("lem"), more)));
        let kinds = all.iter().map(|object| identity(object).0);
        kinds.filter(|kind| kind.ends_with("Monitor")).collect()
    };
    let both = || BTreeSet::from(["PodMonitor".to_owned(), "ServiceMonitor".to_owned()]);
    assert_eq!(kinds(&[]), BTreeSet::new());
    let served = [
        "--api-versions",
        "monitoring.coreos.com/v1/ServiceMonitor,monitoring.coreos.com/v1/PodMonitor",
    ];
    assert_eq!(kinds(&served), both());
    let forced = [
        "--set",
        "monitoring.serviceMonitor.enabled=true,monitoring.podMonitor.enabled=true",
    ];
    assert_eq!(kinds(&forced), both());
    let mut off = served.to_vec();
    off.extend([
        "--set",
        "monitoring.serviceMonitor.enabled=false,monitoring.podMonitor.enabled=false",
    ]);
    assert_eq!(kinds(&off), BTreeSet::new());
}

/// Kind, namespace and name of everything in a release.
fn identities(release: &str, namespace: &str, watched: &str) -> BTreeSet<(String, String, String)> {
    let path = chart("lem");
    let watch = format!("watchNamespace={watched}");
    let arguments = [
        "template",
        release,
        path.to_str().unwrap(),
        "--namespace",
        namespace,
        "--kube-version",
        helm::NEWEST,
        "--set",
        "admissionPolicy.enabled=true,agent.enabled=true",
        "--set",
        &watch,
    ];
    let all = objects(&printed(&helm(arguments)));
    let identities: BTreeSet<_> = all.iter().map(identity).collect();
    assert_eq!(identities.len(), all.len(), "two objects of one name");
    identities
}

#[test]
#[ignore = "needs Helm, which is among the programs of the test cluster"]
fn two_releases_have_no_object_in_common() {
    let one = identities("lem", "system-a", "team-a");
    for (other, pair) in [
        (identities("lem", "system-b", "team-b"), "same name, another namespace"),
        (
            identities("other", "system-a", "team-b"),
            "another name, same namespace",
        ),
        (identities("lem", "system-b", ""), "one of them everywhere"),
    ] {
        let common: Vec<_> = one.intersection(&other).collect();
        assert!(common.is_empty(), "{pair}: {common:?}");
    }
    let everywhere = identities("lem", "system-a", "");
    let too = identities("lem", "system-b", "");
    assert!(everywhere.is_disjoint(&too), "both everywhere");
}

#[test]
#[ignore = "needs Helm, which is among the programs of the test cluster"]
fn a_release_of_one_namespace_needs_no_right_on_the_cluster() {
    for object in rendered("namespaced") {
        let (kind, namespace, name) = identity(&object);
        assert!(!namespace.is_empty(), "{kind} {name} is cluster-scoped");
    }
}

#[test]
#[ignore = "needs Helm, which is among the programs of the test cluster"]
fn a_release_whose_name_is_long_still_has_names_that_kubernetes_takes() {
    let release = "a".repeat(53);
    for (kind, _, name) in identities(&release, &"n".repeat(63), "w") {
        let bound = if kind == "Service" || kind == "Deployment" {
            63
        } else {
            253
        };
        assert!(name.len() <= bound, "{kind} {name}");
    }
}

#[test]
#[ignore = "needs Helm, which is among the programs of the test cluster"]
fn pods_of_every_case_say_what_pod_security_restricted_asks_for() {
    for case in CASES {
        let all = rendered(case);
        let pods = helm::of_kind(&all, "Deployment");
        assert_eq!(pods.len(), 1);
        let spec = &pods[0]["spec"]["template"]["spec"];
        assert_eq!(spec["securityContext"]["runAsNonRoot"], true, "{case}");
        assert_eq!(
            spec["securityContext"]["seccompProfile"]["type"], "RuntimeDefault",
            "{case}"
        );
        for container in spec["containers"].as_sequence().unwrap() {
            let context = &container["securityContext"];
            assert_eq!(context["allowPrivilegeEscalation"], false, "{case}");
            assert_eq!(context["readOnlyRootFilesystem"], true, "{case}");
            assert_eq!(context["capabilities"]["drop"][0], "ALL", "{case}");
        }
    }
}
