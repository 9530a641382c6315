//! The cluster's own admission rules, evaluated without a cluster: the structural schema of the generated definition
//! (types, bounds, enumerations, unknown fields), then its CEL rules. Pure.
//!
//! The API server and this module find the same mistakes in the same fields: a suite compares the two on a real cluster.

mod metadata;
mod normalise;
mod pod_patch;
mod preset;
mod structural;
#[cfg(test)]
mod tests;

use std::sync::LazyLock;

use kube::{
    CustomResourceExt,
    core::cel::{CompiledSchema, ErrorKind, Validator, compile_schema},
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use self::structural::Findings;
pub use self::{
    pod_patch::pod_patch,
    preset::{PRESETS, presets},
};
use crate::{EfficiencyExperiment, EfficiencySchedule, GROUP, VERSION};

/// One thing wrong with a manifest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    /// Path of the field, such as `spec.workload.requests`.
    pub path: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl Violation {
    /// What is wrong with the field of this path.
    pub fn new(path: &str, message: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            message: message.into(),
        }
    }
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

/// Several violations in one line.
pub fn listed(violations: &[Violation]) -> String {
    let each: Vec<String> = violations.iter().map(ToString::to_string).collect();
    each.join("; ")
}

/// A kind of resource: its generated definition has thousands of nodes, so it is made once and its rules compiled once.
struct Kind {
    name: &'static str,
    /// What a manifest without a spec is told.
    missing_spec: &'static str,
    schema: Value,
    rules: CompiledSchema,
}

impl Kind {
    fn new<K: CustomResourceExt>(name: &'static str, missing_spec: &'static str) -> Self {
        let definition = serde_json::to_value(K::crd()).unwrap_or_default();
        let schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone();
        Self {
            name,
            missing_spec,
            rules: compile_schema(&schema),
            schema,
        }
    }
}

static EXPERIMENT: LazyLock<Kind> = LazyLock::new(|| {
    Kind::new::<EfficiencyExperiment>(
        "EfficiencyExperiment",
        "missing: say at least which model to measure (spec.model)",
    )
});

static SCHEDULE: LazyLock<Kind> = LazyLock::new(|| {
    Kind::new::<EfficiencySchedule>(
        "EfficiencySchedule",
        "missing: say when to measure (spec.schedule) and what (spec.experimentTemplate)",
    )
});

/// Reads an experiment's manifest as the API server would admit it: every violation, or the resource with its defaults.
///
/// # Errors
/// Every violation found. CEL rules are evaluated where the manifest has the types and fields that they rest on.
pub fn experiment(manifest: &Value) -> Result<EfficiencyExperiment, Vec<Violation>> {
    admit(&EXPERIMENT, manifest)
}

/// The same for a schedule. Whether its times are times, and whether its experiment can run, no schema can tell.
///
/// # Errors
/// As [`experiment`].
pub fn schedule(manifest: &Value) -> Result<EfficiencySchedule, Vec<Violation>> {
    admit(&SCHEDULE, manifest)
}

fn admit<K: DeserializeOwned>(kind: &Kind, manifest: &Value) -> Result<K, Vec<Violation>> {
    let Some(object) = manifest.as_object() else {
        return Err(vec![Violation::new(
            "",
            "not a Kubernetes manifest: expected a mapping with apiVersion, kind and spec",
        )]);
    };
    let expected_version = format!("{GROUP}/{VERSION}");
    let mut findings = Findings::default();
    for (field, expected) in [("apiVersion", expected_version.as_str()), ("kind", kind.name)] {
        match object.get(field).and_then(Value::as_str) {
            Some(found) if found == expected => {}
            Some(found) => findings.block(field, format!("must be {expected}, found {found}")),
            None => findings.block(field, format!("missing: write `{field}: {expected}`")),
        }
    }
    metadata::check(object.get("metadata").unwrap_or(&Value::Null), &mut findings);
    let known = ["apiVersion", "kind", "metadata", "spec", "status"];
    for key in object.keys().filter(|key| !known.contains(&key.as_str())) {
        findings.block(key, structural::unknown_field(key, known.into_iter()));
    }
    let mut manifest = manifest.clone();
    normalise::normalise(&kind.schema, &mut manifest);
    match manifest.get("spec") {
        None => findings.block("spec", kind.missing_spec),
        Some(spec) => structural::check(&kind.schema["properties"]["spec"], spec, "spec", &mut findings),
    }
    if !findings.blocking {
        findings.violations.extend(broken_rules(kind, &manifest));
    }
    if !findings.violations.is_empty() {
        return Err(findings.violations);
    }
    serde_json::from_value(manifest).map_err(|error| vec![Violation::new("spec", error.to_string())])
}

/// Checks a spec of which some fields were replaced, such as a point of a sweep.
///
/// # Errors
/// Every violation found.
pub fn spec(spec: &Value) -> Result<(), Vec<Violation>> {
    let mut findings = Findings::default();
    structural::check(&EXPERIMENT.schema["properties"]["spec"], spec, "spec", &mut findings);
    if !findings.blocking {
        // A rule of the whole resource reads its name.
        let whole = serde_json::json!({"metadata": {"name": "point"}, "spec": spec});
        findings.violations.extend(broken_rules(&EXPERIMENT, &whole));
    }
    if findings.violations.is_empty() {
        Ok(())
    } else {
        Err(findings.violations)
    }
}

fn broken_rules(kind: &Kind, whole: &Value) -> Vec<Violation> {
    let Err(errors) = Validator::new().validate_compiled(&kind.rules, whole, None) else {
        return Vec::new();
    };
    let errors = errors.into_vec().into_iter().map(|error| {
        let message = match error.kind {
            ErrorKind::ValidationFailure => error.message,
            _ => format!("{} (rule {})", error.message, error.rule),
        };
        Violation {
            path: error.field_path,
            message,
        }
    });
    errors.collect()
}
