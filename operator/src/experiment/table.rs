//! The table of every metric of a trial: which figure stands under which name (METHODOLOGY §3–§8). Pure.

use lem_crds::{
    experiment::Pricing,
    metrics::{MetricSet, Unavailable},
    runner::KvCacheRecord,
};

use super::{
    aggregate,
    availability::{Value, ratio},
    completeness::Reported,
    devices,
    efficiency::{Basis, power},
    energy::TrialEnergy,
    latency::RequestLatencies,
    parts,
    verdict::integral_disagreement,
};

/// Bytes in a GiB.
const GIBIBYTE: f64 = 1_073_741_824.0;

/// What the table is filled from.
pub(super) struct TableInput<'a> {
    pub(super) reported: &'a [Reported<'a>],
    pub(super) energy: &'a TrialEnergy,
    pub(super) latencies: &'a RequestLatencies,
    pub(super) pricing: Option<&'a Pricing>,
}

/// Every metric, each computed or with its reason. No field is left out: a new one does not compile until it is here.
#[expect(clippy::too_many_lines, reason = "one entry per metric of the stable schema")]
pub(super) fn metric_table(input: &TableInput<'_>) -> MetricSet<Value> {
    let TableInput {
        reported,
        energy,
        latencies,
        pricing,
    } = input;
    let tokens = aggregate::tokens(reported);
    let completed: u64 = reported.iter().map(|process| process.window.requests_completed).sum();
    let failed: u64 = reported.iter().map(|process| process.window.requests_failed).sum();

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
        pricing: *pricing,
    }
    .ratios();
    let [gpu, cpu, dram] = energy.domains.each_ref().map(|domain| domain.joules);
    let devices = devices::distinct_devices(reported);
    let memory_peak = devices::memory_peak(&devices);
    let weight_bytes: u64 = reported.iter().map(|process| process.window.weight_bytes).sum();
    let batches = aggregate::batches(reported);
    let steady = parts::steady_state(reported, energy);
    let kv_cache = |of: fn(&KvCacheRecord) -> Option<u64>, absent| aggregate::kv_cache(reported, of, absent);

    MetricSet {
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
        ttft_ms: Some(latencies.first_token.mean),
        ttft_p95_ms: Some(latencies.first_token.p95),
        itl_ms: Some(latencies.gaps.mean),
        itl_p95_ms: Some(latencies.gaps.p95),
        tpot_ms: Some(latencies.gaps.mean), // Σ(last − first) / Σ(output − 1) is the mean over all gaps
        e2e_latency_mean_ms: Some(latencies.end_to_end.mean),
        e2e_latency_median_ms: Some(latencies.end_to_end.median),
        e2e_latency_p95_ms: Some(latencies.end_to_end.p95),
        e2e_latency_p99_ms: Some(latencies.end_to_end.p99),
        send_latency_mean_ms: Some(latencies.from_send.mean),
        send_latency_p95_ms: Some(latencies.from_send.p95),
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
        prefill_energy_j: Some(parts::phase_energy(reported, energy, |reading| reading.prefill)),
        decode_energy_j: Some(parts::phase_energy(reported, energy, |reading| reading.decode)),
        steady_state_duration_sec: Some(steady.duration),
        steady_state_tokens_per_second: Some(steady.tokens_per_second),
        steady_state_joules_per_token: Some(steady.joules_per_token),
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
        mbu: Some(devices::model_bandwidth_utilisation(
            &devices,
            ratio(aggregate::bytes_moved(reported), inference_time),
        )),
        duty_cycle: Some(aggregate::duty_cycle(reported)),
        temporal_overlap: Some(aggregate::temporal_overlap(reported)),
        start_skew_ms: Some(aggregate::start_skew_milliseconds(reported)),
    }
}
