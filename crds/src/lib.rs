//! The contract of `lem`: every byte that crosses a process boundary, and nothing else.
//!
//! [`experiment`] is what a user writes, [`status`] what they read, [`plan`] what the spec means once resolved,
//! [`runner`] the mailbox and the record of one process, [`metrics`] the stable schema of every published number,
//! [`prompts`] the format of a prompts file, [`validate`] the cluster's own admission rules evaluated without a cluster.

#![expect(unreachable_pub, reason = "kube's derive wraps each type in a private module")]

pub mod experiment;
pub mod metrics;
pub mod plan;
pub mod prompts;
pub mod quantity;
pub mod runner;
pub mod samples;
pub mod status;
pub mod validate;

pub use experiment::{EfficiencyExperiment, EfficiencyExperimentSpec};
pub use runner::{Runner, RunnerSpec, RunnerStatus};
pub use status::EfficiencyExperimentStatus;

/// API group of every resource of `lem`.
pub const GROUP: &str = "lem.dev";
/// API version of every resource of `lem`.
pub const VERSION: &str = "v1alpha1";
/// Version of the raw facts that a runner reports. Results of different versions are never aggregated together.
pub const SCHEMA_VERSION: u32 = 1;

/// The two custom resource definitions as the API server takes them, in the order they are printed.
///
/// # Errors
/// A definition that serialises to no YAML, which a test excludes.
pub fn custom_resource_definitions() -> Result<Vec<(&'static str, String)>, serde_yaml::Error> {
    use kube::CustomResourceExt;
    Ok(vec![
        ("efficiencyexperiments.lem.dev", as_yaml(EfficiencyExperiment::crd())?),
        ("runners.lem.dev", as_yaml(Runner::crd())?),
    ])
}

fn as_yaml(definition: impl serde::Serialize) -> Result<String, serde_yaml::Error> {
    let mut value = serde_yaml::to_value(definition)?;
    admit_null(&mut value);
    serde_yaml::to_string(&value)
}

/// To the API server `nullable` does not make null one of an enumeration's values: it must be listed.
fn admit_null(schema: &mut serde_yaml::Value) {
    match schema {
        serde_yaml::Value::Mapping(mapping) => {
            let nullable = mapping.get("nullable").and_then(serde_yaml::Value::as_bool) == Some(true);
            if let Some(serde_yaml::Value::Sequence(values)) = mapping.get_mut("enum").filter(|_| nullable)
                && !values.iter().any(serde_yaml::Value::is_null)
            {
                values.push(serde_yaml::Value::Null);
            }
            mapping.iter_mut().for_each(|(_, value)| admit_null(value));
        }
        serde_yaml::Value::Sequence(sequence) => sequence.iter_mut().for_each(admit_null),
        _ => {}
    }
}
