//! What a schedule asks for, from first run to regression.

use jiff::{SignedDuration, Timestamp};
use lem_crds::{
    EfficiencyExperiment,
    schedule::{BaselinePoint, EfficiencySchedule, EfficiencyScheduleStatus},
    status::{ExperimentPhase, PointResult},
};
use serde_json::{Value, json};

use super::{
    decide::{Decision, Measured, View, decide},
    experiment, schedule_of,
};
use crate::{experiment::MeasuredPoint, report::fixture::Fixture};

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn schedule(spec: &Value) -> EfficiencySchedule {
    let mut whole = json!({
        "schedule": "0 3 * * *",
        "experimentTemplate": {"metadata": {"labels": {"team": "a"}},
            "spec": {"model": {"name": "tiny", "source": {"synthetic": {"preset": "tiny-test"}}}}},
    });
    for (key, value) in spec.as_object().unwrap() {
        whole[key] = value.clone();
    }
    let mut schedule = EfficiencySchedule::new("nightly", serde_json::from_value(whole).unwrap());
    schedule.metadata.namespace = Some("lab".to_owned());
    schedule.metadata.uid = Some("schedule-uid".to_owned());
    schedule
}

/// A schedule with its experiments, and a clock.
struct World {
    schedule: EfficiencySchedule,
    /// With joules per token of each cycle.
    experiments: Vec<(EfficiencyExperiment, Vec<f64>)>,
    now: Timestamp,
}

impl World {
    fn new(spec: &Value) -> Self {
        Self {
            schedule: schedule(spec),
            experiments: Vec::new(),
            now: at("2026-11-01T12:00:00Z"),
        }
    }

    fn status(&self) -> EfficiencyScheduleStatus {
        self.schedule.status.clone().unwrap_or_default()
    }

    fn condition(&self, kind: &str) -> Option<(String, String)> {
        let conditions = self.status().conditions;
        let found = conditions.into_iter().find(|one| one.type_ == kind)?;
        Some((found.status, found.message))
    }

    fn look(&mut self) -> Decision {
        let before = self.status();
        let measured: Vec<Measured<'_>> = self
            .experiments
            .iter()
            .map(|(experiment, joules)| Measured {
                experiment,
                points: vec![point(joules)],
            })
            .collect();
        let decision = decide(&View {
            generation: Some(1),
            created: at("2026-11-01T00:00:00Z"),
            spec: &self.schedule.spec,
            refused: None,
            before: &before,
            experiments: &measured,
            named_baseline: None,
            now: self.now,
        });
        if let Some(at) = decision.create {
            let mut made = experiment(&self.schedule, at);
            made.metadata.uid = made.metadata.name.clone();
            self.experiments.push((made, Vec::new()));
        }
        self.schedule.status = Some(decision.status.clone());
        for (experiment, _) in &mut self.experiments {
            experiment.spec.cancel |= decision.cancel.contains(experiment.metadata.name.as_ref().unwrap());
        }
        let deleted = |one: &EfficiencyExperiment| decision.delete.contains(one.metadata.name.as_ref().unwrap());
        self.experiments.retain(|(one, _)| !deleted(one));
        decision
    }

    /// A night passes, and the experiment comes to these joules per token.
    fn night(&mut self, joules: &[f64]) {
        self.now = self.now.checked_add(SignedDuration::from_hours(24)).unwrap();
        self.look();
        self.finish(joules, ExperimentPhase::Complete);
        self.look();
    }

    fn finish(&mut self, joules: &[f64], phase: ExperimentPhase) {
        let (experiment, values) = self.experiments.last_mut().unwrap();
        let mut status = Fixture::new().status;
        status.points.retain(usable);
        status.phase = phase;
        experiment.status = Some(status);
        joules.clone_into(values);
    }
}

fn usable(point: &PointResult) -> bool {
    point.verdict != lem_crds::status::Verdict::Invalid
}

fn point(joules: &[f64]) -> MeasuredPoint {
    MeasuredPoint {
        index: 0,
        values: BaselinePoint {
            plan_sha256: "plan".to_owned(),
            node_class: "class".to_owned(),
            energy_scope: vec!["gpu".to_owned()],
            energy_sources: vec!["nvml_counter".to_owned()],
            schema_version: 1,
            values: [("joulesPerToken".to_owned(), joules.to_vec())].into(),
        },
    }
}

#[test]
fn an_experiment_is_named_after_its_time_and_belongs_to_its_schedule() {
    let schedule = schedule(&json!({}));
    let made = experiment(&schedule, at("2026-11-27T03:00:00Z"));
    assert_eq!(made.metadata.name.as_deref(), Some("nightly-29929140"));
    assert_eq!(made.metadata.labels.as_ref().unwrap()["team"], "a");
    let owner = schedule_of(&made).unwrap();
    assert_eq!(
        (owner.name.as_str(), owner.namespace.as_deref()),
        ("nightly", Some("lab"))
    );
}

