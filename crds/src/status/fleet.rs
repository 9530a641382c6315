//! What a fleet came to, where each node is measured by itself. Bounded at any number of nodes: counts, and of each class
//! the extremes; the whole table is in the records.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

use super::Verdict;

/// The fleet's answer.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct FleetStatus {
    /// How many nodes are how far.
    pub nodes: FleetNodes,
    /// Nodes without a result, by reason, the most frequent first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub without_result: Vec<NodesWithoutResult>,
    /// Nodes of one class at one point, compared with each other.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<FleetClass>,
    /// Classes that are left out of the list above, so that the status stays small.
    #[serde(default)]
    pub classes_left_out: u32,
}

/// How many nodes are how far. `matching` is the sum of all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct FleetNodes {
    /// Nodes that match the placement, those that have left since included if anything was begun on them.
    pub matching: u32,
    /// Not begun yet.
    pub waiting: u32,
    /// A process is being placed, loads, or measures.
    pub measuring: u32,
    /// Every planned trial has a result.
    pub measured: u32,
    /// Begun, and ended without all results.
    pub failed: u32,
    /// Not begun, for a reason that lies in the node.
    pub not_measured: u32,
}

/// Nodes without a result for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodesWithoutResult {
    /// Why: `Cordoned`, `NotReady`, `Tainted`, `Gone`, `GpuMissing`, `SharedGpu`, or the category of what failed.
    pub reason: String,
    /// They were begun, and count against placement.maxFailedNodes.
    pub failed: bool,
    /// How many they are.
    pub count: u32,
    /// Names of the first of them.
    pub nodes: Vec<String>,
    /// What was wrong with the first, and what to do.
    pub message: String,
}

/// Nodes of one class at one point.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct FleetClass {
    /// Index of the point in the sweep.
    pub point: u32,
    /// The swept fields and their values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub values: BTreeMap<String, String>,
    /// The class: product, memory, driver, MIG mode; the CPU's model without a GPU.
    pub node_class: String,
    /// Domains in the energy of the compared nodes.
    pub energy_scope: Vec<String>,
    /// Sources of the energy of the compared nodes.
    pub energy_sources: Vec<String>,
    /// Nodes with a usable result.
    pub nodes: u32,
    /// Nodes that have a result and are not compared: their energy is of other domains or sources.
    #[serde(default)]
    pub left_out: u32,
    /// Those of `nodes` that have doubts.
    pub suspect: u32,
    /// Joules per token over the nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joules_per_token: Option<Spread>,
    /// Tokens per second over the nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_second: Option<Spread>,
    /// Watts in the window over the nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watts: Option<Spread>,
    /// Nodes with the fewest joules per token, the best first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub best: Vec<NodeFigure>,
    /// Nodes with the most joules per token, the worst first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub worst: Vec<NodeFigure>,
    /// Nodes with the fewest tokens per second, the slowest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub slowest: Vec<NodeFigure>,
    /// How outliers were looked for.
    pub outlier_rule: OutlierRule,
    /// How many there are.
    pub outliers: u32,
    /// Those that are farthest from the others, the farthest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outlier_nodes: Vec<OutlierNode>,
}

/// How outliers are looked for in a class (METHODOLOGY §11).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, IntoStaticStr)]
pub enum OutlierRule {
    /// Five nodes or more: joules per token outside median ± 3.5 × MAD.
    MedianAbsoluteDeviation,
    /// Two to four nodes: joules per token or watts differ from those of each other node to the same side, by more than the
    /// interval of the ratio and by more than 1 %. The intervals are widened so that a class of equal nodes has an
    /// outlier once in 20 experiments at most.
    PairwiseRatio,
    /// One node, or cycles without a spread: nothing to compare.
    None,
}

/// A figure over the nodes of a class.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Spread {
    /// The middle node.
    pub median: f64,
    /// Median of the distances from the median, not scaled to a normal distribution.
    pub median_absolute_deviation: f64,
    /// The smallest.
    pub minimum: f64,
    /// The largest.
    pub maximum: f64,
}

/// What one node came to, the means over its cycles.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeFigure {
    /// Name of the node.
    pub node: String,
    /// Joules per token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joules_per_token: Option<f64>,
    /// Tokens per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_second: Option<f64>,
    /// Watts in the window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watts: Option<f64>,
    /// Its verdict.
    pub verdict: Verdict,
}

/// A node that leaves the range of its class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct OutlierNode {
    /// What it came to.
    #[serde(flatten)]
    pub figure: NodeFigure,
    /// Its joules per token over the median of its class.
    pub ratio: f64,
    /// What its devices showed beside the median of its class: where the cause may lie.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signs: Vec<NodeSign>,
    /// What it uses in a day beyond the median of its class, measuring all the time at its own tokens per second, in
    /// kilowatt hours; negative where it uses less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub excess_kilowatt_hours_per_day: Option<f64>,
    /// The same at pricing.energyPricePerKilowattHour, overhead of the building included; absent without a price.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub excess_cost_per_day: Option<f64>,
}

/// One observation of a node beside that of its class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeSign {
    /// What was observed, with its unit.
    pub sign: Sign,
    /// On the node.
    pub node: f64,
    /// The median of the class.
    pub class: f64,
    /// It differs by more than it does in most of the class: look here first.
    pub conspicuous: bool,
}

/// What can be observed of a node's devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema, IntoStaticStr)]
pub enum Sign {
    /// Watts in the window.
    Watts,
    /// Tokens per second.
    TokensPerSecond,
    /// Highest temperature in degrees Celsius.
    TemperatureCelsius,
    /// Mean clock of the multiprocessors in MHz.
    SmClockMegahertz,
    /// Power limit in watts.
    PowerLimitWatts,
    /// Power limit over that as delivered.
    PowerLimitOverDefault,
    /// Seconds throttled by power or temperature.
    ThrottledSeconds,
    /// Processes on the devices that are none of ours.
    ForeignProcesses,
    /// Share of the devices whose memory has error correction switched on.
    ErrorCorrection,
}
