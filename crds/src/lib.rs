//! The contract of `lem`: every byte that crosses a process boundary, and nothing else.
//!
//! [`experiment`] is what a user writes, [`schedule`] what repeats it, [`status`] what they read, [`plan`] what the spec means once resolved,
//! [`runner`] the mailbox and the record of one process, [`metrics`] the stable schema of every published number,
//! [`prompts`] the format of a prompts file, [`agent`] what the node energy agent tells runners, [`validate`] the cluster's own admission rules evaluated without a cluster.

#![expect(unreachable_pub, reason = "kube's derive wraps each type in a private module")]

pub mod agent;
mod describe;
pub mod experiment;
pub mod metrics;
pub mod plan;
pub mod prompts;
pub mod quantity;
pub mod runner;
pub mod samples;
pub mod schedule;
pub mod status;
pub mod validate;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

pub use experiment::{EfficiencyExperiment, EfficiencyExperimentSpec};
pub use runner::{Runner, RunnerSpec, RunnerStatus};
pub use schedule::{EfficiencySchedule, EfficiencyScheduleSpec, EfficiencyScheduleStatus};
pub use status::EfficiencyExperimentStatus;

/// API group of every resource of `lem`.
pub const GROUP: &str = "lem.dev";
/// API version of every resource of `lem`.
pub const VERSION: &str = "v1alpha1";
/// Version of the raw facts that a runner reports. Results of different versions are never aggregated together.
pub const SCHEMA_VERSION: u32 = 1;

/// The custom resource definitions, complete with what `kubectl explain` shows, in the order they are printed.
pub fn definitions() -> [CustomResourceDefinition; 3] {
    let (mut experiment, mut schedule) = (EfficiencyExperiment::crd(), EfficiencySchedule::crd());
    for definition in [&mut experiment, &mut schedule] {
        let versions = definition.spec.versions.iter_mut();
        let schemas = versions.filter_map(|version| version.schema.as_mut());
        let specs =
            schemas.filter_map(|schema| schema.open_api_v3_schema.as_mut()?.properties.as_mut()?.get_mut("spec"));
        specs.for_each(describe::complete);
    }
    [experiment, schedule, Runner::crd()]
}

/// The same as the API server takes them, each with its name.
///
/// # Errors
/// A definition that serialises to no YAML, which a test excludes.
pub fn custom_resource_definitions() -> Result<Vec<(&'static str, String)>, serde_yaml::Error> {
    let names = [
        "efficiencyexperiments.lem.dev",
        "efficiencyschedules.lem.dev",
        "runners.lem.dev",
    ];
    let yaml = names.into_iter().zip(definitions());
    yaml.map(|(name, definition)| Ok((name, serde_yaml::to_string(&definition)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every text of an enumeration.
    fn enumerated(schema: &serde_yaml::Value, found: &mut Vec<String>) {
        match schema {
            serde_yaml::Value::Mapping(mapping) => {
                let texts = mapping.get("enum").and_then(serde_yaml::Value::as_sequence);
                found.extend(
                    texts
                        .into_iter()
                        .flatten()
                        .filter_map(|text| text.as_str().map(str::to_owned)),
                );
                mapping.iter().for_each(|(_, value)| enumerated(value, found));
            }
            serde_yaml::Value::Sequence(items) => items.iter().for_each(|item| enumerated(item, found)),
            _ => {}
        }
    }

    #[test]
    fn no_value_of_an_enumeration_is_a_boolean_for_kubectl() {
        let mut found = Vec::new();
        for (_, yaml) in custom_resource_definitions().unwrap() {
            enumerated(&serde_yaml::from_str(&yaml).unwrap(), &mut found);
        }
        assert!(found.contains(&"Disabled".to_owned()));
        // kubectl reads YAML 1.1, also the definitions.
        for word in ["y", "n", "yes", "no", "on", "off", "true", "false", "null", "~"] {
            assert!(!found.iter().any(|text| text.eq_ignore_ascii_case(word)), "{word}");
        }
    }

    /// Paths of enumerations that may be null, which the API server never takes.
    fn nullable_enumerations(schema: &serde_yaml::Value, path: &str, found: &mut Vec<String>) {
        if let serde_yaml::Value::Mapping(mapping) = schema {
            if mapping.contains_key("enum") && mapping.contains_key("nullable") {
                found.push(path.to_owned());
            }
            for (key, value) in mapping {
                nullable_enumerations(value, &format!("{path}.{}", key.as_str().unwrap_or_default()), found);
            }
        }
    }

    #[test]
    fn a_status_without_any_value_writes_no_null_for_an_enumeration() {
        let mut found = Vec::new();
        for (_, yaml) in custom_resource_definitions().unwrap() {
            let definition: serde_yaml::Value = serde_yaml::from_str(&yaml).unwrap();
            let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"];
            nullable_enumerations(schema, "status", &mut found);
        }
        // Each of these is left out of JSON where it has no value.
        for path in found {
            let leaf = path.rsplit('.').next().unwrap_or_default();
            assert!(
                ["flopsMethod", "flopsConfidence", "unavailable", "verdict"].contains(&leaf),
                "{path}"
            );
        }
    }
}
