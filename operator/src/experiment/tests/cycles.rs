//! Cycles of one point, two points against each other, and nodes of one class.

use lem_crds::{
    RunnerStatus,
    experiment::StopRule,
    runner::Source,
    status::{Doubt, PointResult, TrialResult, Verdict},
};
use proptest::prelude::*;

use super::fixtures::{Process, near, trial};
use crate::experiment::{
    Comparison, FleetMember, Outcome, Record, Refusal, Side, compare, cycle_values, fleet_members, fleet_outliers,
    needs_another_cycle, stop_rule_satisfied, summarise_point,
};

/// A trial of `cycle` whose GPU used so many joules.
fn cycle(cycle: u32, attempt: u32, gpu_joules: f64) -> TrialResult {
    let mut trial = trial(&[(0.0, 10.0)]);
    (trial.identity.cycle, trial.identity.attempt) = (cycle, attempt);
    let identity = trial.identity.clone();
    let window = trial.processes[0].window();
    window.trial = identity;
    window.energy.truncate(1);
    window.energy[0].joules = Some(gpu_joules);
    trial.evaluate()
}

fn invalid(number: u32, attempt: u32) -> TrialResult {
    let mut trial = trial(&[(0.0, 10.0)]);
    (trial.identity.cycle, trial.identity.attempt) = (number, attempt);
    trial.processes[0].window = None;
    trial.evaluate()
}

fn summary(planned: u32, trials: &[TrialResult]) -> PointResult {
    summarise_point(&trial(&[(0.0, 10.0)]).point, planned, trials, &[], None)
}

#[test]
fn three_cycles_give_mean_deviation_and_interval_of_the_energy() {
    // 3000, 3300, 3600 J: mean 3300, deviation 300; half-width 4.302653 × 300 / √3 = 745.241; CV 1/11.
    let result = summary(3, &[cycle(0, 0, 3000.0), cycle(1, 0, 3300.0), cycle(2, 0, 3600.0)]);
    let energy = result.metrics.gpu_energy_j.as_ref().unwrap();
    assert_eq!((result.cycles, energy.count, result.verdict), (3, 3, Verdict::Valid));
    near(Some(energy.mean), 3300.0);
    near(energy.standard_deviation, 300.0);
    assert!((energy.upper.unwrap() - 4045.241).abs() < 1e-2 && (energy.lower.unwrap() - 2554.759).abs() < 1e-2);
    near(energy.coefficient_of_variation, 1.0 / 11.0);
    // Ratios are averaged as ratios of their cycles: (3000 + 3300 + 3600) / 3 / 150 tokens.
    near(result.metrics.joules_per_token.as_ref().map(|found| found.mean), 22.0);
}

#[test]
fn a_repeated_trial_is_stated_and_only_its_last_attempt_counts() {
    let result = summary(2, &[invalid(0, 0), cycle(0, 1, 3000.0), cycle(1, 0, 3000.0)]);
    assert_eq!((result.cycles, result.verdict), (2, Verdict::Valid));
    let repeated = &result.reasons[0];
    assert_eq!(
        (repeated.doubt, repeated.severity),
        (Doubt::MissingProcess, Verdict::Valid)
    );
    assert!(
        repeated.message.starts_with("cycle 0 attempt 0 was repeated"),
        "{}",
        repeated.message
    );
}

#[test]
fn a_cycle_that_stayed_invalid_is_left_out_and_makes_the_point_suspect() {
    let result = summary(2, &[cycle(0, 0, 3000.0), invalid(1, 0), invalid(1, 1)]);
    assert_eq!((result.cycles, result.verdict), (1, Verdict::Suspect));
    assert!(result.reasons.iter().any(|reason| reason.doubt == Doubt::MissingCycles));
    let energy = result.metrics.gpu_energy_j.unwrap();
    assert_eq!(
        (energy.count, energy.lower),
        (1, None),
        "one cycle has no interval, and no zero for the lost one"
    );
}

#[test]
fn a_point_without_a_usable_cycle_is_invalid_and_has_no_figure() {
    let result = summary(1, &[invalid(0, 0)]);
    assert_eq!((result.cycles, result.verdict), (0, Verdict::Invalid));
    assert!(result.metrics.iter().all(|(_, value)| value.is_none()));
    assert_eq!(result.not_available.len(), result.metrics.iter().count());
}

