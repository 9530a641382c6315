//! `EfficiencySchedule`: the same experiment again and again, each time held against a baseline (METHODOLOGY §11).

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    experiment::EfficiencyExperimentSpec,
    metrics,
    quantity::{DECIMAL_PATTERN, Limit},
    status::{ExperimentPhase, Verdict},
};

/// When to measure, what, and against what it is held.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "lem.dev",
    version = "v1alpha1",
    kind = "EfficiencySchedule",
    plural = "efficiencyschedules",
    shortname = "effsched",
    category = "lem",
    namespaced,
    status = "EfficiencyScheduleStatus",
    derive = "PartialEq",
    validation = Rule::new("size(self.metadata.name) <= 52")
        .message("metadata.name must be at most 52 characters long: the names of its experiments add 11"),
    doc = "Repeats an experiment by the clock, keeps the series of its results, and says when one is worse than the baseline.",
    printcolumn = r#"{"name":"Schedule","type":"string","jsonPath":".spec.schedule"}"#,
    printcolumn = r#"{"name":"Suspend","type":"boolean","jsonPath":".spec.suspend"}"#,
    printcolumn = r#"{"name":"Regressed","type":"string","jsonPath":".status.conditions[?(@.type==\"Regressed\")].status"}"#,
    printcolumn = r#"{"name":"Last run","type":"date","jsonPath":".status.lastScheduleTime"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
pub struct EfficiencyScheduleSpec {
    /// When an experiment is created, in the five fields of cron: minute, hour, day of month, month, day of week.
    #[schemars(length(min = 9, max = 100))]
    #[x_kube(validation = Rule::new("self.trim().split(' ').filter(field, field != '').size() == 5")
        .message("must have the five fields of cron: minute, hour, day of month, month, day of week, such as \"0 3 * * 1\""))]
    pub schedule: String,
    /// Time zone of the schedule, such as `Europe/Berlin`; UTC if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub time_zone: Option<String>,
    /// What happens at a time at which an experiment of this schedule still runs.
    #[serde(default)]
    pub concurrency_policy: ConcurrencyPolicy,
    /// How late an experiment may still be created when its time was missed; however late if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10, max = 31_536_000))]
    pub starting_deadline_seconds: Option<u32>,
    /// No experiment is created until this is false again; those that run go on.
    #[serde(default)]
    pub suspend: bool,
    /// Complete experiments that are kept; the series keeps their figures.
    #[serde(default = "three")]
    #[schemars(range(min = 0, max = 40))]
    pub successful_experiments_history_limit: u32,
    /// Partial and failed experiments that are kept.
    #[serde(default = "three")]
    #[schemars(range(min = 0, max = 40))]
    pub failed_experiments_history_limit: u32,
    /// What a result is held against.
    #[serde(default)]
    pub comparison: ScheduleComparison,
    /// The experiment.
    pub experiment_template: ExperimentTemplate,
}

const fn three() -> u32 {
    3
}

/// What happens at a time at which the one before still runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum ConcurrencyPolicy {
    /// The new one waits until the other is over, unless its deadline passes first: two measurements in the same fleet
    /// would wait for each other anyway.
    #[default]
    Forbid,
    /// Both run.
    Allow,
    /// The running one is cancelled, with what it has measured, before the new one is created.
    Replace,
}

/// What a result is held against.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScheduleComparison {
    /// Name of the experiment that is the baseline; if absent, the first complete one of this schedule with a metric that has
    /// two values to compare. Of an experiment on each node a partial one counts as well, such as with a cordoned node, if it
    /// has measured at least half of the nodes, unless it was cancelled, ran out of its budget or exceeded
    /// placement.maxFailedNodes. Its figures are kept in status, so it may be deleted afterwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub baseline_experiment_name: Option<String>,
    /// The metrics that are compared, by their names in status. `dutyCycle` only of an experiment on each node, where every
    /// node has a value: the cycles of a load share one.
    #[serde(default = "joules_per_token")]
    #[schemars(length(min = 1, max = 8), inner(length(max = 64)))]
    #[x_kube(validation = Rule::new(format!("self.all(metric, metric in {})", metrics::with_direction()))
        .message("each must be a metric of status of which more or less is better, such as joulesPerToken"))]
    pub metrics: Vec<String>,
    /// By how many percent a metric must be worse, beside being shown to be worse, to count as a regression.
    #[serde(default = "one_percent")]
    #[x_kube(validation = Rule::new(format!("string(self).matches('{DECIMAL_PATTERN}')"))
        .message("must be a number and not negative, such as 1 or \"0.5\""))]
    pub tolerance_percent: Limit,
}

