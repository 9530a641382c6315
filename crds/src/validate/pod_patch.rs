//! What `spec.runner.podPatch` may ask for: fields that a pod has, and none that the operator relies on. Pure.

use k8s_openapi::api::core::v1::{Container, PodSpec};
use serde_json::Value;

use super::Violation;
use crate::{
    experiment::PodPatch,
    runner::{CONTAINER, MODEL_DIRECTORY, PROMPTS_DIRECTORY},
};

/// Where it stands.
const FIELD: &str = "spec.runner.podPatch";
/// Where every pod finds the token of its account.
const TOKEN_DIRECTORY: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The Kubernetes whose pods the fields are compared with; that of k8s-openapi's feature.
const KUBERNETES: &str = "1.33";

/// Fields of the pod that are taken, and what to do instead.
const TAKEN: [(&str, &str); 12] = [
    (
        "restartPolicy",
        "a process that ends is replaced by its Job, never restarted in its pod",
    ),
    ("serviceAccountName", ACCOUNT),
    ("serviceAccount", ACCOUNT),
    ("automountServiceAccountToken", ACCOUNT),
    (
        "nodeName",
        "a pod that passes by the scheduler may land beside another measurement; use spec.placement.nodeSelector",
    ),
    ("nodeSelector", "use spec.placement.nodeSelector"),
    ("tolerations", "use spec.placement.tolerations"),
    ("runtimeClassName", "use spec.placement.runtimeClassName"),
    ("imagePullSecrets", "use spec.runner.imagePullSecrets"),
    ("activeDeadlineSeconds", "use spec.protocol.deadlines"),
    ("ephemeralContainers", "use initContainers with restartPolicy Always"),
    (
        "affinity.podAntiAffinity",
        "the operator keeps measurements on one node apart with it; use affinity.nodeAffinity or affinity.podAffinity",
    ),
];
const ACCOUNT: &str = "the process reports with an account of its own, which may write to its mailbox and nothing else";

/// Fields of the runner's container that are taken, and what to do instead.
const TAKEN_OF_CONTAINER: [(&str, &str); 9] = [
    ("command", START),
    ("args", START),
    ("image", "use spec.runner.image"),
    ("imagePullPolicy", "use spec.runner.imagePullPolicy"),
    ("resources.limits", "use spec.runner.resources.limits"),
    ("resources.requests", "use spec.runner.resources.requests"),
    (
        "restartPolicy",
        "a process that ends is replaced by its Job, never restarted in its pod",
    ),
    ("terminationMessagePath", DIGEST),
    ("terminationMessagePolicy", DIGEST),
];
const START: &str = "the operator says how the process is started; use spec.runner.image for another program";
const DIGEST: &str = "the process leaves the digest of its record in the termination message";

/// The part of a pod's spec that a patch is.
///
/// # Errors
/// What is no field of a pod, has the wrong type, or is the operator's own, each with its path.
pub fn pod_patch(asked: &PodPatch) -> Result<PodSpec, Vec<Violation>> {
    let given = Value::Object(asked.0.clone().into_iter().collect());
    let mut violations = Vec::new();
    removals(&given, FIELD, &mut violations);
    if !violations.is_empty() {
        return Err(violations);
    }
    let spec: PodSpec = serde_path_to_error::deserialize(&given).map_err(|error| {
        vec![Violation::new(
            &joined(FIELD, &error.path().to_string()),
            format!("not as in a pod's spec: {}", error.inner()),
        )]
    })?;
    // Typed objects drop what they do not know.
    let known = serde_json::to_value(&spec).unwrap_or_default();
    unknown(&given, &known, FIELD, &mut violations);
    taken(&given, FIELD, &TAKEN, &mut violations);
    volumes(&spec, &mut violations);
    for (index, container) in spec.containers.iter().enumerate() {
        let path = format!("{FIELD}.containers[{index}]");
        if container.name == CONTAINER {
            taken(&given["containers"][index], &path, &TAKEN_OF_CONTAINER, &mut violations);
            runner(container, &path, &mut violations);
        } else {
            violations.push(Violation::new(&joined(&path, "name"), format!(
                    "{:?} is not {CONTAINER:?}: a pod ends with its only container. Put another one under initContainers, \
                     with restartPolicy Always if it is to run beside the measurement",
                    container.name
                )));
        }
    }
    if violations.is_empty() {
        Ok(spec)
    } else {
        Err(violations)
    }
}

fn joined(path: &str, field: &str) -> String {
    if field.is_empty() || field == "." {
        path.to_owned()
    } else {
        format!("{path}.{field}")
    }
}

