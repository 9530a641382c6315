//! One trial: the records of its processes in, every metric with its reasons and doubts out (METHODOLOGY §3–§9). Pure:
//! no client, no clock.

use lem_crds::{
    EfficiencyExperimentSpec,
    metrics::{MetricSet, Unavailable},
    plan::{Point, TrialIdentity},
    runner::{Environment, FlopMethod, HeldSeconds, IdleBaseline, KvCacheRecord, RunnerError, WindowRecord},
    samples::Samples,
    status::{Doubt, TrialResult, Verdict, VerdictReason},
};

use super::{
    aggregate,
    availability::{Value, publish, ratio},
    completeness::{Reported, completeness},
    devices,
    efficiency::{Basis, power},
    energy::{TrialEnergy, trial_energy},
    latency::{LatencyError, Pool},
    verdict::{Evidence, doubts, integral_disagreement, reason, shared_devices},
};

/// Bytes in a GiB.
const GIBIBYTE: f64 = 1_073_741_824.0;

/// Everything that one trial is evaluated from.
#[derive(Debug, Clone)]
pub struct TrialInput<'a> {
    /// The point that was measured.
    pub point: &'a Point,
    /// The experiment, for process count and prices.
    pub spec: &'a EfficiencyExperimentSpec,
    /// Which cycle and attempt of the point.
    pub trial: &'a TrialIdentity,
    /// What is known of each process, in any order.
    pub processes: Vec<ProcessInput<'a>>,
}

/// What is known of one process at the end of a trial.
#[derive(Debug, Clone)]
pub struct ProcessInput<'a> {
    /// Index of the process, from 0.
    pub index: u32,
    /// What was measured on, and with.
    pub environment: Option<&'a Environment>,
    /// Idle power.
    pub baselines: &'a [IdleBaseline],
    /// Where the process's time went.
    pub held: &'a HeldSeconds,
    /// The window of this trial; a window of another trial counts as none.
    pub window: Option<&'a WindowRecord>,
    /// Version of the record.
    pub schema_version: u32,
    /// What ended the process, if an error did.
    pub failure: Option<&'a RunnerError>,
}

/// Evaluates a trial: sums over distinct counters and replicas, pooled percentiles, ratios, doubts and the verdict.
///
/// A set of processes that is not complete, each once and of one schema, is `Invalid` and has no figures: its sums
/// would be those of another trial.
pub fn evaluate_trial(input: &TrialInput<'_>) -> TrialResult {
    let (reported, mut reasons) = completeness(&input.processes, input.spec.processes.count, input.trial);
    let complete = !reported.is_empty() && reasons.iter().all(|found| found.severity != Verdict::Invalid);
    let mut result = TrialResult {
        cycle: input.trial.cycle,
        attempt: input.trial.attempt,
        verdict: Verdict::Valid,
        reasons: Vec::new(),
        processes: reported.len() as u32,
        energy_scope: Vec::new(),
        energy_sources: Vec::new(),
        flops_method: None,
        flops_confidence: None,
        metrics: MetricSet::default(),
        not_available: std::collections::BTreeMap::new(),
    };
    if complete {
        let shared = !shared_devices(&reported).is_empty();
        let energy = trial_energy(&reported, &input.point.load, shared);
        let (metrics, more) = metrics(input, &reported, &energy);
        (result.metrics, result.not_available) = publish(&metrics);
        reasons.extend(more);
        reasons.extend(doubts(&Evidence {
            reported: &reported,
            energy: &energy,
            metrics: &result.metrics,
            barrier: input.point.window.barrier,
        }));
        result.energy_scope = energy.scope();
        result.energy_sources = energy
            .sources()
            .into_iter()
            .map(|source| source.name().to_owned())
            .collect();
        result.flops_method = aggregate::flops(&reported).ok().map(|(_, method)| method);
        result.flops_confidence = result.flops_method.map(FlopMethod::confidence);
    } else {
        (result.metrics, result.not_available) = publish(&MetricSet::default());
    }
    reasons.sort_by(|a, b| b.severity.cmp(&a.severity).then(a.doubt.cmp(&b.doubt)));
    result.verdict = reasons.iter().map(|found| found.severity).max().unwrap_or_default();
    result.reasons = reasons;
    result
}

/// Latencies of one kind: mean and the percentiles that are published of it.
struct Latencies {
    mean: Value,
    median: Value,
    p95: Value,
    p99: Value,
}

