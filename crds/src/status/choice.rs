//! Which point of a sweep to take: the Pareto front, and the best point under the objective.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A point that no other point of its class beats in both figures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct FrontPoint {
    /// Position in the sweep.
    pub point: u32,
    /// Class of the nodes.
    pub node_class: String,
    /// Its tokens per second, as `effectiveThroughput` of the point.
    pub tokens_per_second: f64,
    /// Its joules per token.
    pub joules_per_token: f64,
}

/// The answer to `spec.objective`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectiveStatus {
    /// The metric that decides.
    pub metric: String,
    /// One answer for each class of nodes.
    pub classes: Vec<ObjectiveClass>,
}

/// The answer for one class of nodes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectiveClass {
    /// Class of the nodes.
    pub node_class: String,
    /// Points that were compared.
    pub compared: u32,
    /// Points whose mean breaks a limit.
    pub beyond_limits: u32,
    /// Points that could not be compared: invalid, without a figure, or with other energy domains or sources.
    pub left_out: u32,
    /// The best point; absent where none keeps every limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best: Option<BestPoint>,
    /// The answer in one sentence, or why there is none.
    pub message: String,
}

/// The best point of a class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BestPoint {
    /// Position in the sweep.
    pub point: u32,
    /// Its mean of the metric.
    pub value: f64,
    /// Points that keep the limits and are not shown to be worse (METHODOLOGY §11): the cycles do not tell them apart.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_shown_worse: Vec<u32>,
    /// The limits with its figures.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<LimitFigure>,
}

/// A limit, and how the best point stands to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct LimitFigure {
    /// The metric.
    pub metric: String,
    /// The limit.
    pub limit: f64,
    /// The point's mean.
    pub value: f64,
    /// The unfavourable end of the 95 % interval of the mean; null for one cycle.
    pub bound: Option<f64>,
    /// Whether the limit is kept for sure.
    pub kept: Kept,
}

/// Whether a limit is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Kept {
    /// The whole 95 % interval of the mean keeps it.
    Shown,
    /// The mean keeps it, but its interval reaches beyond, or there is none.
    NotShown,
}