#[test]
fn cycles_of_another_energy_scope_are_not_averaged_with_the_rest() {
    let mut both = trial(&[(0.0, 10.0)]);
    both.identity.cycle = 2;
    let identity = both.identity.clone();
    both.processes[0].window().trial = identity;
    let result = summary(3, &[cycle(0, 0, 3000.0), cycle(1, 0, 3000.0), both.evaluate()]);
    assert_eq!((result.cycles, result.energy_scope.join("+").as_str()), (1, "gpu+cpu"));
    near(result.metrics.total_energy_j.map(|found| found.mean), 4000.0);
    assert!(
        result
            .reasons
            .iter()
            .any(|reason| reason.doubt == Doubt::MixedEnergyScope)
    );
}

/// A trial of `cycle` whose GPU used so many joules, as the integral of its power.
fn integrated(number: u32, gpu_joules: f64) -> TrialResult {
    TrialResult {
        energy_sources: vec![Source::NvmlPowerIntegral.name().to_owned()],
        ..cycle(number, 0, gpu_joules)
    }
}

#[test]
fn cycles_by_counter_are_not_averaged_with_cycles_by_the_integral_of_power() {
    let trials = [cycle(0, 0, 3000.0), integrated(1, 9000.0), cycle(2, 0, 3000.0)];
    let result = summary(3, &trials);
    assert_eq!(
        (result.cycles, result.energy_sources.join("+").as_str()),
        (2, "nvml_counter")
    );
    near(result.metrics.total_energy_j.map(|found| found.mean), 3000.0);
    assert_eq!(result.verdict, Verdict::Suspect);
    let mixed = result
        .reasons
        .iter()
        .find(|reason| reason.doubt == Doubt::MixedEnergyScope);
    assert_eq!(
        mixed.unwrap().message,
        "1 of 3 cycles have energy of other domains or sources than gpu (nvml_counter) and are left out of the means"
    );
    let most = summary(3, &[cycle(0, 0, 3000.0), integrated(1, 9000.0), integrated(2, 9000.0)]);
    assert_eq!(most.energy_sources, ["nvml_power_integral"]);
}

#[test]
fn of_equally_many_measured_and_estimated_cycles_the_measured_ones_count() {
    let estimated = TrialResult {
        energy_sources: vec![Source::Estimate.name().to_owned()],
        ..cycle(0, 0, 9000.0)
    };
    let result = summary(2, &[estimated, cycle(1, 0, 3000.0)]);
    assert_eq!(result.energy_sources, ["nvml_counter"]);
}

#[test]
fn the_values_of_a_comparison_are_those_of_the_cycles_in_the_mean() {
    let mut both = trial(&[(0.0, 10.0)]);
    both.identity.cycle = 2;
    both.processes[0].window().trial = both.identity.clone();
    let trials = [cycle(0, 0, 3000.0), cycle(1, 0, 3000.0), both.evaluate()];
    assert_eq!(cycle_values(&trials, "total_energy_j"), [4000.0]);
    let by_source = [cycle(0, 0, 3000.0), integrated(1, 9000.0), cycle(2, 0, 3300.0)];
    assert_eq!(cycle_values(&by_source, "totalEnergyJ"), [3000.0, 3300.0]);
}

#[test]
fn the_duty_cycle_of_a_load_has_no_interval_from_the_cycles_that_share_it() {
    let trials = [cycle(0, 0, 3000.0), cycle(1, 0, 3300.0), cycle(2, 0, 3600.0)];
    let duty = summary(3, &trials).metrics.duty_cycle.unwrap();
    near(Some(duty.mean), 0.5);
    assert_eq!(
        (duty.count, duty.standard_deviation, duty.lower, duty.upper),
        (3, None, None, None)
    );
    for name in ["duty_cycle", "dutyCycle"] {
        assert_eq!(
            cycle_values(&trials, name),
            [0.5],
            "one value, which no comparison takes"
        );
    }
}

fn rule(percent: &str) -> StopRule {
    serde_json::from_value(serde_json::json!({
        "metric": "joulesPerToken", "relativeHalfWidthPercent": percent, "maximumCycles": 5,
    }))
    .unwrap()
}

