//! Points, their order, and who shares a load.

use std::collections::BTreeSet;

use lem_crds::experiment::{Order, Restart};
use proptest::prelude::*;
use serde_json::json;

use super::fixtures::spec;
use crate::experiment::{group_cohorts, order_trials, plan};

fn order(policy: &str, seed: u32) -> Order {
    serde_json::from_value(json!({"policy": policy, "seed": seed})).unwrap()
}

#[test]
fn the_first_axis_varies_slowest_and_each_point_names_its_values() {
    let points = plan(&spec(&json!({"sweep": [
        {"field": "workload.maxInputTokens", "values": [16, 32]},
        {"field": "workload.maxOutputTokens", "values": [4, 8]},
    ]})))
    .unwrap();
    let lengths: Vec<_> = points
        .iter()
        .map(|point| {
            (
                point.window.workload.max_input_tokens,
                point.window.workload.max_output_tokens,
            )
        })
        .collect();
    assert_eq!(lengths, [(16, 4), (16, 8), (32, 4), (32, 8)]);
    assert_eq!(points[1].values["workload.maxOutputTokens"], "8");
}

#[test]
fn a_plan_keeps_its_hash_when_more_cycles_are_asked_for_and_changes_it_with_its_workload() {
    let hash = |spec_part| plan(&spec(&spec_part)).unwrap()[0].plan_sha256.clone();
    let plain = hash(json!({}));
    assert_eq!(
        plain,
        hash(json!({"protocol": {"cycles": 7}})),
        "finished trials would run again"
    );
    assert_ne!(plain, hash(json!({"workload": {"maxOutputTokens": 7}})));
    assert_ne!(plain, hash(json!({"processes": {"count": 2}})));
}

#[test]
fn a_sweep_that_cannot_be_planned_names_its_field() {
    for (sweep, words) in [
        (
            json!([{"field": "workload.maxOutputTokens", "values": [4, 4]}]),
            "points 0 and 1 are the same",
        ),
        (
            json!([{"field": "workload.maxOutputTokens", "values": [4]}, {"field": "workload.maxOutputTokens", "values": [5]}]),
            "swept by more than one axis",
        ),
        (
            json!([{"field": "workload.maxOutputTokens", "values": ["many"]}]),
            "workload.maxOutputTokens many is refused: spec.workload.maxOutputTokens: must be an integer, found a string",
        ),
        (
            json!([{"field": "workload.maxOutputTokens", "values": (1..=11).collect::<Vec<_>>()},
                {"field": "workload.maxInputTokens", "values": (1..=10).collect::<Vec<_>>()}]),
            "110 points",
        ),
    ] {
        let error = plan(&spec(&json!({"sweep": sweep}))).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn a_stop_rule_cannot_wait_for_what_no_cycle_makes_more_certain() {
    let rule = |metric: &str| {
        json!({"protocol": {"stopRule":
            {"metric": metric, "relativeHalfWidthPercent": "5", "maximumCycles": 5}}})
    };
    for metric in ["dutyCycle", "duty_cycle", "joulesPerTokne"] {
        let error = plan(&spec(&rule(metric))).unwrap_err().to_string();
        assert!(error.contains("no metric that varies between cycles"), "{error}");
    }
    plan(&spec(&rule("totalEnergyJ"))).unwrap();
}

#[test]
fn a_swept_workload_shares_one_load_and_a_swept_model_setting_does_not() {
    let cohorts = |field: &str, values: serde_json::Value, restart| {
        let points = plan(&spec(
            &json!({"engine": {"candle": {}}, "sweep": [{"field": field, "values": values}]}),
        ))
        .unwrap();
        let trials = order_trials(&points, 3, &order("Interleaved", 0));
        let cohorts = group_cohorts(&points, &trials, restart).unwrap();
        assert_eq!(cohorts.iter().map(|cohort| cohort.trials.len()).sum::<usize>(), 6);
        assert_eq!(
            cohorts.iter().map(|cohort| &cohort.key).collect::<BTreeSet<_>>().len(),
            cohorts.len()
        );
        cohorts.len()
    };
    assert_eq!(cohorts("workload.maxOutputTokens", json!([4, 8]), Restart::Never), 1);
    assert_eq!(cohorts("workload.maxOutputTokens", json!([4, 8]), Restart::PerPoint), 2);
    assert_eq!(cohorts("workload.maxOutputTokens", json!([4, 8]), Restart::PerTrial), 6);
    assert_eq!(
        cohorts("engine.candle.dtype", json!(["F32", "Q8_0"]), Restart::Never),
        2
    );
}

#[test]
fn sequential_finishes_a_point_and_interleaved_a_cycle_first() {
    let points = plan(&spec(
        &json!({"sweep": [{"field": "workload.maxOutputTokens", "values": [4, 8]}]}),
    ))
    .unwrap();
    let run = |policy| -> Vec<(u32, u32)> {
        order_trials(&points, 2, &order(policy, 0))
            .into_iter()
            .map(|slot| (slot.point, slot.cycle))
            .collect()
    };
    assert_eq!(run("Sequential"), [(0, 0), (0, 1), (1, 0), (1, 1)]);
    assert_eq!(run("Interleaved"), [(0, 0), (1, 0), (0, 1), (1, 1)]);
}

proptest! {
    #[test]
    fn every_order_runs_every_trial_once_and_a_seed_repeats_its_shuffle(
        points in 1_usize..12, cycles in 1_u32..8, seed in any::<u32>(),
    ) {
        let values: Vec<usize> = (1..=points).collect();
        let points = plan(&spec(&json!({"sweep": [{"field": "workload.maxOutputTokens", "values": values}]}))).unwrap();
        for policy in ["Sequential", "Interleaved", "Shuffled"] {
            let order = order(policy, seed);
            let trials = order_trials(&points, cycles, &order);
            let distinct: BTreeSet<_> = trials.iter().collect();
            prop_assert_eq!((trials.len(), distinct.len()), (points.len() * cycles as usize, trials.len()));
            prop_assert_eq!(&trials, &order_trials(&points, cycles, &order));
        }
    }
}
