//! The node energy agent of the chart against the one that the suite `cluster` runs on real nodes.

use std::fs;

use serde_yaml::Value;

use crate::{
    helm::{chart, objects, of_kind, printed, template},
    world::repository,
};

/// What a pod may do and sees, without what each installation names itself.
fn essence(objects: &[Value]) -> Value {
    let daemon_sets = of_kind(objects, "DaemonSet");
    let mut pod = daemon_sets[0]["spec"]["template"]["spec"].clone();
    let fields = pod.as_mapping_mut().unwrap();
    fields.retain(|name, value| {
        let named = [
            "serviceAccountName",
            "tolerations",
            "securityContext",
            "imagePullSecrets",
        ];
        // Written out in one and left out in the other.
        !named.contains(&name.as_str().unwrap()) && *value != Value::Bool(false)
    });
    let container = pod["containers"][0].as_mapping_mut().unwrap();
    container.remove("image");
    sort(container.get_mut("env").unwrap());
    let security = container.get_mut("securityContext").unwrap().as_mapping_mut().unwrap();
    security.retain(|name, _| {
        let of_the_pod = ["runAsUser", "runAsGroup", "seccompProfile", "privileged"];
        !of_the_pod.contains(&name.as_str().unwrap())
    });
    pod
}

fn sort(list: &mut Value) {
    let entries = list.as_sequence_mut().unwrap();
    entries.sort_by_key(|entry| entry["name"].as_str().unwrap().to_owned());
}

#[test]
#[ignore = "needs Helm, which is among the programs of the test cluster"]
fn the_agent_of_the_chart_is_the_one_that_is_tested_on_real_nodes() {
    let example = fs::read_to_string(repository().join("examples/cluster/agent.yaml")).unwrap();
    let rendered = printed(&template(&chart("lem"), &["--set", "agent.enabled=true"]));
    assert_eq!(essence(&objects(&rendered)), essence(&objects(&example)));
}
