//! Examples computed by hand from METHODOLOGY, with the arithmetic beside each figure.

use lem_crds::{
    metrics::Unavailable,
    runner::{AbsentDomain, Confidence, Domain, FlopMethod, PartEnergy, Source, WindowRecord},
    status::{Doubt, Verdict},
};

use super::fixtures::{counter, near, reading, trial};

#[test]
fn one_process_gives_the_figures_computed_by_hand() {
    // One window of 10 s: 100 + 50 tokens, GPU 300 W, package 100 W, idle 50 W + 20 W; 5 s steady.
    let result = trial(&[(0.0, 10.0)]).evaluate();
    assert_eq!(result.reasons, []);
    assert_eq!(result.verdict, Verdict::Valid);
    assert_eq!(
        (result.energy_scope.join("+"), result.energy_sources.join("+")),
        ("gpu+cpu".into(), "nvml_counter+rapl".into())
    );
    assert_eq!(
        (result.flops_method, result.flops_confidence),
        (Some(FlopMethod::Counted), Some(Confidence::High))
    );
    let metrics = &result.metrics;
    near(metrics.total_tokens, 150.0);
    near(metrics.inference_time_sec, 10.0);
    near(metrics.tokens_per_second, 15.0);
    near(metrics.output_tokens_per_second, 5.0);
    near(metrics.latency_per_token_ms, 1000.0 / 15.0);
    near(metrics.ttft_ms, 250.0); // mean of 0.1 … 0.4 s
    near(metrics.ttft_p95_ms, 385.0); // position 2.85: 0.3 + 0.85 × 0.1
    near(metrics.itl_ms, 20.0);
    near(metrics.tpot_ms, 20.0); // 46 × 0.02 / 46
    near(metrics.e2e_latency_mean_ms, 2500.0);
    near(metrics.e2e_latency_median_ms, 2500.0);
    near(metrics.e2e_latency_p95_ms, 3850.0);
    near(metrics.e2e_latency_p99_ms, 3970.0);
    near(metrics.gpu_energy_j, 3000.0);
    near(metrics.cpu_energy_j, 1000.0);
    near(metrics.total_energy_j, 4000.0);
    near(metrics.energy_uncertainty_j, 1.0); // 0.5 + 0.5
    near(metrics.idle_power_w, 70.0);
    near(metrics.adjusted_energy_j, 3300.0); // 4000 − 70 × 10
    near(metrics.total_power_w, 400.0);
    near(metrics.joules_per_token, 4000.0 / 150.0);
    near(metrics.joules_per_output_token, 80.0);
    near(metrics.adjusted_joules_per_token, 22.0);
    near(metrics.tokens_per_joule, 0.0375);
    near(metrics.output_tokens_per_joule, 0.0125);
    near(metrics.token_efficiency_index, 0.0625); // 5 × 0.0125 × 1.0
    near(metrics.watts_per_token_per_second, 400.0 / 15.0);
    near(metrics.flop_per_joule, 2.5e8);
    near(metrics.flop_per_token, 1e12 / 150.0);
    near(metrics.flops_per_second, 1e11);
    near(metrics.mfu, 1e11 / 989.4e12);
    // 4000 / 150 × 1000 J = 26 666.7 J = 0.00740741 kWh; × 400 g × 1.5
    near(metrics.gco2e_per_1k_tokens, 4000.0 / 150.0 * 1000.0 / 3.6e6 * 600.0);
    // 7.40741 kWh × 0.2 × 1.5
    near(metrics.cost_per_1m_tokens, 4000.0 / 150.0 * 1e6 / 3.6e6 * 0.3);
    near(metrics.tokens_per_gb_vram, 2.5); // 50 / 20 GiB
    near(metrics.model_memory_utilisation, 0.1); // 8 / 80 GiB
    near(metrics.kv_cache_memory_ratio, 0.05); // 1 / 20 GiB
    near(metrics.sm_utilisation_mean, 80.0);
    near(metrics.effective_batch_size, 3.0); // 30 rows / 10 steps
    near(metrics.batch_utilisation, 0.75); // 3 / 4
    near(metrics.padding_overhead, 0.25); // (200 − 150) / 200
    near(metrics.duty_cycle, 0.5);
    near(metrics.mbu, 1e11 / 3352e9);
    near(metrics.steady_state_tokens_per_second, 15.0); // 75 in half of 10 s
    near(metrics.steady_state_joules_per_token, 440.0 / 15.0); // 330 W + 110 W
    near(metrics.prefill_energy_j, 600.0); // 500 + 100
    near(metrics.decode_energy_j, 3400.0);
    near(metrics.send_latency_mean_ms, 2500.0); // as from submission: no arrivals of their own
    for (field, reason) in [
        ("temporalOverlap", Unavailable::SingleProcess),
        ("startSkewMs", Unavailable::SingleProcess),
        ("dramEnergyJ", Unavailable::NoCounter),
        ("kvCacheHitRate", Unavailable::NotPaged),
    ] {
        assert_eq!(result.not_available.get(field), Some(&reason), "{field}");
    }
}

