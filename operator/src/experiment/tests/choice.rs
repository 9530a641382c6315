//! Which point of a sweep is the best.

use std::collections::BTreeMap;

use lem_crds::{
    experiment::Objective,
    metrics::{Estimate, MetricSet},
    status::{Kept, ObjectiveClass, PointResult, Verdict},
};
use proptest::prelude::*;
use serde_json::json;

use crate::experiment::{cheapest, objective, pareto_front, summary::headline};

fn estimate(mean: f64, half_width: Option<f64>) -> Estimate {
    Estimate {
        mean,
        count: if half_width.is_some() { 3 } else { 1 },
        standard_deviation: half_width,
        lower: half_width.map(|width| mean - width),
        upper: half_width.map(|width| mean + width),
        coefficient_of_variation: None,
    }
}

/// A point of so many tokens per second and joules per token, whose 95th percentile of the time to first token is this.
fn point(index: u32, speed: f64, joules: f64, first_token: (f64, Option<f64>)) -> PointResult {
    PointResult {
        index,
        values: BTreeMap::from([("batchSize".to_owned(), index.to_string())]),
        plan_sha256: index.to_string(),
        node_class: "cpu".to_owned(),
        cycles: 3,
        verdict: Verdict::Valid,
        reasons: Vec::new(),
        energy_scope: vec!["cpu".to_owned()],
        energy_sources: vec!["rapl".to_owned()],
        flops_method: None,
        flops_confidence: None,
        metrics: MetricSet {
            effective_throughput: Some(estimate(speed, None)),
            joules_per_token: Some(estimate(joules, None)),
            ttft_p95_ms: Some(estimate(first_token.0, first_token.1)),
            ..MetricSet::default()
        },
        not_available: BTreeMap::new(),
        measured_at: None,
    }
}

/// Three cycles, each this far from the mean.
fn cycles(spread: f64) -> impl Fn(&PointResult, &str) -> Vec<f64> {
    move |point, metric| {
        let mean = point.metrics.get(metric).unwrap().mean;
        vec![mean * (1.0 - spread), mean, mean * (1.0 + spread)]
    }
}

fn asked(objective: &serde_json::Value) -> Objective {
    serde_json::from_value(objective.clone()).unwrap()
}

fn answer(wanted: &serde_json::Value, points: &[PointResult], spread: f64) -> ObjectiveClass {
    objective(&asked(wanted), points, &cycles(spread)).classes.remove(0)
}

#[test]
fn the_cheapest_point_that_keeps_the_limit_is_the_best_and_not_the_cheapest_of_all() {
    let points = vec![
        point(0, 10.0, 3.0, (100.0, Some(5.0))),
        point(1, 20.0, 2.0, (300.0, Some(5.0))),
        point(2, 40.0, 1.0, (900.0, Some(5.0))),
    ];
    let found = answer(
        &json!({"minimise": "joulesPerToken", "subjectTo": {"ttftP95Ms": 500}}),
        &points,
        0.001,
    );
    let best = found.best.unwrap();
    assert_eq!((best.point, best.value, found.beyond_limits), (1, 2.0, 1));
    assert_eq!(best.limits[0].kept, Kept::Shown);
    assert_eq!(
        best.not_shown_worse,
        Vec::<u32>::new(),
        "3 J is shown to be worse than 2 J"
    );
}

#[test]
fn a_point_whose_cycles_do_not_tell_it_from_the_best_is_named_beside_it() {
    let points = [point(0, 10.0, 1.00, (1.0, None)), point(1, 10.0, 1.01, (1.0, None))];
    let found = answer(&json!({"minimise": "joulesPerToken"}), &points, 0.05);
    assert_eq!(found.best.unwrap().not_shown_worse, [1]);
    assert!(
        found.message.contains("not shown to be worse: point 1"),
        "{}",
        found.message
    );
}

#[test]
fn a_limit_that_the_interval_crosses_is_kept_but_not_shown() {
    let points = [point(0, 10.0, 1.0, (480.0, Some(50.0)))];
    let found = answer(
        &json!({"maximise": "effectiveThroughput", "subjectTo": {"ttftP95Ms": "500"}}),
        &points,
        0.01,
    );
    let limits = found.best.unwrap().limits;
    assert_eq!((limits[0].kept, limits[0].bound), (Kept::NotShown, Some(530.0)));
    assert!(
        found.message.contains("by its mean only, its interval reaches 530"),
        "{}",
        found.message
    );
}

#[test]
fn without_a_point_within_the_limits_there_is_no_best_one_and_the_nearest_is_named() {
    let points = [point(0, 10.0, 1.0, (900.0, None)), point(1, 10.0, 2.0, (600.0, None))];
    let found = answer(
        &json!({"minimise": "joulesPerToken", "subjectTo": {"ttftP95Ms": 500}}),
        &points,
        0.01,
    );
    assert_eq!((found.best, found.beyond_limits), (None, 2));
    assert!(found.message.contains("the nearest is point 1"), "{}", found.message);
}

