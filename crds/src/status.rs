//! What a user reads: one answer per point, with its uncertainty and its doubts.

mod choice;
mod cost;
mod fleet;

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

pub use self::{
    choice::{BestPoint, FrontPoint, Kept, LimitFigure, ObjectiveClass, ObjectiveStatus},
    cost::{Forecast, PlanStatus, Spent},
    fleet::{
        FleetClass, FleetNodes, FleetStatus, NodeFigure, NodeSign, NodesWithoutResult, OutlierNode, OutlierRule, Sign,
        Spread,
    },
};
use crate::{
    metrics::{Estimate, MetricSet, Unavailable},
    plan::TrialIdentity,
    runner::{Confidence, FlopMethod},
};

/// Status of an experiment.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct EfficiencyExperimentStatus {
    /// Generation of the spec this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Summary of the conditions.
    #[serde(default)]
    pub phase: ExperimentPhase,
    /// Validated, Scheduled, Measuring, Complete, Failed, Suspended, Stalled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// How far it is.
    #[serde(default)]
    pub progress: Progress,
    /// What is to be done, known before anything runs, and what it will cost, known once a trial was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanStatus>,
    /// What was spent by the last trial that has a result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spent: Option<Spent>,
    /// The best point by the objective, else by joules per token, for `kubectl get`; several, joined by slashes, where classes of
    /// nodes or kinds of energy are not comparable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headline: Option<Headline>,
    /// One result per point.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub points: Vec<PointResult>,
    /// Of a sweep the points that no other point of the same class of nodes, energy domains and sources beats in both tokens per
    /// second and joules per token: each of them is the best for some weight of speed against energy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pareto_front: Vec<FrontPoint>,
    /// The best point by spec.objective, for each class of nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objective: Option<ObjectiveStatus>,
    /// Where each node is measured by itself: how the nodes compare. The points above are then those of each class of nodes, and
    /// their means and intervals go over nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fleet: Option<FleetStatus>,
    /// Trials that did not come to all their windows; each has used one attempt.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<TrialFailure>,
    /// Why results are missing, if some are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partial: Vec<String>,
    /// What a reader should know before acting on the numbers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// Summary of the conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema, IntoStaticStr)]
pub enum ExperimentPhase {
    /// Not started.
    #[default]
    Pending,
    /// Admitted; processes are being placed and load the model. From here on the spec is immutable.
    Starting,
    /// Measuring.
    Measuring,
    /// Nothing runs until spec.suspend is false again.
    Suspended,
    /// Every planned trial has a result.
    Complete,
    /// Ended with some results missing.
    Partial,
    /// Ended without a result.
    Failed,
}

/// A trial that did not come to all its windows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrialFailure {
    /// The trial.
    pub trial: TrialIdentity,
    /// What went wrong in each process that was lost.
    pub processes: Vec<ProcessFailure>,
}

/// What went wrong in one process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProcessFailure {
    /// Index of the process.
    pub process: u32,
    /// Bounded, machine-readable category.
    pub category: String,
    /// What was wrong, where, and what to do.
    pub message: String,
}

/// How far an experiment is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// Trials planned.
    pub planned: u32,
    /// Trials with a result.
    pub finished: u32,
    /// Trials repeated.
    pub retried: u32,
    /// Trials by verdict, those that were repeated too.
    #[serde(default)]
    pub verdicts: VerdictCounts,
    /// `finished/planned`.
    pub summary: String,
}

/// How many trials came to which verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct VerdictCounts {
    /// Without a doubt.
    pub valid: u32,
    /// With doubts.
    pub suspect: u32,
    /// Not to be used.
    pub invalid: u32,
}

impl VerdictCounts {
    /// Counts trials.
    pub fn of(verdicts: impl IntoIterator<Item = Verdict>) -> Self {
        let mut counts = Self::default();
        for verdict in verdicts {
            *counts.get_mut(verdict) += 1;
        }
        counts
    }

    /// Each verdict with its count.
    pub const fn each(self) -> [(Verdict, u32); 3] {
        [
            (Verdict::Valid, self.valid),
            (Verdict::Suspect, self.suspect),
            (Verdict::Invalid, self.invalid),
        ]
    }

    const fn get_mut(&mut self, verdict: Verdict) -> &mut u32 {
        match verdict {
            Verdict::Valid => &mut self.valid,
            Verdict::Suspect => &mut self.suspect,
            Verdict::Invalid => &mut self.invalid,
        }
    }
}