impl Default for ScheduleComparison {
    fn default() -> Self {
        Self {
            baseline_experiment_name: None,
            metrics: joules_per_token(),
            tolerance_percent: one_percent(),
        }
    }
}

fn joules_per_token() -> Vec<String> {
    vec!["joulesPerToken".to_owned()]
}

fn one_percent() -> Limit {
    Limit::from(1)
}

/// An experiment that is yet to be created.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExperimentTemplate {
    /// What its experiments are labelled with.
    #[serde(default)]
    pub metadata: TemplateMetadata,
    /// What they measure.
    pub spec: EfficiencyExperimentSpec,
}

/// Labels and annotations.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TemplateMetadata {
    /// Labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub annotations: BTreeMap<String, String>,
}

/// How far the series is.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct EfficiencyScheduleStatus {
    /// Generation of the spec this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Accepted, Regressed. Regressed is True where a comparison of the last experiment with the baseline is worse, False where
    /// none is and all could be made, and Unknown where none is and some could not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The time of the last experiment that was created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_schedule_time: Option<Timestamp>,
    /// The time of the next; absent while suspended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_schedule_time: Option<Timestamp>,
    /// Names of experiments that are not over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub active: Vec<String>,
    /// What results are held against.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<ScheduleBaseline>,
    /// One entry for each experiment that is over, the last 100 of them by the time that they were created for, the newest
    /// last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub series: Vec<ScheduledResult>,
}

/// The figures of the baseline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScheduleBaseline {
    /// Name of the experiment.
    pub experiment: String,
    /// Its UID.
    pub experiment_uid: String,
    /// Its points, of a fleet for each class of nodes; at most the first 100.
    #[schemars(length(max = 100))]
    pub points: Vec<BaselinePoint>,
    /// Points that are left out of the list above, so that the status stays small: nothing is held against them.
    #[serde(default)]
    pub points_left_out: u32,
}

/// A point of the baseline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BaselinePoint {
    /// Hash of the point's plan: equal plans are compared.
    pub plan_sha256: String,
    /// Class of the nodes.
    pub node_class: String,
    /// Domains in the total energy.
    pub energy_scope: Vec<String>,
    /// Sources of the total energy.
    pub energy_sources: Vec<String>,
    /// Version of the raw facts.
    pub schema_version: u32,
    /// Each compared metric.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: BTreeMap<String, BaselineMetric>,
}

/// All that a comparison looks at of a metric's values: the values of each cycle, or the means of each node of a fleet. It is
/// as small for a thousand nodes as for three cycles.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BaselineMetric {
    /// How many values there are.
    #[schemars(range(max = 100_000))]
    pub count: u32,
    /// Mean of their natural logarithms; absent without a value, or where one is not positive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean_logarithm: Option<f64>,
    /// Sample variance of their natural logarithms; absent with fewer than two values, or where one is not positive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variance_logarithm: Option<f64>,
}

impl BaselineMetric {
    /// Whether another can be held against it: two values or more, each with a logarithm.
    pub const fn is_comparable(&self) -> bool {
        self.count >= 2 && self.mean_logarithm.is_some()
    }
}

/// What one experiment of the series came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScheduledResult {
    /// Name of the experiment.
    pub experiment: String,
    /// Its UID.
    pub experiment_uid: String,
    /// The time that it was created for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled_at: Option<Timestamp>,
    /// How it ended.
    pub phase: ExperimentPhase,
    /// The worst verdict of its points; absent without a point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// Mean of each compared metric at its best point; absent where points are of several classes of nodes, or their energy has
    /// other domains or sources.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub best: BTreeMap<String, f64>,
    /// Comparisons with the baseline, one for each point and metric.
    pub compared: u32,
    /// Of them, those that are better.
    pub better: u32,
    /// Of them, those that are worse, and by more than the tolerance.
    pub worse: u32,
    /// Comparisons that were refused, because different things were measured or too few cycles are usable.
    pub refused: u32,
    /// Points of the baseline that are held against nothing: the experiment has no usable point of the same plan and the same
    /// class of nodes.
    #[serde(default)]
    pub unmatched: u32,
    /// The comparison with the worst ratio.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worst: Option<ScheduledChange>,
    /// The comparison in one sentence.
    pub message: String,
}

/// A metric of one point against the baseline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScheduledChange {
    /// Position in the sweep.
    pub point: u32,
    /// Class of the nodes.
    pub node_class: String,
    /// The metric.
    pub metric: String,
    /// Present over baseline, of geometric means.
    pub ratio: f64,
    /// Lower bound of the interval of the ratio.
    pub lower: f64,
    /// Upper bound of the interval of the ratio.
    pub upper: f64,
}