#[test]
fn the_stop_rule_asks_for_cycles_until_the_interval_is_narrow_or_the_bound_is_met() {
    // The half-width above is 745.241 of 3300, 22.583 %.
    let result = summary(3, &[cycle(0, 0, 3000.0), cycle(1, 0, 3300.0), cycle(2, 0, 3600.0)]);
    assert!(stop_rule_satisfied(&rule("22.6"), &result));
    assert!(!stop_rule_satisfied(&rule("22.5"), &result));
    assert!(
        needs_another_cycle(4, Some(&rule("22.6")), 3, &result),
        "planned cycles come first"
    );
    assert!(!needs_another_cycle(3, Some(&rule("22.6")), 3, &result));
    assert!(needs_another_cycle(3, Some(&rule("22.5")), 3, &result));
    assert!(!needs_another_cycle(3, Some(&rule("22.5")), 5, &result));
    assert!(!needs_another_cycle(3, None, 3, &result));
    assert!(
        !stop_rule_satisfied(&rule("50"), &summary(1, &[cycle(0, 0, 3000.0)])),
        "one cycle has no interval"
    );
}

fn side(values: &[f64]) -> Side<'_> {
    Side {
        values,
        energy_scope: &[],
        energy_sources: &[],
        node_class: "class",
        schema_version: 1,
    }
}

fn ratio(metric: &str, baseline: &[f64], candidate: &[f64]) -> Comparison {
    compare(metric, &side(baseline), &side(candidate)).unwrap()
}

#[test]
fn welchs_interval_on_the_logarithm_is_the_one_computed_by_hand() {
    // ln of e⁰ e¹ e²: mean 1, variance 1, /3; of e³ e⁵: mean 4, variance 2, /2 = 1. Standard error √(4/3) = 1.154701;
    // degrees (4/3)² / ((1/3)²/2 + 1²/1) = 1.777778 / 1.055556 = 1.684211.
    let (one, e) = (1.0, std::f64::consts::E);
    let found = ratio("joules_per_token", &[one, e, e.powi(2)], &[e.powi(3), e.powi(5)]);
    assert!((found.ratio.ln() - 3.0).abs() < 1e-12);
    // scipy 1.x: t.ppf(0.975, 1.684211) = 5.176232.
    let quantile = (found.upper.ln() - 3.0) / (4.0_f64 / 3.0).sqrt();
    assert!((quantile - 5.176_232).abs() < 1e-4, "{quantile}");
    assert!(((found.ratio / found.lower) - (found.upper / found.ratio)).abs() < 1e-6 * found.upper);
    assert_eq!(found.outcome, Outcome::NoDifferenceShown);
}

#[test]
fn more_is_better_or_worse_as_the_metric_has_it() {
    let (low, high) = ([1.0, 1.01, 0.99], [2.0, 2.02, 1.98]);
    assert_eq!(ratio("tokens_per_second", &low, &high).outcome, Outcome::Better);
    assert_eq!(ratio("tokens_per_second", &high, &low).outcome, Outcome::Worse);
    assert_eq!(ratio("joules_per_token", &low, &high).outcome, Outcome::Worse);
    assert_eq!(ratio("joulesPerToken", &high, &low).outcome, Outcome::Better);
    assert_eq!(
        ratio("joules_per_token", &low, &low).outcome,
        Outcome::NoDifferenceShown
    );
}

#[test]
fn sides_that_measured_different_things_are_refused() {
    let values = [1.0, 2.0];
    let plain = side(&values);
    let scope = ["gpu".to_owned()];
    for (other, refused) in [
        (
            Side {
                energy_scope: &scope,
                ..plain
            },
            "the energy scopes differ",
        ),
        (
            Side {
                energy_sources: &scope,
                ..plain
            },
            "the energy sources differ",
        ),
        (
            Side {
                node_class: "other",
                ..plain
            },
            "the node classes differ",
        ),
        (
            Side {
                schema_version: 2,
                ..plain
            },
            "the schema versions differ",
        ),
        (side(&values[..1]), "at least 2 cycles"),
        (side(&[1.0, 0.0]), "no logarithm"),
    ] {
        let refusal = compare("joules_per_token", &plain, &other).unwrap_err();
        assert!(refusal.to_string().contains(refused), "{refusal}");
    }
    assert!(matches!(
        compare("total_tokens", &plain, &plain),
        Err(Refusal::NoDirection { .. })
    ));
}

fn member(node: &str, node_class: &str, joules_per_token: f64) -> FleetMember {
    FleetMember {
        node: node.to_owned(),
        node_class: node_class.to_owned(),
        joules_per_token,
        devices: Vec::new(),
    }
}

