//! What an experiment costs: what is planned, what was spent, what will have been spent.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlanStatus {
    /// Points of the sweep.
    pub points: u32,
    /// Processes; where each node is measured by itself, nodes that match.
    pub processes: u32,
    /// Loads of the model in each process.
    pub loads: u32,
    /// Trials of the experiment; where each node is measured by itself, of each node.
    pub trials: u32,
    /// Measured windows of all processes.
    pub windows: u32,
    /// Requests of one process at least: those of its windows and of the shortest warm-ups.
    pub requests_per_process: u64,
    /// Tokens in all measured windows of one process.
    pub tokens_per_process: u64,
    /// Seconds of one process that do not depend on the model: baselines and cool-downs.
    pub fixed_seconds: f64,
    /// GPU seconds that all processes cannot do without: their fixed seconds × their GPUs.
    pub least_gpu_seconds: f64,
    /// What the whole will have cost, by the trials so far; absent before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forecast: Option<Forecast>,
}

/// What an experiment will have cost, if the trials to come cost what those before did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Forecast {
    /// Trials that it rests on.
    pub trials: u32,
    /// Seconds that processes hold their place, summed over processes.
    pub process_seconds: f64,
    /// Seconds of GPUs held.
    pub gpu_seconds: f64,
    /// Joules, counted like those spent; null where none were metered.
    pub energy_joules: Option<f64>,
}

/// What was spent.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Spent {
    /// Seconds that processes held their place, summed over processes, as they last reported.
    pub process_seconds: f64,
    /// Seconds of GPUs held.
    pub gpu_seconds: f64,
    /// Joules of all metered domains: windows as metered, the rest of the time with the windows' mean power. Null where no
    /// window has a metered domain.
    pub energy_joules: Option<f64>,
}
