//! Nodes of one class compared with each other.

use lem_crds::{
    RunnerStatus, SCHEMA_VERSION,
    plan::TrialIdentity,
    status::{FleetClass, OutlierRule, PointResult, Sign, Verdict},
};

use super::fixtures::{self, near};
use crate::experiment::{Most, NodeResult, Record, classes};

const MOST: Most = Most {
    extremes: 3,
    outliers: 10,
};

/// A node whose cycles take these multiples of the fixture's energy.
fn node(name: &str, factors: &[f64]) -> NodeResult {
    node_with(name, factors, |_| {})
}

fn node_with(name: &str, factors: &[f64], change: impl Fn(&mut fixtures::Process)) -> NodeResult {
    let trial = fixtures::trial(&[(0.0, 10.0)]);
    let mut record: Option<Record> = None;
    for (cycle, factor) in (0..).zip(factors) {
        let identity = TrialIdentity {
            cycle,
            ..trial.identity.clone()
        };
        let begin = f64::from(cycle) * 20.0;
        let mut process = fixtures::process(0, &identity, begin, begin + 10.0);
        change(&mut process);
        process.environment.node = name.to_owned();
        let mut window = process.window.clone().unwrap();
        window.node = name.to_owned();
        for reading in &mut window.energy {
            name.clone_into(&mut reading.counter.node);
            reading.joules = reading.joules.map(|joules| joules * factor);
            if let (Some(start), Some(end)) = (reading.start.clone(), &mut reading.end) {
                end.joules = start.joules + reading.joules.unwrap();
            }
        }
        let record = record.get_or_insert_with(|| Record {
            process: 0,
            status: RunnerStatus {
                schema_version: SCHEMA_VERSION,
                environment: Some(process.environment.clone()),
                held: process.held,
                ..RunnerStatus::default()
            },
        });
        record.status.windows.push(window);
    }
    let mut spec = trial.spec;
    spec.protocol.cycles = factors.len() as u32;
    NodeResult::new(&spec, &[trial.point], name, &[record.unwrap()], &[])
}

fn only_class(nodes: &[NodeResult]) -> (PointResult, FleetClass) {
    let spec = fixtures::trial(&[(0.0, 10.0)]).spec;
    let nodes: Vec<&NodeResult> = nodes.iter().collect();
    let mut classes = classes(&spec, &nodes, MOST);
    assert_eq!(classes.len(), 1, "{classes:?}");
    let class = classes.remove(0);
    (class.point, class.fleet)
}

fn names(class: &FleetClass) -> Vec<&str> {
    class.outlier_nodes.iter().map(|one| one.figure.node.as_str()).collect()
}

#[test]
fn among_three_nodes_the_one_that_uses_eight_per_cent_more_is_named_with_what_it_costs() {
    let nodes = [
        node("a", &[1.0, 1.01, 0.99]),
        node("b", &[1.005, 0.995, 1.0]),
        node("c", &[1.08, 1.085, 1.075]),
    ];
    let (_, class) = only_class(&nodes);
    assert_eq!(class.outlier_rule, OutlierRule::PairwiseRatio);
    assert_eq!((names(&class), class.outliers), (vec!["c"], 1));
    let found = &class.outlier_nodes[0];
    near(Some(found.ratio), 1.08);
    // 4000 J over 150 tokens in 10 s: 8 % of 400 W more than the median, for a day; 0.2 a kilowatt hour, PUE 1.5.
    near(found.excess_kilowatt_hours_per_day, 0.08 * 400.0 * 24.0 / 1000.0);
    near(found.excess_cost_per_day, 0.08 * 400.0 * 24.0 / 1000.0 * 0.2 * 1.5);
    let watts = found.signs.iter().find(|sign| sign.sign == Sign::Watts).unwrap();
    assert!(watts.conspicuous);
    near(Some(watts.node), 432.0);
    let limit = found
        .signs
        .iter()
        .find(|sign| sign.sign == Sign::PowerLimitWatts)
        .unwrap();
    assert!(!limit.conspicuous);
}

