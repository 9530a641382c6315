//! Where processes run and in what: fields that only a cluster can honour. `lem run` refuses each of them by name.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    PodPatch,
    rule::{self, AMOUNT, COUNT_OR_PERCENTAGE, LABEL, NAME, VARIABLE},
    toleration::Toleration,
};
use crate::quantity::{Amount, CountOrPercentage, Duration};

/// Where the processes run. On a cluster only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.strategy == 'EachNode' || (!has(self.maxConcurrentNodes) && !has(self.maxFailedNodes))")
    .message("maxConcurrentNodes and maxFailedNodes are for strategy EachNode: set it, or leave them out"),
    validation = Rule::new("!has(self.maxConcurrentNodes) || !(string(self.maxConcurrentNodes) in ['0', '0%'])")
    .message("at least one node must be measured at a time")
    .field_path(".maxConcurrentNodes"))]
pub struct Placement {
    /// How processes are spread over nodes.
    #[serde(default)]
    pub strategy: PlacementStrategy,
    /// Where each node is measured by itself: nodes that are measured at the same time, as a number or as a share of those that match;
    /// 10 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new(rule::integer_or_text(&COUNT_OR_PERCENTAGE)).message(COUNT_OR_PERCENTAGE.message))]
    pub max_concurrent_nodes: Option<CountOrPercentage>,
    /// Where each node is measured by itself: nodes that may fail, as a number or as a share of those that match. When more have failed,
    /// no further node is begun. Without it every node is tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new(rule::integer_or_text(&COUNT_OR_PERCENTAGE)).message(COUNT_OR_PERCENTAGE.message))]
    pub max_failed_nodes: Option<CountOrPercentage>,
    /// Labels that a node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32, "additionalProperties" = {"type": "string", "maxLength": 63}))]
    #[x_kube(validation = Rule::new(rule::each_value(LABEL.pattern)).message(LABEL.message))]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that the processes put up with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub tolerations: Vec<Toleration>,
    /// `RuntimeClass` of the pods, such as `nvidia` where that is not the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    #[x_kube(validation = Rule::new(NAME.rule()).message(NAME.message))]
    pub runtime_class_name: Option<String>,
    /// Claims that bring each process its GPUs, by dynamic resource allocation, in place of the resource `nvidia.com/gpu`. Together
    /// they must bring `processes.gpusPerProcess`. With strategy `EachNode`, `nodeSelector` says which nodes have what they ask for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(validation = Rule::new("self.all(one, self.exists_one(other, other.name == one.name))")
        .message("each claim needs a name of its own"))]
    pub resource_claims: Vec<ProcessResourceClaim>,
    /// What becomes of nodes that offer one GPU to several pods, by the labels of NVIDIA's GPU feature discovery.
    #[serde(default)]
    pub shared_gpus: SharedGpus,
    /// Local queue of Kueue in which each Job waits until it is admitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    #[x_kube(validation = Rule::new(NAME.rule()).message(NAME.message))]
    pub queue_name: Option<String>,
    /// From a cohort's creation, or its admission by the queue, to all its pods placed and started; after it the cohort counts as
    /// failed.
    #[serde(default = "schedule_deadline")]
    pub schedule_deadline: Duration,
}

/// Nodes measured at the same time where the experiment does not say: a fleet is measured beside its work.
const CONCURRENT_NODES: u32 = 10;

impl Placement {
    /// How many of so many nodes may be measured at the same time; at least one.
    pub fn concurrent_nodes(&self, matching: u32) -> u32 {
        let wanted = self.max_concurrent_nodes.map(|most| most.of(matching));
        wanted.unwrap_or(CONCURRENT_NODES).max(1)
    }
}

impl Default for Placement {
    fn default() -> Self {
        Self {
            strategy: PlacementStrategy::default(),
            max_concurrent_nodes: None,
            max_failed_nodes: None,
            node_selector: BTreeMap::new(),
            tolerations: Vec::new(),
            runtime_class_name: None,
            resource_claims: Vec::new(),
            shared_gpus: SharedGpus::default(),
            queue_name: None,
            schedule_deadline: schedule_deadline(),
        }
    }
}

const fn schedule_deadline() -> Duration {
    Duration::from_secs(3600)
}

/// A claim of each process's own, made from a template and gone with its pod.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProcessResourceClaim {
    /// Its name in the pod.
    #[schemars(length(max = 63))]
    #[x_kube(validation = Rule::new(NAME.rule()).message(NAME.message))]
    pub name: String,
    /// `ResourceClaimTemplate` in the experiment's namespace.
    #[schemars(length(max = 253))]
    #[x_kube(validation = Rule::new(NAME.rule()).message(NAME.message))]
    pub resource_claim_template_name: String,
}