#[test]
fn two_gpus_and_one_package_are_three_counters_and_not_four() {
    // Process 0 from 0 to 10 s, process 1 from 0.05 to 12 s, both on node-a.
    // GPUs: 300 × 10 + 300 × 11.95 = 6585 J. Package, once: 100 W from 0 to 12 s = 1200 J, not 1000 + 1195.
    let result = trial(&[(0.0, 10.0), (0.05, 12.0)]).evaluate();
    assert_eq!(result.reasons, []);
    let metrics = &result.metrics;
    near(metrics.gpu_energy_j, 6585.0);
    near(metrics.cpu_energy_j, 1200.0);
    near(metrics.total_energy_j, 7785.0);
    near(metrics.duration_sec, 12.0);
    near(metrics.total_tokens, 300.0);
    near(metrics.inference_time_sec, 10.975); // (10 + 11.95) / 2
    near(metrics.tokens_per_second, 300.0 / 10.975);
    near(metrics.avg_tokens_per_second, f64::midpoint(15.0, 150.0 / 11.95));
    near(metrics.effective_throughput, 25.0); // 300 / 12
    near(metrics.effective_output_throughput, 100.0 / 12.0);
    // Idle: GPU 50 + 50 W and the package's 20 W once.
    near(metrics.idle_power_w, 120.0);
    // Each counter's idle power over its own time: 50 × 10 + 50 × 11.95 + 20 × 12 = 1337.5.
    near(metrics.adjusted_energy_j, 7785.0 - 1337.5);
    near(metrics.temporal_overlap, 0.995); // (10 − 0.05) / 10
    near(metrics.start_skew_ms, 50.0);
    // 8 samples 1 1 2 2 3 3 4 4 at 95 %: position 6.65, so 4.
    near(metrics.e2e_latency_p95_ms, 4000.0);
    near(metrics.token_efficiency_index, 100.0 / 12.0 * (100.0 / 7785.0));
    near(metrics.tokens_per_gb_vram, 2.5); // 100 / (20 + 20)
    // The package is moved by both processes, which are not in the same phase at the same time.
    let prefill = result.not_available.get("prefillEnergyJ");
    assert_eq!(prefill, Some(&Unavailable::PhaseNotResolved));
    // Both GPUs' steady power and the package's once, over the tokens per second of both.
    near(
        metrics.steady_state_joules_per_token,
        770.0 / (75.0 / 5.0 + 75.0 / 5.975),
    );
    near(metrics.mfu, 2e12 / 12.0 / (2.0 * 989.4e12));
}

#[test]
fn windows_apart_add_their_energy_and_not_the_time_between() {
    // Package 100 W in 0–10 and 20–30 s: 2000 J, though the counter also ran from 10 to 20 s.
    let mut trial = trial(&[(0.0, 10.0), (20.0, 30.0)]);
    trial.point.window.barrier = lem_crds::experiment::Barrier::None;
    let result = trial.evaluate();
    near(result.metrics.cpu_energy_j, 2000.0);
    near(result.metrics.adjusted_energy_j, 8000.0 - 2.0 * 70.0 * 10.0);
    near(result.metrics.temporal_overlap, 0.0);
    assert_eq!(
        result.reasons,
        [],
        "windows without a barrier are not expected to overlap"
    );
}

#[test]
fn a_package_that_wraps_between_two_starts_is_unwrapped_over_both() {
    // Range 2000 J. Process 0 starts at 1900 and counts 1000 (to 2900, its own wrap undone); process 1 starts at 5 s,
    // when the counter shows 1900 + 500 − 2000 = 400, and counts 1000. Union 0–15 s: 1400 + 2000 − 1900 = 1500 J.
    let mut trial = trial(&[(0.0, 10.0), (5.0, 15.0)]);
    let package = counter(Domain::Cpu, "node-a", "package-0");
    for (index, (start, from)) in [(0.0, 1900.0), (5.0, 400.0)].into_iter().enumerate() {
        let mut wrapped = reading(package.clone(), start, start + 10.0, from, 1000.0);
        wrapped.range_joules = Some(2000.0);
        trial.processes[index].window().energy[1] = wrapped;
    }
    near(trial.evaluate().metrics.cpu_energy_j, 1500.0);
}

