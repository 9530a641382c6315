//! The cluster's own admission rules, evaluated without a cluster: the structural schema of the generated definition
//! (types, bounds, patterns, enums, unknown fields), then its CEL rules. Pure.

mod pod_patch;
mod structural;

use std::sync::LazyLock;

use kube::CustomResourceExt;
use serde_json::Value;

pub use self::pod_patch::pod_patch;
use crate::{EfficiencyExperiment, GROUP, VERSION};

/// One thing wrong with a manifest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    /// Path of the field, such as `spec.workload.requests`.
    pub path: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.path.is_empty() {
            formatter.write_str(&self.message)
        } else {
            write!(formatter, "{}: {}", self.path, self.message)
        }
    }
}

/// Generated once: the definition has thousands of nodes.
static DEFINITION: LazyLock<Value> =
    LazyLock::new(|| serde_json::to_value(EfficiencyExperiment::crd()).unwrap_or_default());

/// Reads a manifest as the API server would admit it: every violation, or the resource with its defaults.
///
/// # Errors
/// Every violation found, structural ones first; CEL rules are evaluated only on a structurally sound manifest.
pub fn experiment(manifest: &Value) -> Result<EfficiencyExperiment, Vec<Violation>> {
    let violation = |path: &str, message: String| Violation {
        path: path.to_owned(),
        message,
    };
    let Some(object) = manifest.as_object() else {
        return Err(vec![violation(
            "",
            "not a Kubernetes manifest: expected a mapping with apiVersion, kind and spec".into(),
        )]);
    };
    let expected_version = format!("{GROUP}/{VERSION}");
    let mut violations = Vec::new();
    for (field, expected) in [
        ("apiVersion", expected_version.as_str()),
        ("kind", "EfficiencyExperiment"),
    ] {
        match object.get(field).and_then(Value::as_str) {
            Some(found) if found == expected => {}
            Some(found) => violations.push(violation(field, format!("must be {expected}, found {found}"))),
            None => violations.push(violation(field, format!("missing: write `{field}: {expected}`"))),
        }
    }
    match object.get("metadata").and_then(|m| m.get("name")).and_then(Value::as_str) {
        None => violations.push(violation("metadata.name", "missing: give the experiment a name".into())),
        Some(name) if !is_dns_subdomain(name) => violations.push(violation(
            "metadata.name",
            format!("{name:?} must be lower-case letters, digits, '-' and '.', begin and end with a letter or digit, and be at most 63 long"),
        )),
        Some(_) => {}
    }
    let known = ["apiVersion", "kind", "metadata", "spec", "status"];
    for key in object.keys().filter(|key| !known.contains(&key.as_str())) {
        violations.push(violation(key, structural::unknown_field(key, known.into_iter())));
    }
    let schema = &DEFINITION["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    match object.get("spec") {
        None => violations.push(violation(
            "spec",
            "missing: say at least which model to measure (spec.model)".into(),
        )),
        Some(spec) => structural::check(schema, spec, "spec", &mut violations),
    }
    if !violations.is_empty() {
        return Err(violations);
    }
    let experiment: EfficiencyExperiment =
        serde_json::from_value(manifest.clone()).map_err(|error| vec![violation("spec", error.to_string())])?;
    match experiment.validate_cel() {
        Ok(()) => match experiment
            .spec
            .runner
            .as_ref()
            .map(|runner| pod_patch(&runner.pod_patch))
        {
            Some(Err(violations)) => Err(violations),
            Some(Ok(_)) | None => Ok(experiment),
        },
        Err(errors) => Err(errors
            .into_vec()
            .into_iter()
            .map(|error| Violation {
                path: error.field_path,
                message: error.message,
            })
            .collect()),
    }
}

