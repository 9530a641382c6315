//! One finished window: raw facts, no ratios.

use jiff::Timestamp;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DeviceObservation, EnergyReading};
use crate::{metrics::Unavailable, plan::TrialIdentity, samples::Samples};

/// How well a node's clock agrees with true time, as the kernel states it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClockQuality {
    /// The kernel's clock is disciplined; null if it cannot be asked.
    pub synchronised: Option<bool>,
    /// The kernel's bound of the clock's error in microseconds.
    pub maximum_error_microseconds: Option<u64>,
    /// This clock minus the API server's in seconds, by the date of an answer shortly before the window: good to about a
    /// second. Null for a local process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_server_offset_seconds: Option<f64>,
}

/// Which idle state a baseline measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum IdleState {
    /// Before the model was loaded: no context on the device.
    NoContext,
    /// With the model resident, before the first window.
    ModelResident,
    /// With the model resident, after the last window.
    ModelResidentAfter,
}

/// Idle power over a short time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct IdleBaseline {
    /// Which state.
    pub state: IdleState,
    /// One reading per counter.
    pub readings: Vec<EnergyReading>,
}

/// How the warm-up went.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct WarmupRecord {
    /// Iterations executed.
    pub iterations: u32,
    /// Iteration times settled; null where convergence was not asked for.
    pub converged: Option<bool>,
    /// Coefficient of variation of the last 3 iteration times.
    pub coefficient_of_variation: Option<f64>,
    /// Seconds taken.
    pub seconds: f64,
    /// Fewer iterations than asked, because the window before had the same settings on this process.
    #[serde(default)]
    pub shortened: bool,
}

/// The tier a FLOP count comes from (METHODOLOGY §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FlopMethod {
    /// Added up by the engine for each product it executed.
    Counted,
    /// From the model's configuration.
    Architecture,
    /// 2 × parameters × tokens.
    Parameters,
}

impl FlopMethod {
    /// The confidence that METHODOLOGY gives the tier.
    pub const fn confidence(self) -> Confidence {
        match self {
            Self::Counted => Confidence::High,
            Self::Architecture => Confidence::Medium,
            Self::Parameters => Confidence::Low,
        }
    }
}

/// Confidence in a FLOP count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Confidence {
    /// Parameter estimate.
    Low,
    /// From the configuration.
    Medium,
    /// Counted.
    High,
}

/// FLOPs of a window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct FlopCount {
    /// Floating-point operations, 2 per multiply-accumulate.
    pub total: f64,
    /// The tier.
    pub method: FlopMethod,
    /// The tier below, as a check; null if there is none.
    pub architecture_total: Option<f64>,
}

/// Precision in which the products are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ComputePrecision {
    /// 32-bit floating point.
    Fp32,
    /// 19-bit tensor-core format.
    Tf32,
    /// 16-bit IEEE floating point.
    Fp16,
    /// bfloat16.
    Bf16,
    /// 8-bit floating point.
    Fp8,
    /// 8-bit integers.
    Int8,
    /// 4-bit integers.
    Int4,
}

impl ComputePrecision {
    /// The factor of METHODOLOGY §7.
    pub const fn factor(self) -> f64 {
        match self {
            Self::Fp32 | Self::Tf32 | Self::Fp16 | Self::Bf16 => 1.0,
            Self::Fp8 | Self::Int8 => 0.5,
            Self::Int4 => 0.25,
        }
    }
}

/// Steps of static batches; absent under continuous batching.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct StaticBatchRecord {
    /// Batch size asked for.
    pub configured: u32,
    /// Executed batch steps.
    pub steps: u64,
    /// Rows summed over the steps.
    pub rows: u64,
    /// `Σ B·max_len` over the batches.
    pub padded_tokens: u64,
    /// `Σ len` over the batches.
    pub real_tokens: u64,
}

/// From the moment that the configured concurrency is reached until it can no longer be kept (METHODOLOGY §4).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SteadyStateRecord {
    /// Its beginning, in seconds since the window's start.
    pub start_seconds: f64,
    /// Its length in seconds.
    pub duration_seconds: f64,
    /// Prompt and generated tokens of the steps in it.
    pub tokens: u64,
}

/// State of the engine's KV cache.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct KvCacheRecord {
    /// Peak bytes in use.
    pub peak_bytes: Option<u64>,
    /// Peak blocks in use; paged engines.
    pub blocks_used: Option<u64>,
    /// Blocks configured; paged engines.
    pub blocks_total: Option<u64>,
    /// Prefix-cache hit tokens in the window.
    pub hit_tokens: Option<u64>,
    /// Prefix-cache queried tokens in the window.
    pub queried_tokens: Option<u64>,
}

/// What one process measured in one trial. Times are of the node's wall clock; lengths of the monotonic clock.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct WindowRecord {
    /// Which window.
    pub trial: TrialIdentity,
    /// Node it was measured on.
    pub node: String,
    /// The agreed start; null without a barrier.
    pub start_at: Option<Timestamp>,
    /// Actual start.
    pub started_at: Timestamp,
    /// Actual end.
    pub ended_at: Timestamp,
    /// Length in seconds.
    pub duration_seconds: f64,
    /// Quality of the wall clock.
    pub clock: ClockQuality,
    /// The warm-up before it.
    pub warmup: WarmupRecord,
    /// Prompt tokens processed.
    pub input_tokens: u64,
    /// Tokens generated.
    pub output_tokens: u64,
    /// Requests that completed.
    pub requests_completed: u64,
    /// Requests that ended with an error.
    pub requests_failed: u64,
    /// The workload was streamed: ttft and gaps were taken.
    pub streaming: bool,
    /// Submission to completion per request; for Poisson arrivals from the intended arrival.
    pub end_to_end: Samples,
    /// For Poisson arrivals also from the moment that the request was sent; empty otherwise, where that is submission.
    #[serde(default)]
    pub end_to_end_from_send: Samples,
    /// Submission to first token per request; empty if not streaming.
    pub time_to_first_token: Samples,
    /// Gaps between consecutive tokens of a request; empty if not streaming.
    pub inter_token: Samples,
    /// Seconds in prefill steps; null where phases overlap.
    pub prefill_seconds: Option<f64>,
    /// Seconds in decode steps; null where phases overlap.
    pub decode_seconds: Option<f64>,
    /// The time in which the configured concurrency was held; null if it never was, or none is configured.
    #[serde(default)]
    pub steady_state: Option<SteadyStateRecord>,
    /// Bytes of weights, keys and values that the products moved; null if the engine does not count them.
    #[serde(default)]
    pub bytes_moved: Option<f64>,
    /// FLOPs; null if neither counted nor derivable.
    pub flops: Option<FlopCount>,
    /// Precision of the products.
    pub compute_precision: ComputePrecision,
    /// Bytes of the weights.
    pub weight_bytes: u64,
    /// Steps of static batches; null under continuous batching.
    pub static_batch: Option<StaticBatchRecord>,
    /// KV cache; null if the engine does not report it.
    pub kv_cache: Option<KvCacheRecord>,
    /// Energy per counter.
    pub energy: Vec<EnergyReading>,
    /// Domains without any reading, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub absent_domains: Vec<AbsentDomain>,
    /// What each GPU showed.
    pub devices: Vec<DeviceObservation>,
    /// Peak resident memory of the process in bytes.
    pub resident_peak_bytes: Option<u64>,
}

/// A domain whose energy was not read at all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AbsentDomain {
    /// The domain.
    pub domain: super::Domain,
    /// Why.
    pub reason: Unavailable,
    /// In words, with what to do.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}
