//! `kubectl lem doctor` on the shared cluster.

use serde_json::Value;

use super::{Ended, Plugin, contains};
use crate::world::World;

/// Level and words of a check.
#[track_caller]
fn of<'a>(findings: &'a Value, check: &str) -> (&'a str, &'a str) {
    let found = findings
        .as_array()
        .unwrap()
        .iter()
        .find(|finding| finding["check"] == check);
    let found = found.unwrap_or_else(|| panic!("{check} is missing in {findings:#}"));
    (found["level"].as_str().unwrap(), found["found"].as_str().unwrap())
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn the_doctor_finds_the_operator_the_gpus_and_the_pod_security_of_the_namespace() {
    let world = World::of("kubectl_doctor").await;
    let plugin = Plugin::of(&world);
    let findings: Value = serde_json::from_str(&plugin.lem(&["doctor", "-o", "json"]).good()).unwrap();
    let ok = [
        ("API server", "v1."),
        ("definitions", "lem.dev/v1alpha1"),
        (
            "operator",
            "lem-system/lem-operator: 2 of 2 replicas ready, lem-operator-",
        ),
        ("your rights", &world.namespace),
        ("namespace", "Pod Security restricted"),
        ("nodes", "3 nodes ready"),
        ("GPUs", "6 nvidia.com/gpu on 3 nodes"),
        ("GPU labels", "Fake-H100 on 3 nodes"),
        ("GPU drivers", "550."),
        ("GPU sharing", "no node shares"),
    ];
    for (check, words) in ok {
        let (level, found) = of(&findings, check);
        assert!(level == "OK" && found.contains(words), "{check}: {level} {found}");
    }
    for finding in findings.as_array().unwrap() {
        assert_eq!(finding["level"] == "OK", finding.get("fix").is_none(), "{finding}");
    }
    let text = plugin.lem(&["doctor"]).good();
    contains(&text, &["OK    API server", "→ helm "]);
    world.delete_namespace().await;
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn the_doctor_fails_for_who_may_create_nothing_and_in_a_namespace_that_is_not_there() {
    let world = World::of("kubectl_doctor_fails").await;
    let plugin = Plugin::of(&world);
    let absent = plugin.kubectl(&["lem", "doctor", "-n", "kc-absent"]).output().unwrap();
    let absent = Ended::of(&absent);
    assert_eq!(absent.code, Some(1), "{absent:?}");
    contains(
        &absent.out,
        &[
            "FAIL  namespace",
            "kc-absent does not exist",
            "kubectl create namespace kc-absent",
        ],
    );

    let powerless = plugin.into_powerless().lem(&["doctor", "-o", "json"]);
    assert_eq!(powerless.code, Some(1), "{powerless:?}");
    let findings: Value = serde_json::from_str(&powerless.out).unwrap();
    let (level, found) = of(&findings, "your rights");
    assert!(
        level == "FAIL" && found.contains("create efficiencyexperiments.lem.dev"),
        "{found}"
    );
    for (check, right) in [
        ("nodes", "list nodes"),
        ("operator", "list deployments.apps"),
        ("definitions", "get customresourcedefinitions"),
    ] {
        let (level, found) = of(&findings, check);
        assert!(level == "WARN" && found.contains(right), "{check}: {level} {found}");
    }
    world.delete_namespace().await;
}
