//! What comes next, from nothing but the records.

use lem_crds::{
    EfficiencyExperimentSpec, RunnerStatus, SCHEMA_VERSION,
    plan::{Point, TrialIdentity},
    runner::RunnerError,
};

use super::fixtures::{process, spec};
use crate::experiment::{
    Failure, Record, TrialSlot, order_trials, plan,
    schedule::{Known, next_trial, retries_used},
};

struct Case {
    spec: EfficiencyExperimentSpec,
    points: Vec<Point>,
    records: Vec<Record>,
    failures: Vec<Failure>,
}

impl Case {
    fn new(protocol: &serde_json::Value) -> Self {
        let spec = spec(&serde_json::json!({"protocol": protocol,
            "sweep": [{"field": "workload.maxOutputTokens", "values": [8, 16]}]}));
        let points = plan(&spec).unwrap();
        Self {
            spec,
            points,
            records: Vec::new(),
            failures: Vec::new(),
        }
    }

    fn known(&self) -> Known<'_> {
        Known {
            spec: &self.spec,
            points: &self.points,
            records: &self.records,
            failures: &self.failures,
        }
    }

    fn next(&self) -> Option<TrialIdentity> {
        let slots = order_trials(&self.points, self.spec.protocol.cycles, &self.spec.protocol.order);
        let (slot, attempt) = next_trial(&self.known(), &slots, self.spec.protocol.retry_budget)?;
        self.known().identity(slot, attempt)
    }

    fn measures(&mut self, trial: &TrialIdentity, seconds: f64) {
        let measured = process(0, trial, 0.0, seconds);
        self.records.push(Record {
            process: 0,
            status: RunnerStatus {
                schema_version: SCHEMA_VERSION,
                environment: Some(measured.environment),
                baselines: measured.baselines,
                windows: measured.window.into_iter().collect(),
                ..RunnerStatus::default()
            },
        });
    }

    fn fails(&mut self, trial: &TrialIdentity) {
        let error = RunnerError {
            category: "exited".to_owned(),
            message: "killed".to_owned(),
        };
        self.failures.push(Failure {
            trial: trial.clone(),
            processes: vec![(0, error)],
        });
    }

    /// Measures everything; gives each trial as `(point, cycle, attempt)`.
    fn runs(&mut self, succeeds: impl Fn(&TrialIdentity) -> bool) -> Vec<(u32, u32, u32)> {
        let mut order = Vec::new();
        while let Some(trial) = self.next() {
            order.push((trial.point, trial.cycle, trial.attempt));
            assert!(order.len() < 100, "it never ends: {order:?}");
            if succeeds(&trial) {
                self.measures(&trial, 10.0 + f64::from(trial.cycle));
            } else {
                self.fails(&trial);
            }
        }
        order
    }
}

#[test]
fn every_planned_trial_is_measured_once_in_the_planned_order() {
    let mut case = Case::new(&serde_json::json!({"cycles": 2}));
    assert_eq!(case.runs(|_| true), [(0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 0)]);
    assert_eq!(retries_used(&case.known()), 0);
}

#[test]
fn a_failed_trial_is_repeated_after_the_others_until_the_budget_is_spent() {
    let mut case = Case::new(&serde_json::json!({"cycles": 1, "retryBudget": 2}));
    assert_eq!(
        case.runs(|trial| trial.point == 1),
        [(0, 0, 0), (1, 0, 0), (0, 0, 1), (0, 0, 2)]
    );
    assert_eq!(retries_used(&case.known()), 2);
}

#[test]
fn a_wide_interval_adds_cycles_up_to_the_most_of_the_stop_rule() {
    let rule = serde_json::json!({"cycles": 2, "stopRule":
        {"metric": "inferenceTimeSec", "relativeHalfWidthPercent": "0.1", "maximumCycles": 4}});
    let order = Case::new(&rule).runs(|_| true);
    assert_eq!(order.len(), 8);
    assert_eq!(&order[4..], [(0, 2, 0), (1, 2, 0), (0, 3, 0), (1, 3, 0)]);
}

#[test]
fn the_decision_is_the_same_whatever_is_forgotten_in_between() {
    let mut case = Case::new(&serde_json::json!({"cycles": 2}));
    let first = case.next().unwrap();
    case.measures(&first, 10.0);
    let again = case.next();
    assert_eq!(again, case.next());
    let slots = [TrialSlot { point: 1, cycle: 0 }];
    assert_eq!(next_trial(&case.known(), &slots, 3), Some((slots[0], 0)));
}
