//! A result as a run gives it: 4 points × 3 cycles × 2 processes, with nulls, a suspect and an invalid point.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use lem_crds::{
    EfficiencyExperimentStatus, RunnerStatus,
    metrics::{DEFINITIONS, Estimate, MetricSet, Unavailable},
    plan::TrialIdentity,
    runner::{
        ClockQuality, ComputePrecision, Confidence, CounterIdentity, CpuEnvironment, Domain, EnergyReading,
        Environment, FlopMethod, HeldSeconds, ModelEnvironment, PowerSample, RunnerPhase, Source, WarmupRecord,
        WindowRecord,
    },
    samples::Samples,
    status::{Doubt, ExperimentPhase, PointResult, Progress, TrialResult, Verdict, VerdictCounts, VerdictReason},
};

use super::Report;
use crate::experiment::summary::MeasuredTrial;

const LONG: &str = "a-very-long-value-that-someone-gave-to-a-swept-field-because-nothing-forbids-it-0123456789";

/// Owner of everything that a [`Report`] borrows.
pub(crate) struct Fixture {
    pub(crate) status: EfficiencyExperimentStatus,
    pub(crate) trials: Vec<MeasuredTrial>,
    pub(crate) runners: Vec<RunnerStatus>,
}

/// Reproducible noise in −1…1.
fn noise(seed: u32) -> f64 {
    let mut x = u64::from(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d;
    for _ in 0..4 {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
    }
    (x % 20_001) as f64 / 10_000.0 - 1.0
}

fn verdict(point: u32) -> (Verdict, Vec<VerdictReason>) {
    let reason = |doubt, severity, message: &str| VerdictReason {
        doubt,
        severity,
        message: message.to_owned(),
    };
    match point {
        2 => (
            Verdict::Suspect,
            vec![
                reason(
                    Doubt::EstimatedEnergy,
                    Verdict::Suspect,
                    "100 % of the total energy is estimated from thermal design power × load",
                ),
                reason(
                    Doubt::ClockNotSynchronised,
                    Verdict::Suspect,
                    "the clock of node-a is not synchronised (maximum error 16000 ms, limit 50 ms)",
                ),
            ],
        ),
        3 => (
            Verdict::Invalid,
            vec![
                reason(
                    Doubt::MissingProcess,
                    Verdict::Invalid,
                    "1 of 2 processes did not report in cycle 2",
                ),
                reason(
                    Doubt::EstimatedEnergy,
                    Verdict::Suspect,
                    "100 % of the total energy is estimated from thermal design power × load",
                ),
            ],
        ),
        _ => (Verdict::Valid, Vec::new()),
    }
}

fn batch(point: u32) -> f64 {
    [1.0, 4.0, 16.0, 64.0][point as usize]
}

fn metrics(point: u32, cycle: u32) -> (MetricSet<f64>, BTreeMap<String, Unavailable>) {
    let jitter = 1.0 + 0.01 * noise(point * 10 + cycle);
    let throughput = 40.0 * batch(point).powf(0.6) * jitter;
    let power = 38.0 + 9.0 * f64::from(point) + noise(point * 7 + cycle + 100);
    let duration = 12.0;
    let (total, output) = (throughput * duration, throughput * duration / 5.0);
    let energy = power * duration;
    let mut not_available = BTreeMap::new();
    let set = MetricSet::from_fn(|definition| {
        let name = definition.name;
        let value = match name {
            "total_tokens" => Ok(total.round()),
            "output_tokens" => Ok(output.round()),
            "input_tokens" => Ok(total.round() - output.round()),
            "requests_completed" => Ok(24.0 * batch(point)),
            "requests_failed" => Ok(0.0),
            "inference_time_sec" | "duration_sec" => Ok(duration + 0.01 * jitter),
            "effective_throughput" | "tokens_per_second" => Ok(throughput),
            "effective_output_throughput" | "output_tokens_per_second" => Ok(throughput / 5.0),
            "avg_tokens_per_second" => Ok(throughput / 2.0),
            "latency_per_token_ms" => Ok(1000.0 / throughput),
            "ttft_ms" | "ttft_p95_ms" | "itl_ms" | "itl_p95_ms" | "tpot_ms" if point == 0 => {
                Err(Unavailable::NotStreaming)
            }
            "ttft_ms" => Ok(80.0 * batch(point).sqrt() * jitter),
            "e2e_latency_p95_ms" | "send_latency_p95_ms" => Ok(900.0 * batch(point).sqrt() * jitter),
            "e2e_latency_p99_ms" => Ok(980.0 * batch(point).sqrt() * jitter),
            "e2e_latency_mean_ms" | "send_latency_mean_ms" => Ok(700.0 * batch(point).sqrt() * jitter),
            "e2e_latency_median_ms" => Ok(690.0 * batch(point).sqrt() * jitter),
            "total_energy_j" | "cpu_energy_j" => Ok(energy),
            "total_power_w" | "cpu_power_w" => Ok(power),
            "gpu_energy_j"
            | "gpu_power_w"
            | "sm_utilisation_mean"
            | "memory_bandwidth_utilisation"
            | "tokens_per_gb_vram"
            | "model_memory_utilisation"
            | "counter_integral_disagreement" => Err(Unavailable::NoDevice),
            "dram_energy_j" | "dram_power_w" => Err(Unavailable::NoCounter),
            "flops_total" => Ok(2.69e8 * total * jitter),
            "flops_per_second" => Ok(2.69e8 * throughput * jitter),
            "tokens_per_joule" => Ok(total / energy),
            "output_tokens_per_joule" => Ok(output / energy),
            "joules_per_token" => Ok(energy / total),
            "joules_per_output_token" => Ok(energy / output),
            "gco2e_per_1k_tokens" | "cost_per_1m_tokens" => Err(Unavailable::NoPricing),
            "mfu" | "mbu" => Err(Unavailable::PeakUnknown),
            "kv_cache_blocks_used" | "kv_cache_blocks_total" | "kv_cache_hit_rate" => Err(Unavailable::NotPaged),
            _ => Err(Unavailable::NotSupported),
        };
        value
            .map_err(|reason| not_available.insert(definition.key.to_owned(), reason))
            .ok()
    });
    (set, not_available)
}

fn estimate(values: &[f64]) -> Option<Estimate> {
    let count = values.len();
    if count == 0 {
        return None;
    }
    let mean = values.iter().sum::<f64>() / count as f64;
    let deviation = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (count as f64 - 1.0)).sqrt();
    let half = 4.302_652_7 * deviation / (count as f64).sqrt();
    Some(Estimate {
        mean,
        count: count as u32,
        standard_deviation: Some(deviation),
        lower: Some(mean - half),
        upper: Some(mean + half),
        coefficient_of_variation: (mean != 0.0).then(|| deviation / mean.abs()),
    })
}