/// How processes are spread over nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum PlacementStrategy {
    /// Over as many nodes as there are, several processes on one node where there are fewer. Never on a node on which
    /// another experiment measures.
    #[default]
    Any,
    /// `processes.count` processes on every node that matches, each node measured by itself, so that nodes can be compared
    /// with each other. Nodes do not wait for one another; the operator must be allowed to read nodes.
    EachNode,
}

/// What becomes of nodes that offer one GPU to several pods: by time-slicing, by MPS, or as slices of MIG.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum SharedGpus {
    /// No process with GPUs is placed there. With strategy `EachNode` such a node is not measured, with the reason
    /// `SharedGpu`. Without that strategy slices of MIG are found by the process, and its result is Invalid.
    #[default]
    Refuse,
    /// They are measured and marked: `Suspect` with `ForeignProcesses`, for what else ran on the GPU cannot be seen, and
    /// `Invalid` with `SharedDevice` on slices of MIG. Without strategy `EachNode` every result is marked, since the node is
    /// not known beforehand.
    Mark,
}

/// The container that measures. On a cluster only.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunnerTemplate {
    /// Image of the runner; the operator's default if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub image: Option<String>,
    /// When the image is pulled; by the kubelet's own rule if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<ImagePullPolicy>,
    /// Names of Secrets with the registry's credentials.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(max = 253)))]
    #[x_kube(validation = Rule::new(rule::each_item(NAME.pattern)).message(NAME.message))]
    pub image_pull_secrets: Vec<String>,
    /// Requests and limits. GPUs come from processes.gpusPerProcess.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<RunnerResources>,
    /// Environment of the process. Names that begin with `LEM_` are the operator's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(validation = Rule::new("self.all(v, !v.name.startsWith('LEM_') && v.name != 'NODE_NAME')")
        .message("names that begin with LEM_, and NODE_NAME, are set by the operator"))]
    pub env: Vec<EnvironmentVariable>,
    /// A part of a pod's spec for what no field here names, such as `priorityClassName` or a sidecar under
    /// `initContainers`. It is merged into the runner's pod as server-side apply merges: objects by field, containers,
    /// volumes and variables by name, mounts by path, any other list replaced. It adds and replaces; it removes nothing.
    #[serde(default, skip_serializing_if = "PodPatch::is_empty")]
    pub pod_patch: PodPatch,
}

/// When an image is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ImagePullPolicy {
    /// At every start.
    Always,
    /// Where the node does not have it.
    IfNotPresent,
    /// Never.
    Never,
}

impl ImagePullPolicy {
    /// As the kubelet takes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

/// Requests and limits of the container, as in a pod.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.limits) && 'nvidia.com/gpu' in self.limits) && !(has(self.requests) && 'nvidia.com/gpu' in self.requests)")
    .message("GPUs are set by processes.gpusPerProcess"),
    validation = Rule::new("!has(self.requests) || !has(self.limits) || self.requests.all(k, !(k in self.limits) || !isQuantity(string(self.requests[k])) || !isQuantity(string(self.limits[k])) || !quantity(string(self.requests[k])).isGreaterThan(quantity(string(self.limits[k]))))")
    .message("a request must not exceed the limit of the same resource"))]
pub struct RunnerResources {
    /// What a node must have free.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    #[x_kube(validation = Rule::new(rule::each_amount()).message(AMOUNT.message))]
    pub requests: BTreeMap<String, Amount>,
    /// What the container may use at most.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    #[x_kube(validation = Rule::new(rule::each_amount()).message(AMOUNT.message))]
    pub limits: BTreeMap<String, Amount>,
}

/// One variable of the environment.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnvironmentVariable {
    /// Its name: anything printable but blanks and `=`.
    #[schemars(length(max = 253))]
    #[x_kube(validation = Rule::new(VARIABLE.rule()).message(VARIABLE.message))]
    pub name: String,
    /// Its value.
    #[schemars(length(max = 4096))]
    pub value: String,
}

/// How long a finished cohort's Job and pods stay. On a cluster only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TimeToLive {
    /// Seconds after a cohort that has measured all its trials.
    #[serde(default = "ten_minutes")]
    #[schemars(range(min = 0, max = 604_800))]
    pub success: u32,
    /// Seconds after a cohort that failed: its pods are what a person looks at.
    #[serde(default = "one_day")]
    #[schemars(range(min = 0, max = 604_800))]
    pub failure: u32,
}

impl Default for TimeToLive {
    fn default() -> Self {
        Self {
            success: ten_minutes(),
            failure: one_day(),
        }
    }
}

const fn ten_minutes() -> u32 {
    600
}
const fn one_day() -> u32 {
    86_400
}