/// What `kubectl get` shows.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Headline {
    /// Joules per token, four significant digits (a whole number in full), with its source.
    pub joules_per_token: String,
    /// Tokens per second, four significant digits (a whole number in full).
    pub tokens_per_second: String,
    /// Verdict.
    pub verdict: String,
}

/// Whether a number can be acted on.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, JsonSchema, IntoStaticStr,
)]
pub enum Verdict {
    /// No doubt was found.
    #[default]
    Valid,
    /// Doubts, each with its figure.
    Suspect,
    /// Do not use.
    Invalid,
}

/// Why a result is doubtful or invalid (METHODOLOGY §9).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema, IntoStaticStr,
)]
pub enum Doubt {
    /// The device slowed itself down.
    Throttled,
    /// The power limit is below the default.
    PowerCapBelowDefault,
    /// Other processes were on the device.
    ForeignProcesses,
    /// The device is shared or MIG-sliced.
    SharedDevice,
    /// The window is short against the counter's update period.
    WindowTooShort,
    /// Counter and power integral disagree.
    CounterIntegralDisagree,
    /// Idle power drifted between before and after.
    BaselineDrifted,
    /// Adjusted energy is negative: the baseline was not idle.
    NegativeAdjustedEnergy,
    /// The warm-up did not settle.
    WarmupNotConverged,
    /// The processes hardly ran together.
    InsufficientOverlap,
    /// The processes started apart.
    StartSkew,
    /// A process did not report.
    MissingProcess,
    /// A process reported more than once.
    DuplicateProcess,
    /// A process or a request failed.
    FailedProcess,
    /// Some requests failed.
    FailedRequests,
    /// The node's clock is not synchronised.
    ClockNotSynchronised,
    /// The clocks of two nodes are too far apart for a common start.
    ClocksDiffer,
    /// The total contains estimated energy.
    EstimatedEnergy,
    /// A counter could not be read.
    EnergyMissing,
    /// Reports of different schema versions.
    SchemaVersion,
    /// The same GPU was claimed by two processes.
    DuplicateGpu,
    /// Energy scope differs between processes or cycles.
    MixedEnergyScope,
    /// Fewer cycles than planned.
    MissingCycles,
}

/// One doubt with its figure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct VerdictReason {
    /// Which doubt.
    pub doubt: Doubt,
    /// How bad it is.
    pub severity: Verdict,
    /// In one sentence, with figure and limit.
    pub message: String,
}

// The API server takes no null for an enumeration, listed or not: such a field is absent where it has no value.
/// The result of one trial: one point, one cycle, all processes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrialResult {
    /// Repetition of the point.
    pub cycle: u32,
    /// Which try.
    pub attempt: u32,
    /// Verdict.
    pub verdict: Verdict,
    /// Its reasons.
    pub reasons: Vec<VerdictReason>,
    /// Processes that reported.
    pub processes: u32,
    /// Domains in the total energy, such as `gpu`, `cpu`.
    pub energy_scope: Vec<String>,
    /// Sources of the total energy, such as `rapl`, `estimate`.
    pub energy_sources: Vec<String>,
    /// Tier of the FLOPs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flops_method: Option<FlopMethod>,
    /// Confidence in the FLOPs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flops_confidence: Option<Confidence>,
    /// Every metric.
    pub metrics: MetricSet<f64>,
    /// Field to the reason it is null.
    pub not_available: BTreeMap<String, Unavailable>,
}

/// The result of one point over its cycles.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PointResult {
    /// Position in the sweep.
    pub index: u32,
    /// The swept fields and their values.
    pub values: BTreeMap<String, String>,
    /// Hash of the point's plan.
    pub plan_sha256: String,
    /// Node class: product, memory, driver, MIG mode; the CPU's model without a GPU.
    pub node_class: String,
    /// Cycles with a usable result.
    pub cycles: u32,
    /// Verdict over all cycles: the worst.
    pub verdict: Verdict,
    /// Its reasons, each once.
    pub reasons: Vec<VerdictReason>,
    /// Domains in the total energy.
    pub energy_scope: Vec<String>,
    /// Sources of the total energy.
    pub energy_sources: Vec<String>,
    /// Tier of the FLOPs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flops_method: Option<FlopMethod>,
    /// Confidence in the FLOPs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flops_confidence: Option<Confidence>,
    /// Every metric with its interval.
    pub metrics: MetricSet<Estimate>,
    /// Field to the reason it is null.
    pub not_available: BTreeMap<String, Unavailable>,
    /// When the last trial ended.
    pub measured_at: Option<Timestamp>,
}
