//! Provenance (METHODOLOGY §10): what was measured on, and with. A field of the result, not a log line.

use std::collections::BTreeMap;

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::metrics::Unavailable;

/// One GPU.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct GpuEnvironment {
    /// UUID, its identity.
    pub uuid: String,
    /// Product name.
    pub product: Option<String>,
    /// VBIOS version.
    pub vbios: Option<String>,
    /// Memory in bytes.
    pub memory_bytes: Option<u64>,
    /// Power limit in force in watts.
    pub power_limit_watts: Option<f64>,
    /// Power limit as delivered in watts.
    pub power_limit_default_watts: Option<f64>,
    /// Application SM clock in MHz.
    pub application_clock_megahertz: Option<u32>,
    /// ECC is on.
    pub ecc: Option<bool>,
    /// Persistence mode is on.
    pub persistence: Option<bool>,
    /// MIG is on.
    pub mig: Option<bool>,
    /// Field to reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub not_available: BTreeMap<String, Unavailable>,
}

/// The CPUs of the node.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CpuEnvironment {
    /// Model name.
    pub model: Option<String>,
    /// Sockets.
    pub sockets: Option<u32>,
    /// Logical CPUs of the machine.
    pub logical: Option<u32>,
    /// CPUs this process may use, from its cgroup and affinity.
    pub limit: Option<f64>,
    /// Frequency governor.
    pub governor: Option<String>,
    /// Thermal design power used by the estimate, and where it came from.
    pub thermal_design_power: Option<String>,
}

/// The model as loaded.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelEnvironment {
    /// Name in the experiment.
    pub name: String,
    /// Revision, as resolved.
    pub revision: Option<String>,
    /// SHA-256 of the weight files, or `synthetic:<preset>:<seed>`.
    pub weights_digest: String,
    /// Architecture name.
    pub architecture: String,
    /// Parameters.
    pub parameters: u64,
    /// Bytes of the weights.
    pub weight_bytes: u64,
    /// Quantisation, if any.
    pub quantisation: Option<String>,
    /// Longest context in tokens.
    pub context_length: u32,
}

/// What was measured on, and with.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Environment {
    /// Node name.
    pub node: String,
    /// How the node offers one GPU to several pods, where it may; `unknown` where only that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_sharing: Option<String>,
    /// Kernel release.
    pub kernel: Option<String>,
    /// Version of the runner.
    pub runner_version: String,
    /// Git commit of the runner.
    pub runner_commit: Option<String>,
    /// Digest of the runner's image; null for a local process.
    pub image_digest: Option<String>,
    /// Engine and version.
    pub engine: String,
    /// Device of the engine.
    pub device: String,
    /// Precision of the weights.
    pub dtype: String,
    /// Threads the engine uses.
    pub threads: u32,
    /// The model as loaded.
    pub model: ModelEnvironment,
    /// Memory limit of the container in bytes.
    pub memory_limit_bytes: Option<u64>,
    /// NVIDIA driver.
    pub driver: Option<String>,
    /// CUDA version of the driver.
    pub cuda: Option<String>,
    /// GPUs of the process.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<GpuEnvironment>,
    /// CPUs of the node.
    pub cpu: CpuEnvironment,
    /// Counters that are read, with domain and source.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub counters: Vec<String>,
}
