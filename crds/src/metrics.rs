//! The stable schema of METHODOLOGY §3–§8: one table from which the struct, its documentation, its CSV columns and its
//! iteration are made. Every field is always present; what cannot be had is `null`, and [`Unavailable`] says why.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Name, unit and meaning of one metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetricDefinition {
    /// The name in METHODOLOGY and in CSV columns, such as `tokens_per_joule`.
    pub name: &'static str,
    /// The name in JSON and YAML, such as `tokensPerJoule`.
    pub key: &'static str,
    /// The unit, `1` for a ratio without one.
    pub unit: &'static str,
    /// What it is and how it is formed.
    pub description: &'static str,
}

impl MetricDefinition {
    /// Whether this is the metric of that name, in either spelling.
    fn is_called(&self, name: &str) -> bool {
        self.name == name || self.key == name
    }

    /// Whether the cycles of a point tell its spread. A ratio over all that a load has run for is common to the cycles on that
    /// load: they are not independent values of it.
    pub fn has_spread(&self) -> bool {
        self.name != "duty_cycle"
    }

    /// Whether more of it is better, or less; none where neither is.
    pub fn higher_is_better(&self) -> Option<bool> {
        match self.name {
            "tokens_per_second"
            | "output_tokens_per_second"
            | "avg_tokens_per_second"
            | "effective_throughput"
            | "effective_output_throughput"
            | "requests_completed"
            | "steady_state_tokens_per_second"
            | "flops_per_second"
            | "tokens_per_joule"
            | "output_tokens_per_joule"
            | "flop_per_joule"
            | "token_efficiency_index"
            | "tokens_per_gb_vram"
            | "batch_utilisation"
            | "kv_cache_hit_rate"
            | "mfu"
            | "mbu"
            | "duty_cycle" => Some(true),
            "requests_failed"
            | "inference_time_sec"
            | "latency_per_token_ms"
            | "ttft_ms"
            | "ttft_p95_ms"
            | "itl_ms"
            | "itl_p95_ms"
            | "tpot_ms"
            | "e2e_latency_mean_ms"
            | "e2e_latency_median_ms"
            | "e2e_latency_p95_ms"
            | "e2e_latency_p99_ms"
            | "send_latency_mean_ms"
            | "send_latency_p95_ms"
            | "total_energy_j"
            | "gpu_energy_j"
            | "cpu_energy_j"
            | "dram_energy_j"
            | "adjusted_energy_j"
            | "gpu_power_w"
            | "cpu_power_w"
            | "dram_power_w"
            | "total_power_w"
            | "idle_power_w"
            | "duration_sec"
            | "prefill_time_sec"
            | "decode_time_sec"
            | "prefill_energy_j"
            | "decode_energy_j"
            | "steady_state_joules_per_token"
            | "joules_per_token"
            | "joules_per_output_token"
            | "adjusted_joules_per_token"
            | "watts_per_token_per_second"
            | "gco2e_per_1k_tokens"
            | "cost_per_1m_tokens"
            | "padding_overhead" => Some(false),
            _ => None,
        }
    }
}

/// Keys of the metrics of which more or less is better, as a list of CEL.
pub(crate) fn with_direction() -> String {
    let directed = DEFINITIONS.iter().filter(|one| one.higher_is_better().is_some());
    let quoted: Vec<String> = directed.map(|one| format!("'{}'", one.key)).collect();
    format!("[{}]", quoted.join(", "))
}

/// Keys of the metrics whose spread the cycles of a point tell.
pub(crate) fn keys_with_spread() -> impl Iterator<Item = &'static str> {
    DEFINITIONS.iter().filter(|one| one.has_spread()).map(|one| one.key)
}

/// Keys of the metrics of which more is better, or less.
pub(crate) fn keys_with_direction(higher_is_better: bool) -> impl Iterator<Item = &'static str> {
    let of_direction = DEFINITIONS
        .iter()
        .filter(move |one| one.higher_is_better() == Some(higher_is_better));
    of_direction.map(|one| one.key)
}

/// The definition of the metric of this name (either spelling).
pub fn definition(name: &str) -> Option<&'static MetricDefinition> {
    DEFINITIONS.iter().find(|definition| definition.is_called(name))
}