#[test]
fn readings_without_a_cumulative_counter_take_mean_power_and_a_wider_error() {
    // 100 W in 0–10 s and 120 W in 5–15 s: 500 + 110 × 5 + 600 = 1650 J.
    // Error: the larger one scaled (0.5 / 1000 × 1650 = 0.825) and all beyond the largest reading (1650 − 1200 = 450).
    let mut trial = trial(&[(0.0, 10.0), (5.0, 15.0)]);
    for (index, joules) in [1000.0, 1200.0].into_iter().enumerate() {
        let package = &mut trial.processes[index].window().energy[1];
        (package.start, package.end, package.joules) = (None, None, Some(joules));
    }
    let metrics = trial.evaluate().metrics;
    near(metrics.cpu_energy_j, 1650.0);
    near(metrics.energy_uncertainty_j, 0.5 + 0.5 + 0.825 + 450.0);
}

#[test]
fn a_process_that_cannot_read_its_nodes_package_takes_the_mean_power_of_the_others() {
    // Process 0 reads 100 W in 0–10 s; process 1 runs to 12 s without reading: 1000 + 100 × 2 J, error + 200 J.
    let mut trial = trial(&[(0.0, 10.0), (0.0, 12.0)]);
    trial.processes[1].window().energy.truncate(1);
    let metrics = trial.evaluate().metrics;
    near(metrics.cpu_energy_j, 1200.0);
    near(metrics.energy_uncertainty_j, 1.5 + 200.0);
}

#[test]
fn one_of_two_gpus_without_a_reading_gives_no_gpu_energy_rather_than_half_of_it() {
    let mut trial = trial(&[(0.0, 10.0), (0.0, 10.0)]);
    let lost = &mut trial.processes[1].window().energy[0];
    (lost.joules, lost.unavailable) = (None, Some(Unavailable::CounterReset));
    let result = trial.evaluate();
    assert_eq!(result.metrics.gpu_energy_j, None);
    assert_eq!(result.not_available.get("gpuEnergyJ"), Some(&Unavailable::CounterReset));
    assert_eq!(result.energy_scope, ["cpu"]);
    assert!(result.reasons.iter().any(|reason| reason.doubt == Doubt::EnergyMissing));
}

#[test]
fn an_estimate_does_not_enter_beside_a_reading_of_the_same_node() {
    let mut trial = trial(&[(0.0, 10.0), (0.0, 10.0)]);
    let estimate = &mut trial.processes[1].window().energy[1];
    estimate.source = Source::Estimate;
    estimate.counter.id = "machine".to_owned();
    let result = trial.evaluate();
    near(result.metrics.cpu_energy_j, 1000.0);
    assert_eq!(result.energy_sources, ["nvml_counter", "rapl"]);
}

#[test]
fn a_domain_that_one_node_lacks_is_not_summed_over_the_other_nodes() {
    let mut trial = trial(&[(0.0, 10.0), (0.0, 10.0)]);
    let window = trial.processes[1].window();
    window.node = "node-b".to_owned();
    window.energy[0].counter.node = "node-b".to_owned();
    window.energy.truncate(1);
    window.absent_domains.push(AbsentDomain {
        domain: Domain::Cpu,
        reason: Unavailable::PermissionDenied,
        message: String::new(),
    });
    let result = trial.evaluate();
    assert_eq!(
        result.not_available.get("cpuEnergyJ"),
        Some(&Unavailable::PermissionDenied)
    );
    assert_eq!(result.energy_scope, ["gpu"]);
    assert!(
        result
            .reasons
            .iter()
            .any(|reason| reason.doubt == Doubt::MixedEnergyScope)
    );
}

#[test]
fn work_of_the_cpu_is_no_figure_of_a_gpu_that_stood_by() {
    let mut trial = trial(&[(0.0, 10.0)]);
    trial.processes[0].environment.device = "cpu".to_owned();
    let result = trial.evaluate();
    for (field, reason) in [
        ("mfu", Unavailable::PeakUnknown),
        ("mbu", Unavailable::PeakUnknown),
        ("smUtilisationMean", Unavailable::NoDevice),
        ("memoryBandwidthUtilisation", Unavailable::NoDevice),
        ("tokensPerGbVram", Unavailable::NoDevice),
        ("modelMemoryUtilisation", Unavailable::NoDevice),
        ("kvCacheMemoryRatio", Unavailable::NoDevice),
    ] {
        assert_eq!(result.not_available.get(field), Some(&reason), "{field}");
    }
    near(result.metrics.gpu_energy_j, 3000.0); // measured, and in the total
}