fn window(point: u32, cycle: u32, process: u32) -> WindowRecord {
    let start: Timestamp = "2026-01-05T08:00:00Z".parse().unwrap();
    let started_at = start + SignedDuration::from_secs(i64::from(point * 200 + cycle * 40));
    let power = 38.0 + 9.0 * f64::from(point);
    let latencies: Vec<f64> = (0..60)
        .map(|i| {
            let n = noise(point * 100_000 + cycle * 1000 + process * 100 + i);
            (0.55 + 0.2 * (n + 1.0) + if i % 17 == 0 { 0.25 } else { 0.0 }) * batch(point).sqrt()
        })
        .collect();
    let samples: Vec<PowerSample> = (0..48)
        .map(|i| PowerSample {
            offset_seconds: f64::from(i) * 0.25,
            watts: power * (1.0 - 0.5 * (-f64::from(i) / 4.0).exp()) + 1.5 * noise(point * 1000 + cycle * 100 + i),
        })
        .collect();
    WindowRecord {
        trial: TrialIdentity {
            plan_sha256: format!("{point}").repeat(64),
            point,
            cycle,
            attempt: 0,
        },
        node: "node-a".to_owned(),
        start_at: Some(started_at),
        started_at,
        ended_at: started_at + SignedDuration::from_secs(12),
        duration_seconds: 12.0,
        clock: ClockQuality::default(),
        warmup: WarmupRecord::default(),
        input_tokens: 4000,
        output_tokens: 1000,
        requests_completed: 60,
        requests_failed: 0,
        streaming: point != 0,
        end_to_end: Samples::pack(&latencies).unwrap(),
        end_to_end_from_send: Samples::default(),
        time_to_first_token: Samples::default(),
        inter_token: Samples::default(),
        prefill_seconds: None,
        decode_seconds: None,
        steady_state: None,
        bytes_moved: None,
        flops: None,
        compute_precision: ComputePrecision::Fp32,
        weight_bytes: 538_000_000,
        static_batch: None,
        kv_cache: None,
        energy: vec![EnergyReading {
            counter: CounterIdentity {
                domain: Domain::Cpu,
                node: "node-a".to_owned(),
                id: "package-0".to_owned(),
            },
            source: if point < 2 { Source::Rapl } else { Source::Estimate },
            joules: Some(power * 12.0),
            unavailable: None,
            message: String::new(),
            uncertainty_joules: 0.1,
            duration_seconds: 12.0,
            start: None,
            end: None,
            range_joules: None,
            update_period_seconds: None,
            integral_joules: None,
            power_is_averaged: false,
            power: samples,
            steady_state: None,
            prefill: None,
            decode: None,
        }],
        absent_domains: Vec::new(),
        devices: Vec::new(),
        resident_peak_bytes: None,
    }
}