macro_rules! metric_set {
    ($($name:ident $key:literal [$unit:literal] $description:literal;)*) => {
        /// Every metric, in the order of METHODOLOGY. `T` is a trial's value or a point's [`Estimate`].
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = "camelCase")]
        pub struct MetricSet<T> {
            $(
                #[doc = concat!($description, " Unit: ", $unit, ".")]
                pub $name: Option<T>,
            )*
        }

        impl<T> Default for MetricSet<T> {
            fn default() -> Self {
                Self { $($name: None,)* }
            }
        }

        /// The definition of every metric, in the order of the fields.
        pub const DEFINITIONS: &[MetricDefinition] = &[
            $(MetricDefinition { name: stringify!($name), key: $key, unit: $unit, description: $description },)*
        ];

        impl<T> MetricSet<T> {
            /// Definition and value of every metric, in the order of the fields.
            pub fn iter(&self) -> impl Iterator<Item = (&'static MetricDefinition, Option<&T>)> {
                DEFINITIONS.iter().zip([$(self.$name.as_ref(),)*])
            }

            /// A set whose every value is made by `make`, called with the definition.
            pub fn from_fn(mut make: impl FnMut(&'static MetricDefinition) -> Option<T>) -> Self {
                let mut definitions = DEFINITIONS.iter();
                Self { $($name: definitions.next().and_then(&mut make),)* }
            }

            /// The value of the metric of this name (either spelling).
            pub fn get(&self, name: &str) -> Option<&T> {
                self.iter().find(|(definition, _)| definition.is_called(name)).and_then(|(_, value)| value)
            }
        }
    };
}