#[test]
fn without_streaming_no_token_latency_is_made_up() {
    let mut trial = trial(&[(0.0, 10.0)]);
    trial.processes[0].window().streaming = false;
    let result = trial.evaluate();
    for field in ["ttftMs", "ttftP95Ms", "itlMs", "itlP95Ms", "tpotMs"] {
        assert_eq!(
            result.not_available.get(field),
            Some(&Unavailable::NotStreaming),
            "{field}"
        );
    }
    assert!(result.metrics.e2e_latency_p95_ms.is_some());
}

#[test]
fn no_token_gives_null_and_no_infinite_energy_per_token() {
    let mut trial = trial(&[(0.0, 10.0)]);
    let window = trial.processes[0].window();
    (window.input_tokens, window.output_tokens) = (0, 0);
    let result = trial.evaluate();
    assert_eq!(result.not_available.get("joulesPerToken"), Some(&Unavailable::NoTokens));
    assert_eq!(result.metrics.total_tokens, Some(0.0), "a measured zero stays zero");
}

#[test]
fn without_prices_cost_and_emissions_are_null() {
    let mut trial = trial(&[(0.0, 10.0)]);
    trial.spec.pricing = None;
    let result = trial.evaluate();
    assert_eq!(
        result.not_available.get("gco2ePer1kTokens"),
        Some(&Unavailable::NoPricing)
    );
    assert_eq!(
        result.not_available.get("costPer1mTokens"),
        Some(&Unavailable::NoPricing)
    );
}

#[test]
fn a_trial_without_a_process_is_invalid_and_every_figure_has_a_reason() {
    let mut trial = trial(&[(0.0, 10.0)]);
    trial.processes.clear();
    let result = trial.evaluate();
    assert_eq!(result.verdict, Verdict::Invalid);
    assert!(result.metrics.iter().all(|(_, value)| value.is_none()));
    assert_eq!(result.not_available.len(), result.metrics.iter().count());
}

/// Why a metric is absent in a trial whose window was changed.
fn absence_of(metric: &str, change: impl FnOnce(&mut WindowRecord)) -> Option<Unavailable> {
    let mut trial = trial(&[(0.0, 10.0)]);
    change(trial.processes[0].window.as_mut().unwrap());
    let result = trial.evaluate();
    assert!(
        result.metrics.joules_per_token.is_some(),
        "the whole window has its energy"
    );
    result.not_available.get(metric).copied()
}

#[test]
fn the_energy_of_a_part_is_absent_where_one_counter_cannot_tell_it() {
    let bounded = |joules, uncertainty_joules| {
        Some(PartEnergy {
            joules,
            uncertainty_joules,
        })
    };
    let steady = "steadyStateJoulesPerToken";
    assert_eq!(absence_of(steady, |_| {}), None);
    // 0.05 × 2200 J are 110 J, 1 J of them the package's.
    for (uncertainty, expected) in [(108.0, None), (110.0, Some(Unavailable::PhaseNotResolved))] {
        let found = absence_of(steady, |window| {
            window.energy[0].steady_state = bounded(1650.0, uncertainty);
        });
        assert_eq!(found, expected, "± {uncertainty} J");
    }
    let untold = absence_of(steady, |window| window.energy[1].steady_state = None);
    assert_eq!(untold, Some(Unavailable::PhaseNotResolved));
    let never = absence_of(steady, |window| window.steady_state = None);
    assert_eq!(never, Some(Unavailable::NoSteadyState));
    let overlapping = absence_of("decodeEnergyJ", |window| window.energy[0].decode = None);
    assert_eq!(overlapping, Some(Unavailable::PhaseNotResolved));
    let coarse = absence_of("prefillEnergyJ", |window| {
        window.energy[0].prefill = bounded(500.0, 40.0);
    });
    assert_eq!(coarse, Some(Unavailable::PhaseNotResolved));
    // One token each: nothing was decoded.
    let none = absence_of("decodeEnergyJ", |window| {
        for reading in &mut window.energy {
            reading.decode = bounded(0.0, 0.0);
        }
    });
    assert_eq!(none, None);
}
