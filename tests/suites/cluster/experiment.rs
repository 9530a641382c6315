//! Experiments that take a few seconds: seeded random weights of a tiny shape, nothing to download.

use lem_crds::{EfficiencyExperiment, EfficiencySchedule};
use serde_json::{Value, json};

/// So many processes without GPUs, so many cycles.
pub(crate) fn tiny(name: &str, processes: u32, cycles: u32) -> EfficiencyExperiment {
    with(name, processes, cycles, &json!({}))
}

/// The same with other fields of the spec beside or instead.
pub(crate) fn with(name: &str, processes: u32, cycles: u32, other: &Value) -> EfficiencyExperiment {
    let mut manifest = json!({
        "apiVersion": "lem.dev/v1alpha1",
        "kind": "EfficiencyExperiment",
        "metadata": {"name": name},
        "spec": {
            "model": {"name": "tiny-test", "source": {"synthetic": {"preset": "tiny-test"}}},
            // The slower one: its windows last long enough for a test to disturb them.
            "engine": {"candle": {"implementation": "Transformers"}},
            "workload": {"requests": 8, "maxInputTokens": 16, "maxOutputTokens": 16},
            "processes": {"count": processes, "gpusPerProcess": 0},
            "protocol": {
                "cycles": cycles,
                "baseline": {"duration": "1s"},
                "cooldown": {"duration": "500ms"},
            },
        },
    });
    merge(&mut manifest["spec"], other);
    serde_json::from_value(manifest).unwrap()
}

/// Every minute the same tiny experiment.
pub(crate) fn every_minute(name: &str, of: &EfficiencyExperiment, other: &Value) -> EfficiencySchedule {
    let mut manifest = json!({
        "apiVersion": "lem.dev/v1alpha1",
        "kind": "EfficiencySchedule",
        "metadata": {"name": name},
        "spec": {
            "schedule": "* * * * *",
            "timeZone": "Europe/Berlin",
            "experimentTemplate": {"metadata": {"labels": {"team": "a"}}, "spec": of.spec},
        },
    });
    for (key, value) in other.as_object().unwrap() {
        manifest["spec"][key] = value.clone();
    }
    serde_json::from_value(manifest).unwrap()
}

/// Merges as a JSON merge patch does.
fn merge(into: &mut Value, other: &Value) {
    match (into, other) {
        (Value::Object(into), Value::Object(other)) => {
            for (key, value) in other {
                if value.is_null() {
                    into.remove(key);
                } else {
                    merge(into.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
        }
        (into, other) => *into = other.clone(),
    }
}