/// RFC 1123, as Kubernetes demands of names, bounded so that names of children and label values still fit.
fn is_dns_subdomain(name: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    !name.is_empty()
        && name.len() <= 63
        && name
            .bytes()
            .all(|byte| alphanumeric(byte) || byte == b'-' || byte == b'.')
        && name.bytes().next().is_some_and(alphanumeric)
        && name.bytes().last().is_some_and(alphanumeric)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn manifest(patch: &Value) -> Value {
        let mut manifest = json!({
            "apiVersion": "lem.dev/v1alpha1", "kind": "EfficiencyExperiment", "metadata": {"name": "quick"},
            "spec": {"model": {"name": "m", "source": {"directory": {"path": "model.gguf"}}}}
        });
        merge(&mut manifest, patch);
        manifest
    }

    fn merge(target: &mut Value, patch: &Value) {
        match (target, patch) {
            (Value::Object(target), Value::Object(patch)) => {
                for (key, value) in patch {
                    merge(target.entry(key).or_insert(Value::Null), value);
                }
            }
            (target, patch) => *target = patch.clone(),
        }
    }

    fn complaint(patch: &Value) -> String {
        let violations = experiment(&manifest(patch)).expect_err("the manifest was admitted");
        violations
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("\n")
    }

    #[test]
    fn a_model_alone_is_an_experiment_with_the_documented_defaults() {
        let experiment = experiment(&manifest(&json!({}))).unwrap();
        assert_eq!(experiment.spec.protocol.cycles, 3);
        assert_eq!(experiment.spec.energy.sample_interval.to_string(), "100ms");
    }

    #[test]
    fn an_unknown_field_is_named_with_the_field_that_was_meant() {
        let text = complaint(&json!({"spec": {"workload": {"maxOuputTokens": 3}}}));
        assert_eq!(
            text,
            "spec.workload.maxOuputTokens: unknown field; did you mean maxOutputTokens?"
        );
    }

    #[test]
    fn each_kind_of_violation_names_its_field_and_the_remedy() {
        for (patch, path, words) in [
            (
                json!({"spec": {"workload": {"requests": 0}}}),
                "spec.workload.requests",
                "at least 1",
            ),
            (
                json!({"spec": {"workload": {"requests": "8"}}}),
                "spec.workload.requests",
                "integer",
            ),
            (
                json!({"spec": {"protocol": {"cycles": 101}}}),
                "spec.protocol.cycles",
                "at most 100",
            ),
            (
                json!({"spec": {"protocol": {"baseline": {"duration": "5"}}}}),
                "spec.protocol.baseline.duration",
                "ms",
            ),
            (
                json!({"spec": {"energy": {"gpu": "auto"}}}),
                "spec.energy.gpu",
                "Auto, Required, Off",
            ),
            (
                json!({"spec": {"energy": {"sampleInterval": "1ms"}}}),
                "spec.energy",
                "20ms",
            ),
            (
                json!({"spec": {"engine": {"candle": {"batching": {"static": {"batchSize": 4}}}}}}),
                "batching",
                "must be 1",
            ),
            (
                json!({"spec": {"decoder": {"doSample": true}}}),
                "spec.decoder",
                "temperature above 0",
            ),
            (
                json!({"spec": {"decoder": {"topP": "1.5"}}}),
                "spec.decoder",
                "at most 1",
            ),
            (
                json!({"spec": {"engine": {"candle": {"device": "Cuda"}}, "processes": {"gpusPerProcess": 0}}}),
                "gpusPerProcess",
                "needs a GPU",
            ),
            (
                json!({"spec": {"model": {"source": {"synthetic": {}}}}}),
                "spec.model.source",
                "exactly one",
            ),
            (
                json!({"spec": {"sweep": [{"field": "workload.maxOutputToken", "values": [1]}]}}),
                "spec.sweep[0].field",
                "workload.maxOutputTokens",
            ),
            (
                json!({"metadata": {"name": "Quick_Start"}}),
                "metadata.name",
                "lower-case",
            ),
            (
                json!({"kind": "EfficiencyExperiments"}),
                "kind",
                "must be EfficiencyExperiment",
            ),
            (
                json!({"spec": {"pricing": {"powerUsageEffectiveness": "0.9"}}}),
                "spec.pricing",
                "at least 1",
            ),
        ] {
            let text = complaint(&patch);
            assert!(
                text.contains(path) && text.contains(words),
                "for {patch} the message was:\n{text}"
            );
        }
    }

    #[test]
    fn two_sources_at_once_are_refused() {
        let text = complaint(&json!({"spec": {"model": {"source": {"synthetic": {"preset": "tiny-test"}}}}}));
        assert!(
            text.contains("spec.model.source") && text.contains("exactly one of"),
            "{text}"
        );
    }

    #[test]
    fn the_committed_definitions_are_the_generated_ones() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        for (name, yaml) in crate::custom_resource_definitions().unwrap() {
            let committed = std::fs::read_to_string(folder.join(format!("{name}.yaml"))).unwrap_or_default();
            assert!(
                committed == yaml,
                "crds/{name}.yaml is out of date: run `make generate`"
            );
        }
    }

    #[test]
    fn both_definitions_stay_under_the_limit_of_client_side_apply() {
        for (name, yaml) in crate::custom_resource_definitions().unwrap() {
            assert!(yaml.len() < 256 * 1024, "{name} has {} bytes", yaml.len());
        }
    }
}