#[test]
fn a_node_outside_three_and_a_half_deviations_of_its_class_is_named() {
    // Median 1.0, distances 0 .01 .01 .02 x: MAD 0.01, so the range is 0.965 to 1.035.
    let fleet = |last: f64| -> Vec<FleetMember> {
        [0.98, 0.99, 1.0, 1.01, last]
            .iter()
            .zip(["a", "b", "c", "d", "e"])
            .map(|(value, node)| member(node, "H100", *value))
            .collect()
    };
    let beyond = fleet(1.036);
    let found = fleet_outliers(&beyond);
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].member.node.as_str(), found[0].median), ("e", 1.0));
    near(Some(found[0].upper), 1.035);
    assert_eq!(fleet_outliers(&fleet(1.034)), []);
    let mut mixed = fleet(9.0);
    mixed[0].node_class = "A100".to_owned();
    assert_eq!(fleet_outliers(&mixed), [], "four nodes of a class are too few to judge");
}

#[test]
fn each_node_is_judged_by_its_own_processes_and_counters() {
    let mut trial = trial(&[(0.0, 10.0), (0.0, 10.0), (0.0, 10.0)]);
    let other = &mut trial.processes[2];
    other.environment.node = "node-b".to_owned();
    let window = other.window();
    window.node = "node-b".to_owned();
    for reading in &mut window.energy {
        reading.counter.node = "node-b".to_owned();
    }
    let records: Vec<Record> = trial.processes.iter().map(record).collect();
    let members = fleet_members(&trial.spec, &trial.point, &records);
    let found: Vec<(&str, f64)> = members
        .iter()
        .map(|member| (member.node.as_str(), member.joules_per_token))
        .collect();
    // Two boards of 300 W and the package of 100 W they share over 300 tokens; one of each over 150.
    assert_eq!(found.len(), 2);
    assert_eq!((found[0].0, found[1].0), ("node-a", "node-b"));
    near(Some(found[0].1), 7_000.0 / 300.0);
    near(Some(found[1].1), 4_000.0 / 150.0);
}

#[test]
fn nodes_without_a_usable_cycle_or_with_energy_of_other_counters_are_no_members_of_their_class() {
    let mut trial = trial(&[(0.0, 10.0); 5]);
    for (process, node) in trial.processes.iter_mut().zip(["a", "b", "c", "estimated", "failed"]) {
        node.clone_into(&mut process.environment.node);
        let window = process.window();
        node.clone_into(&mut window.node);
        for reading in &mut window.energy {
            node.clone_into(&mut reading.counter.node);
        }
    }
    trial.processes[3].window().energy[1].source = Source::Estimate;
    // Every request failed: there are figures, and they are not to be used.
    let failed = trial.processes[4].window();
    (failed.requests_completed, failed.requests_failed) = (0, 4);
    let records: Vec<Record> = trial.processes.iter().map(record).collect();
    let members = fleet_members(&trial.spec, &trial.point, &records);
    let nodes: Vec<&str> = members.iter().map(|member| member.node.as_str()).collect();
    assert_eq!(nodes, ["a", "b", "c"]);
}

#[test]
fn a_window_from_before_the_sweep_changed_is_that_of_its_plan_wherever_the_point_stands_now() {
    let mut trial = trial(&[(0.0, 10.0)]);
    trial.identity.point = 3;
    assert_eq!(trial.reasons(Doubt::MissingProcess), []);
    near(trial.evaluate().metrics.total_energy_j, 4000.0);
}

fn record(process: &Process) -> Record {
    Record {
        process: process.index,
        status: RunnerStatus {
            schema_version: process.schema_version,
            environment: Some(process.environment.clone()),
            held: process.held,
            baselines: process.baselines.clone(),
            windows: process.window.clone().into_iter().collect(),
            ..RunnerStatus::default()
        },
    }
}

proptest! {
    #[test]
    fn swapping_the_sides_inverts_the_ratio_and_its_interval(
        baseline in prop::collection::vec(0.1_f64..100.0, 2..8),
        candidate in prop::collection::vec(0.1_f64..100.0, 2..8),
    ) {
        let forth = ratio("joules_per_token", &baseline, &candidate);
        let back = ratio("joules_per_token", &candidate, &baseline);
        near(Some(forth.ratio * back.ratio), 1.0);
        prop_assert!(forth.lower <= forth.ratio && forth.ratio <= forth.upper);
        prop_assert!((forth.upper.ln() + back.lower.ln()).abs() < 1e-6);
    }
}