/// Null would remove a field in other kinds of patches.
fn removals(value: &Value, path: &str, violations: &mut Vec<Violation>) {
    match value {
        Value::Null => violations.push(Violation::new(
            path,
            "null removes nothing here: a patch adds and replaces. Leave the field out",
        )),
        Value::Object(fields) => fields
            .iter()
            .for_each(|(name, value)| removals(value, &joined(path, name), violations)),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .for_each(|(index, item)| removals(item, &format!("{path}[{index}]"), violations)),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn unknown(given: &Value, known: &Value, path: &str, violations: &mut Vec<Violation>) {
    match (given, known) {
        (Value::Object(fields), Value::Object(known)) => {
            for (name, value) in fields {
                match known.get(name) {
                    Some(known) => unknown(value, known, &joined(path, name), violations),
                    None => violations.push(Violation::new(
                        &joined(path, name),
                        format!("not a field of a pod's spec in Kubernetes {KUBERNETES}"),
                    )),
                }
            }
        }
        (Value::Array(items), Value::Array(known)) => {
            for (index, (item, known)) in items.iter().zip(known).enumerate() {
                unknown(item, known, &format!("{path}[{index}]"), violations);
            }
        }
        _ => {}
    }
}

fn taken(given: &Value, path: &str, fields: &[(&str, &str)], violations: &mut Vec<Violation>) {
    for (field, remedy) in fields {
        let found = field.split('.').try_fold(given, |value, name| value.get(name));
        if found.is_some() {
            violations.push(Violation::new(
                &joined(path, field),
                format!("cannot be patched: {remedy}"),
            ));
        }
    }
}

fn volumes(spec: &PodSpec, violations: &mut Vec<Violation>) {
    for (index, volume) in spec.volumes.iter().flatten().enumerate() {
        let remedy = match volume.name.as_str() {
            "model" => "use spec.model.source",
            "prompts" => "use spec.workload.prompts",
            _ => continue,
        };
        violations.push(Violation::new(
            &format!("{FIELD}.volumes[{index}]"),
            format!("the volume {:?} cannot be patched: {remedy}", volume.name),
        ));
    }
}

/// What a name or a path makes the operator's own.
fn runner(container: &Container, path: &str, violations: &mut Vec<Violation>) {
    for (index, variable) in container.env.iter().flatten().enumerate() {
        let remedy = match variable.name.as_str() {
            "HF_TOKEN" => "use spec.model.source.huggingFace.tokenSecretRef",
            "NODE_NAME" => "the operator sets it",
            name if name.starts_with("LEM_") => "the operator sets names that begin with LEM_",
            _ => continue,
        };
        violations.push(Violation::new(
            &format!("{path}.env[{index}]"),
            format!("the variable {} cannot be patched: {remedy}", variable.name),
        ));
    }
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let at = mount.mount_path.trim_end_matches('/');
        let above = |directory: &str| directory == at || directory.starts_with(&format!("{at}/"));
        let below = |directory: &str| at.starts_with(&format!("{directory}/"));
        let hides = |directory: &str| above(directory) || below(directory);
        if above("/tmp")
            || [TOKEN_DIRECTORY, MODEL_DIRECTORY, PROMPTS_DIRECTORY]
                .into_iter()
                .any(hides)
        {
            violations.push(Violation::new(
                &format!("{path}.volumeMounts[{index}].mountPath"),
                format!(
                    "{:?} would hide scratch space, token, model or prompts: mount it elsewhere than /tmp, \
                     {TOKEN_DIRECTORY}, {MODEL_DIRECTORY} and {PROMPTS_DIRECTORY}",
                    mount.mount_path
                ),
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn checked(patch: Value) -> Result<PodSpec, Vec<Violation>> {
        pod_patch(&serde_json::from_value(patch).unwrap())
    }

    fn complaint(patch: &Value) -> String {
        let violations = checked(patch.clone()).expect_err(&format!("{patch} was admitted"));
        let lines: Vec<String> = violations.iter().map(ToString::to_string).collect();
        lines.join("\n")
    }

    #[test]
    fn what_the_operator_does_not_rely_on_is_admitted() {
        for patch in [
            json!({}),
            json!({"priorityClassName": "batch", "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["hub"]}]}),
            json!({"affinity": {"nodeAffinity": {}, "podAffinity": {}}}),
            json!({"initContainers": [{"name": "proxy", "image": "p:1", "restartPolicy": "Always"}]}),
            json!({"volumes": [{"name": "cache", "persistentVolumeClaim": {"claimName": "hub"}}],
                "containers": [{"name": "runner", "volumeMounts": [{"name": "cache", "mountPath": "/cache"}],
                    "env": [{"name": "HF_HOME", "value": "/cache"}], "securityContext": {"runAsUser": 1000},
                    "resources": {"claims": [{"name": "gpu"}]}}]}),
            json!({"volumes": [{"name": "scratch", "emptyDir": {"medium": "Memory"}}]}),
        ] {
            let admitted = checked(patch.clone());
            assert!(admitted.is_ok(), "{patch}: {admitted:?}");
        }
    }

    #[test]
    fn each_field_that_the_operator_relies_on_is_refused_with_its_path_and_a_way_out() {
        let container = |fields: Value| {
            let mut container = json!({"name": "runner"});
            container
                .as_object_mut()
                .unwrap()
                .extend(fields.as_object().unwrap().clone());
            json!({"containers": [container]})
        };
        for (patch, path, words) in [
            (
                json!({"restartPolicy": "Always"}),
                "restartPolicy",
                "replaced by its Job",
            ),
            (
                json!({"serviceAccountName": "admin"}),
                "serviceAccountName",
                "account of its own",
            ),
            (json!({"nodeName": "node-1"}), "nodeName", "spec.placement.nodeSelector"),
            (json!({"tolerations": []}), "tolerations", "spec.placement.tolerations"),
            (
                json!({"affinity": {"podAntiAffinity": {}}}),
                "affinity.podAntiAffinity",
                "affinity.nodeAffinity",
            ),
            (
                json!({"containers": [{"name": "sidecar", "image": "s"}]}),
                "containers[0].name",
                "initContainers",
            ),
            (
                json!({"volumes": [{"name": "model", "emptyDir": {}}]}),
                "volumes[0]",
                "spec.model.source",
            ),
            (
                container(json!({"args": ["gpus"]})),
                "containers[0].args",
                "spec.runner.image",
            ),
            (
                container(json!({"command": ["sh"]})),
                "containers[0].command",
                "spec.runner.image",
            ),
            (
                container(json!({"image": "x"})),
                "containers[0].image",
                "spec.runner.image",
            ),
            (
                container(json!({"resources": {"limits": {"cpu": "1"}}})),
                "containers[0].resources.limits",
                "spec.runner.resources",
            ),
            (
                container(json!({"env": [{"name": "LEM_PROCESS", "value": "7"}]})),
                "containers[0].env[0]",
                "LEM_PROCESS",
            ),
            (
                container(json!({"env": [{"name": "HF_TOKEN", "value": "7"}]})),
                "containers[0].env[0]",
                "tokenSecretRef",
            ),
            (
                container(json!({"volumeMounts": [{"name": "x", "mountPath": "/lem/model/"}]})),
                "volumeMounts[0].mountPath",
                "/lem/model",
            ),
            (
                container(json!({"volumeMounts": [{"name": "x", "mountPath": "/lem"}]})),
                "volumeMounts[0].mountPath",
                "elsewhere",
            ),
            (
                container(json!({"volumeMounts": [{"name": "x", "mountPath": "/"}]})),
                "volumeMounts[0].mountPath",
                "elsewhere",
            ),
        ] {
            let text = complaint(&patch);
            assert!(
                text.contains(&format!("{FIELD}.")) && text.contains(path) && text.contains(words),
                "for {patch} the message was:\n{text}"
            );
        }
    }

    #[test]
    fn what_is_no_field_of_a_pod_is_named_and_not_dropped() {
        assert_eq!(
            complaint(&json!({"containers": [{"name": "runner", "volumeMount": []}]})),
            "spec.runner.podPatch.containers[0].volumeMount: not a field of a pod's spec in Kubernetes 1.33"
        );
        assert!(
            complaint(&json!({"metadata": {"labels": {}}})).starts_with("spec.runner.podPatch.metadata: not a field")
        );
        let text = complaint(&json!({"volumes": [{"name": "a", "$patch": "delete"}]}));
        assert!(text.contains("volumes[0].$patch: not a field"), "{text}");
    }

    #[test]
    fn a_value_of_the_wrong_type_is_named_by_its_path() {
        let text = complaint(&json!({"containers": [{"name": "runner", "ports": [{"containerPort": "http"}]}]}));
        assert!(
            text.contains("containers[0].ports[0].containerPort: not as in a pod's spec"),
            "{text}"
        );
    }

    #[test]
    fn null_is_refused_since_it_would_remove_nothing() {
        let text = complaint(&json!({"containers": [{"name": "runner", "securityContext": null}]}));
        assert!(
            text.contains("containers[0].securityContext: null removes nothing"),
            "{text}"
        );
    }
}