fn runner(process: u32) -> RunnerStatus {
    let windows = (0..4)
        .flat_map(|point| (0..3).map(move |cycle| (point, cycle)))
        .filter(|identity| (process, *identity) != (1, (3, 2)))
        .map(|(point, cycle)| window(point, cycle, process))
        .collect();
    RunnerStatus {
        schema_version: 1,
        phase: RunnerPhase::Finished,
        environment: Some(Environment {
            node: "node-a".to_owned(),
            kernel: Some("6.8.0-45-generic".to_owned()),
            runner_version: "0.1.0".to_owned(),
            engine: "candle 0.11.1".to_owned(),
            device: "cpu".to_owned(),
            dtype: "f32".to_owned(),
            threads: 4 + process,
            model: ModelEnvironment {
                name: "SmolLM2-135M".to_owned(),
                weights_digest: "synthetic:smollm2-135m:42".to_owned(),
                architecture: "llama".to_owned(),
                parameters: 134_515_008,
                weight_bytes: 538_060_032,
                context_length: 2048,
                ..ModelEnvironment::default()
            },
            cpu: CpuEnvironment {
                model: Some("AMD EPYC 7763 64-Core Processor".to_owned()),
                sockets: Some(1),
                logical: Some(16),
                ..CpuEnvironment::default()
            },
            counters: vec!["cpu package-0 (rapl)".to_owned()],
            ..Environment::default()
        }),
        load_seconds: Some(1.25),
        held: HeldSeconds {
            load: 1.25,
            baseline: 10.0,
            warmup: 31.5,
            wait: 4.2,
            cooldown: 24.0,
            measured: 144.0,
            total: 217.0,
        },
        windows,
        ..RunnerStatus::default()
    }
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let mut trials = Vec::new();
        let mut points = Vec::new();
        for index in 0..4 {
            let (verdict, reasons) = verdict(index);
            let sources = vec![if index < 2 { "rapl" } else { "estimate" }.to_owned()];
            let mut sets = Vec::new();
            let mut missing = BTreeMap::new();
            for cycle in 0..3 {
                let (metrics, not_available) = metrics(index, cycle);
                missing.clone_from(&not_available);
                sets.push(metrics.clone());
                let trial = TrialResult {
                    cycle,
                    attempt: 0,
                    verdict,
                    reasons: reasons.clone(),
                    processes: if (index, cycle) == (3, 2) { 1 } else { 2 },
                    energy_scope: vec!["cpu".to_owned()],
                    energy_sources: sources.clone(),
                    flops_method: Some(FlopMethod::Counted),
                    flops_confidence: Some(Confidence::High),
                    metrics,
                    not_available,
                };
                trials.push(MeasuredTrial {
                    point: index,
                    node: None,
                    result: trial,
                });
            }
            let metrics = MetricSet::from_fn(|definition| {
                let values: Vec<f64> = sets
                    .iter()
                    .filter_map(|set| set.get(definition.name).copied())
                    .collect();
                estimate(&values)
            });
            let mut values = BTreeMap::from([
                ("workload.batchSize".to_owned(), batch(index).to_string()),
                ("model.dtype".to_owned(), "f32".to_owned()),
            ]);
            if index == 3 {
                values.insert("workload.prompt".to_owned(), LONG.to_owned());
            }
            points.push(PointResult {
                index,
                values,
                plan_sha256: index.to_string().repeat(64),
                node_class: "AMD EPYC 7763 64-Core Processor".to_owned(),
                cycles: 3,
                verdict,
                reasons,
                energy_scope: vec!["cpu".to_owned()],
                energy_sources: sources,
                flops_method: Some(FlopMethod::Counted),
                flops_confidence: Some(Confidence::High),
                metrics,
                not_available: missing,
                measured_at: Some("2026-01-05T08:15:00Z".parse().unwrap()),
            });
        }
        debug_assert_eq!(points[0].metrics.iter().count(), DEFINITIONS.len());
        let status = EfficiencyExperimentStatus {
            phase: ExperimentPhase::Partial,
            progress: Progress {
                planned: 12,
                finished: 12,
                retried: 1,
                verdicts: VerdictCounts::of(trials.iter().map(|trial| trial.result.verdict)),
                summary: "12/12".to_owned(),
            },
            points,
            partial: vec!["process 1 did not report cycle 2 of point 3".to_owned()],
            warnings: vec!["2 of 4 points use estimated energy: compare them with care".to_owned()],
            ..EfficiencyExperimentStatus::default()
        };
        let runners = vec![runner(0), runner(1)];
        Self {
            status,
            trials,
            runners,
        }
    }

    /// The records as [`Report`] takes them.
    pub(super) fn records(&self) -> Vec<(u32, &RunnerStatus)> {
        self.runners.iter().enumerate().map(|(i, r)| (i as u32, r)).collect()
    }

    /// A report without records, which the text formats do not read.
    pub(super) fn report(&self) -> Report<'_> {
        Report {
            experiment_name: "batch-size-sweep",
            model: "SmolLM2-135M",
            points: &[],
            status: &self.status,
            trials: &self.trials,
            records: &[],
            generated_by: "lem 0.1.0",
        }
    }
}
