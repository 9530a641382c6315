//! `EfficiencyExperiment`: what a user asks to be measured. Field documentation becomes `kubectl explain`.

mod model;
mod objective;
mod placement;
mod pod_patch;
mod protocol;
mod rule;
mod sweep;
mod toleration;
mod workload;

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

pub use self::{
    model::{
        Architecture, ArchitectureFamily, Batching, CandleEngine, ContinuousBatching, DType, Device, DirectorySource,
        Engine, HuggingFaceSource, ImageSource, Implementation, Model, ModelSource, PersistentVolumeClaimSource,
        PrefixCaching, SecretKeyReference, StaticBatching, SyntheticSource,
    },
    objective::{Budget, Objective},
    placement::{
        EnvironmentVariable, ImagePullPolicy, Placement, PlacementStrategy, ProcessResourceClaim, RunnerResources,
        RunnerTemplate, SharedGpus, TimeToLive,
    },
    pod_patch::PodPatch,
    protocol::{
        Barrier, Baseline, Convergence, Cooldown, CpuEnergy, Deadlines, Energy, FixedWarmup, GpuEnergy, Order,
        OrderPolicy, Pricing, Processes, Protocol, Restart, StopRule, Warmup,
    },
    sweep::{SweepAxis, SweepField, SweepValue, swept_values},
    toleration::{TaintEffect, Toleration, TolerationOperator},
    workload::{
        Arrival, ClosedLoop, ConfigMapReference, Decoder, JsonLines, Poisson, Prompts, SyntheticPrompts, Workload,
    },
};
use crate::status::EfficiencyExperimentStatus;