fn latencies(pool: Result<&Pool, Unavailable>, when_empty: Unavailable) -> Latencies {
    let at = |fraction| pool.and_then(|pool| pool.percentile_milliseconds(fraction, when_empty));
    Latencies {
        mean: pool.and_then(|pool| pool.mean_milliseconds(when_empty)),
        median: at(0.5),
        p95: at(0.95),
        p99: at(0.99),
    }
}

/// Every metric, each computed or with its reason. No field is left out: a new one does not compile until it is here.
fn metrics(
    input: &TrialInput<'_>,
    reported: &[Reported<'_>],
    energy: &TrialEnergy,
) -> (MetricSet<Value>, Vec<VerdictReason>) {
    let mut damaged = Vec::new();
    let mut pool = |of: fn(&WindowRecord) -> &Samples| {
        let pooled: Result<Pool, LatencyError> = Pool::new(reported.iter().map(|process| of(process.window)));
        pooled.map_err(|error| {
            damaged.push(reason(Doubt::FailedProcess, error.to_string()));
            Unavailable::NotReported
        })
    };
    let end_to_end = pool(|window| &window.end_to_end);
    let first_token = pool(|window| &window.time_to_first_token);
    let gaps = pool(|window| &window.inter_token);
    let streaming = reported.iter().all(|process| process.window.streaming);
    let streamed = |pool: Result<Pool, Unavailable>| {
        if streaming {
            pool
        } else {
            Err(Unavailable::NotStreaming)
        }
    };
    let (first_token, gaps) = (streamed(first_token), streamed(gaps));

    let tokens = aggregate::tokens(reported);
    let completed: u64 = reported.iter().map(|process| process.window.requests_completed).sum();
    let failed: u64 = reported.iter().map(|process| process.window.requests_failed).sum();
    let none = Unavailable::NoCompletedRequest;
    let no_gap = if completed == 0 {
        none
    } else {
        Unavailable::DivisionByZero
    };
    let end_to_end = latencies(end_to_end.as_ref().map_err(|reason| *reason), none);
    let first_token = latencies(first_token.as_ref().map_err(|reason| *reason), none);
    let gaps = latencies(gaps.as_ref().map_err(|reason| *reason), no_gap);

    let duration = aggregate::duration(reported);
    let inference_time = aggregate::inference_time(reported);
    let flops = aggregate::flops(reported).map(|(total, _)| total);
    let ratios = Basis {
        total_tokens: Ok(tokens.input + tokens.output),
        output_tokens: Ok(tokens.output),
        inference_time,
        duration,
        total_energy: energy.total,
        adjusted_energy: energy.adjusted,
        flops,
        precision_factor: aggregate::precision_factor(reported),
        pricing: input.spec.pricing.as_ref(),
    }
    .ratios();
    let [gpu, cpu, dram] = energy.domains.each_ref().map(|domain| domain.joules);
    let devices = devices::distinct_devices(reported);
    let memory_peak = devices::memory_peak(&devices);
    let weight_bytes: u64 = reported.iter().map(|process| process.window.weight_bytes).sum();
    let batches = aggregate::batches(reported);
    let kv_cache = |of: fn(&KvCacheRecord) -> Option<u64>, absent| aggregate::kv_cache(reported, of, absent);

    let set = MetricSet {
        input_tokens: Some(Ok(tokens.input)),
        output_tokens: Some(Ok(tokens.output)),
        total_tokens: Some(Ok(tokens.input + tokens.output)),
        requests_completed: Some(Ok(completed as f64)),
        requests_failed: Some(Ok(failed as f64)),
        inference_time_sec: Some(inference_time),
        tokens_per_second: Some(ratios.tokens_per_second),
        output_tokens_per_second: Some(ratios.output_tokens_per_second),
        avg_tokens_per_second: Some(aggregate::mean_tokens_per_second(reported)),
        effective_throughput: Some(ratios.effective_throughput),
        effective_output_throughput: Some(ratios.effective_output_throughput),
        latency_per_token_ms: Some(ratios.latency_per_token_ms),
        ttft_ms: Some(first_token.mean),
        ttft_p95_ms: Some(first_token.p95),
        itl_ms: Some(gaps.mean),
        itl_p95_ms: Some(gaps.p95),
        tpot_ms: Some(gaps.mean), // Σ(last − first) / Σ(output − 1) is the mean over all gaps
        e2e_latency_mean_ms: Some(end_to_end.mean),
        e2e_latency_median_ms: Some(end_to_end.median),
        e2e_latency_p95_ms: Some(end_to_end.p95),
        e2e_latency_p99_ms: Some(end_to_end.p99),
        total_energy_j: Some(energy.total),
        gpu_energy_j: Some(gpu),
        cpu_energy_j: Some(cpu),
        dram_energy_j: Some(dram),
        energy_uncertainty_j: Some(energy.uncertainty),
        adjusted_energy_j: Some(energy.adjusted),
        gpu_power_w: Some(power(gpu, duration)),
        cpu_power_w: Some(power(cpu, duration)),
        dram_power_w: Some(power(dram, duration)),
        total_power_w: Some(ratios.total_power),
        idle_power_w: Some(energy.idle_power),
        duration_sec: Some(duration),
        counter_integral_disagreement: Some(integral_disagreement(reported, gpu)),
        prefill_time_sec: Some(aggregate::phase_seconds(reported, |process| {
            process.window.prefill_seconds
        })),
        decode_time_sec: Some(aggregate::phase_seconds(reported, |process| {
            process.window.decode_seconds
        })),
        // No method tells the energy of interleaved prefill and decode apart at the counters' resolution.
        prefill_energy_j: Some(Err(Unavailable::PhaseNotResolved)),
        decode_energy_j: Some(Err(Unavailable::PhaseNotResolved)),
        // Schema 1 of the window record has no mark of when the concurrency was held.
        steady_state_duration_sec: Some(Err(Unavailable::NoSteadyState)),
        steady_state_tokens_per_second: Some(Err(Unavailable::NoSteadyState)),
        steady_state_joules_per_token: Some(Err(Unavailable::NoSteadyState)),
        flops_total: Some(flops),
        flops_per_second: Some(ratios.flops_per_second),
        tokens_per_joule: Some(ratios.tokens_per_joule),
        output_tokens_per_joule: Some(ratios.output_tokens_per_joule),
        joules_per_token: Some(ratios.joules_per_token),
        joules_per_output_token: Some(ratios.joules_per_output_token),
        adjusted_joules_per_token: Some(ratios.adjusted_joules_per_token),
        flop_per_joule: Some(ratios.flop_per_joule),
        flop_per_token: Some(ratios.flop_per_token),
        watts_per_token_per_second: Some(ratios.watts_per_token_per_second),
        token_efficiency_index: Some(ratios.token_efficiency_index),
        gco2e_per_1k_tokens: Some(ratios.gco2e_per_1k_tokens),
        cost_per_1m_tokens: Some(ratios.cost_per_1m_tokens),
        tokens_per_gb_vram: Some(ratio(Ok(tokens.output * GIBIBYTE), memory_peak)),
        model_memory_utilisation: Some(ratio(Ok(weight_bytes as f64), devices::memory_total(&devices))),
        kv_cache_memory_ratio: Some(ratio(
            kv_cache(|kv| kv.peak_bytes, Unavailable::NoKvCacheReport),
            memory_peak,
        )),
        sm_utilisation_mean: Some(devices::sm_utilisation(&devices)),
        memory_bandwidth_utilisation: Some(devices::memory_utilisation(&devices)),
        effective_batch_size: Some(batches.effective),
        batch_utilisation: Some(batches.utilisation),
        padding_overhead: Some(batches.padding),
        kv_cache_hit_rate: Some(ratio(
            kv_cache(|kv| kv.hit_tokens, Unavailable::NotPaged),
            kv_cache(|kv| kv.queried_tokens, Unavailable::NotPaged),
        )),
        kv_cache_blocks_used: Some(kv_cache(|kv| kv.blocks_used, Unavailable::NotPaged)),
        kv_cache_blocks_total: Some(kv_cache(|kv| kv.blocks_total, Unavailable::NotPaged)),
        mfu: Some(devices::model_flops_utilisation(&devices, ratios.flops_per_second)),
        mbu: Some(Err(Unavailable::PeakUnknown)), // no engine reports the bytes it moved
        duty_cycle: Some(aggregate::duty_cycle(reported)),
        temporal_overlap: Some(aggregate::temporal_overlap(reported)),
        start_skew_ms: Some(aggregate::start_skew_milliseconds(reported)),
    };
    (set, damaged)
}
