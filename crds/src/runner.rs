//! `Runner`: mailbox (spec, written by the operator) and record (status, written by the process) of one process.
//! Locally the same two structs travel as JSON lines over the child's stdin and stdout.

mod energy;
mod environment;
mod window;

use jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{EnumIter, IntoStaticStr};

pub use self::{
    energy::{
        CounterIdentity, CounterReading, DeviceObservation, Domain, EnergyReading, MeanOfSamples, PartEnergy,
        PowerSample, Source,
    },
    environment::{CpuEnvironment, Environment, GpuEnvironment, ModelEnvironment},
    window::{
        AbsentDomain, ClockQuality, ComputePrecision, Confidence, FlopCount, FlopMethod, IdleBaseline, IdleState,
        KvCacheRecord, StaticBatchRecord, SteadyStateRecord, WarmupRecord, WindowRecord,
    },
};
use crate::{
    plan::{LoadPlan, TrialIdentity, WindowPlan},
    status::TrialFailure,
};

/// Name of the container that measures.
pub const CONTAINER: &str = "runner";
/// Where the model's volume is mounted in a pod.
pub const MODEL_DIRECTORY: &str = "/lem/model";
/// Where the ConfigMap with prompts is mounted in a pod.
pub const PROMPTS_DIRECTORY: &str = "/lem/prompts";
/// Trials that a mailbox names beside its assignment.
pub const MOST_UPCOMING: usize = 4;
/// Environment variable that tells a process how its node shares the GPUs, where that is allowed.
pub const GPU_SHARING_VARIABLE: &str = "LEM_GPU_SHARING";
/// Its value where nodes that do are allowed, and this one's ways are not known.
pub const UNKNOWN_GPU_SHARING: &str = "unknown";
/// Exit code of a process that says the experiment cannot run as written: starting it again would not help.
pub const EXIT_REFUSED: i32 = 42;

/// The mailbox of one process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "lem.dev",
    version = "v1alpha1",
    kind = "Runner",
    plural = "runners",
    category = "lem",
    namespaced,
    status = "RunnerStatus",
    derive = "PartialEq",
    doc = "Mailbox and record of one measuring process. Written by lem, not by users.",
    printcolumn = r#"{"name":"Experiment","type":"string","jsonPath":".spec.experiment"}"#,
    printcolumn = r#"{"name":"Process","type":"integer","jsonPath":".spec.process"}"#,
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Node","type":"string","jsonPath":".status.environment.node"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
pub struct RunnerSpec {
    /// Name of the experiment.
    pub experiment: String,
    /// Cohort, the processes that share one load.
    pub cohort: String,
    /// Index of this process among `processes`.
    pub process: u32,
    /// Processes of the cohort.
    pub processes: u32,
    /// Which set of processes of the cohort this is, counted from 0: a set that was lost or suspended has a successor.
    #[serde(default)]
    pub incarnation: u32,
    /// The one node that this process measures, where each node is measured by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Whose pods write the record, where that is not the cohort's own `ServiceAccount`: the nodes of a fleet share one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,
    /// What to load.
    pub load: LoadPlan,
    /// The window to measure next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assignment: Option<Assignment>,
    /// The windows that follow unless a result changes the plan, in their order: the process may cool down and warm up for
    /// the next one as soon as it has reported. With a barrier it waits for that window's start, and there is one of them,
    /// written with the start of the assignment; without one it goes on by itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MOST_UPCOMING))]
    pub upcoming: Vec<Assignment>,
    /// No further window comes: take the last baseline and exit.
    #[serde(default)]
    pub finish: bool,
    /// Trials of this node that did not come to their window, where each node is measured by itself: the operator's own
    /// memory, of no concern to the process.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1100))]
    pub failures: Vec<TrialFailure>,
}

/// One window to measure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Assignment {
    /// Which window it is.
    pub trial: TrialIdentity,
    /// What it measures.
    pub window: WindowPlan,
    /// When it was written; the deadline to be ready counts from here. Null locally.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assigned_at: Option<Timestamp>,
    /// Wall-clock time at which all processes start; written once all are ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_at: Option<Timestamp>,
}

/// What a process is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema, IntoStaticStr, EnumIter)]
pub enum RunnerPhase {
    /// Started.
    #[default]
    Starting,
    /// Measuring idle power, or reading the weights.
    Loading,
    /// Loaded, without an assignment.
    Idle,
    /// Warming up for the assignment.
    WarmingUp,
    /// Warm, waiting for the start time.
    Ready,
    /// In the measured window.
    Measuring,
    /// Finished; nothing more comes.
    Finished,
    /// Ended by an error.
    Failed,
}

/// The record of one process.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunnerStatus {
    /// Version of the facts below; see [`crate::SCHEMA_VERSION`].
    pub schema_version: u32,
    /// UID of the pod that writes, empty for a local process.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pod_uid: String,
    /// When the process last said that it lives; absent while it measures and for a local process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<Timestamp>,
    /// What the process is doing.
    pub phase: RunnerPhase,
    /// The trial that phase refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<TrialIdentity>,
    /// What was measured on, and with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<Environment>,
    /// Seconds to load the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_seconds: Option<f64>,
    /// Seconds spent in warm-up, baseline, wait and cool-down so far.
    #[serde(default)]
    pub held: HeldSeconds,
    /// Idle power, in order of measurement.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub baselines: Vec<IdleBaseline>,
    /// Finished windows, whole or not at all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub windows: Vec<WindowRecord>,
    /// What ended the process, if an error did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<RunnerError>,
    /// What pods of this process measured before they were lost and this one took their place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub earlier: Vec<EarlierRecord>,
}