/// One experiment: a model, an engine, a workload and how carefully to measure them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "lem.dev",
    version = "v1alpha1",
    kind = "EfficiencyExperiment",
    plural = "efficiencyexperiments",
    shortname = "effexp",
    category = "lem",
    namespaced,
    status = "EfficiencyExperimentStatus",
    derive = "PartialEq",
    cel,
    validation = Rule::new("!has(oldSelf.status) || !has(oldSelf.status.phase) || oldSelf.status.phase == 'Pending' || (self.spec.model == oldSelf.spec.model && self.spec.engine == oldSelf.spec.engine && self.spec.workload == oldSelf.spec.workload && self.spec.decoder == oldSelf.spec.decoder && self.spec.processes == oldSelf.spec.processes && self.spec.protocol == oldSelf.spec.protocol && self.spec.energy == oldSelf.spec.energy && has(self.spec.sweep) == has(oldSelf.spec.sweep) && (!has(self.spec.sweep) || self.spec.sweep == oldSelf.spec.sweep) && has(self.spec.objective) == has(oldSelf.spec.objective) && (!has(self.spec.objective) || self.spec.objective == oldSelf.spec.objective) && has(self.spec.pricing) == has(oldSelf.spec.pricing) && (!has(self.spec.pricing) || self.spec.pricing == oldSelf.spec.pricing) && has(self.spec.placement) == has(oldSelf.spec.placement) && (!has(self.spec.placement) || self.spec.placement == oldSelf.spec.placement) && has(self.spec.runner) == has(oldSelf.spec.runner) && (!has(self.spec.runner) || self.spec.runner == oldSelf.spec.runner) && has(self.spec.ttlSecondsAfterFinished) == has(oldSelf.spec.ttlSecondsAfterFinished) && (!has(self.spec.ttlSecondsAfterFinished) || self.spec.ttlSecondsAfterFinished == oldSelf.spec.ttlSecondsAfterFinished))")
        .field_path(".spec")
        .message("the spec of a started experiment is immutable but for suspend, cancel and budget: its trials would no longer be comparable. Create another experiment"),
    validation = Rule::new("!has(oldSelf.spec.cancel) || !oldSelf.spec.cancel || self.spec.cancel")
        .field_path(".spec.cancel")
        .message("a cancelled experiment stays cancelled: create another one"),
    validation = Rule::new("size(self.metadata.name) <= 63")
        .message("metadata.name must be at most 63 characters long: it is also a label"),
    doc = "Measures what a token costs: energy, time and FLOPs of one model on one or more processes, with uncertainty.",
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Progress","type":"string","jsonPath":".status.progress.summary"}"#,
    printcolumn = r#"{"name":"J/token","type":"string","jsonPath":".status.headline.joulesPerToken"}"#,
    printcolumn = r#"{"name":"Tokens/s","type":"string","jsonPath":".status.headline.tokensPerSecond"}"#,
    printcolumn = r#"{"name":"Verdict","type":"string","jsonPath":".status.headline.verdict"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[x_kube(
    validation = Rule::new("!(has(self.engine.candle) && self.engine.candle.device == 'Cuda' && self.processes.gpusPerProcess == 0)")
        .message("a process on device Cuda needs a GPU: set processes.gpusPerProcess to 1 or more, or engine.candle.device to Cpu")
        .field_path(".processes.gpusPerProcess"),
    validation = Rule::new("!has(self.placement) || self.placement.strategy != 'EachNode' || self.processes.count == 1 || self.processes.gpusPerProcess > 0")
        .message("processes without GPUs share the counters of their node: leave processes.count at 1 with placement.strategy EachNode, or set processes.gpusPerProcess")
        .field_path(".processes.count"),
    validation = Rule::new("!has(self.placement) || !has(self.placement.resourceClaims) || size(self.placement.resourceClaims) == 0 || self.processes.gpusPerProcess > 0")
        .message("resourceClaims bring the GPUs of the processes: say how many in processes.gpusPerProcess; for claims of anything else use runner.podPatch")
        .field_path(".placement.resourceClaims"),
    validation = Rule::new("!has(self.engine.candle) || !has(self.engine.candle.batching.static) || !has(self.workload.arrival.closedLoop) || self.engine.candle.batching.static.batchSize == 1 || self.engine.candle.batching.static.batchSize <= self.workload.arrival.closedLoop.concurrency")
        .message("with fewer requests at once than engine.candle.batching.static.batchSize its batches are never full: raise the concurrency, or lower the batch size")
        .field_path(".workload.arrival.closedLoop.concurrency"),
    validation = Rule::new("!(self.energy.gpu == 'Required' && self.processes.gpusPerProcess == 0)")
        .message("energy.gpu Required needs a GPU: set processes.gpusPerProcess to 1 or more, or energy.gpu to Auto or Disabled")
        .field_path(".energy.gpu"),
    validation = Rule::new("!has(self.budget) || !has(self.budget.maxGpuSeconds) || self.processes.gpusPerProcess > 0")
        .message("processes without GPUs spend no GPU seconds: set processes.gpusPerProcess, or limit budget.maxEnergyJoules")
        .field_path(".budget.maxGpuSeconds"),
    validation = Rule::new("!(has(self.model.source.synthetic) && (has(self.workload.prompts.inline) || has(self.workload.prompts.jsonLines) || has(self.workload.prompts.configMapRef)))")
        .message("a synthetic model has no tokenizer, so prompts cannot be text: use workload.prompts.synthetic")
        .field_path(".workload.prompts"),
    validation = Rule::new("!(has(self.model.source.huggingFace) && has(self.model.source.huggingFace.tokenSecretRef) && has(self.runner) && has(self.runner.env) && self.runner.env.exists(v, v.name == 'HF_TOKEN'))")
        .message("HF_TOKEN comes from model.source.huggingFace.tokenSecretRef here: remove one of the two")
        .field_path(".runner.env")
)]
pub struct EfficiencyExperimentSpec {
    /// The model: its name and where its weights come from.
    pub model: Model,
    /// What executes the model.
    #[serde(default)]
    pub engine: Engine,
    /// What is asked of the model in each measured window.
    #[serde(default)]
    pub workload: Workload,
    /// How tokens are chosen. The default is greedy, so that runs are comparable.
    #[serde(default)]
    pub decoder: Decoder,
    /// How many replicas measure at the same time.
    #[serde(default)]
    pub processes: Processes,
    /// How carefully to measure.
    #[serde(default)]
    pub protocol: Protocol,
    /// Which energy counters are read.
    #[serde(default)]
    pub energy: Energy,
    /// Axes whose combinations are the points of the experiment; without any there is one point. At most 100 points.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 5))]
    #[x_kube(
        validation = Rule::new("(size(self) > 0 ? size(self[0].values) : 1) * (size(self) > 1 ? size(self[1].values) : 1) * (size(self) > 2 ? size(self[2].values) : 1) * (size(self) > 3 ? size(self[3].values) : 1) * (size(self) > 4 ? size(self[4].values) : 1) <= 100")
            .message("the combinations of the axes' values are more than 100 points: take fewer values or axes"),
        validation = Rule::new("self.all(a, self.exists_one(b, b.field == a.field))")
            .message("each field may be swept by one axis only")
    )]
    pub sweep: Vec<SweepAxis>,
    /// Which point is the best one, and which limits it keeps; status then names it, with the points that are not shown to be
    /// worse.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objective: Option<Objective>,
    /// What the experiment may spend; without it, what its trials take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// Prices and carbon intensity; without them cost and emissions are null.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pricing: Option<Pricing>,
    /// Where the processes run. On a cluster only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    /// The container that measures. On a cluster only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runner: Option<RunnerTemplate>,
    /// Stop at the end of the current trial, give the nodes back, and go on when this is false again. On a cluster only.
    #[serde(default)]
    pub suspend: bool,
    /// End for good at the end of the current trial, with what was measured. On a cluster only.
    #[serde(default)]
    pub cancel: bool,
    /// How long finished Jobs stay; 10 minutes after success and a day after failure if absent. On a cluster only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds_after_finished: Option<TimeToLive>,
}