#[test]
fn at_least_is_asked_of_what_should_be_high() {
    let points = [point(0, 10.0, 1.0, (1.0, None)), point(1, 30.0, 2.0, (1.0, None))];
    let found = answer(
        &json!({"minimise": "joulesPerToken", "subjectTo": {"effectiveThroughput": 20}}),
        &points,
        0.01,
    );
    assert_eq!(found.best.unwrap().point, 1);
}

#[test]
fn invalid_points_and_points_of_other_energy_sources_are_left_out() {
    let mut points = vec![
        point(0, 10.0, 1.0, (1.0, None)),
        point(1, 10.0, 2.0, (1.0, None)),
        point(2, 10.0, 3.0, (1.0, None)),
        point(3, 10.0, 4.0, (1.0, None)),
    ];
    points[0].verdict = Verdict::Invalid;
    points[1].energy_sources = vec!["estimate".to_owned()];
    let found = answer(&json!({"minimise": "joulesPerToken"}), &points, 0.01);
    assert_eq!((found.compared, found.left_out), (2, 2));
    assert_eq!(found.best.unwrap().point, 2);
    assert!(
        found
            .message
            .ends_with("not ranked for energy of other domains or sources: 1 point"),
        "{}",
        found.message
    );
}

/// Two points each of one class and source, of another source, and of another class; later ones use less energy.
fn kinds() -> Vec<PointResult> {
    let mut points: Vec<PointResult> = (0..6)
        .map(|index| point(index, f64::from(index + 1), f64::from(9 - index), (1.0, None)))
        .collect();
    for point in &mut points[2..4] {
        point.energy_sources = vec!["estimate".to_owned()];
    }
    for point in &mut points[4..] {
        point.node_class = "another cpu".to_owned();
    }
    points
}

#[test]
fn the_headline_does_not_rank_points_of_other_nodes_or_other_energy_but_names_the_best_of_each() {
    let points = kinds();
    let best: Vec<u32> = cheapest(&points).iter().map(|point| point.index).collect();
    assert_eq!(best, [1, 3, 5]);
    let found = headline(&points, None).unwrap();
    assert_eq!(found.joules_per_token, "8 (rapl) / 6 (estimate) / 4 (rapl)");
    assert_eq!(
        (found.tokens_per_second.as_str(), found.verdict.as_str()),
        ("2 / 4 / 6", "Valid / Valid / Valid")
    );
    assert_eq!(headline(&points[..2], None).unwrap().joules_per_token, "8 (rapl)");
    let wanted = asked(&json!({"minimise": "joulesPerToken"}));
    let answer = objective(&wanted, &points, &cycles(0.01));
    let found = headline(&points, Some(&answer)).unwrap();
    assert_eq!(
        found.joules_per_token, "4 (rapl) / 8 (rapl)",
        "the classes in order of name"
    );
}

#[test]
fn each_kind_of_nodes_and_energy_has_a_front_of_its_own() {
    let mut points = kinds();
    // The slower one of each kind is now the cheaper one, so that both are on the front.
    for (index, point) in (0_u32..).zip(&mut points) {
        point.metrics.joules_per_token = Some(estimate(f64::from(index + 1), None));
    }
    let mut found: Vec<u32> = pareto_front(&points).iter().map(|one| one.point).collect();
    found.sort_unstable();
    assert_eq!(found, [0, 1, 2, 3, 4, 5]);
}

#[test]
fn one_point_has_no_front() {
    assert!(pareto_front(&[point(0, 1.0, 1.0, (1.0, None))]).is_empty());
}

proptest! {
    #[test]
    fn a_point_is_on_the_front_exactly_if_no_other_beats_it(
        figures in proptest::collection::vec((1_u32..20, 1_u32..20), 2..30),
    ) {
        let points: Vec<PointResult> = (0..)
            .zip(&figures)
            .map(|(index, (speed, joules))| point(index, f64::from(*speed), f64::from(*joules), (1.0, None)))
            .collect();
        let front = pareto_front(&points);
        let on_front = |index: usize| front.iter().any(|one| one.point == index as u32);
        for (index, (speed, joules)) in figures.iter().enumerate() {
            let beaten = figures.iter().any(|(s, j)| s >= speed && j <= joules && (s, j) != (speed, joules));
            let twin = figures[..index].contains(&(*speed, *joules)) || figures[index + 1..].contains(&(*speed, *joules));
            if beaten {
                prop_assert!(!on_front(index), "{index} is beaten");
            } else if !twin {
                prop_assert!(on_front(index), "{index} is not beaten");
            }
        }
        prop_assert!(front.windows(2).all(|pair| pair[0].tokens_per_second > pair[1].tokens_per_second));
    }
}
