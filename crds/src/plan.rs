//! What a spec means once resolved: points, cohorts, trials and the hash that names each of them. Pure.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::experiment::{
    Barrier, Baseline, Batching, Cooldown, Deadlines, Decoder, Energy, Engine, Model, Warmup, Workload,
};

/// Everything that decides what is loaded. Processes of equal load plans may share one load.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct LoadPlan {
    /// The model.
    pub model: Model,
    /// The engine; its batching is a window's, so that a sweep over batch sizes loads once.
    pub engine: Engine,
    /// Counters that are read.
    pub energy: Energy,
    /// Idle measurements.
    pub baseline: Baseline,
    /// UUIDs of the GPUs of this process. Absent: every visible GPU; empty: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpus: Option<Vec<String>>,
    /// GPUs of each process.
    pub gpus_per_process: u32,
}

/// Everything that decides what one window measures, but the load.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct WindowPlan {
    /// The requests.
    pub workload: Workload,
    /// How tokens are chosen.
    pub decoder: Decoder,
    /// How sequences share a step.
    #[serde(default)]
    pub batching: Batching,
    /// What runs before the window.
    pub warmup: Warmup,
    /// What separates it from the window before.
    pub cooldown: Cooldown,
    /// Whether the processes of the trial start together.
    pub barrier: Barrier,
    /// How long each phase may take.
    pub deadlines: Deadlines,
}

/// Which window of the experiment this is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrialIdentity {
    /// SHA-256 of the point's load and window plan, in hexadecimal.
    pub plan_sha256: String,
    /// Index of the point in the sweep.
    pub point: u32,
    /// Repetition of the point, from 0.
    pub cycle: u32,
    /// Repetition of this trial after failed or invalid ones, from 0.
    pub attempt: u32,
}

/// One combination of sweep values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Point {
    /// Position in the sweep's grid.
    pub index: u32,
    /// The swept fields and their values; empty without a sweep.
    pub values: BTreeMap<String, String>,
    /// What is loaded.
    pub load: LoadPlan,
    /// What each window measures.
    pub window: WindowPlan,
    /// SHA-256 over load, window, process count and schema version.
    pub plan_sha256: String,
}

impl Point {
    /// The values as `field=value, …`; `default` without a sweep.
    pub fn label(&self) -> String {
        label(&self.values)
    }
}

/// Swept fields and their values as `field=value, …`; `default` without any.
pub fn label<'a>(values: impl IntoIterator<Item = (&'a String, &'a String)>) -> String {
    let values: Vec<String> = values
        .into_iter()
        .map(|(field, value)| format!("{field}={value}"))
        .collect();
    if values.is_empty() {
        "default".to_owned()
    } else {
        values.join(", ")
    }
}

/// The SHA-256 of a plan's canonical JSON (keys sorted), in hexadecimal.
///
/// # Errors
/// A value that serialises to no JSON.
pub fn sha256(value: &impl Serialize) -> Result<String, serde_json::Error> {
    use std::fmt::Write;
    let canonical = serde_json::to_value(value)?; // serde_json's map is ordered by key
    let digest = Sha256::digest(serde_json::to_vec(&canonical)?);
    Ok(digest.iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}