/// The windows of a pod that another one has replaced, with what they were measured on. Of pods without a window only the time
/// that they held is kept.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct EarlierRecord {
    /// Version of the facts.
    pub schema_version: u32,
    /// UID of the pod that wrote them.
    pub pod_uid: String,
    /// What was measured on, and with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<Environment>,
    /// Where the pod's time went.
    #[serde(default)]
    pub held: HeldSeconds,
    /// Idle power, in order of measurement.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub baselines: Vec<IdleBaseline>,
    /// Its finished windows.
    #[schemars(length(max = 64))]
    pub windows: Vec<WindowRecord>,
}

impl RunnerSpec {
    /// What the mailbox holds: the assignment, and those after it.
    pub fn held(&self) -> impl Iterator<Item = &Assignment> {
        self.assignment.iter().chain(&self.upcoming)
    }
}

impl RunnerStatus {
    /// Windows of this pod, and of those before it that were lost.
    pub fn all_windows(&self) -> impl Iterator<Item = &WindowRecord> {
        let earlier = self.earlier.iter().flat_map(|record| &record.windows);
        self.windows.iter().chain(earlier)
    }

    /// The status that a pod starts with: windows of the pod before it are kept, everything else is new.
    #[must_use]
    pub fn succeeded_by(self, pod_uid: &str) -> Self {
        if self.pod_uid == pod_uid {
            return self;
        }
        let mut earlier = self.earlier;
        if !self.windows.is_empty() {
            earlier.push(EarlierRecord {
                schema_version: self.schema_version,
                pod_uid: self.pod_uid,
                environment: self.environment,
                held: self.held,
                baselines: self.baselines,
                windows: self.windows,
            });
        } else if let Some(before) = earlier.last_mut() {
            before.held.add(&self.held, 1.0);
        } else if self.held.total > 0.0 {
            earlier.push(EarlierRecord {
                schema_version: self.schema_version,
                pod_uid: self.pod_uid,
                held: self.held,
                ..EarlierRecord::default()
            });
        }
        Self {
            schema_version: crate::SCHEMA_VERSION,
            pod_uid: pod_uid.to_owned(),
            earlier,
            ..Self::default()
        }
    }
}

/// Where a process's time went (METHODOLOGY §2, cost of measuring), in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeldSeconds {
    /// Reading weights.
    pub load: f64,
    /// Idle baselines.
    pub baseline: f64,
    /// Warm-up.
    pub warmup: f64,
    /// Waiting for assignments and the barrier.
    pub wait: f64,
    /// Cool-down.
    pub cooldown: f64,
    /// Measured windows.
    pub measured: f64,
    /// All of the process's life until this report.
    pub total: f64,
}

impl HeldSeconds {
    /// Adds those of another pod, so many times.
    pub fn add(&mut self, other: &Self, times: f64) {
        self.load += other.load * times;
        self.baseline += other.baseline * times;
        self.warmup += other.warmup * times;
        self.wait += other.wait * times;
        self.cooldown += other.cooldown * times;
        self.measured += other.measured * times;
        self.total += other.total * times;
    }
}

/// An error that ended a process or a trial.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunnerError {
    /// Bounded, machine-readable category.
    pub category: String,
    /// What was wrong, where, and what to do.
    pub message: String,
}

/// Categories of errors that lie in the experiment, and not in the machine or the moment.
const REFUSALS: &[&str] = &[
    "architecture",
    "context_exceeded",
    "device",
    "empty_request",
    "meter",
    "source_access_denied",
    "source_index",
    "source_not_found",
    "source_repository_name",
    "source_unknown_preset",
    "source_unreadable",
    "source_without_model",
    "tensor",
    "tokenizer",
    "unknown_token",
    "unsupported",
    "unsupported_architecture",
    "weight_header",
    "weight_type",
    "workload",
];

impl RunnerError {
    /// The experiment cannot run as written: trying again would not help.
    pub fn is_refusal(&self) -> bool {
        REFUSALS.contains(&self.category.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(pod: &str, held: f64, earlier: Vec<EarlierRecord>) -> RunnerStatus {
        RunnerStatus {
            pod_uid: pod.to_owned(),
            held: HeldSeconds {
                load: held / 2.0,
                total: held,
                ..HeldSeconds::default()
            },
            earlier,
            ..RunnerStatus::default()
        }
    }

    #[test]
    fn pods_without_a_window_leave_the_time_that_they_held_and_nothing_else() {
        let second = status("a", 10.0, Vec::new()).succeeded_by("b");
        assert_eq!((second.earlier.len(), second.earlier[0].held.total), (1, 10.0));
        assert_eq!(second.clone().succeeded_by("b"), second, "the same pod");
        let third = status("b", 4.0, second.earlier).succeeded_by("c");
        assert_eq!(third.earlier.len(), 1);
        assert_eq!((third.earlier[0].held.total, third.earlier[0].held.load), (14.0, 7.0));
        // One that never spoke leaves nothing.
        assert_eq!(status("a", 0.0, Vec::new()).succeeded_by("b").earlier, []);
    }
}