metric_set! {
    input_tokens "inputTokens" ["tokens"] "Prompt tokens processed; padding is never counted.";
    output_tokens "outputTokens" ["tokens"] "Tokens generated.";
    total_tokens "totalTokens" ["tokens"] "Input plus output tokens.";
    requests_completed "requestsCompleted" ["requests"] "Requests that ended with all their tokens.";
    requests_failed "requestsFailed" ["requests"] "Requests that ended with an error.";
    inference_time_sec "inferenceTimeSec" ["s"] "Wall clock of the measured window in which requests executed: mean over processes.";
    tokens_per_second "tokensPerSecond" ["tok/s"] "Total tokens over inference time, summed tokens over the mean time of the processes.";
    output_tokens_per_second "outputTokensPerSecond" ["tok/s"] "Output tokens over inference time.";
    avg_tokens_per_second "avgTokensPerSecond" ["tok/s"] "Mean over processes of each process's tokens per second.";
    effective_throughput "effectiveThroughput" ["tok/s"] "Sum of total tokens over (last end − first start) of all processes.";
    effective_output_throughput "effectiveOutputThroughput" ["tok/s"] "Sum of output tokens over (last end − first start) of all processes.";
    latency_per_token_ms "latencyPerTokenMs" ["ms"] "1000 / tokens per second.";
    ttft_ms "ttftMs" ["ms"] "Time to first token: mean over requests, submission to first token; streaming only.";
    ttft_p95_ms "ttftP95Ms" ["ms"] "95th percentile of the time to first token, type 7 on pooled samples.";
    itl_ms "itlMs" ["ms"] "Inter-token latency: mean over all gaps between consecutive tokens of a request; streaming only.";
    itl_p95_ms "itlP95Ms" ["ms"] "95th percentile of the inter-token latency, type 7 on pooled samples.";
    tpot_ms "tpotMs" ["ms"] "Time per output token after the first: Σ(last − first) / Σ(output − 1); streaming only.";
    e2e_latency_mean_ms "e2eLatencyMeanMs" ["ms"] "Mean of submission to completion per request, pooled over processes.";
    e2e_latency_median_ms "e2eLatencyMedianMs" ["ms"] "Median of submission to completion, type 7 on pooled samples.";
    e2e_latency_p95_ms "e2eLatencyP95Ms" ["ms"] "95th percentile of submission to completion, type 7 on pooled samples.";
    e2e_latency_p99_ms "e2eLatencyP99Ms" ["ms"] "99th percentile of submission to completion, type 7 on pooled samples.";
    send_latency_mean_ms "sendLatencyMeanMs" ["ms"] "Mean of sending to completion per request; for Poisson arrivals without the time by which the request was sent late.";
    send_latency_p95_ms "sendLatencyP95Ms" ["ms"] "95th percentile of sending to completion, type 7 on pooled samples.";
    total_energy_j "totalEnergyJ" ["J"] "Sum of the energy of the available domains; energyScope lists them.";
    gpu_energy_j "gpuEnergyJ" ["J"] "Energy of the distinct GPUs.";
    cpu_energy_j "cpuEnergyJ" ["J"] "Energy of the distinct CPU packages.";
    dram_energy_j "dramEnergyJ" ["J"] "Energy of the distinct memory domains.";
    energy_uncertainty_j "energyUncertaintyJ" ["J"] "Bound on the error of the total energy, as the meters state it.";
    adjusted_energy_j "adjustedEnergyJ" ["J"] "Total energy − idle power with the model resident × duration; never clamped.";
    gpu_power_w "gpuPowerW" ["W"] "GPU energy over duration.";
    cpu_power_w "cpuPowerW" ["W"] "CPU energy over duration.";
    dram_power_w "dramPowerW" ["W"] "Memory energy over duration.";
    total_power_w "totalPowerW" ["W"] "Total energy over duration.";
    idle_power_w "idlePowerW" ["W"] "Mean power of the baseline with the model resident, all domains.";
    duration_sec "durationSec" ["s"] "First start to last end of the measured windows of the trial.";
    counter_integral_disagreement "counterIntegralDisagreement" ["1"] "Largest |counter − integral| / counter over the GPUs; null where power was integrated because the counter failed or stood still (the source says so).";
    prefill_time_sec "prefillTimeSec" ["s"] "Time spent in prefill steps, summed over processes; phases that do not overlap only.";
    decode_time_sec "decodeTimeSec" ["s"] "Time spent in decode steps, summed over processes; phases that do not overlap only.";
    prefill_energy_j "prefillEnergyJ" ["J"] "Energy of the prefill phases, by the times of the steps; phases that do not overlap only, and where the counters tell it to within 5 %.";
    decode_energy_j "decodeEnergyJ" ["J"] "Energy of the decode phases, as prefill_energy_j.";
    steady_state_duration_sec "steadyStateDurationSec" ["s"] "From the configured concurrency first reached until it can no longer be kept.";
    steady_state_tokens_per_second "steadyStateTokensPerSecond" ["tok/s"] "Throughput of the steady-state window.";
    steady_state_joules_per_token "steadyStateJoulesPerToken" ["J/tok"] "Energy per token of the steady-state window; absent where the counters do not tell its energy to within 5 %.";
    flops_total "flopsTotal" ["FLOP"] "Floating-point operations, 2 per multiply-accumulate.";
    flops_per_second "flopsPerSecond" ["FLOP/s"] "FLOPs over duration.";
    tokens_per_joule "tokensPerJoule" ["tok/J"] "Total tokens over total energy.";
    output_tokens_per_joule "outputTokensPerJoule" ["tok/J"] "Output tokens over total energy.";
    joules_per_token "joulesPerToken" ["J/tok"] "Total energy over total tokens.";
    joules_per_output_token "joulesPerOutputToken" ["J/tok"] "Total energy over output tokens.";
    adjusted_joules_per_token "adjustedJoulesPerToken" ["J/tok"] "Baseline-adjusted energy over total tokens.";
    flop_per_joule "flopPerJoule" ["FLOP/J"] "FLOPs over total energy.";
    flop_per_token "flopPerToken" ["FLOP/tok"] "FLOPs over total tokens.";
    watts_per_token_per_second "wattsPerTokenPerSecond" ["W·s/tok"] "Average power over effective throughput.";
    token_efficiency_index "tokenEfficiencyIndex" ["tok²/(s·J)"] "Effective output throughput × output tokens per joule × precision factor of the compute precision.";
    gco2e_per_1k_tokens "gco2ePer1kTokens" ["g/1000 tok"] "Grid carbon intensity × PUE × energy per 1000 tokens.";
    cost_per_1m_tokens "costPer1mTokens" ["currency/1e6 tok"] "Energy price × PUE × energy per million tokens.";
    tokens_per_gb_vram "tokensPerGbVram" ["tok/GiB"] "Output tokens over peak device memory in GiB, peak summed over devices.";
    model_memory_utilisation "modelMemoryUtilisation" ["1"] "Weight bytes over total device memory.";
    kv_cache_memory_ratio "kvCacheMemoryRatio" ["1"] "KV-cache bytes in use at peak over peak memory.";
    sm_utilisation_mean "smUtilisationMean" ["%"] "Mean of NVML GPU utilisation samples over the window, pooled by sample.";
    memory_bandwidth_utilisation "memoryBandwidthUtilisation" ["%"] "Mean of NVML memory utilisation samples over the window, pooled by sample.";
    effective_batch_size "effectiveBatchSize" ["rows"] "Mean rows per executed batch step; static batching.";
    batch_utilisation "batchUtilisation" ["1"] "Effective over configured batch size; static batching.";
    padding_overhead "paddingOverhead" ["1"] "(Σ B·max_len − Σ len) / Σ B·max_len; static batching.";
    kv_cache_hit_rate "kvCacheHitRate" ["1"] "Prefix-cache hit tokens over queried tokens; paged engine with prefix caching.";
    kv_cache_blocks_used "kvCacheBlocksUsed" ["blocks"] "Peak KV-cache blocks in use; paged engine.";
    kv_cache_blocks_total "kvCacheBlocksTotal" ["blocks"] "KV-cache blocks configured; paged engine.";
    mfu "mfu" ["1"] "Achieved FLOP/s over the device's peak.";
    mbu "mbu" ["1"] "Achieved bytes/s over the device's peak.";
    duty_cycle "dutyCycle" ["1"] "Measured over held seconds of the processes.";
    temporal_overlap "temporalOverlap" ["1"] "Intersection of the processes' windows over the shortest of them.";
    start_skew_ms "startSkewMs" ["ms"] "Latest minus earliest actual start of the processes.";
}