#[test]
fn the_first_experiment_is_the_baseline_and_a_worse_one_is_a_regression_until_one_is_as_good_again() {
    let mut world = World::new(&json!({}));
    world.night(&[1.00, 1.01, 0.99]);
    assert_eq!(
        world.status().baseline.unwrap().experiment,
        world.status().series[0].experiment
    );
    assert_eq!(world.condition("Regressed"), None, "nothing was compared yet");
    world.night(&[1.00, 1.01, 1.00]);
    assert_eq!(world.condition("Regressed").unwrap().0, "False");
    world.night(&[1.20, 1.21, 1.19]);
    let (status, message) = world.condition("Regressed").unwrap();
    assert_eq!(status, "True");
    assert!(message.contains("1.2000 × the baseline"), "{message}");
    world.night(&[1.00, 1.00, 1.01]);
    assert_eq!(world.condition("Regressed").unwrap().0, "False");
    assert_eq!(world.status().series.len(), 4);
}

#[test]
fn worse_by_less_than_the_tolerance_is_no_regression() {
    let mut world = World::new(&json!({"comparison": {"tolerancePercent": 5}}));
    world.night(&[1.000, 1.001, 0.999]);
    world.night(&[1.030, 1.031, 1.029]);
    assert_eq!(world.condition("Regressed").unwrap().0, "False");
}

#[test]
fn an_experiment_without_a_comparable_point_leaves_the_last_judgement() {
    let mut world = World::new(&json!({}));
    world.night(&[1.0, 1.01, 0.99]);
    world.night(&[1.3, 1.31, 1.29]);
    world.night(&[1.0]);
    assert_eq!(world.condition("Regressed").unwrap().0, "True");
    assert_eq!(world.status().series[2].refused, 1);
}

#[test]
fn a_time_at_which_one_still_runs_waits_for_it() {
    let mut world = World::new(&json!({}));
    world.now = at("2026-11-02T03:00:01Z");
    assert!(world.look().create.is_some());
    assert_eq!(world.look().create, None, "once for each time");
    world.now = at("2026-11-03T03:00:01Z");
    assert_eq!(world.look().create, None, "the one of yesterday runs");
    world.finish(&[1.0, 1.0], ExperimentPhase::Complete);
    assert_eq!(world.look().create, Some(at("2026-11-03T03:00:00Z")));
}

#[test]
fn a_time_that_was_missed_for_too_long_is_left_out() {
    let mut world = World::new(&json!({"startingDeadlineSeconds": 3600}));
    world.now = at("2026-11-02T05:00:00Z");
    let decision = world.look();
    assert_eq!(decision.create, None);
    assert_eq!(decision.wake_at, Some(at("2026-11-03T03:00:00Z")));
}

#[test]
fn replace_cancels_what_runs() {
    let mut world = World::new(&json!({"concurrencyPolicy": "Replace"}));
    world.now = at("2026-11-02T03:00:01Z");
    world.look();
    world.now = at("2026-11-03T03:00:01Z");
    let decision = world.look();
    assert_eq!((decision.create.is_some(), decision.cancel.len()), (true, 1));
    assert!(world.experiments[0].0.spec.cancel);
}

#[test]
fn a_suspended_schedule_creates_nothing_and_keeps_judging() {
    let mut world = World::new(&json!({}));
    world.now = at("2026-11-02T03:00:01Z");
    world.look();
    world.schedule.spec.suspend = true;
    world.now = at("2026-11-03T03:00:01Z");
    world.finish(&[1.0, 1.0], ExperimentPhase::Complete);
    let decision = world.look();
    assert_eq!((decision.create, decision.wake_at), (None, None));
    assert_eq!(world.status().series.len(), 1);
}

#[test]
fn history_is_deleted_after_its_entry_is_kept_and_the_series_stays() {
    let mut world = World::new(&json!({"successfulExperimentsHistoryLimit": 2}));
    for _ in 0..5 {
        world.night(&[1.0, 1.01, 1.02]);
    }
    world.look();
    assert_eq!((world.experiments.len(), world.status().series.len()), (2, 5));
    let newest = world.status().series[4].experiment.clone();
    assert!(
        world
            .experiments
            .iter()
            .any(|(one, _)| one.metadata.name.as_ref() == Some(&newest))
    );
}

#[test]
fn the_series_is_bounded() {
    let mut world = World::new(&json!({"successfulExperimentsHistoryLimit": 1}));
    for _ in 0..110 {
        world.night(&[1.0, 1.01, 1.02]);
    }
    assert_eq!(world.status().series.len(), 100);
}

#[test]
fn a_schedule_that_cannot_be_read_is_refused_with_the_field() {
    let mut world = World::new(&json!({"schedule": "61 3 * * *"}));
    let decision = world.look();
    assert_eq!((decision.create, decision.wake_at), (None, None));
    let (status, message) = world.condition("Accepted").unwrap();
    assert_eq!(status, "False");
    assert!(message.starts_with("spec.schedule: "), "{message}");
}

#[test]
fn a_named_baseline_that_is_missing_is_said() {
    let mut world = World::new(&json!({"comparison": {"baselineExperimentName": "golden"}}));
    world.night(&[1.0, 1.0, 1.0]);
    assert_eq!(world.status().baseline, None, "the first one is not taken instead");
    let (_, message) = world.condition("Accepted").unwrap();
    assert!(message.contains("no experiment golden"), "{message}");
}

#[test]
fn an_unchanged_world_gives_an_unchanged_status() {
    let mut world = World::new(&json!({}));
    world.night(&[1.0, 1.01, 0.99]);
    let first = world.look();
    let second = world.look();
    assert_eq!(first.status, second.status);
}