#[test]
fn error_correction_that_the_outlier_alone_has_is_conspicuous() {
    let with_correction = |name: &str, factors: &[f64], on: bool| {
        node_with(name, factors, |process| {
            for gpu in &mut process.environment.gpus {
                gpu.ecc = Some(on);
            }
        })
    };
    let nodes = [
        with_correction("a", &[1.0, 1.01, 0.99], false),
        with_correction("b", &[1.005, 0.995, 1.0], false),
        with_correction("c", &[1.08, 1.085, 1.075], true),
    ];
    let (_, class) = only_class(&nodes);
    let signs = &class.outlier_nodes[0].signs;
    let found = signs.iter().find(|sign| sign.sign == Sign::ErrorCorrection).unwrap();
    assert_eq!((found.node, found.class, found.conspicuous), (1.0, 0.0, true));
}

#[test]
fn equal_nodes_have_no_outlier_and_the_class_has_the_mean_over_nodes() {
    let nodes = [
        node("a", &[1.0, 1.01, 0.99]),
        node("b", &[1.01, 1.0, 0.99]),
        node("c", &[0.99, 1.0, 1.01]),
    ];
    let (point, class) = only_class(&nodes);
    assert_eq!((names(&class), class.nodes), (vec![], 3));
    let estimate = point.metrics.joules_per_token.unwrap();
    assert_eq!(estimate.count, 3);
    near(Some(estimate.mean), 4000.0 / 150.0);
    assert_eq!(class.best.len(), 1, "nobody is among both the best and the worst");
}

#[test]
fn five_nodes_and_more_are_held_against_their_median_absolute_deviation() {
    let mut nodes: Vec<NodeResult> = (0..9)
        .map(|index| node(&format!("n{index}"), &[1.0 + f64::from(index) / 1000.0]))
        .collect();
    nodes.push(node("wasteful", &[1.05]));
    nodes.push(node("frugal", &[0.9]));
    let (_, class) = only_class(&nodes);
    assert_eq!(class.outlier_rule, OutlierRule::MedianAbsoluteDeviation);
    assert_eq!(names(&class), ["frugal", "wasteful"], "the farthest first");
    assert!(class.outlier_nodes[0].excess_kilowatt_hours_per_day.unwrap() < 0.0);
    assert_eq!(
        (class.best[0].node.as_str(), class.worst[0].node.as_str()),
        ("frugal", "wasteful")
    );
}

#[test]
fn nodes_of_other_hardware_are_another_class_and_nodes_with_other_energy_are_left_out() {
    let other_driver = |process: &mut fixtures::Process| process.environment.driver = Some("560.1".to_owned());
    let no_package = |process: &mut fixtures::Process| {
        process.window.as_mut().unwrap().energy.truncate(1);
    };
    let nodes = [
        node("a", &[1.0, 1.0]),
        node("b", &[1.0, 1.0]),
        node_with("c", &[1.0, 1.0], other_driver),
        node_with("d", &[1.0, 1.0], no_package),
    ];
    let spec = fixtures::trial(&[(0.0, 10.0)]).spec;
    let classes = classes(&spec, &nodes.iter().collect::<Vec<_>>(), MOST);
    let counts: Vec<(u32, u32)> = classes
        .iter()
        .map(|class| (class.fleet.nodes, class.fleet.left_out))
        .collect();
    assert_eq!(counts, [(2, 1), (1, 0)]);
    assert_eq!(classes[0].point.verdict, Verdict::Suspect);
    assert_eq!(classes[1].fleet.outlier_rule, OutlierRule::None);
}

#[test]
fn the_slowest_nodes_are_named_though_they_use_no_more_energy_for_a_token() {
    let slow = |name: &str, tokens: u64| {
        node_with(name, &[1.0, 1.0], move |process| {
            process.window.as_mut().unwrap().output_tokens = tokens;
        })
    };
    let nodes = [
        slow("a", 200),
        slow("b", 120),
        slow("c", 150),
        slow("d", 200),
        slow("e", 200),
    ];
    let (_, class) = only_class(&nodes);
    let names: Vec<&str> = class.slowest.iter().map(|one| one.node.as_str()).collect();
    assert_eq!(names, ["b", "c"], "no more than half of them");
    assert!(class.slowest[0].tokens_per_second < class.slowest[1].tokens_per_second);
}
