//! What holds for every input.

use lem_crds::{
    metrics::{DEFINITIONS, Unavailable},
    runner::{Domain, Source},
    samples::Samples,
};
use proptest::prelude::*;

use super::fixtures::{Trial, counter, near, reading, trial};

/// Windows of up to four processes, which need not overlap.
fn windows() -> impl Strategy<Value = Vec<(f64, f64)>> {
    let window = (0_u32..200, 20_u32..200);
    prop::collection::vec(window, 1..5).prop_map(|windows| {
        windows
            .into_iter()
            .map(|(start, length)| (f64::from(start) / 10.0, f64::from(start + length) / 10.0))
            .collect()
    })
}

/// Records with parts missing in every combination.
fn damaged() -> impl Strategy<Value = Trial> {
    (windows(), prop::collection::vec(any::<[bool; 16]>(), 4)).prop_map(|(windows, switches)| {
        let mut trial = trial(&windows);
        for (process, on) in trial.processes.iter_mut().zip(switches) {
            let window = process.window.as_mut().unwrap();
            if on[0] {
                window.streaming = false;
            }
            if on[1] {
                window.flops = None;
            }
            if on[2] {
                window.static_batch = None;
            }
            if on[3] {
                window.kv_cache = None;
            }
            if on[4] {
                window.energy[0].joules = None;
                window.energy[0].unavailable = Some(Unavailable::CounterReset);
            }
            if on[5] {
                window.energy[1].source = Source::Estimate;
            }
            if on[6] {
                window.energy.pop();
            }
            if on[7] {
                window.devices.clear();
            }
            if on[8] {
                (window.input_tokens, window.output_tokens) = (0, 0);
            }
            if on[9] {
                window.end_to_end = Samples::default();
                window.requests_completed = 0;
            }
            if on[10] {
                window.duration_seconds = 0.0;
            }
            if on[11] {
                process.baselines.clear();
            }
            if on[12] {
                process.held.total = 0.0;
            }
            if on[13] && on[14] {
                process.window = None;
            }
            if on[14] && on[15] {
                process.environment.gpus.clear();
            }
        }
        trial
    })
}

fn type_seven(mut samples: Vec<f64>, fraction: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    let position = fraction * (samples.len() - 1) as f64;
    let (below, above) = (position.floor() as usize, position.ceil() as usize);
    samples[below] + (position - position.floor()) * (samples[above] - samples[below])
}

proptest! {
    #[test]
    fn pooled_percentiles_are_those_of_the_concatenation_however_it_is_split(
        samples in prop::collection::vec(0.001_f64..10.0, 4..60), cuts in prop::array::uniform3(0.0_f64..1.0),
    ) {
        let mut bounds: Vec<usize> = cuts.iter().map(|cut| (cut * samples.len() as f64) as usize).collect();
        bounds.extend([0, samples.len()]);
        bounds.sort_unstable();
        let mut trial = trial(&[(0.0, 10.0); 4]);
        for (process, part) in trial.processes.iter_mut().zip(bounds.windows(2)) {
            let window = process.window.as_mut().unwrap();
            window.end_to_end = Samples::pack(&samples[part[0]..part[1]]).unwrap();
            window.requests_completed = (part[1] - part[0]) as u64;
        }
        let metrics = trial.evaluate().metrics;
        for (found, fraction) in [
            (metrics.e2e_latency_median_ms, 0.5), (metrics.e2e_latency_p95_ms, 0.95), (metrics.e2e_latency_p99_ms, 0.99),
        ] {
            // Packed samples keep whole microseconds.
            let expected = type_seven(samples.clone(), fraction) * 1e3;
            let found = found.unwrap();
            prop_assert!((found - expected).abs() <= 2e-3, "{} instead of {} at {}", found, expected, fraction);
        }
    }

    #[test]
    fn a_field_is_null_exactly_where_it_has_a_reason(trial in damaged()) {
        let result = trial.evaluate();
        for (definition, value) in result.metrics.iter() {
            prop_assert_eq!(value.is_none(), result.not_available.contains_key(definition.key), "{}", definition.key);
            prop_assert!(value.is_none_or(|value| value.is_finite()), "{}", definition.key);
        }
        prop_assert!(result.not_available.keys().all(|key| DEFINITIONS.iter().any(|known| known.key == key)));
        let worst = result.reasons.iter().map(|reason| reason.severity).max().unwrap_or_default();
        prop_assert_eq!(result.verdict, worst);
    }

    #[test]
    fn the_order_in_which_processes_report_changes_nothing(trial in damaged(), seed in any::<u64>()) {
        use rand::{SeedableRng, seq::SliceRandom};
        let mut shuffled = trial.clone();
        shuffled.processes.shuffle(&mut rand_chacha::ChaCha8Rng::seed_from_u64(seed));
        prop_assert_eq!(shuffled.evaluate(), trial.evaluate());
    }

    #[test]
    fn energy_is_that_of_the_counter_however_its_readings_are_grouped_into_processes(windows in windows()) {
        // The package counts 100 W; whoever reads it, its energy is 100 W × the time that some window covers.
        let result = trial(&windows).evaluate();
        let mut ordered = windows.clone();
        ordered.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut covered = 0.0;
        let mut end = f64::NEG_INFINITY;
        for (from, to) in &ordered {
            covered += (to - from.max(end)).max(0.0);
            end = end.max(*to);
        }
        near(result.metrics.cpu_energy_j, 100.0 * covered);

        // The same readings all in the hands of process 0, as far as processes go: the same energy.
        let mut one = trial(&windows);
        let packages: Vec<_> =
            one.processes.iter_mut().map(|process| process.window().energy.remove(1)).collect();
        for process in &mut one.processes {
            process.window().energy.truncate(1);
        }
        one.processes[0].window().energy.extend(packages);
        near(one.evaluate().metrics.cpu_energy_j, 100.0 * covered);
    }

    #[test]
    fn no_counter_is_counted_twice(copies in 1_usize..6, joules in 1.0_f64..1e6) {
        let windows = vec![(0.0, 10.0); copies];
        let mut trial = trial(&windows);
        for process in &mut trial.processes {
            process.window().energy[1] =
                reading(counter(Domain::Cpu, "node-a", "package-0"), 0.0, 10.0, 7.0, joules);
        }
        near(trial.evaluate().metrics.cpu_energy_j, joules);
        // Also where the cumulative counter is not given.
        for process in &mut trial.processes {
            let package = &mut process.window().energy[1];
            (package.start, package.end) = (None, None);
        }
        near(trial.evaluate().metrics.cpu_energy_j, joules);
    }

    #[test]
    fn a_wrap_anywhere_changes_no_energy(origin in 0.0_f64..2000.0, start in 0.0_f64..9.9, length in 0.5_f64..40.0) {
        // Range 2000 J at 100 W: up to two wraps within the union.
        let shown = |seconds: f64| (origin + 100.0 * seconds) % 2000.0;
        let mut trial = trial(&[(0.0, 10.0), (start, start + length)]);
        for process in &mut trial.processes {
            let (from, seconds) = if process.index == 0 { (0.0, 10.0) } else { (start, length) };
            let mut package =
                reading(counter(Domain::Cpu, "node-a", "package-0"), from, from + seconds, shown(from), 100.0 * seconds);
            package.range_joules = Some(2000.0);
            process.window().energy[1] = package;
        }
        let found = trial.evaluate().metrics.cpu_energy_j.unwrap();
        let expected = 100.0 * (start + length).max(10.0);
        prop_assert!((found - expected).abs() < 1e-3, "{} instead of {}", found, expected);
    }
}