/// Mean of the cycles with its spread (METHODOLOGY §2); without a spread where cycles on one load share the value, as of `dutyCycle`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Estimate {
    /// Arithmetic mean over the cycles.
    pub mean: f64,
    /// Cycles that gave a value.
    pub count: u32,
    /// Sample standard deviation (n − 1); null for one cycle.
    pub standard_deviation: Option<f64>,
    /// Lower bound of the exact Student-t 95 % interval of the mean; null for one cycle.
    pub lower: Option<f64>,
    /// Upper bound of the exact Student-t 95 % interval of the mean; null for one cycle.
    pub upper: Option<f64>,
    /// Standard deviation over |mean|; null for one cycle or a mean of zero.
    pub coefficient_of_variation: Option<f64>,
}

/// Why a field of the schema, or a reading below it, has no value. Machine-readable and bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Unavailable {
    /// The workload was not streamed, so tokens have no timestamps of their own.
    NotStreaming,
    /// No request completed in the window.
    NoCompletedRequest,
    /// No token was produced.
    NoTokens,
    /// No energy counter could be read in any domain.
    NoEnergyReading,
    /// Energy of this domain was switched off in the spec.
    SwitchedOff,
    /// No GPU, or no NVML library; or the model ran on the CPU beside GPUs that stood by.
    NoDevice,
    /// The device does not support this reading.
    NotSupported,
    /// The counter went backwards (driver reload, GPU reset), moved by more than a CPU can draw, or was read too late to exclude a wrap.
    CounterReset,
    /// The counter stopped answering during the window, or stood still although the device draws power.
    CounterFailed,
    /// The operating system refused the read.
    PermissionDenied,
    /// This machine has no such counter.
    NoCounter,
    /// Power of a shared or MIG-sliced device is known for the whole board only.
    SharedDevice,
    /// The device lists processes of the host; this process sees only those of its own namespace.
    ProcessNamespace,
    /// No baseline was taken.
    NoBaseline,
    /// The engine does not batch.
    NotStaticBatching,
    /// The engine has no paged KV cache.
    NotPaged,
    /// The engine does not report its KV cache.
    NoKvCacheReport,
    /// The peak of this device is not known.
    PeakUnknown,
    /// Phases overlap, or the energy of a part of the window cannot be told apart at the counter's resolution.
    PhaseNotResolved,
    /// The load was not held at a configured concurrency, or the engine cannot tell.
    NoSteadyState,
    /// The spec gives no grid intensity or no energy price.
    NoPricing,
    /// FLOPs could not be counted or derived.
    NoFlops,
    /// The divisor was zero.
    DivisionByZero,
    /// Needs two processes or more.
    SingleProcess,
    /// The process was lost before it reported.
    NotReported,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_json_keys_are_the_serialised_ones() {
        let value = serde_json::to_value(MetricSet::<f64>::default()).unwrap();
        let object = value.as_object().unwrap();
        assert_eq!(object.len(), DEFINITIONS.len());
        for definition in DEFINITIONS {
            assert_eq!(
                object.get(definition.key),
                Some(&serde_json::Value::Null),
                "{}",
                definition.key
            );
        }
    }

    #[test]
    fn a_set_made_from_a_function_gives_each_value_back_under_its_name() {
        let mut count = 0.0;
        let set = MetricSet::from_fn(|_| {
            count += 1.0;
            Some(count)
        });
        assert_eq!(set.input_tokens, Some(1.0));
        assert_eq!(set.start_skew_ms, Some(count));
        assert_eq!(set.get("tokens_per_joule"), set.get("tokensPerJoule"));
        assert_eq!(set.iter().count(), DEFINITIONS.len());
    }
}
